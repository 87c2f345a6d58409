//! The doctor on the wire.

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::doctor_service_server::DoctorService;
use tonic::{Request, Response};

use super::convert::field;
use super::{Answer, Api};
use crate::domain::{Finding, MendOutcome, Mended, Severity};

#[tonic::async_trait]
impl DoctorService for Api {
    async fn examine(&self, r: Request<api::ExamineRequest>) -> Answer<api::ExamineResponse> {
        let nodes = r.into_inner().nodes;
        let nodes = nodes.iter().map(|node| field("nodes", node));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let found = self.service.examine(&nodes).await?;
        Ok(Response::new(api::ExamineResponse {
            findings: found.findings.into_iter().map(finding).collect(),
            examined: found.examined.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn mend(&self, r: Request<api::MendRequest>) -> Answer<api::MendResponse> {
        let body = r.into_inner();
        let results = self
            .to_the_end(|service| async move { service.mend(&body.findings, body.apply).await })
            .await?;
        Ok(Response::new(api::MendResponse {
            results: results.into_iter().map(mended).collect(),
        }))
    }
}

fn finding(finding: Finding) -> api::Finding {
    let severity = match finding.severity {
        Severity::Notice => api::Severity::Notice,
        Severity::Warning => api::Severity::Warning,
        Severity::Error => api::Severity::Error,
    };
    api::Finding {
        id: finding.id(),
        node: finding.node.to_string(),
        severity: severity.into(),
        code: finding.code,
        subject: finding.subject,
        reason: finding.reason,
        remedy: finding.remedy,
        mend: finding.mend,
    }
}

fn mended(mended: Mended) -> api::Mended {
    let outcome = match mended.outcome {
        MendOutcome::WouldDo => api::MendOutcome::WouldDo,
        MendOutcome::Done => api::MendOutcome::Done,
        MendOutcome::Failed => api::MendOutcome::Failed,
        MendOutcome::NeedsPerson => api::MendOutcome::NeedsPerson,
        MendOutcome::NotFound => api::MendOutcome::NotFound,
    };
    api::Mended {
        finding: mended.finding,
        outcome: outcome.into(),
        action: mended.action,
        problem: mended.problem,
    }
}
