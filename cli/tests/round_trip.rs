//! The real binary against a control plane played in this process: what goes out, what is printed,
//! which exit code comes back.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too
#![expect(
    clippy::disallowed_methods,
    reason = "the played control plane refuses by hand"
)]

mod support;

use std::pin::Pin;
use std::process::Output;
use std::sync::{Arc, Mutex};

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::image_service_server::{ImageService, ImageServiceServer};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, iter};
use tonic::{Code, Request, Response, Status};

use support::{goldleaf, stderr, stdout};

/// An image service that brings "good" and "bad" images, and keeps the ids of requests.
#[derive(Clone, Default)]
struct Played {
    request_ids: Arc<Mutex<Vec<String>>>,
}

impl Played {
    fn seen<T>(&self, request: Request<T>) -> T {
        let id = request
            .metadata()
            .get(goldleaf_proto::REQUEST_ID_KEY)
            .unwrap();
        self.request_ids
            .lock()
            .unwrap()
            .push(id.to_str().unwrap().to_owned());
        request.into_inner()
    }
}

fn image(name: &str, phase: api::Phase) -> api::Image {
    let progress = api::Progress {
        done_bytes: 5,
        total_bytes: 10,
    };
    let copy = api::ImageCopy {
        progress: Some(progress),
        ..Default::default()
    };
    api::Image {
        id: format!("img-{name}"),
        name: name.into(),
        phase: phase.into(),
        copies: vec![copy],
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ImageService for Played {
    async fn create(
        &self,
        request: Request<api::CreateImageRequest>,
    ) -> Result<Response<api::Image>, Status> {
        let wanted = self.seen(request);
        assert!(!wanted.wait, "the command follows the work itself");
        Ok(Response::new(image(&wanted.name, api::Phase::Creating)))
    }

    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::Image>, Status> {
        match self.seen(request).target.as_str() {
            "good" | "img-good" | "img-bad" => {
                Ok(Response::new(image("good", api::Phase::Creating)))
            }
            "bug" => Err(Status::new(Code::Internal, "the row does not decode")),
            other => Err(Status::new(Code::NotFound, format!("no image {other}"))),
        }
    }

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let asked = self.seen(request);
        let labels = asked.filter.unwrap().labels; // none: a bundle asks for everything
        assert!(labels.is_empty() || labels.get("team").map(String::as_str) == Some("web"));
        let (name, next) = match asked.page.unwrap().token.as_str() {
            "" => ("first", "2"),
            "2" => ("second", ""),
            other => return Err(Status::new(Code::InvalidArgument, format!("token {other}"))),
        };
        Ok(Response::new(api::ListImagesResponse {
            images: vec![image(name, api::Phase::Ready)],
            next_page_token: next.into(),
        }))
    }

    async fn verify(
        &self,
        request: Request<api::VerifyImageRequest>,
    ) -> Result<Response<api::Image>, Status> {
        let name = self.seen(request).image;
        if name != "spoilt" {
            return Err(Status::new(Code::Unavailable, "node host1 is away"));
        }
        let mut spoilt = image(&name, api::Phase::Ready);
        spoilt.copies.push(api::ImageCopy {
            phase: api::Phase::Failed.into(),
            message: "the copy on host2 is not what it was".into(),
            ..Default::default()
        });
        Ok(Response::new(spoilt))
    }

    async fn place(
        &self,
        _: Request<api::PlaceImageRequest>,
    ) -> Result<Response<api::Image>, Status> {
        Err(Status::new(Code::Unimplemented, "not played"))
    }

    async fn evict(
        &self,
        request: Request<api::EvictImageRequest>,
    ) -> Result<Response<api::Image>, Status> {
        let asked = self.seen(request);
        assert_eq!((asked.node.as_str(), asked.wait), ("host2", true));
        Ok(Response::new(image(&asked.image, api::Phase::Ready)))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::Image>, Status> {
        let asked = self.seen(request);
        assert_eq!(
            asked.set_labels.get("os").map(String::as_str),
            Some("linux")
        );
        assert_eq!(asked.remove_labels, ["old"]);
        assert_eq!(
            (asked.deletion_protection, asked.expected_revision),
            (Some(true), 7)
        );
        Ok(Response::new(image(&asked.target, api::Phase::Ready)))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        let asked = self.seen(request);
        assert!(["good", "goood"].contains(&asked.target.as_str()));
        assert_eq!(asked.expected_revision, 7);
        Ok(Response::new(api::DeleteResponse {}))
    }

    async fn set_channel(
        &self,
        request: Request<api::SetChannelRequest>,
    ) -> Result<Response<api::Channel>, Status> {
        let asked = self.seen(request);
        assert_eq!((asked.image.as_str(), asked.expected_revision), ("good", 7));
        Ok(Response::new(api::Channel {
            name: asked.name,
            digest: format!("sha256:{}", "ab".repeat(32)),
            ..Default::default()
        }))
    }

    async fn get_channel(
        &self,
        _: Request<api::GetRequest>,
    ) -> Result<Response<api::Channel>, Status> {
        Err(Status::new(Code::Unimplemented, "not played"))
    }

    async fn list_channels(
        &self,
        _: Request<api::ListRequest>,
    ) -> Result<Response<api::ListChannelsResponse>, Status> {
        Err(Status::new(Code::Unimplemented, "not played"))
    }

    async fn delete_channel(
        &self,
        _: Request<api::DeleteRequest>,
    ) -> Result<Response<api::DeleteResponse>, Status> {
        Err(Status::new(Code::Unimplemented, "not played"))
    }

    type WatchChannelsStream =
        Pin<Box<dyn Stream<Item = Result<api::ChannelEvent, Status>> + Send>>;

    async fn watch_channels(
        &self,
        _: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchChannelsStream>, Status> {
        Err(Status::new(Code::Unimplemented, "not played"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<api::ImageEvent, Status>> + Send>>;

    /// Another image, then progress, then the end of both: "good" is ready, "bad" failed.
    async fn watch(
        &self,
        request: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.seen(request);
        let mut bad = image("bad", api::Phase::Failed);
        bad.copies[0].message = "sha256 differs: fetch the file again".into();
        let events = [
            image("other", api::Phase::Ready),
            image("good", api::Phase::Creating),
            image("good", api::Phase::Ready),
            bad,
        ]
        .map(|image| {
            let kind = api::EventKind::Present.into();
            Ok(api::ImageEvent {
                kind,
                image: Some(image),
                resume_token: "1".into(),
            })
        });
        Ok(Response::new(Box::pin(iter(events))))
    }
}

/// A played control plane and its address.
struct ControlPlane {
    played: Played,
    address: String,
}

impl ControlPlane {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let played = Played::default();
        let served = tonic::transport::Server::builder()
            .add_service(ImageServiceServer::new(played.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        Self { played, address }
    }

    async fn goldleaf(&self, line: &str) -> Output {
        goldleaf(&self.address, line).await
    }
}

#[tokio::test]
async fn an_image_is_followed_until_it_is_ready() {
    let plane = ControlPlane::start().await;
    let done = plane
        .goldleaf("image create good --file /i.raw -o json")
        .await;
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    let json: serde_json::Value = serde_json::from_str(stdout(&done)).unwrap();
    assert_eq!(
        (&json["id"], &json["phase"]),
        (&"img-good".into(), &"PHASE_READY".into())
    );
    let at_once = plane
        .goldleaf("image create good --file /i.raw --no-wait -o json")
        .await;
    assert!(
        stdout(&at_once).contains("PHASE_CREATING"),
        "{}",
        stdout(&at_once)
    );
}

#[tokio::test]
async fn an_image_that_fails_says_why_and_exits_with_1() {
    let plane = ControlPlane::start().await;
    let failed = plane.goldleaf("image create bad --file /i.raw").await;
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        stderr(&failed),
        "error: image bad: sha256 differs: fetch the file again\n"
    );
    let gone = plane.goldleaf("image create vanished --file /i.raw").await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        stderr(&gone).starts_with("error: no image img-vanished\n"),
        "{}",
        stderr(&gone)
    );
}

#[tokio::test]
async fn a_verified_image_of_which_a_copy_is_spoilt_is_shown_and_exits_with_1() {
    let plane = ControlPlane::start().await;
    let spoilt = plane.goldleaf("image verify spoilt -o name").await;
    assert_eq!(spoilt.status.code(), Some(1));
    assert_eq!(stdout(&spoilt), "spoilt\n");
    assert_eq!(
        stderr(&spoilt),
        "error: image spoilt: the copy on host2 is not what it was\n"
    );
}

/// This control plane has images and nothing else: a bundle is wanted most of one that is ill.
#[tokio::test]
async fn a_bundle_has_what_there_is_and_says_what_is_not() {
    let plane = ControlPlane::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.tar.gz");
    let line = format!("doctor bundle {}", path.display());
    let done = plane.goldleaf(&line).await;
    assert_eq!(done.status.code(), Some(1), "{}", stderr(&done));
    let said = stderr(&done);
    assert!(said.contains("groups"), "{said}");
    let archive = flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap());
    let mut archive = tar::Archive::new(archive);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "goldleaf/errors.txt",
            "goldleaf/images.json",
            "goldleaf/version.txt"
        ]
    );
}

#[tokio::test]
async fn a_list_has_every_page_under_one_request_id() {
    let plane = ControlPlane::start().await;
    let list = plane.goldleaf("image list -l team=web -o name").await;
    assert_eq!(stdout(&list), "first\nsecond\n");
    let ids = plane.played.request_ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0].len(), 32, "{}", ids[0]);
}

