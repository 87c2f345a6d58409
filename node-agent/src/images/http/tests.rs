//! Downloads from a server on loopback that behaves as badly as asked.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response as Answer};
use futures::stream;
use goldleaf_types::Digest;
use proptest::prelude::*;

use super::*;
use crate::images::qcow2::sample::Sample;
use crate::images::tests::{Rig, full, sha, until_empty};
use crate::images::{Format, ImageRecord, ImportRequest, Source};

/// What one answer is.
#[derive(Clone, Debug)]
enum Act {
    /// The file, or the part that was asked for.
    Serve,
    /// The whole file, whatever was asked for.
    ServeWhole,
    /// As `Serve`, but the connection breaks after so many bytes.
    Break(usize),
    /// Begins and then says nothing more.
    Stall,
    /// A part that begins elsewhere than asked.
    WrongPart,
    Status(u16),
    Redirect(String),
}

/// A server of one file, its acts, and what it was asked.
struct Site {
    url: Url,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

#[derive(Clone)]
struct Script {
    file: Arc<Vec<u8>>,
    acts: Arc<Mutex<Vec<Act>>>,
    asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Site {
    /// Does each act once, in order, and the last one for ever.
    async fn new(file: Vec<u8>, acts: &[Act]) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let asked = Arc::default();
        let acts = acts.iter().rev().cloned().collect();
        let script = Script {
            file: Arc::new(file),
            acts: Arc::new(Mutex::new(acts)),
            asked: Arc::clone(&asked),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(answer).with_state(script);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            url: url.parse().unwrap(),
            asked,
        }
    }

    fn asked_for(&self, name: header::HeaderName) -> Vec<Option<String>> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .map(|h| h.get(&name).map(|v| v.to_str().unwrap().to_owned()))
            .collect()
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Answer {
    script.asked.lock().unwrap().push(request.headers().clone());
    let act = {
        let mut acts = script.acts.lock().unwrap();
        if acts.len() > 1 {
            acts.pop().unwrap()
        } else {
            acts[0].clone()
        }
    };
    let range = request
        .headers()
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok());
    let first = range.map_or(0, |r| r[6..r.len() - 1].parse::<usize>().unwrap());
    let whole = script.file.len();
    let part = |first: usize, body: Body| {
        let answer = axum::http::Response::builder()
            .header(header::ETAG, "\"one\"")
            .header(header::CONTENT_LENGTH, whole - first);
        if first == 0 {
            answer.body(body).unwrap()
        } else {
            let range = format!("bytes {first}-{}/{whole}", whole - 1);
            answer
                .status(206)
                .header(header::CONTENT_RANGE, range)
                .body(body)
                .unwrap()
        }
    };
    let bytes = |first: usize| Body::from(script.file[first..].to_vec());
    match act {
        Act::Serve => part(first, bytes(first)),
        Act::ServeWhole => part(0, bytes(0)),
        Act::Break(after) => {
            let sent = script.file[first..first + after].to_vec();
            let sent = stream::iter([Ok(sent)]);
            // What was sent must arrive before the connection is reset, which throws it away.
            let broken = stream::once(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Err(std::io::Error::other("broken"))
            });
            part(
                first,
                Body::from_stream(futures::StreamExt::chain(sent, broken)),
            )
        }
        Act::Stall => {
            let sent = stream::iter([Ok::<_, std::io::Error>(script.file[..512].to_vec())]);
            let never = stream::pending();
            part(0, Body::from_stream(futures::StreamExt::chain(sent, never)))
        }
        Act::WrongPart => part(first + 1, bytes(first + 1)),
        Act::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Act::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
    }
}

async fn import(rig: &Rig, url: &Url, sum: Digest) -> Result<ImageRecord, ImageError> {
    let request = ImportRequest {
        source: Source::Url(url.clone()),
        format: Format::Detect,
        source_sha256: Some(sum),
        expect: None,
    };
    rig.images.import(request, |_| {}).await
}

#[tokio::test]
async fn a_file_is_downloaded_whole_raw_or_qcow2() {
    let rig = Rig::new();
    let raw = full(3 << 20);
    let site = Site::new(raw.clone(), &[Act::Serve]).await;
    let record = import(&rig, &site.url, sha(&raw)).await.unwrap();
    assert_eq!(record.digest, sha(&raw));
    assert_eq!(record.source, site.url.to_string());
    assert!(rig.content(&record.digest) == raw);

    let sample = Sample::mixed();
    let file = sample.file().0;
    let site = Site::new(file.clone(), &[Act::Serve]).await;
    let record = import(&rig, &site.url, sha(&file)).await.unwrap();
    assert_eq!(record.digest, sha(&sample.content()));
    assert!(rig.content(&record.digest) == sample.content());
    assert_eq!(rig.names().len(), 4);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let rig = Rig::new();
    let file = full(1 << 20);
    let acts = [
        Act::Break(300_000),
        Act::Status(503),
        Act::Break(1000),
        Act::Serve,
    ];
    let site = Site::new(file.clone(), &acts).await;
    let record = import(&rig, &site.url, sha(&file)).await.unwrap();
    assert!(rig.content(&record.digest) == file);
    let first = |range: &Option<String>| {
        range
            .as_ref()
            .map_or(0, |r| r[6..r.len() - 1].parse::<usize>().unwrap())
    };
    let starts: Vec<_> = site.asked_for(header::RANGE).iter().map(first).collect();
    // A reset may throw away what was sent and not yet read, but never makes up for it.
    assert!(
        starts[0] == 0 && (1..=300_000).contains(&starts[1]),
        "{starts:?}"
    );
    assert!(
        starts[2] == starts[1] && starts[3] >= starts[2] && starts.len() == 4,
        "{starts:?}"
    );
    assert!(starts[3] <= starts[2] + 1000, "{starts:?}");
    assert_eq!(
        site.asked_for(header::IF_RANGE)[1].as_deref(),
        Some("\"one\"")
    );
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_from_the_beginning() {
    for second in [Act::ServeWhole, Act::WrongPart, Act::Status(416)] {
        let rig = Rig::new();
        let file = full(1 << 20);
        let site = Site::new(file.clone(), &[Act::Break(300_000), second, Act::Serve]).await;
        let record = import(&rig, &site.url, sha(&file)).await.unwrap();
        assert!(rig.content(&record.digest) == file);
    }
}

#[tokio::test]
async fn a_server_that_fails_for_good_is_given_up() {
    let rig = Rig::new();
    let file = full(1 << 20);
    for (act, requests) in [(Act::Status(503), 5), (Act::Break(0), 5)] {
        let site = Site::new(file.clone(), &[act]).await;
        let error = import(&rig, &site.url, sha(&file)).await.unwrap_err();
        assert!(matches!(error, ImageError::SourceAway { .. }), "{error}");
        assert_eq!(site.asked_for(header::RANGE).len(), requests);
    }
    let closed: Url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/x", listener.local_addr().unwrap())
            .parse()
            .unwrap()
    };
    let error = import(&rig, &closed, sha(&file)).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    until_empty(&rig).await;
}

