//! What a node's stream of thins tells, as values.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use goldleaf_proto::agent::v1 as pb;
use goldleaf_types::ThinOwner;
use tonic::Status;

use super::{AgentError, convert, refusal};
use crate::domain::ThinReport;

/// Thins that are other than they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThinNews {
    /// Those that are there, so.
    pub there: Vec<ThinReport>,
    /// Those that are not there any more.
    pub gone: Vec<ThinOwner>,
    /// Whether `there` is everything that the node has.
    pub whole: bool,
}

/// Every thin of a node, then each as it changes.
pub type ThinReports = BoxStream<'static, Result<ThinNews, AgentError>>;

/// The messages of a stream as news. The first ones are one piece of news: only all of them are
/// everything.
pub(super) fn news(
    node: String,
    events: impl Stream<Item = Result<pb::WatchThinsEvent, Status>> + Send + 'static,
) -> ThinReports {
    let mut begun = Some(ThinNews::default());
    events
        .filter_map(move |event| {
            let read = match event {
                Ok(event) => read(&node, event),
                Err(status) => Err(refusal::read(&node, &status)),
            };
            let told = match (read, begun.take()) {
                (Ok((news, _)), None) => Some(Ok(news)),
                (Ok((news, complete)), Some(mut first)) => {
                    first.there.extend(news.there);
                    if complete {
                        first.whole = true;
                        Some(Ok(first))
                    } else {
                        begun = Some(first);
                        None
                    }
                }
                (Err(error), _) => Some(Err(error)),
            };
            std::future::ready(told)
        })
        .boxed()
}

fn read(node: &str, event: pb::WatchThinsEvent) -> Result<(ThinNews, bool), AgentError> {
    let there = event
        .thins
        .into_iter()
        .map(|thin| convert::thin(node, thin));
    let gone = event
        .gone
        .iter()
        .map(|text| convert::parse(node, "gone", text));
    let news = ThinNews {
        there: there.collect::<Result<_, _>>()?,
        gone: gone.collect::<Result<_, _>>()?,
        whole: false,
    };
    Ok((news, event.complete))
}
