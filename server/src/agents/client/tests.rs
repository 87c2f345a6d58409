//! The client against a small agent on loopback: what it sends, and what it makes of each answer.

mod small_agent;

use std::collections::BTreeMap;

use goldleaf_proto::agent::v1::node_agent_server::NodeAgentServer;
use goldleaf_proto::v1 as api;
use goldleaf_proto::{REQUEST_ID_KEY, TRACEPARENT_KEY};
use goldleaf_rpc::CallId;
use goldleaf_types::{BlockSize, Bytes, Labels, SnapshotId};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt};

use self::small_agent::{SmallAgent, good_thin};
use super::*;
use crate::agents::{ImportStep, RepairStage};
use crate::domain::{
    Activation, Holder, ImageFormat, ImageSource, Phase, PoolAsked, PoolDevice, PoolMode, Progress,
    Refusal, RepairOutcome, RepairStep, ThinFate, VolumeAsked, WhenFull,
};

fn node(address: String) -> Node {
    Node {
        id: NodeId::from_bytes([4; 16]),
        name: "host1".parse().unwrap(),
        labels: Labels::default(),
        revision: 1,
        phase: Phase::Ready,
        created: Timestamp::now(),
        address,
        agent_version: String::new(),
        kernel_release: String::new(),
        drained: None,
        lost: None,
    }
}

const INCARNATION: Incarnation = Incarnation::from_bytes([9; 16]);

/// The runtime that the small agent lives on; its connections break when this is dropped.
struct Serving(Option<Runtime>);

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A small agent that serves, and a client of it.
async fn rig() -> (SmallAgent, Arc<dyn AgentPort>, Serving) {
    let small = SmallAgent::default();
    small.script().answer = good_thin();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let service = NodeAgentServer::new(small.clone());
    let bind = runtime.spawn(async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
    let listener = bind.await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(service);
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let timeouts = Timeouts {
        pool: Duration::from_millis(300),
        ..Timeouts::default()
    };
    let agent = GrpcAgents::new(INCARNATION, timeouts).of(&node(address));
    (small, agent, Serving(Some(runtime)))
}

fn order(owner: ThinOwner, begin: Begin) -> ThinOrder {
    ThinOrder {
        owner,
        name: "vm1".parse().unwrap(),
        pool: PoolId::from_bytes([3; 16]),
        size: VolumeSize::new(1024).unwrap(),
        begin,
        labels: Labels::try_from(BTreeMap::from([("team".into(), "db".into())])).unwrap(),
        asked: VolumeAsked {
            size_bytes: 1024,
            image: "debian".into(),
            source: String::new(),
        },
        part: None,
        epoch: 3,
    }
}

#[tokio::test]
async fn a_call_carries_the_store_the_request_and_the_whole_order() {
    let (small, agent, _serving) = rig().await;
    let volume = VolumeId::from_bytes([1; 16]);
    let digest = Digest::from_bytes([0xab; 32]);
    let options = ActivateOptions {
        holder: Holder::Csi,
        read_only: true,
    };
    let order_of_image = order(volume.into(), Begin::Image(digest));
    let call = agent.create_thin(&order_of_image, Some(options));
    let asked = CallId::mint();
    let report = goldleaf_rpc::call::scope(asked.clone(), call)
        .await
        .unwrap();
    let activation = Activation {
        device_path: "/dev/goldleaf/fast/vm1".into(),
        holder: Holder::Csi,
        read_only: true,
    };
    assert_eq!((report.owner, report.phase), (volume.into(), Phase::Ready));
    assert_eq!((report.size, report.owned), (Bytes(1024), Some(Bytes(512))));
    assert_eq!(
        (report.image, report.activation),
        (Some(digest), Some(activation))
    );
    assert_eq!(report.conditions[0].since, Timestamp::new(1, 5).unwrap());
    let metadata = small.script().metadata.take().unwrap();
    assert_eq!(
        metadata.get(INCARNATION_KEY).unwrap(),
        INCARNATION.to_string().as_str()
    );
    assert_eq!(CallId::of(metadata.as_ref()).request, asked.request);
    assert_eq!(
        metadata.get(TRACEPARENT_KEY).unwrap(),
        asked.trace.to_string().as_str()
    );
    let sent = small.script().thin.take().unwrap();
    let wanted = pb::AgentCreateThinRequest {
        volume: volume.to_string(),
        name: "vm1".into(),
        pool: order_of_image.pool.to_string(),
        size_bytes: 1024,
        image_digest: digest.to_string(),
        labels: [("team".to_owned(), "db".to_owned())].into(),
        parameters: r#"{"v":"1","kind":"volume","size_bytes":1024,"image":"debian","source":""}"#
            .into(),
        epoch: 3,
        activate: Some(api::ActivateOptions {
            holder: api::Holder::Csi.into(),
            read_only: true,
        }),
    };
    assert_eq!(sent, wanted);

    let snapshot = SnapshotId::from_bytes([2; 16]);
    agent
        .create_thin(&order(snapshot.into(), Begin::Thin(volume.into())), None)
        .await
        .unwrap();
    let sent = small.script().snapshot.take().unwrap();
    assert_eq!(
        (sent.owner, sent.source),
        (snapshot.to_string(), volume.to_string())
    );
    assert_eq!(
        (sent.size_bytes, sent.epoch, sent.activate),
        (1024, 3, None)
    );
    assert!(
        small
            .script()
            .metadata
            .take()
            .unwrap()
            .get(REQUEST_ID_KEY)
            .is_none()
    );
}

#[tokio::test]
async fn a_pool_is_sent_whole_and_its_report_read_whole() {
    let (small, agent, _serving) = rig().await;
    let device = |path: &str, bytes| PoolDevice {
        path: path.into(),
        create_file_bytes: bytes,
    };
    let pool = Pool {
        id: PoolId::from_bytes([3; 16]),
        name: "fast".parse().unwrap(),
        labels: Labels::default(),
        revision: 1,
        phase: Phase::Creating,
        conditions: Vec::new(),
        created: Timestamp::now(),
        node: NodeId::from_bytes([4; 16]),
        asked: PoolAsked {
            devices: vec![device("/a", 1 << 20), device("/b", 0)],
            metadata_device: Some(device("/m", 0)),
            block_size: BlockSize::DEFAULT,
            when_full: WhenFull::Queue,
        },
        mode: PoolMode::Unknown,
        wanted_name: None,
        doomed: false,
        marks: Default::default(),
        adopting: None,
    };
    let report = agent.create_pool(&pool).await.unwrap();
    assert_eq!((report.id, report.phase), (pool.id, Phase::Ready));
    let usage = report.usage.unwrap();
    assert_eq!(
        (usage.data_total, usage.mode),
        (Bytes(9), PoolMode::ReadOnly)
    );
    let sent = small.script().pool.take().unwrap();
    assert_eq!(
        sent.devices
            .iter()
            .map(|d| d.create_file_bytes)
            .collect::<Vec<_>>(),
        [1 << 20, 0]
    );
    assert_eq!(sent.metadata_device.as_ref().unwrap().path, "/m");
    assert_eq!(
        (sent.when_full(), sent.block_size_bytes),
        (api::WhenFull::Queue, 65_536)
    );
}

/// What the client makes of a status that the agent answers.
async fn reading(status: Status) -> AgentError {
    let (small, agent, _serving) = rig().await;
    small.script().refusal = Some(status);
    agent.thin(VolumeId::mint().into()).await.unwrap_err()
}

fn with_reason(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "goldleaf", HashMap::new());
    Status::with_error_details(code, "why", details)
}