#[tokio::test]
async fn a_url_that_is_not_served_is_wrong_at_once() {
    let rig = Rig::new();
    let site = Site::new(full(512), &[Act::Status(404)]).await;
    let error = import(&rig, &site.url, sha(b"")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Source { field: "url", .. }),
        "{error}"
    );
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(site.asked_for(header::RANGE).len(), 1);
    until_empty(&rig).await;
}

#[tokio::test]
async fn another_file_than_the_sum_says_is_refused() {
    let rig = Rig::new();
    let site = Site::new(full(4096), &[Act::Serve]).await;
    let error = import(&rig, &site.url, sha(b"other")).await.unwrap_err();
    assert!(matches!(error, ImageError::WrongSource { .. }), "{error}");
    let no_sum = ImportRequest {
        source: Source::Url(site.url.clone()),
        format: Format::Raw,
        source_sha256: None,
        expect: Some(sha(&full(4096))),
    };
    let error = rig.images.import(no_sum, |_| {}).await.unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Source {
                field: "source_sha256",
                ..
            }
        ),
        "{error}"
    );
    let ftp = "ftp://127.0.0.1/x".parse().unwrap();
    let error = import(&rig, &ftp, sha(b"")).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Source { field: "url", .. }),
        "{error}"
    );
    until_empty(&rig).await;
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let rig = Rig::new();
    let file = full(4096);
    let there = Site::new(file.clone(), &[Act::Serve]).await;
    let here = Site::new(Vec::new(), &[Act::Redirect(there.url.to_string())]).await;
    let record = import(&rig, &here.url, sha(&file)).await.unwrap();
    assert_eq!(record.source, here.url.to_string());

    let round = Site::new(Vec::new(), &[Act::Redirect("/again".into())]).await;
    let error = import(&rig, &round.url, sha(b"round")).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert_eq!(round.asked_for(header::RANGE).len(), REDIRECTS + 1);
}

#[tokio::test]
async fn a_file_above_the_budget_is_refused_before_it_comes() {
    let rig = Rig::with_budget(goldleaf_types::Bytes(64 << 10));
    let file = full(1 << 20);
    let site = Site::new(file.clone(), &[Act::Stall]).await;
    let error = import(&rig, &site.url, sha(&file)).await.unwrap_err();
    assert!(matches!(error, ImageError::OverBudget { .. }), "{error}");
    until_empty(&rig).await;
}

#[tokio::test]
async fn credentials_reach_the_server_and_nothing_else() {
    let rig = Rig::new();
    let file = full(4096);
    let site = Site::new(file.clone(), &[Act::Serve]).await;
    let mut url = site.url.clone();
    url.set_username("me").unwrap();
    url.set_password(Some("s3cret")).unwrap();
    url.set_query(Some("signature=s3cret"));
    let record = import(&rig, &url, sha(&file)).await.unwrap();
    let sent = site.asked_for(header::AUTHORIZATION);
    assert_eq!(sent[0].as_deref(), Some("Basic bWU6czNjcmV0"));
    assert_eq!(record.source, site.url.to_string());

    url.set_port(Some(1)).unwrap();
    let error = import(&rig, &url, sha(b"away")).await.unwrap_err();
    let text = format!("{} {error:?}", crate::telemetry::Chain(&error));
    assert!(!text.contains("s3cret"), "{text}");
    for name in rig.names() {
        let text =
            String::from_utf8_lossy(&std::fs::read(rig.dir().join(name)).unwrap()).into_owned();
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn a_download_whose_caller_goes_leaves_nothing() {
    let rig = Rig::new();
    let site = Site::new(full(1 << 20), &[Act::Stall]).await;
    let import = import(&rig, &site.url, sha(b"never"));
    let gone = tokio::time::timeout(Duration::from_millis(300), import).await;
    assert!(gone.is_err(), "it ended: {gone:?}");
    until_empty(&rig).await;
}

#[test]
fn a_content_range_is_read_as_it_is_meant() {
    assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
    assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
    for bad in [
        "",
        "bytes",
        "bytes */10",
        "lines 5-9/10",
        "bytes 5-9",
        "bytes x-9/10",
    ] {
        assert_eq!(content_range(bad), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_header_makes_it_panic(text in ".{0,40}") {
        let _ = content_range(&text);
    }
}
