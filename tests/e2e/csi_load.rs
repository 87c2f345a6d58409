//! Many calls at once through the CSI driver's socket: a cluster that starts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use csi_proto::v1 as csi;
use goldleaf_tests::host::Host;
use goldleaf_tests::host::csi::block;
use goldleaf_tests::support::{patience, say};
use tokio::task::JoinSet;
use tonic::{Code, Status};

const MIB: u64 = 1 << 20;
const COUNT: usize = 500;
/// What external-provisioner waits for an answer unless it is told otherwise, and then asks again.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a call is made until its answer counts.
const TRIES: u32 = 5;

/// Asks until the answer is none of those after which external-provisioner asks again: a host that has too
/// much to do may be late, and nothing may come of that but a later answer.
async fn settled<T, A>(mut ask: impl FnMut() -> A) -> Result<T, Status>
where
    A: Future<Output = Result<T, Status>>,
{
    // The client here calls it cancelled when its own time is up, others call that a deadline.
    let late = [Code::Cancelled, Code::DeadlineExceeded];
    let later = [[Code::Unavailable, Code::Aborted], late].concat();
    let mut tries = 1;
    loop {
        match ask().await {
            Err(status) if tries < TRIES && later.contains(&status.code()) => {
                say(&format!("asked again after: {status}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                tries += 1;
            }
            settled => return settled,
        }
    }
}

/// Asks for every volume at once: the id of each name, and how long each took, shortest first.
fn create_all(host: &Host) -> (BTreeMap<String, String>, Vec<Duration>) {
    host.wait(async {
        let client = host.csi_controller().await.unwrap();
        let mut calls = JoinSet::new();
        for n in 0..COUNT {
            let client = client.clone();
            calls.spawn(async move {
                let name = format!("pvc-{n:03}");
                let wanted = csi::CreateVolumeRequest {
                    name: name.clone(),
                    capacity_range: Some(csi::CapacityRange {
                        required_bytes: 64 << 20,
                        limit_bytes: 0,
                    }),
                    volume_capabilities: vec![block()],
                    parameters: [("image".to_owned(), "golden".to_owned())].into(),
                    ..Default::default()
                };
                let began = Instant::now();
                let answer = settled(|| {
                    let (mut client, wanted) = (client.clone(), wanted.clone());
                    async move {
                        let mut request = tonic::Request::new(wanted);
                        request.set_timeout(patience(LIMIT));
                        client.create_volume(request).await
                    }
                });
                let volume = answer.await?.into_inner().volume.unwrap();
                Ok::<_, Status>((name, volume.volume_id, began.elapsed()))
            });
        }
        let (mut ids, mut times) = (BTreeMap::new(), vec![]);
        while let Some(done) = calls.join_next().await {
            let (name, id, took) = done
                .unwrap()
                .unwrap_or_else(|e| panic!("{e:?}\n{}", host.csi_logs()));
            ids.insert(name, id);
            times.push(took);
        }
        times.sort_unstable();
        (ids, times)
    })
}

#[test]
fn five_hundred_claims_at_once_are_all_served_and_none_is_doubled() {
    let host = Host::start("csi-load");
    host.pool("p", 1024 * MIB);
    host.image("golden", &[0x5a; 1 << 20]);
    let mut controller = host.start_csi_controller();
    let (ids, times) = create_all(&host);
    let ms = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_millis();
    say(&format!(
        "{COUNT} CreateVolume at once: p50 {} ms, p99 {} ms, last {} ms",
        ms(50),
        ms(99),
        ms(100)
    ));
    assert_eq!(ids.len(), COUNT);
    // Asked again, as an orchestrator that lost the answers does, each is the same.
    let (again, _) = create_all(&host);
    assert_eq!(again, ids);
    let thins = host.thins().unwrap();
    let made: BTreeMap<String, String> = thins.into_iter().map(|t| (t.name, t.owner)).collect();
    assert_eq!(made, ids, "what the node has is what was answered");
    assert_eq!(host.volume_names().unwrap().len(), COUNT);
    host.wait(async {
        let client = host.csi_controller().await.unwrap();
        let mut calls = JoinSet::new();
        for volume_id in ids.into_values() {
            let client = client.clone();
            calls.spawn(async move {
                let wanted = csi::DeleteVolumeRequest {
                    volume_id,
                    ..Default::default()
                };
                let delete = || {
                    let (mut client, wanted) = (client.clone(), wanted.clone());
                    async move { client.delete_volume(wanted).await }
                };
                settled(delete).await
            });
        }
        while let Some(done) = calls.join_next().await {
            done.unwrap().unwrap();
        }
    });
    assert!(host.thins().unwrap().is_empty());
    assert!(controller.stop().success());
    host.end();
}
