//! That the fake refuses what the real agent refuses, and that its faults are faults.

use std::collections::BTreeMap;

use futures::StreamExt;
use goldleaf_types::{BlockSize, Labels, SnapshotId, VolumeSize};
use jiff::Timestamp;

use super::*;
use crate::agents::{AgentError, ImportStep};
use crate::domain::{
    ActivateOptions, Begin, Holder, ImageAsked, ImageFormat, ImageSource, Phase, Pool, PoolAsked,
    PoolDevice, Refusal, ThinOrder, VolumeAsked, WhenFull,
};

const DIGEST: Digest = Digest::from_bytes([0xab; 32]);
const HOST: ActivateOptions = ActivateOptions {
    holder: Holder::Host,
    read_only: false,
};
const CSI: ActivateOptions = ActivateOptions {
    holder: Holder::Csi,
    read_only: false,
};

struct Rig {
    node: FakeNode,
    agent: Arc<dyn AgentPort>,
    pool: Pool,
}

fn labels() -> Labels {
    Labels::try_from(BTreeMap::new()).unwrap()
}

impl Rig {
    async fn new() -> Self {
        let id = NodeId::mint();
        let node = Node {
            id,
            name: "host1".parse().unwrap(),
            labels: labels(),
            revision: 1,
            phase: Phase::Ready,
            created: Timestamp::now(),
            address: String::new(),
            agent_version: String::new(),
            kernel_release: String::new(),
            drained: None,
            lost: None,
        };
        let agents = FakeAgents::new();
        let pool = Pool {
            id: PoolId::mint(),
            name: "fast".parse().unwrap(),
            labels: labels(),
            revision: 1,
            phase: Phase::Creating,
            conditions: Vec::new(),
            created: Timestamp::now(),
            node: id,
            asked: PoolAsked {
                devices: vec![PoolDevice {
                    path: "/dev/vdb".into(),
                    create_file_bytes: 0,
                }],
                metadata_device: None,
                block_size: BlockSize::DEFAULT,
                when_full: WhenFull::Error,
            },
            mode: PoolMode::Unknown,
            wanted_name: None,
            doomed: false,
            marks: Default::default(),
            adopting: None,
        };
        let agent = agents.of(&node);
        agent.create_pool(&pool).await.unwrap();
        Self {
            node: agents.node(id),
            agent,
            pool,
        }
    }

    fn order(&self, owner: impl Into<ThinOwner>, begin: Begin) -> ThinOrder {
        let owner = owner.into();
        ThinOrder {
            owner,
            name: "v".parse().unwrap(),
            pool: self.pool.id,
            size: VolumeSize::new(1 << 20).unwrap(),
            begin,
            labels: labels(),
            asked: VolumeAsked::default(),
            part: None,
            epoch: 2,
        }
    }

    async fn import(&self) -> Vec<Result<ImportStep, AgentError>> {
        let asked = ImageAsked {
            source: ImageSource::File("/a".into()),
            format: ImageFormat::Raw,
            source_sha256: String::new(),
            digest: None,
        };
        match self.agent.import_image(&asked, None).await {
            Ok(steps) => steps.collect().await,
            Err(error) => vec![Err(error)],
        }
    }
}

/// The kind and the reason of a refusal.
fn no<T: std::fmt::Debug>(answer: Result<T, AgentError>) -> (Refusal, String) {
    match answer {
        Err(AgentError::Refused {
            refusal, reason, ..
        }) => (refusal, reason),
        other => panic!("wanted a refusal, got {other:?}"),
    }
}

fn because(refusal: Refusal, reason: &str) -> (Refusal, String) {
    (refusal, reason.into())
}