#[tokio::test]
async fn a_copy_is_evicted_from_the_node_that_is_named() {
    let plane = ControlPlane::start().await;
    let line = "image evict good --node host2 --wait -o name";
    let evicted = plane.goldleaf(line).await;
    assert_eq!(evicted.status.code(), Some(0), "{}", stderr(&evicted));
    assert_eq!(stdout(&evicted), "good\n");
}

#[tokio::test]
async fn a_channel_is_set_only_from_the_revision_that_is_named() {
    let plane = ControlPlane::start().await;
    let line = "image channels set debian/stable --image good --if-revision 7";
    let set = plane.goldleaf(line).await;
    assert_eq!(set.status.code(), Some(0), "{}", stderr(&set));
    let row = stdout(&set).lines().nth(1).unwrap();
    assert!(row.contains("debian/stable"), "{row}");
    assert!(row.contains("sha256:abababababab"), "{row}");
}

#[tokio::test]
async fn a_deletion_can_demand_a_revision() {
    let plane = ControlPlane::start().await;
    let deleted = plane.goldleaf("image delete good --if-revision 7").await;
    assert_eq!(deleted.status.code(), Some(0), "{}", stderr(&deleted));
    assert_eq!(
        (stdout(&deleted), stderr(&deleted)),
        ("", "good: deleted\n")
    );
    let deleted = plane.goldleaf("image delete good --if-revision 7 -o json");
    assert_eq!(stdout(&deleted.await), "{}\n", "a machine can read it");
}

