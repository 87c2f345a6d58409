//! The doctor's findings on the wire.

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;

use crate::ops::doctor::{Finding, Mended, Outcome, Severity};

pub(super) fn findings(found: &[Finding]) -> pb::AgentExamineResponse {
    pb::AgentExamineResponse {
        findings: found.iter().map(finding).collect(),
    }
}

fn finding(finding: &Finding) -> api::Finding {
    let severity = match finding.severity {
        Severity::Notice => api::Severity::Notice,
        Severity::Warning => api::Severity::Warning,
        Severity::Error => api::Severity::Error,
    };
    api::Finding {
        id: finding.key(),
        node: String::new(),
        severity: severity.into(),
        code: finding.code.word().into(),
        subject: finding.subject.clone(),
        reason: finding.reason.clone(),
        remedy: finding.advice.clone(),
        mend: finding
            .remedy
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

pub(super) fn results(mended: Vec<Mended>) -> pb::AgentMendResponse {
    pb::AgentMendResponse {
        results: mended.into_iter().map(result).collect(),
    }
}

fn result(mended: Mended) -> api::Mended {
    let none = String::new;
    let (outcome, action, problem) = match mended.outcome {
        Outcome::WouldDo(action) => (api::MendOutcome::WouldDo, action, none()),
        Outcome::Done(action) => (api::MendOutcome::Done, action, none()),
        Outcome::Failed(action, problem) => (api::MendOutcome::Failed, action, problem),
        Outcome::NeedsPerson => (api::MendOutcome::NeedsPerson, none(), none()),
        Outcome::NotFound => (api::MendOutcome::NotFound, none(), none()),
    };
    api::Mended {
        finding: mended.key,
        outcome: outcome.into(),
        action,
        problem,
    }
}