fn refused(refusal: Refusal, reason: &str, field: Option<&str>) -> AgentError {
    AgentError::Refused {
        refusal,
        reason: reason.into(),
        message: "why".into(),
        field: field.map(Into::into),
    }
}

#[tokio::test]
async fn each_refusal_keeps_its_code_reason_message_and_field() {
    for (code, refusal) in [
        (Code::InvalidArgument, Refusal::InvalidArgument),
        (Code::NotFound, Refusal::NotFound),
        (Code::AlreadyExists, Refusal::AlreadyExists),
        (Code::Aborted, Refusal::Aborted),
        (Code::FailedPrecondition, Refusal::FailedPrecondition),
        (Code::OutOfRange, Refusal::OutOfRange),
        (Code::ResourceExhausted, Refusal::ResourceExhausted),
        (Code::Unavailable, Refusal::Unavailable),
        (Code::Internal, Refusal::Internal),
    ] {
        assert_eq!(
            reading(with_reason(code, "WHY")).await,
            refused(refusal, "WHY", None)
        );
    }
    let details = ErrorDetails::with_bad_request_violation("size_bytes", "is odd");
    let status = Status::with_error_details(Code::InvalidArgument, "why", details);
    let wanted = refused(Refusal::InvalidArgument, "BAD_FIELD", Some("size_bytes"));
    assert_eq!(reading(status).await, wanted);
    let plain = Status::with_error_details(Code::Internal, "why", ErrorDetails::new());
    assert_eq!(
        reading(plain).await,
        refused(Refusal::Internal, "INTERNAL", None)
    );
}