#[tokio::test]
async fn a_thin_needs_its_image_and_the_image_is_kept_while_a_thin_needs_it() {
    let rig = Rig::new().await;
    let order = rig.order(VolumeId::mint(), Begin::Image(DIGEST));
    let refused = no(rig.agent.create_thin(&order, None).await);
    assert_eq!(refused, because(Refusal::Unavailable, "IMAGE_NOT_HERE"));
    assert_eq!(rig.node.thins(), []);
    assert!(
        matches!(rig.import().await[..], [Err(_)]),
        "nothing was offered"
    );
    rig.node.offer("/a", DIGEST, Bytes(512));
    assert!(matches!(
        rig.import().await[..],
        [Ok(ImportStep::Progress(_)), Ok(ImportStep::Done(_))]
    ));
    assert!(rig.import().await.last().unwrap().is_ok());
    assert_eq!(rig.node.effects(Verb::ImportImage), 1);
    rig.agent.create_thin(&order, None).await.unwrap();
    let clone = rig.order(VolumeId::mint(), Begin::Thin(order.owner));
    assert_eq!(
        rig.agent.create_thin(&clone, None).await.unwrap().image,
        Some(DIGEST)
    );
    rig.agent
        .delete_thin(order.pool, order.owner, 2)
        .await
        .unwrap();
    let refused = no(rig.agent.delete_image(DIGEST).await);
    assert_eq!(
        refused,
        because(Refusal::FailedPrecondition, "IMAGE_NEEDED")
    );
    rig.agent
        .delete_thin(clone.pool, clone.owner, 2)
        .await
        .unwrap();
    rig.agent.delete_image(DIGEST).await.unwrap();
    rig.agent.delete_image(DIGEST).await.unwrap();
    assert_eq!(rig.node.effects(Verb::DeleteImage), 1);
}

#[tokio::test]
async fn asking_again_changes_nothing_and_asking_otherwise_is_refused() {
    let rig = Rig::new().await;
    let order = rig.order(VolumeId::mint(), Begin::Blank);
    let first = rig.agent.create_thin(&order, Some(HOST)).await.unwrap();
    assert_eq!(
        rig.agent.create_thin(&order, Some(HOST)).await.unwrap(),
        first
    );
    assert_eq!(rig.node.effects(Verb::CreateThin), 1);
    let other = ThinOrder {
        size: VolumeSize::new(512).unwrap(),
        ..order.clone()
    };
    let refused = no(rig.agent.create_thin(&other, None).await);
    assert_eq!(refused, because(Refusal::AlreadyExists, "OTHER_PARAMETERS"));
    let old = ThinOrder {
        epoch: 1,
        ..order.clone()
    };
    let refused = no(rig.agent.create_thin(&old, None).await);
    assert_eq!(refused, because(Refusal::FailedPrecondition, "STALE_EPOCH"));
    let pool = Pool {
        asked: PoolAsked {
            when_full: WhenFull::Queue,
            ..rig.pool.asked.clone()
        },
        ..rig.pool.clone()
    };
    let refused = no(rig.agent.create_pool(&pool).await);
    assert_eq!(refused, because(Refusal::AlreadyExists, "OTHER_PARAMETERS"));
    let stolen = Pool {
        id: PoolId::mint(),
        ..rig.pool.clone()
    };
    let refused = no(rig.agent.create_pool(&stolen).await);
    assert_eq!(refused, because(Refusal::FailedPrecondition, "NOT_BLANK"));
}

