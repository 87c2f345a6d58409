//! The stream of a snapshot's ranges, part by part.
//!
//! Called by the handler. The first part is read before the answer begins, so that a refusal is the
//! call's own; each later one only when the reader has taken what came before. Only the end of all
//! ranges ends the stream without an error: whoever reads it believes that it has them all.

use std::sync::Arc;

use goldleaf_proto::agent::v1 as pb;
use goldleaf_proto::v1 as api;
use goldleaf_rpc::field::{BadField, field, optional};
use goldleaf_types::SnapshotId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument;

use super::status;
use crate::ops::{Agent, BlockPart, ByteRange, WantedBlocks};

/// Most ranges in one message.
const MOST: u32 = 4096;

/// What is asked for, and how many ranges a message may have.
pub(super) fn wanted(r: &pb::AgentListBlocksRequest) -> Result<(WantedBlocks, usize), BadField> {
    let snapshot: SnapshotId = field("snapshot", &r.snapshot)?;
    let base: Option<SnapshotId> = optional("base", &r.base)?;
    let most = match r.max_results {
        0 => MOST,
        asked => asked.min(MOST),
    };
    let wanted = WantedBlocks {
        snapshot,
        base,
        from: r.starting_offset,
    };
    Ok((wanted, usize::try_from(most).unwrap_or(1)))
}

async fn part(agent: &Arc<Agent>, wanted: WantedBlocks) -> Result<BlockPart, Status> {
    let agent = Arc::clone(agent);
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(|| agent.blocks(wanted)))
        .await
        .map_err(|e| status::panicked(&e))?
        .map_err(Status::from)
}

/// Begins to tell.
pub(super) async fn begin(
    agent: Arc<Agent>,
    mut wanted: WantedBlocks,
    most: usize,
    stop: CancellationToken,
) -> Result<mpsc::Receiver<Result<api::BlockRanges, Status>>, Status> {
    let mut found = part(&agent, wanted).await?;
    let (out, stream) = mpsc::channel(4);
    let last = out.clone();
    let tell = async move {
        let mut first = true;
        loop {
            for message in messages(&found, most, first) {
                if out.send(Ok(message)).await.is_err() {
                    return; // the reader left
                }
            }
            first = false;
            let Some(next) = found.next else { return };
            wanted.from = next;
            let next = tokio::select! {
                () = out.closed() => return,
                next = part(&agent, wanted) => next,
            };
            match next {
                Ok(part) => found = part,
                Err(status) => {
                    let _ = out.send(Err(status)).await; // the reader may have left
                    return;
                }
            }
        }
    };
    let until_stop = async move {
        tokio::select! {
            () = tell => {}
            // An end without an error would say that this was all.
            () = stop.cancelled() => {
                let _ = last.send(Err(status::stopping())).await; // the reader may have left
            }
        }
    };
    tokio::spawn(until_stop.in_current_span());
    Ok(stream)
}

/// A part in messages; the first part is at least one.
fn messages(
    part: &BlockPart,
    most: usize,
    first: bool,
) -> impl Iterator<Item = api::BlockRanges> + '_ {
    let empty = (first && part.ranges.is_empty()).then_some(&[][..]);
    let ranges = part.ranges.chunks(most).chain(empty);
    ranges.map(|ranges| api::BlockRanges {
        size_bytes: part.size.0,
        ranges: ranges.iter().map(range).collect(),
    })
}

const fn range(range: &ByteRange) -> api::BlockRange {
    api::BlockRange {
        offset_bytes: range.offset,
        length_bytes: range.len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use goldleaf_types::Bytes;

    #[test]
    fn a_part_is_cut_into_messages_and_the_first_comes_in_any_case() {
        let part = |count: u64| BlockPart {
            size: Bytes(100),
            ranges: (0..count)
                .map(|n| ByteRange {
                    offset: n * 4,
                    len: 2,
                })
                .collect(),
            next: None,
        };
        let lengths = |count, most, first| {
            let part = part(count);
            let all: Vec<_> = messages(&part, most, first).collect();
            assert!(all.iter().all(|m| m.size_bytes == 100));
            all.iter().map(|m| m.ranges.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(5, 2, false), [2, 2, 1]);
        assert_eq!(lengths(4, 4, true), [4]);
        assert_eq!(lengths(0, 4, true), [0]);
        assert!(lengths(0, 4, false).is_empty());
    }
}
