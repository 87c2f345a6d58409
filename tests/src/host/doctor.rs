//! The doctor's calls, and a fault that lives and tests plant alike.

use goldleaf_dm::{Control, DmName};
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::doctor_service_client::DoctorServiceClient;
use tonic::Status;

use super::{Host, NODE};

#[expect(
    clippy::missing_errors_doc,
    reason = "the API's own status, as the protos say"
)]
impl Host {
    /// Everything that is not as it should be.
    pub fn findings(&self) -> Result<Vec<api::Finding>, Status> {
        let mut client = DoctorServiceClient::new(self.channel.clone());
        let request = api::ExamineRequest::default();
        let answer = self.runtime.block_on(client.examine(request))?;
        Ok(answer.into_inner().findings)
    }

    /// Mends one finding, or says what would be done.
    pub fn mend(&self, finding: &str, apply: bool) -> Result<api::Mended, Status> {
        let mut client = DoctorServiceClient::new(self.channel.clone());
        let request = api::MendRequest {
            findings: vec![finding.into()],
            apply,
        };
        let answer = self.runtime.block_on(client.mend(request))?;
        Ok(answer.into_inner().results.remove(0))
    }
}

/// Makes a thin in a pool's metadata that no record owns. Again, it is there already.
///
/// # Panics
///
/// When the kernel refuses for another reason.
pub fn plant_ownerless_thin(pool: &str, thin: u32) {
    let control = Control::open().expect("device-mapper and root");
    let planted = control.message(&pool_device(pool), &format!("create_thin {thin}"));
    if let Err(error) = planted {
        assert!(error.exists(), "{error}");
    }
}

/// The name of a pool's device.
pub(super) fn pool_device(pool: &str) -> DmName {
    DmName::new(&format!("goldleaf-{pool}-pool")).expect("a device's name")
}

/// Quarantines and deletes the thins that nobody owns, one planted among them.
pub(super) fn mend_ownerless(h: &Host) -> Result<String, Status> {
    const THIN: u32 = 16_000_000;
    let pool = h.get_pool("p")?.id;
    let quarantined = format!("{NODE}/QuarantinedThin/{pool}/{THIN}");
    let known = h.findings()?.iter().any(|found| found.id == quarantined);
    if !known {
        plant_ownerless_thin(&pool, THIN);
    }
    for code in ["UnknownThin", "QuarantinedThin"] {
        let mended = h.mend(&format!("{NODE}/{code}/{pool}/{THIN}"), true)?;
        if mended.outcome() == api::MendOutcome::Failed {
            panic!("{mended:?}");
        }
    }
    Ok("no ownerless thin".into())
}
