//! The stream of thins: all of them, then each as it changes, whoever changed it.
//!
//! Called by the handler, one task a watcher, which ends with it or with the agent. What the stream
//! told before is kept here, so that only differences are told: a pool that closed or lost data
//! makes everything be looked at again, and most of that is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use goldleaf_proto::agent::v1 as pb;
use goldleaf_types::ThinOwner;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{convert, status};
use crate::ops::{Agent, ThinError, ThinView};

/// Thins in one message.
const CHUNK: usize = 500;
/// So long changes of pools are gathered before everything is looked at again.
const GATHER: Duration = Duration::from_millis(200);

type Out = mpsc::Sender<Result<pb::WatchThinsEvent, Status>>;

/// One watcher.
struct Watcher {
    agent: Arc<Agent>,
    told: BTreeMap<ThinOwner, pb::AgentThin>,
    out: Out,
}

/// Why a watcher's task ends without an error: it left, or the agent stops.
struct Over;

/// Begins to tell; the stream ends with `stop`.
pub(super) fn watch(
    agent: Arc<Agent>,
    stop: CancellationToken,
) -> mpsc::Receiver<Result<pb::WatchThinsEvent, Status>> {
    let (out, events) = mpsc::channel(16);
    // Before the first look: what changes meanwhile is told after it.
    let (news, pools) = (agent.thin_news(), agent.changes());
    let watcher = Watcher {
        agent,
        told: BTreeMap::new(),
        out: out.clone(),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = out.closed() => {}
            ended = watcher.run(news, pools) => if let Err(error) = ended {
                let _ = out.send(Err(error)).await; // the watcher may have left
            },
        }
    });
    events
}

impl Watcher {
    async fn run(
        mut self,
        mut news: broadcast::Receiver<ThinOwner>,
        mut pools: watch::Receiver<u64>,
    ) -> Result<(), Status> {
        let mut first = true;
        loop {
            let _ = pools.borrow_and_update();
            let all = self.everything().await?;
            if self.tell_differences(all, first).await.is_err() {
                return Ok(());
            }
            first = false;
            loop {
                tokio::select! {
                    changed = pools.changed() => match changed {
                        Ok(()) => {
                            tokio::time::sleep(GATHER).await;
                            break;
                        }
                        Err(_) => return Ok(()),
                    },
                    owner = news.recv() => match owner {
                        Ok(owner) => match self.look_at(owner, &mut news).await? {
                            Ok(()) => {}
                            Err(Over) => return Ok(()),
                        },
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return Ok(()),
                    },
                }
            }
        }
    }

    /// Every thin of every open pool.
    async fn everything(&self) -> Result<Vec<(ThinOwner, pb::AgentThin)>, Status> {
        let views = self.blocking(|agent| {
            let mut all: Vec<ThinView> = Vec::new();
            loop {
                let after = all.last().map(|view| view.record.owner);
                let (views, more) = agent.thins(None, after, 1000)?;
                all.extend(views);
                if !more {
                    return Ok(all);
                }
            }
        });
        Ok(views.await?.iter().map(told).collect())
    }

    /// One thin that changed, and those that changed by now too.
    async fn look_at(
        &mut self,
        owner: ThinOwner,
        news: &mut broadcast::Receiver<ThinOwner>,
    ) -> Result<Result<(), Over>, Status> {
        let mut owners = BTreeSet::from([owner]);
        while owners.len() < CHUNK
            && let Ok(more) = news.try_recv()
        {
            owners.insert(more);
        }
        let seen = self.blocking(move |agent| {
            let look = |owner| match agent.thin(owner) {
                Ok(view) => Ok((owner, Some(view))),
                Err(ThinError::NotFound(_)) => Ok((owner, None)),
                Err(error) => Err(error),
            };
            owners.into_iter().map(look).collect::<Result<Vec<_>, _>>()
        });
        let mut event = pb::WatchThinsEvent::default();
        for (owner, view) in seen.await? {
            match view.as_ref().map(told) {
                Some((_, thin)) => event.thins.extend(self.news_of(owner, thin)),
                None if self.told.remove(&owner).is_some() => event.gone.push(owner.to_string()),
                None => {}
            }
        }
        Ok(self.send(event).await)
    }

    /// Tells what of `all` is other than was told; the first time, that it is everything.
    async fn tell_differences(
        &mut self,
        all: Vec<(ThinOwner, pb::AgentThin)>,
        first: bool,
    ) -> Result<(), Over> {
        let there: BTreeSet<_> = all.iter().map(|(owner, _)| *owner).collect();
        let gone: Vec<_> = self
            .told
            .keys()
            .filter(|o| !there.contains(o))
            .copied()
            .collect();
        let mut event = pb::WatchThinsEvent::default();
        for owner in gone {
            self.told.remove(&owner);
            event.gone.push(owner.to_string());
        }
        for (owner, thin) in all {
            event.thins.extend(self.news_of(owner, thin));
            if event.thins.len() == CHUNK {
                self.send(std::mem::take(&mut event)).await?;
            }
        }
        event.complete = first;
        self.send(event).await
    }

    /// The thin, if it is other than was told.
    fn news_of(&mut self, owner: ThinOwner, thin: pb::AgentThin) -> Option<pb::AgentThin> {
        let lasting = lasting(&thin);
        if self.told.get(&owner) == Some(&lasting) {
            return None;
        }
        self.told.insert(owner, lasting);
        Some(thin)
    }

    async fn send(&self, event: pb::WatchThinsEvent) -> Result<(), Over> {
        if event == pb::WatchThinsEvent::default() {
            return Ok(()); // nothing to tell
        }
        self.out.send(Ok(event)).await.map_err(|_| Over)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Agent) -> Result<T, ThinError> + Send + 'static,
    ) -> Result<T, Status> {
        let agent = Arc::clone(&self.agent);
        tokio::task::spawn_blocking(move || look(&agent))
            .await
            .map_err(|e| status::panicked(&e))?
            .map_err(Status::from)
    }
}

fn told(view: &ThinView) -> (ThinOwner, pb::AgentThin) {
    (view.record.owner, convert::thin(view))
}

/// What of a thin is worth an event: not how many bytes it owns, nor when that was seen.
fn lasting(thin: &pb::AgentThin) -> pb::AgentThin {
    let mut lasting = thin.clone();
    lasting.owned_bytes = None;
    lasting.conditions.iter_mut().for_each(|c| c.since = None);
    lasting
}