#[tokio::test]
async fn what_is_no_answer_of_the_agent_is_away() {
    for code in [
        Code::Unavailable,
        Code::Cancelled,
        Code::DeadlineExceeded,
        Code::Unknown,
    ] {
        let status = Status::with_error_details(code, "Timeout expired", ErrorDetails::new());
        let AgentError::Away { node, why } = reading(status).await else {
            panic!("{code:?}")
        };
        assert_eq!((node.as_str(), why.as_str()), ("host1", "Timeout expired"));
    }
    let (_small, agent, serving) = rig().await;
    let late = agent.close_pool(PoolId::mint()).await.unwrap_err();
    assert!(matches!(late, AgentError::Away { .. }), "{late}");
    let (cut, ()) = tokio::join!(agent.close_pool(PoolId::mint()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(serving);
    });
    let Err(AgentError::Away { why, .. }) = cut else {
        panic!("{cut:?}")
    };
    assert!(!why.contains("Timeout"), "the break was not noticed: {why}");
    // The channel may learn only now that its connection is gone; then it dials.
    assert!(matches!(agent.pools().await, Err(AgentError::Away { .. })));
    let gone = agent.pools().await.unwrap_err();
    assert!(
        matches!(&gone, AgentError::Away { why, .. } if why.contains("refused")),
        "{gone}"
    );
    let nowhere =
        GrpcAgents::new(INCARNATION, Timeouts::default()).of(&node("no uri at all".into()));
    let AgentError::Away { why, .. } = nowhere.pools().await.unwrap_err() else {
        panic!()
    };
    assert!(why.contains("no uri at all"), "{why}");
}

