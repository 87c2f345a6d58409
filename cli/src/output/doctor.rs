//! How findings and what became of them are printed.

use goldleaf_proto::v1 as api;

use super::Printable;

impl Printable for api::Finding {
    const MESSAGE: &'static str = "goldleaf.v1.Finding";
    const COLUMNS: &'static [&'static str] = &["SEVERITY", "ID", "REASON", "REMEDY", "MEND"];

    fn row(&self) -> Vec<String> {
        let severity = match self.severity() {
            api::Severity::Unspecified | api::Severity::Notice => "notice",
            api::Severity::Warning => "warning",
            api::Severity::Error => "ERROR",
        };
        let mend = match self.mend.as_str() {
            "" => "-".to_owned(),
            mend => mend.to_owned(),
        };
        vec![
            severity.into(),
            self.id.clone(),
            self.reason.clone(),
            self.remedy.clone(),
            mend,
        ]
    }

    fn name(&self) -> &str {
        &self.id
    }
}

impl Printable for api::Mended {
    const MESSAGE: &'static str = "goldleaf.v1.Mended";
    const COLUMNS: &'static [&'static str] = &["ID", "OUTCOME", "ACTION", "PROBLEM"];

    fn row(&self) -> Vec<String> {
        let outcome = match self.outcome() {
            api::MendOutcome::Unspecified => "unknown",
            api::MendOutcome::WouldDo => "would do",
            api::MendOutcome::Done => "done",
            api::MendOutcome::Failed => "FAILED",
            api::MendOutcome::NeedsPerson => "needs a person",
            api::MendOutcome::NotFound => "not found",
        };
        vec![
            self.finding.clone(),
            outcome.into(),
            self.action.clone(),
            self.problem.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.finding
    }
}
