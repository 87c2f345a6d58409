//! A node's findings from the wire.

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_types::Name;

use super::AgentError;
use super::refusal::bad_answer;
use crate::domain::{Finding, MendOutcome, Mended, Severity};

/// What a node found. Whose they are the caller knows.
pub(super) fn findings(
    node: &str,
    answer: pb::AgentExamineResponse,
) -> Result<Vec<Finding>, AgentError> {
    let name: Name = node
        .parse()
        .map_err(|_| bad_answer(node, "node", "is no name"))?;
    let one = |found: api::Finding| {
        let severity = match api::Severity::try_from(found.severity) {
            Ok(api::Severity::Unspecified | api::Severity::Notice) => Severity::Notice,
            Ok(api::Severity::Warning) => Severity::Warning,
            Ok(api::Severity::Error) => Severity::Error,
            Err(error) => return Err(bad_answer(node, "finding.severity", &error.to_string())),
        };
        Ok(Finding {
            node: name.clone(),
            severity,
            code: found.code,
            subject: found.subject,
            reason: found.reason,
            remedy: found.remedy,
            mend: found.mend,
        })
    };
    answer.findings.into_iter().map(one).collect()
}

/// What became of findings.
pub(super) fn mended(node: &str, answer: pb::AgentMendResponse) -> Result<Vec<Mended>, AgentError> {
    let one = |result: api::Mended| {
        let bad = |problem: &str| bad_answer(node, "result.outcome", problem);
        let outcome = match api::MendOutcome::try_from(result.outcome) {
            Ok(api::MendOutcome::WouldDo) => MendOutcome::WouldDo,
            Ok(api::MendOutcome::Done) => MendOutcome::Done,
            Ok(api::MendOutcome::Failed) => MendOutcome::Failed,
            Ok(api::MendOutcome::NeedsPerson) => MendOutcome::NeedsPerson,
            Ok(api::MendOutcome::NotFound) => MendOutcome::NotFound,
            Ok(api::MendOutcome::Unspecified) => return Err(bad("is missing")),
            Err(error) => return Err(bad(&error.to_string())),
        };
        Ok(Mended {
            finding: result.finding,
            outcome,
            action: result.action,
            problem: result.problem,
        })
    };
    answer.results.into_iter().map(one).collect()
}
