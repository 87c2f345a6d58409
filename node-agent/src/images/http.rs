//! Downloads over http and https, into a part of the image folder.
//!
//! Called by `import`, which compares the whole with the sum it was given: nothing that a server
//! says is believed for longer. A transfer that breaks goes on where it stopped, where the server
//! can (`Range`, with `If-Range` so that another file under the same url is noticed), and begins
//! again where it cannot. Credentials in the url go to its host and nowhere else: neither to the
//! log nor into a record.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes as Chunk;
use goldleaf_types::Bytes;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Response, redirect};
use tokio::sync::mpsc;
use url::Url;

use super::budget::Budget;
use super::error::ImageError;
use super::import::blocking;
use super::meter::Meter;
use super::writer::RawWriter;

/// Longest chain of redirects.
const REDIRECTS: usize = 5;
/// Failures in a row, without one byte between them, after which a download fails.
const FAILURES_IN_A_ROW: u32 = 5;
/// Failures in all.
const FAILURES: u32 = 100;
/// Longest time to a connection, and between two pieces of an answer.
const CONNECT: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(60);
/// Pause after the first failure; each further one in a row doubles it.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });
/// Pieces on their way to the thread that hashes and writes them.
const PIECES: usize = 64;

/// Downloads `url` into an empty writer.
///
/// # Errors
///
/// [`ImageError::Source`] for a url that its host does not serve, [`ImageError::SourceAway`] for a
/// host that does not answer, and the writer's. The part is gone then.
pub(super) async fn fetch(
    url: &Url,
    writer: RawWriter,
    budget: &Arc<Budget>,
    meter: &Meter,
) -> Result<RawWriter, ImageError> {
    let (to_writer, pieces) = mpsc::channel(PIECES);
    let write = blocking(move || write_pieces(writer, pieces));
    let mut download = Download {
        client: client()?,
        url,
        host: url.host_str().unwrap_or_default().to_owned(),
        budget,
        meter,
        to_writer,
        done: 0,
        total: None,
        version: None,
    };
    // Both at once. The writer's own failure closes the channel, and counts for more than that.
    let (written, received) = tokio::join!(write, async move {
        let failed = download.to_writer.clone();
        tokio::select! {
            received = download.run() => received,
            () = failed.closed() => Err(ImageError::Stopped),
        }
    });
    let writer = written?;
    received?;
    Ok(writer)
}

/// What the writing thread is told.
enum Piece {
    Data(Chunk),
    Restart,
}

fn write_pieces(
    mut writer: RawWriter,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<RawWriter, ImageError> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(chunk) => writer.write(&chunk)?,
            Piece::Restart => writer.restart()?,
        }
    }
    Ok(writer)
}

fn client() -> Result<Client, ImageError> {
    let follow = redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > REDIRECTS {
            attempt.error("too many redirects")
        } else if !matches!(attempt.url().scheme(), "http" | "https") {
            attempt.error("a redirect to neither http nor https")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("goldleaf-node-agent/", env!("CARGO_PKG_VERSION")))
        .redirect(follow)
        .referer(false)
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(|error| ImageError::io("make an http client")(std::io::Error::other(error)))
}

/// One download under way.
struct Download<'a> {
    client: Client,
    url: &'a Url,
    host: String,
    budget: &'a Arc<Budget>,
    meter: &'a Meter,
    to_writer: mpsc::Sender<Piece>,
    /// Bytes handed to the writer since it last began.
    done: u64,
    /// Bytes of the whole, once the server said so.
    total: Option<u64>,
    /// The server's name for this version of the file, for `If-Range`.
    version: Option<header::HeaderValue>,
}

/// Why one attempt did not end with the whole file.
enum Trouble {
    /// Another attempt may.
    Again {
        problem: String,
        source: Option<reqwest::Error>,
    },
    /// No attempt will.
    Final(ImageError),
}