#[tokio::test]
async fn a_name_that_is_misspelt_is_not_said_to_be_deleted() {
    let plane = ControlPlane::start().await;
    let deleted = plane.goldleaf("image delete goood --if-revision 7").await;
    assert_eq!(deleted.status.code(), Some(0), "{}", stderr(&deleted));
    assert_eq!(
        stderr(&deleted),
        "goood: there is none, nothing was deleted\n"
    );
}

#[tokio::test]
async fn an_update_sets_takes_off_and_protects_in_one_call() {
    let plane = ControlPlane::start().await;
    let line = "image update good -l os=linux --unlabel old --protect --if-revision 7 -o name";
    let updated = plane.goldleaf(line).await;
    assert_eq!(updated.status.code(), Some(0), "{}", stderr(&updated));
    assert_eq!(stdout(&updated), "good\n");
}

#[tokio::test]
async fn refusals_say_what_to_do_next_and_have_their_exit_codes() {
    let plane = ControlPlane::start().await;
    let unknown = plane.goldleaf("image get nothing").await;
    assert_eq!((unknown.status.code(), stdout(&unknown)), (Some(1), ""));
    assert!(
        stderr(&unknown).starts_with("error: no image nothing\n"),
        "{}",
        stderr(&unknown)
    );
    let away = plane.goldleaf("image verify good").await;
    assert_eq!(away.status.code(), Some(3));
    assert!(
        stderr(&away).contains("goldleaf node list"),
        "{}",
        stderr(&away)
    );
    let bug = plane.goldleaf("image get bug").await;
    let id = plane
        .played
        .request_ids
        .lock()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert!(
        stderr(&bug).ends_with(&format!("request id: {id}\n")),
        "{}",
        stderr(&bug)
    );
    let older = plane.goldleaf("node list").await; // a service that is not played
    assert_eq!(older.status.code(), Some(1));
    assert!(
        stderr(&older).contains("older than this command"),
        "{}",
        stderr(&older)
    );
}

#[tokio::test]
async fn a_watch_prints_each_event_and_its_end_is_no_success() {
    let plane = ControlPlane::start().await;
    let watch = plane.goldleaf("image watch -o json").await;
    assert_eq!(stdout(&watch).lines().count(), 4);
    assert_eq!(watch.status.code(), Some(3), "{}", stderr(&watch));
}

#[tokio::test]
async fn nobody_at_home_is_told_with_the_remedy() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = goldleaf(&address, "volume list").await;
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("Connection refused"),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("--server"), "{}", stderr(&output));
}

#[tokio::test]
async fn help_and_completion_need_no_control_plane() {
    let nowhere = "http://127.0.0.1:1";
    let script = goldleaf(nowhere, "completion bash").await;
    assert_eq!(script.status.code(), Some(0));
    assert!(
        stdout(&script).contains("complete -F"),
        "{}",
        stdout(&script)
    );
    let help = goldleaf(nowhere, "volume create --help").await;
    assert!(stdout(&help).contains("Examples:"), "{}", stdout(&help));
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_goldleaf"))
        .args(["completion", "bash"])
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output();
    let output = command.await.unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}
