//! `goldleaf node` against a control plane played in this process: what machines are told, and answers
//! that are larger than a client takes unless told otherwise.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too
#![expect(
    clippy::disallowed_methods,
    reason = "the played control plane refuses by hand"
)]

mod support;

use std::pin::Pin;
use std::process::Output;

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::node_service_server::{NodeService, NodeServiceServer};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use support::{stderr, stdout};

/// More things than fit into four mebibytes.
const MANY: usize = 60_000;

/// A node service with "quiet", whose agent does not answer, and "busy", on which a volume is active.
struct Played;

type Answer<T> = Result<Response<T>, Status>;

fn not_played<T>() -> Answer<T> {
    Err(Status::new(Code::Unimplemented, "not played"))
}

fn node(name: &str) -> Option<api::Node> {
    Some(api::Node {
        id: format!("node-{name}"),
        name: name.into(),
        ..Default::default()
    })
}

#[tonic::async_trait]
impl NodeService for Played {
    async fn drain(&self, r: Request<api::DrainNodeRequest>) -> Answer<api::DrainNodeResponse> {
        let name = r.into_inner().node;
        let quiet = name == "quiet";
        let active = api::ActiveVolume {
            name: "vm1".into(),
            ..Default::default()
        };
        Ok(Response::new(api::DrainNodeResponse {
            node: node(&name),
            active: (!quiet).then_some(active).into_iter().collect(),
            deactivated: 0,
            unknown: if quiet { "it is away" } else { "" }.into(),
        }))
    }

    async fn mark_lost(
        &self,
        r: Request<api::MarkNodeLostRequest>,
    ) -> Answer<api::MarkNodeLostResponse> {
        let given_up = |n| api::GivenUp {
            kind: "volume".into(),
            id: format!("vol-{n:032x}"),
            name: format!("vm{n}"),
            becomes: "kept, and lost unless its pool comes back".into(),
        };
        Ok(Response::new(api::MarkNodeLostResponse {
            node: node(&r.into_inner().node),
            given_up: (0..MANY).map(given_up).collect(),
            applied: false,
        }))
    }

    async fn register(
        &self,
        _: Request<api::RegisterNodeRequest>,
    ) -> Answer<api::RegisterNodeResponse> {
        not_played()
    }

    async fn get(&self, _: Request<api::GetRequest>) -> Answer<api::Node> {
        not_played()
    }

    async fn list(&self, _: Request<api::ListRequest>) -> Answer<api::ListNodesResponse> {
        not_played()
    }

    async fn preflight(&self, _: Request<api::PreflightRequest>) -> Answer<api::PreflightResponse> {
        not_played()
    }

    async fn resume(&self, _: Request<api::ResumeNodeRequest>) -> Answer<api::Node> {
        not_played()
    }

    async fn take_back(&self, _: Request<api::TakeBackNodeRequest>) -> Answer<api::Node> {
        not_played()
    }

    async fn adopt(&self, _: Request<api::AdoptNodeRequest>) -> Answer<api::AdoptNodeResponse> {
        not_played()
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<api::NodeEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        not_played()
    }
}

async fn goldleaf(line: &str) -> Output {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = tonic::transport::Server::builder()
        .add_service(NodeServiceServer::new(Played))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    support::goldleaf(&address, line).await
}

#[tokio::test]
async fn a_drain_says_all_of_its_answer_to_a_machine_and_what_nobody_knows_by_its_exit_code() {
    let quiet = goldleaf("node drain quiet -o json").await;
    assert_eq!(quiet.status.code(), Some(3), "{}", stderr(&quiet));
    assert!(
        stderr(&quiet).contains("nobody knows"),
        "{}",
        stderr(&quiet)
    );
    let json: serde_json::Value = serde_json::from_str(stdout(&quiet)).unwrap();
    assert_eq!(
        (&json["node"]["name"], &json["unknown"]),
        (&"quiet".into(), &"it is away".into())
    );
    let busy = goldleaf("node drain busy -o json").await;
    assert_eq!(busy.status.code(), Some(0), "{}", stderr(&busy));
    let json: serde_json::Value = serde_json::from_str(stdout(&busy)).unwrap();
    assert_eq!(json["active"][0]["name"], "vm1");
    let names = goldleaf("node drain busy -o name").await;
    assert_eq!(stdout(&names), "vm1\n");
}

#[tokio::test]
async fn an_answer_of_more_than_four_mebibytes_is_taken() {
    let lost = goldleaf("node lost busy -o name").await;
    assert_eq!(lost.status.code(), Some(0), "{}", stderr(&lost));
    assert_eq!(stdout(&lost).lines().count(), MANY);
}