#[tokio::test]
async fn an_older_agent_that_lacks_a_call_is_a_matter_for_its_administrator() {
    let (_small, agent, _serving) = rig().await;
    let error = agent.preflight().await.unwrap_err();
    assert!(matches!(
        error,
        AgentError::Refused {
            refusal: Refusal::FailedPrecondition,
            ..
        }
    ));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_bug_and_names_the_field() {
    type Spoil = fn(&mut pb::AgentThin);
    let cases: [(&str, Spoil); 8] = [
        ("thin.created", |t| t.created = None),
        ("thin.owner", |t| t.owner = "x".into()),
        ("thin.pool", |t| t.pool.clear()),
        ("phase", |t| t.phase = 0),
        ("phase", |t| t.phase = 99),
        ("thin.image_digest", |t| t.image_digest = "sha256:1".into()),
        ("activation.device_path", |t| {
            t.activation.as_mut().unwrap().device_path.clear()
        }),
        ("condition.since", |t| t.conditions[0].since = None),
    ];
    let (small, agent, _serving) = rig().await;
    for (field, spoil) in cases {
        let mut thin = good_thin();
        spoil(&mut thin);
        small.script().answer = thin;
        let error = agent.thin(VolumeId::mint().into()).await.unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
        assert!(matches!(
            error,
            AgentError::Refused {
                refusal: Refusal::Internal,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn every_page_of_thins_is_asked_for() {
    let (_small, agent, _serving) = rig().await;
    let owners: Vec<_> = agent
        .thins()
        .await
        .unwrap()
        .iter()
        .map(|thin| thin.owner)
        .collect();
    assert_eq!(
        owners,
        [1, 2, 3].map(|n| VolumeId::from_bytes([n; 16]).into())
    );
}

#[tokio::test]
async fn an_import_has_steps_and_an_end_or_broke_off() {
    let (small, agent, _serving) = rig().await;
    let digest = Digest::from_bytes([0xab; 32]);
    let progress = pb::ImportImageEvent {
        progress: Some(api::Progress {
            done_bytes: 1,
            total_bytes: 2,
        }),
        image: None,
    };
    let image = pb::AgentImage {
        digest: digest.to_string(),
        size_bytes: 2,
        ..Default::default()
    };
    let last = pb::ImportImageEvent {
        progress: None,
        image: Some(image),
    };
    let asked = ImageAsked {
        source: ImageSource::Url("http://host/a".into()),
        format: ImageFormat::Qcow2,
        source_sha256: "cd".repeat(32),
        digest: Some(digest),
    };
    small.script().events = vec![progress.clone(), last.clone(), progress.clone()];
    let steps: Vec<_> = agent
        .import_image(&asked, None)
        .await
        .unwrap()
        .collect()
        .await;
    let half = ImportStep::Progress(Progress {
        done: Bytes(1),
        total: Bytes(2),
    });
    let done = ImportStep::Done(ImageReport {
        digest,
        size: Bytes(2),
    });
    assert_eq!(steps, [Ok(half), Ok(done)]);
    let sent = small.script().image.take().unwrap();
    assert_eq!(
        (sent.format(), sent.digest),
        (api::ImageFormat::Qcow2, digest.to_string())
    );
    assert_eq!(sent.source_sha256, asked.source_sha256);
    small.script().events = vec![progress];
    let steps: Vec<_> = agent
        .import_image(&asked, None)
        .await
        .unwrap()
        .collect()
        .await;
    assert!(
        matches!(steps[..], [Ok(_), Err(AgentError::Away { .. })]),
        "{steps:?}"
    );
    small.script().events = vec![
        pb::ImportImageEvent {
            progress: None,
            image: None,
        },
        last,
    ];
    let steps: Vec<_> = agent
        .import_image(&asked, None)
        .await
        .unwrap()
        .collect()
        .await;
    assert!(
        matches!(steps[..], [Err(AgentError::Refused { .. })]),
        "{steps:?}"
    );
}

#[tokio::test]
async fn the_first_messages_of_a_stream_of_thins_are_one_piece_of_news() {
    use futures::StreamExt;
    let (_small, agent, _serving) = rig().await;
    let told: Vec<_> = agent.watch_thins().await.unwrap().collect().await;
    let told: Vec<_> = told.into_iter().map(Result::unwrap).collect();
    let counts = |n: &super::super::ThinNews| (n.there.len(), n.gone.len(), n.whole);
    let counted: Vec<_> = told.iter().map(counts).collect();
    assert_eq!(counted, [(2, 0, true), (0, 1, false)]);
    assert_eq!(told[1].gone, [told[0].there[0].owner]);
}

#[tokio::test]
async fn ranges_are_asked_for_whole_and_a_senseless_one_is_refused() {
    use futures::StreamExt;
    let (_small, agent, _serving) = rig().await;
    let order = crate::domain::BlockOrder {
        snapshot: SnapshotId::mint(),
        base: None,
        from: 8192,
        most: 1,
    };
    let parts: Vec<_> = agent.blocks(&order).await.unwrap().collect().await;
    let first = parts[0].as_ref().unwrap();
    assert_eq!(first.size, Bytes(1 << 20));
    assert_eq!((first.ranges[0].offset, first.ranges[0].len), (8192, 4096));
    assert!(
        matches!(
            &parts[1],
            Err(AgentError::Refused {
                refusal: Refusal::Internal,
                ..
            })
        ),
        "{parts:?}"
    );
}

#[tokio::test]
async fn a_repair_comes_step_by_step_and_ends_with_its_result() {
    let (_small, agent, _serving) = rig().await;
    let pool = PoolId::from_bytes([1; 16]);
    let stages: Vec<_> = agent
        .repair_pool(pool, true, false)
        .await
        .unwrap()
        .collect()
        .await;
    let [
        Ok(RepairStage::At(step, so_far)),
        Ok(RepairStage::Done(done)),
    ] = &stages[..]
    else {
        panic!("{stages:?}");
    };
    assert_eq!((*step, so_far.total), (RepairStep::Copying, Bytes(2)));
    let (repair, report) = &**done;
    assert_eq!((report.id, report.phase), (pool, Phase::Ready));
    assert_eq!(
        (repair.outcome, repair.kept.as_str()),
        (RepairOutcome::Done, "/kept")
    );
    let thin = &repair.thins[0];
    assert_eq!((thin.before, thin.after), (Some(Bytes(9)), None));
    assert_eq!(thin.fate, ThinFate::Lost);
    // A result without the pool makes no sense.
    let mut stages = agent.repair_pool(pool, false, false).await.unwrap();
    assert!(stages.next().await.unwrap().is_ok());
    let wrong = stages.next().await.unwrap().unwrap_err().to_string();
    assert!(wrong.contains("pool"), "{wrong}");
}

#[tokio::test]
async fn records_are_kept_as_they_are_and_an_agent_of_before_has_none() {
    let (_small, agent, _serving) = rig().await;
    assert_eq!(agent.kept_records().await.unwrap(), None);
    let store = Incarnation::from_bytes([8; 16]);
    agent
        .keep_records("text".to_owned(), Some(store))
        .await
        .unwrap();
    let kept = agent.kept_records().await.unwrap().unwrap();
    assert_eq!((kept.store, kept.records.as_str()), (store, "text"));
}
