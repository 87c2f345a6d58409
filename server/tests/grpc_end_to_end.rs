//! The whole server over loopback: real gRPC, real store, agents in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use goldleaf_proto::REQUEST_ID_KEY;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_client::ImageServiceClient;
use goldleaf_proto::v1::node_service_client::NodeServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use goldleaf_server::app;
use goldleaf_server::reconcile::{self, Waits};
use goldleaf_types::Labels;
use support::{GOLDEN, NODE, Rig, digest};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;

struct Served {
    rig: Rig,
    channel: Channel,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

async fn serve() -> Served {
    let rig = Rig::empty();
    rig.node()
        .offer(GOLDEN, digest(7), goldleaf_types::Bytes(support::GIB));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", tcp.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(reconcile::run(
        Arc::clone(rig.service()),
        Waits::default(),
        stop.clone(),
    ));
    let server = tokio::spawn(app::serve(Arc::clone(rig.service()), tcp, stop.clone()));
    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let served = Served {
        rig,
        channel,
        stop,
        server,
    };
    let mut nodes = NodeServiceClient::new(served.channel.clone());
    let answer = nodes
        .register(api::RegisterNodeRequest {
            id: NODE.to_string(),
            name: "n1".into(),
            address: "http://127.0.0.1:4701".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(answer.into_inner().incarnation.starts_with("inc-"));
    served
}

impl Served {
    fn volumes(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(self.channel.clone())
    }

    async fn furnish(&self) {
        let pool = api::CreatePoolRequest {
            name: "fast".into(),
            devices: vec![api::PoolDevice {
                path: "/dev/sda".into(),
                create_file_bytes: 0,
            }],
            ..Default::default()
        };
        PoolServiceClient::new(self.channel.clone())
            .create(pool)
            .await
            .unwrap();
        let image = api::CreateImageRequest {
            name: "debian-12".into(),
            source: Some(api::create_image_request::Source::File(GOLDEN.into())),
            wait: true,
            ..Default::default()
        };
        let image = ImageServiceClient::new(self.channel.clone())
            .create(image)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (image.phase(), image.digest),
            (api::Phase::Ready, digest(7).to_string())
        );
    }
}

fn vm1() -> api::CreateThinRequest {
    api::CreateThinRequest {
        name: "vm1".into(),
        size_bytes: 20 << 30,
        image: "debian-12".into(),
        activate: Some(api::ActivateOptions::default()),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_image_becomes_a_volume_over_the_wire_and_the_same_call_the_same_volume() {
    let served = serve().await;
    served.furnish().await;
    let mut volumes = served.volumes();
    let first = volumes.create_thin(vm1()).await.unwrap().into_inner();
    assert_eq!(
        first.activation.as_ref().unwrap().device_path,
        "/dev/goldleaf/fast/vm1"
    );
    assert_eq!(
        (first.phase(), first.size_bytes),
        (api::Phase::Ready, 20 << 30)
    );
    assert!(first.id.starts_with("vol-"));
    let again = volumes.create_thin(vm1()).await.unwrap().into_inner();
    assert_eq!(again, first);
    let other = api::CreateThinRequest {
        size_bytes: 21 << 30,
        ..vm1()
    };
    let refused = volumes.create_thin(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let details = refused.get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "size_bytes"
    );

    let active = volumes.delete(api::DeleteRequest {
        target: first.id.clone(),
        ..Default::default()
    });
    assert_eq!(active.await.unwrap_err().code(), Code::FailedPrecondition);
    volumes
        .deactivate(api::DeactivateRequest {
            volume: "vm1".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    volumes
        .delete(api::DeleteRequest {
            target: first.id,
            ..Default::default()
        })
        .await
        .unwrap();
    let gone = volumes
        .get(api::GetRequest {
            target: "vm1".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    served.rig.check("at the end").await;
}

#[tokio::test]
async fn a_bad_field_is_named_on_the_wire_and_a_request_keeps_its_id() {
    let served = serve().await;
    let mut request = Request::new(api::CreateThinRequest {
        size_bytes: 513,
        ..vm1()
    });
    request
        .metadata_mut()
        .insert(REQUEST_ID_KEY, "r-17".parse().unwrap());
    let refused = served.volumes().create_thin(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().starts_with("size_bytes: 513"),
        "{}",
        refused.message()
    );
    assert_eq!(refused.metadata().get(REQUEST_ID_KEY).unwrap(), "r-17");
    let listed = served
        .volumes()
        .list(api::ListRequest::default())
        .await
        .unwrap();
    assert!(
        !listed.metadata().get(REQUEST_ID_KEY).unwrap().is_empty(),
        "one is minted"
    );
}

#[tokio::test]
async fn a_stop_ends_watches_and_the_server() {
    let served = serve().await;
    served.furnish().await;
    let mut events = served
        .volumes()
        .watch(api::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    served.volumes().create_thin(vm1()).await.unwrap();
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(
        (event.kind(), event.volume.unwrap().name),
        (api::EventKind::Present, "vm1".into())
    );
    let bad = api::WatchRequest {
        resume_token: "x".into(),
        ..Default::default()
    };
    let refused = served
        .volumes()
        .watch(bad)
        .await
        .unwrap()
        .into_inner()
        .message()
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    served.stop.cancel();
    while let Ok(Some(_)) = events.message().await {}
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(5), served.server).await;
    stopped.expect("the server did not stop").unwrap().unwrap();
}

#[tokio::test]
async fn health_and_reflection_answer_for_every_service() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let served = serve().await;
    let service = "goldleaf.v1.VolumeService".to_owned();
    let healthy = HealthClient::new(served.channel.clone())
        .check(HealthCheckRequest { service })
        .await
        .unwrap();
    assert_eq!(healthy.into_inner().status, 1);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(served.channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    for service in ["Volume", "Pool", "Image", "Node"] {
        assert!(
            names.contains(&format!("goldleaf.v1.{service}Service")),
            "{names:?}"
        );
    }
}

/// Clients take 4 MiB in one answer unless they are told otherwise.
#[tokio::test]
async fn a_list_of_large_records_comes_in_pages_that_every_client_takes() {
    let served = serve().await;
    served.furnish().await;
    let labels: HashMap<String, String> = (0..Labels::MAX)
        .map(|n| (format!("{n:0>128}"), "x".repeat(256)))
        .collect();
    for n in 0..180 {
        let large = api::CreateThinRequest {
            name: format!("large-{n}"),
            size_bytes: 1 << 20,
            image: String::new(),
            labels: labels.clone(),
            ..vm1()
        };
        served.volumes().create_thin(large).await.unwrap();
    }
    let (mut names, mut token, mut pages) = (BTreeSet::new(), String::new(), 0);
    loop {
        let request = api::ListRequest {
            page: Some(api::PageRequest { size: 1000, token }),
            filter: None,
        };
        let answer = served.volumes().list(request).await.unwrap().into_inner();
        names.extend(answer.volumes.into_iter().map(|v| v.name));
        pages += 1;
        token = answer.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 180);
    assert!(pages > 1, "all in one page");
}
