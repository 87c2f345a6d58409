//! `wait` over the wire: a call that blocks until what passes by itself has passed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_client::ImageServiceClient;
use goldleaf_proto::v1::pool_service_client::PoolServiceClient;
use goldleaf_proto::v1::volume_service_client::VolumeServiceClient;
use goldleaf_server::app;
use goldleaf_server::reconcile::{self, Waits};
use support::{GIB, GOLDEN, NODE, OTHER_NODE, Rig};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A furnished control plane with its loop, served.
async fn serve() -> (Rig, Channel) {
    let (rig, channel, _) = serve_until_told().await;
    (rig, channel)
}

/// As [`serve`], with what tells it to stop, and its end.
async fn serve_until_told() -> (Rig, Channel, (CancellationToken, JoinHandle<()>)) {
    let rig = Rig::furnished().await;
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", tcp.local_addr().unwrap());
    let stop = CancellationToken::new();
    let service = || Arc::clone(rig.service());
    tokio::spawn(reconcile::run(service(), Waits::default(), stop.clone()));
    let served = app::serve(service(), tcp, stop.clone());
    let served = tokio::spawn(async move { served.await.unwrap() });
    let channel = Channel::from_shared(address).unwrap().connect().await;
    (rig, channel.unwrap(), (stop, served))
}

fn vm1(wait: bool) -> api::CreateThinRequest {
    api::CreateThinRequest {
        name: "vm1".into(),
        size_bytes: GIB,
        pool: "fast".into(),
        wait,
        ..Default::default()
    }
}

type Answer<T> = Result<T, Status>;

/// That a call goes on as long as nothing changes.
async fn still_waits<T: Send + 'static>(call: JoinHandle<Answer<T>>) -> JoinHandle<Answer<T>> {
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!call.is_finished(), "it did not wait");
    call
}

async fn soon<T>(call: JoinHandle<Answer<T>>) -> Answer<T> {
    let ended = tokio::time::timeout(Duration::from_secs(10), call).await;
    ended.expect("it still waits").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_a_node_that_is_away_and_only_when_asked_to() {
    let (rig, channel) = serve().await;
    let volumes = || VolumeServiceClient::new(channel.clone());
    rig.node().set_away(true);
    let refused = volumes().create_thin(vm1(false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let mut client = volumes();
    let call = tokio::spawn(async move { client.create_thin(vm1(true)).await });
    let call = still_waits(call).await;
    rig.node().set_away(false);
    let made = soon(call).await.unwrap().into_inner();
    assert_eq!(
        (made.name.as_str(), made.phase()),
        ("vm1", api::Phase::Ready)
    );

    rig.node().set_away(true);
    let mut client = volumes();
    let activate = api::ActivateRequest {
        volume: "vm1".into(),
        wait: true,
        ..Default::default()
    };
    let call = still_waits(tokio::spawn(async move { client.activate(activate).await })).await;
    rig.node().set_away(false);
    let active = soon(call).await.unwrap().into_inner();
    assert!(active.activation.unwrap().active);
    let deactivate = api::DeactivateRequest {
        volume: "vm1".into(),
        wait: true,
    };
    volumes().deactivate(deactivate).await.unwrap();

    rig.node().set_away(true);
    let mut client = volumes();
    let delete = api::DeleteRequest {
        target: "vm1".into(),
        wait: true,
        ..Default::default()
    };
    let call = still_waits(tokio::spawn(async move { client.delete(delete).await })).await;
    rig.node().set_away(false);
    soon(call).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_closed_and_opened_once_its_node_is_back() {
    let (rig, channel) = serve().await;
    let mut pools = PoolServiceClient::new(channel.clone());
    rig.node().set_away(true);
    let close = api::ClosePoolRequest {
        pool: "fast".into(),
        wait: true,
    };
    let mut client = pools.clone();
    let call = still_waits(tokio::spawn(async move { client.close(close).await })).await;
    rig.node().set_away(false);
    assert_eq!(
        soon(call).await.unwrap().into_inner().phase(),
        api::Phase::Closed
    );
    let open = api::OpenPoolRequest {
        pool: "fast".into(),
        wait: true,
        ..Default::default()
    };
    let open = pools.open(open).await.unwrap().into_inner();
    assert_eq!(open.phase(), api::Phase::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_pass_by_itself_is_refused_at_once_though_it_was_to_wait() {
    let (_rig, channel) = serve().await;
    let mut volumes = VolumeServiceClient::new(channel.clone());
    let quickly = Duration::from_secs(5);
    let unknown = api::CreateThinRequest {
        image: "nothing".into(),
        ..vm1(true)
    };
    let refused = tokio::time::timeout(quickly, volumes.create_thin(unknown)).await;
    assert_eq!(refused.unwrap().unwrap_err().code(), Code::NotFound);
    volumes.create_thin(vm1(true)).await.unwrap();
    let other = api::CreateThinRequest {
        size_bytes: 2 * GIB,
        ..vm1(true)
    };
    let refused = tokio::time::timeout(quickly, volumes.create_thin(other)).await;
    assert_eq!(refused.unwrap().unwrap_err().code(), Code::AlreadyExists);
}

/// Who waits for an image does not keep the server from stopping, and is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_the_wait_for_an_image() {
    let (rig, channel, (stop, served)) = serve_until_told().await;
    rig.register(OTHER_NODE, "n2").await;
    for node in [NODE, OTHER_NODE] {
        rig.agents.node(node).hold_imports(true);
    }
    let images = || ImageServiceClient::new(channel.clone());
    let (mut creates, mut places) = (images(), images());
    let created = tokio::spawn(async move {
        let request = api::CreateImageRequest {
            name: "second".into(),
            source: Some(api::create_image_request::Source::File(GOLDEN.into())),
            node: "n1".into(),
            wait: true,
            ..Default::default()
        };
        creates.create(request).await
    });
    let placed = tokio::spawn(async move {
        let request = api::PlaceImageRequest {
            image: "golden".into(),
            nodes: vec!["n2".into()],
            wait: true,
        };
        places.place(request).await
    });
    let (created, placed) = (still_waits(created).await, still_waits(placed).await);
    stop.cancel();
    for ended in [soon(created).await, soon(placed).await] {
        let stopping = ended.unwrap_err();
        assert_eq!(stopping.code(), Code::Unavailable);
        assert!(stopping.message().contains("stops"), "{stopping}");
    }
    let stopped = tokio::time::timeout(Duration::from_secs(5), served).await;
    stopped.expect("a wait keeps it").unwrap();
}