impl From<ImageError> for Trouble {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

fn again(problem: &str, source: reqwest::Error) -> Trouble {
    // The error's own text has the url, and the url may have credentials.
    Trouble::Again {
        problem: problem.into(),
        source: Some(source.without_url()),
    }
}

impl Download<'_> {
    async fn run(&mut self) -> Result<(), ImageError> {
        let (mut in_a_row, mut in_all) = (0, 0);
        loop {
            let before = self.done;
            let (problem, source) = match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again { problem, source }) => (problem, source),
            };
            in_a_row = if self.done > before { 1 } else { in_a_row + 1 };
            in_all += 1;
            if in_a_row >= FAILURES_IN_A_ROW || in_all >= FAILURES {
                return Err(ImageError::SourceAway {
                    host: self.host.clone(),
                    problem,
                    source,
                });
            }
            tracing::info!(
                host = self.host,
                done = self.done,
                problem,
                "a download goes on"
            );
            tokio::time::sleep(PAUSE * 2_u32.pow(in_a_row)).await;
        }
    }

    /// One request, for what is missing.
    async fn attempt(&mut self) -> Result<(), Trouble> {
        let mut request = self.client.get(self.url.clone());
        if self.done > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.done));
            if let Some(version) = &self.version {
                request = request.header(header::IF_RANGE, version.clone());
            }
        }
        let response = request.send().await.map_err(|e| {
            if e.is_redirect() {
                let problem = "redirects too often, or to neither http nor https".into();
                Trouble::Final(ImageError::Source {
                    field: "url",
                    problem,
                })
            } else {
                again("does not answer", e)
            }
        })?;
        match response.status() {
            StatusCode::OK => self.begin(&response).await?,
            StatusCode::PARTIAL_CONTENT if self.goes_on(&response) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart().await?;
                return Err(Trouble::Again {
                    problem: "answers another part of the file than was asked for".into(),
                    source: None,
                });
            }
            status => return Err(self.refused(status)),
        }
        self.receive(response).await
    }

    /// The whole file begins.
    async fn begin(&mut self, response: &Response) -> Result<(), Trouble> {
        if self.done > 0 {
            self.restart().await?;
        }
        self.total = response.content_length();
        self.version = version(response.headers());
        if let Some(total) = self.total {
            self.budget.would_fit(Bytes(total))?;
        }
        self.meter.begin(self.total);
        Ok(())
    }

    /// Whether a part of the file is the one that is missing.
    fn goes_on(&mut self, response: &Response) -> bool {
        let range = response
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|v| v.to_str().ok());
        let Some((first, total)) = range.and_then(content_range) else {
            return false;
        };
        let fits =
            first == self.done && (total.is_none() || self.total.is_none() || total == self.total);
        if fits {
            self.total = self.total.or(total);
        }
        fits
    }

    async fn receive(&mut self, mut response: Response) -> Result<(), Trouble> {
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| again("broke off while it sent", e))?
        {
            let len = chunk.len() as u64;
            self.send(Piece::Data(chunk)).await?;
            self.done += len;
            self.meter.at(self.done, self.total)?;
        }
        match self.total {
            Some(total) if self.done < total => Err(Trouble::Again {
                problem: "ended before the whole file was there".into(),
                source: None,
            }),
            Some(_) | None => Ok(()),
        }
    }

    async fn restart(&mut self) -> Result<(), Trouble> {
        self.send(Piece::Restart).await?;
        self.done = 0;
        Ok(())
    }

    async fn send(&self, piece: Piece) -> Result<(), Trouble> {
        // A closed channel is a writer that failed; its own error is the one that is answered.
        self.to_writer
            .send(piece)
            .await
            .map_err(|_| Trouble::Final(ImageError::Stopped))
    }

    fn refused(&self, status: StatusCode) -> Trouble {
        let later = matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
        if later || status.is_server_error() {
            return Trouble::Again {
                problem: format!("answers {status}"),
                source: None,
            };
        }
        let problem = format!(
            "{} answers {status}: check the url, and its user and password if it needs them",
            self.host
        );
        Trouble::Final(ImageError::Source {
            field: "url",
            problem,
        })
    }
}

/// What names a version of a file for `If-Range`: a strong tag, else a date.
///
/// Source: RFC 9110, section 13.1.5.
fn version(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let strong = headers
        .get(header::ETAG)
        .filter(|tag| !tag.as_bytes().starts_with(b"W/"));
    strong
        .or_else(|| headers.get(header::LAST_MODIFIED))
        .cloned()
}

/// The first byte and the whole length of a `Content-Range: bytes 5-9/10`.
///
/// Source: RFC 9110, section 14.4.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = if total == "*" {
        None
    } else {
        Some(total.parse().ok()?)
    };
    Some((first.parse().ok()?, total))
}

#[cfg(test)]
mod tests;