#[tokio::test]
async fn what_is_in_use_is_not_taken_away() {
    let rig = Rig::new().await;
    let volume = VolumeId::mint();
    rig.agent
        .create_thin(&rig.order(volume, Begin::Blank), Some(HOST))
        .await
        .unwrap();
    rig.node.hold_open(volume, 1);
    let wrong = |reason| because(Refusal::FailedPrecondition, reason);
    assert_eq!(
        no(rig.agent.deactivate(volume, 2).await),
        wrong("HELD_OPEN")
    );
    rig.node.hold_open(volume, 0);
    assert_eq!(
        no(rig.agent.delete_thin(rig.pool.id, volume.into(), 2).await),
        wrong("ACTIVE")
    );
    assert_eq!(no(rig.agent.close_pool(rig.pool.id).await), wrong("ACTIVE"));
    assert_eq!(
        no(rig.agent.delete_pool(rig.pool.id, false).await),
        wrong("NOT_EMPTY")
    );
    rig.agent.deactivate(volume, 2).await.unwrap();
    rig.agent.close_pool(rig.pool.id).await.unwrap();
    assert_eq!(
        no(rig.agent.delete_pool(rig.pool.id, false).await),
        wrong("DEVICES_DO_NOT_FIT")
    );
    let order = rig.order(VolumeId::mint(), Begin::Blank);
    assert_eq!(
        no(rig.agent.create_thin(&order, None).await),
        wrong("POOL_NOT_OPEN")
    );
    assert!(
        rig.agent
            .thin(volume.into())
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(
        no(rig.agent.delete_thin(rig.pool.id, volume.into(), 2).await),
        wrong("POOL_NOT_OPEN"),
        "a closed pool cannot say that it has no such thin"
    );
    assert_eq!(rig.node.thins(), [volume.into()]);
    rig.agent.open_pool(rig.pool.id, false).await.unwrap();
    rig.agent
        .delete_thin(rig.pool.id, volume.into(), 2)
        .await
        .unwrap();
    rig.agent.delete_pool(rig.pool.id, false).await.unwrap();
    assert_eq!(rig.node.pools(), []);
}

#[tokio::test]
async fn a_full_or_dead_pool_takes_nothing_new() {
    let rig = Rig::new().await;
    let order = rig.order(VolumeId::mint(), Begin::Blank);
    rig.node
        .set_pool(rig.pool.id, PoolMode::OutOfDataSpace, Bytes(9), Bytes(9));
    let refused = no(rig.agent.create_thin(&order, None).await);
    assert_eq!(refused, because(Refusal::ResourceExhausted, "POOL_FULL"));
    rig.node
        .set_pool(rig.pool.id, PoolMode::Failed, Bytes(9), Bytes(9));
    let refused = no(rig.agent.create_thin(&order, None).await);
    assert_eq!(
        refused,
        because(Refusal::FailedPrecondition, "POOL_READ_ONLY")
    );
    assert_eq!(
        rig.agent.pools().await.unwrap()[0].usage.unwrap().mode,
        PoolMode::Failed
    );
}

#[tokio::test]
async fn sizes_only_grow_and_a_snapshot_has_its_sources() {
    let rig = Rig::new().await;
    let volume = VolumeId::mint();
    rig.agent
        .create_thin(&rig.order(volume, Begin::Blank), None)
        .await
        .unwrap();
    let size = |bytes| VolumeSize::new(bytes).unwrap();
    let refused = no(rig.agent.resize(volume, size(512), 2).await);
    assert_eq!(refused, because(Refusal::OutOfRange, "OUT_OF_RANGE"));
    assert_eq!(
        rig.agent
            .resize(volume, size(2 << 20), 2)
            .await
            .unwrap()
            .size,
        Bytes(2 << 20)
    );
    let snapshot = rig.order(SnapshotId::mint(), Begin::Thin(volume.into()));
    let refused = no(rig.agent.create_thin(&snapshot, None).await);
    assert_eq!(refused, because(Refusal::OutOfRange, "OUT_OF_RANGE"));
    let right = ThinOrder {
        size: size(2 << 20),
        ..snapshot
    };
    rig.agent.create_thin(&right, None).await.unwrap();
    assert_eq!(
        no(rig.agent.create_thin(&right, Some(HOST)).await).0,
        Refusal::InvalidArgument
    );
    rig.node.lose_data(right.owner);
    let clone = ThinOrder {
        owner: VolumeId::mint().into(),
        begin: Begin::Thin(right.owner),
        ..right
    };
    let refused = no(rig.agent.create_thin(&clone, None).await);
    assert_eq!(
        refused,
        because(Refusal::FailedPrecondition, "DATA_MISSING")
    );
}

#[tokio::test]
async fn a_reboot_brings_back_what_the_host_wanted_and_nothing_else() {
    let rig = Rig::new().await;
    let (ours, theirs) = (VolumeId::mint(), VolumeId::mint());
    rig.agent
        .create_thin(&rig.order(ours, Begin::Blank), Some(HOST))
        .await
        .unwrap();
    rig.agent
        .create_thin(&rig.order(theirs, Begin::Blank), Some(CSI))
        .await
        .unwrap();
    rig.node.reboot();
    assert_eq!(rig.node.active(), [ours.into()]);
}

#[tokio::test]
async fn a_cut_loses_the_answer_and_the_effect_stands_or_not_as_planned() {
    let rig = Rig::new().await;
    let order = rig.order(VolumeId::mint(), Begin::Blank);
    let away = |answer| matches!(answer, Err(AgentError::Away { .. }));
    rig.node.cut(Verb::CreateThin, Cut::BeforeEffect);
    rig.node.cut(Verb::CreateThin, Cut::AfterEffect);
    assert!(away(rig.agent.create_thin(&order, None).await) && rig.node.thins().is_empty());
    assert!(away(rig.agent.create_thin(&order, None).await) && rig.node.thins().len() == 1);
    rig.agent.create_thin(&order, None).await.unwrap();
    assert_eq!(rig.node.effects(Verb::CreateThin), 1);

    let next = rig.order(VolumeId::mint(), Begin::Blank);
    for (points, thins) in [(0, 1), (1, 2)] {
        rig.node.cut_after(Some(points));
        assert!(!rig.node.was_cut());
        assert!(away(rig.agent.create_thin(&next, None).await) && rig.node.was_cut());
        assert!(away(rig.agent.thin(order.owner).await));
        assert_eq!(rig.node.thins().len(), thins);
    }
    rig.node.cut_after(Some(2));
    rig.agent.create_thin(&next, None).await.unwrap();
    assert!(!rig.node.was_cut());
    rig.node.cut_after(None);
    rig.node.set_away(true);
    assert!(away(rig.agent.thin(order.owner).await));
    rig.node.set_away(false);
    rig.agent.thin(order.owner).await.unwrap();
}

#[tokio::test]
async fn a_watch_says_every_pool_again_when_one_changes_and_ends_when_the_node_is_away() {
    let rig = Rig::new().await;
    let mut reports = rig.agent.watch_pools().await.unwrap();
    assert_eq!(
        reports.next().await.unwrap().unwrap()[0].phase,
        Phase::Ready
    );
    rig.agent.close_pool(rig.pool.id).await.unwrap();
    assert_eq!(
        reports.next().await.unwrap().unwrap()[0].phase,
        Phase::Closed
    );
    rig.node.set_away(true);
    assert!(reports.next().await.unwrap().is_err());
    assert!(reports.next().await.is_none());
}

#[tokio::test]
async fn an_import_that_is_dropped_leaves_nothing() {
    let rig = Rig::new().await;
    rig.node.offer("/a", DIGEST, Bytes(512));
    rig.node.hold_imports(true);
    let wait = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(wait, rig.import()).await.is_err());
    assert_eq!(rig.node.images(), []);
    rig.node.hold_imports(false);
    assert_eq!(rig.import().await.len(), 2);
    assert_eq!(rig.node.images(), [DIGEST]);
}

#[tokio::test]
async fn a_spoilt_or_lost_image_does_not_verify() {
    let rig = Rig::new().await;
    rig.node.offer("/a", DIGEST, Bytes(512));
    rig.import().await;
    rig.agent.verify_image(DIGEST).await.unwrap();
    rig.node.spoil_image(DIGEST, true);
    assert_eq!(no(rig.agent.verify_image(DIGEST).await).1, "IMAGE_CHANGED");
    rig.node.lose_image(DIGEST);
    assert_eq!(no(rig.agent.verify_image(DIGEST).await).1, "IMAGE_NOT_HERE");
}
