//! The SnapshotMetadata service over a real control plane: ranges page by page, gone on with
//! anywhere, and each wrong call with the code of the specification's error tables.
#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

mod driver;

use csi::snapshot_metadata_client::SnapshotMetadataClient;
use driver::*;
use goldleaf_types::ThinOwner;
use tonic::transport::Channel;

/// What the fake pools allocate at a time.
const BLOCK: i64 = 1 << 16;
/// A volume of some blocks and a part of one.
const ODD: i64 = 10 * BLOCK + 4096;

type Found = Result<Vec<(i64, i64)>, Status>;

struct Metadata(SnapshotMetadataClient<Channel>);

/// What all messages of a stream say; each has a size, and no more ranges than were asked for.
macro_rules! gathered {
    ($stream:expr, $most:expr, $size:expr) => {{
        let (mut stream, mut all, mut count) = ($stream.into_inner(), vec![], 0);
        while let Some(part) = stream.message().await? {
            assert_eq!(part.volume_capacity_bytes, $size);
            assert_eq!(
                part.block_metadata_type(),
                csi::BlockMetadataType::VariableLength
            );
            assert!($most == 0 || part.block_metadata.len() <= usize::try_from($most).unwrap());
            let ranges = part.block_metadata.iter();
            all.extend(ranges.map(|r| (r.byte_offset, r.size_bytes)));
            count += 1;
        }
        assert!(count > 0, "not even the size was told");
        Ok(all)
    }};
}

impl Metadata {
    async fn allocated(&self, id: &str, from: i64, most: i32, size: i64) -> Found {
        let request = csi::GetMetadataAllocatedRequest {
            snapshot_id: id.into(),
            starting_offset: from,
            max_results: most,
            ..Default::default()
        };
        let stream = self.0.clone().get_metadata_allocated(request).await?;
        gathered!(stream, most, size)
    }

    async fn delta(&self, base: &str, target: &str, from: i64, most: i32) -> Found {
        let request = csi::GetMetadataDeltaRequest {
            base_snapshot_id: base.into(),
            target_snapshot_id: target.into(),
            starting_offset: from,
            max_results: most,
            ..Default::default()
        };
        let stream = self.0.clone().get_metadata_delta(request).await?;
        gathered!(stream, most, ODD)
    }
}

fn blocks(of: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let bytes = |(begin, count): &(i64, i64)| {
        let end = ((begin + count) * BLOCK).min(ODD);
        (begin * BLOCK, end - begin * BLOCK)
    };
    of.iter().map(bytes).collect()
}

/// Two snapshots of one volume, and blocks written before and between them.
async fn furnished() -> (Driver, Metadata, String, [String; 2]) {
    let driver = driver().await;
    let metadata = Metadata(SnapshotMetadataClient::new(driver.channel.clone()));
    let request = csi::CreateVolumeRequest {
        capacity_range: range(ODD, 0),
        ..wanted("v")
    };
    let volume = driver.create(request).await.unwrap().volume_id;
    let owner: ThinOwner = volume.parse().unwrap();
    let node = driver.rig.node();
    [0, 1, 5].into_iter().for_each(|b| node.write(owner, b));
    let first = driver.snapshot("s1", &volume).await.unwrap().snapshot_id;
    [1, 2, 10].into_iter().for_each(|b| node.write(owner, b));
    let second = driver.snapshot("s2", &volume).await.unwrap().snapshot_id;
    (driver, metadata, volume, [first, second])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_and_what_changed_is_told_in_pages_and_from_anywhere() {
    let (driver, metadata, _, [first, second]) = furnished().await;
    let held = blocks(&[(0, 3), (5, 1), (10, 1)]);
    let changed = blocks(&[(1, 2), (10, 1)]);
    for most in [0, 1, 2, 100] {
        let found = metadata.allocated(&second, 0, most, ODD).await.unwrap();
        assert_eq!(found, held, "in messages of {most}");
        let found = metadata.delta(&first, &second, 0, most).await.unwrap();
        assert_eq!(found, changed, "in messages of {most}");
    }
    // From the end of any range on, the rest comes; and from within one, all that ends later.
    for (at, (offset, length)) in held.iter().enumerate() {
        let rest = metadata.allocated(&second, offset + length, 0, ODD);
        assert_eq!(rest.await.unwrap(), held[at + 1..]);
        let within = metadata
            .allocated(&second, offset + 1, 1, ODD)
            .await
            .unwrap();
        assert_eq!(within.len(), held.len() - at);
        assert!(within[0].0 + within[0].1 > offset + 1);
    }
    assert_eq!(metadata.delta(&second, &second, 0, 0).await.unwrap(), []);
    assert_eq!(metadata.allocated(&first, ODD, 0, ODD).await.unwrap(), []);
    // Over an image all that shows of it is data, and an image is all data.
    let over = driver.create(golden("over")).await.unwrap().volume_id;
    let over = driver.snapshot("o", &over).await.unwrap().snapshot_id;
    let found = metadata.allocated(&over, 0, 0, SIZE).await.unwrap();
    assert_eq!(found, [(0, SIZE)]);
    let (all, _) = driver.snapshots(0, "", "", "").await.unwrap();
    let image = &all.last().unwrap().snapshot_id;
    assert!(image.starts_with("img-"));
    let found = metadata.allocated(image, 512, 0, SIZE).await.unwrap();
    assert_eq!(found, [(512, SIZE - 512)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_call_for_metadata_gets_the_code_that_the_specification_says() {
    let (driver, metadata, _, [first, second]) = furnished().await;
    let (first, second) = (first.as_str(), second.as_str());
    let other = driver.create(wanted("w")).await.unwrap().volume_id;
    let other = driver.snapshot("of-w", &other).await.unwrap().snapshot_id;
    let (all, _) = driver.snapshots(0, "", "", "").await.unwrap();
    let image = all.last().unwrap().snapshot_id.clone();
    let held = async |id: &str, from, most| metadata.allocated(id, from, most, ODD).await;
    let delta = async |base: &str, target: &str| metadata.delta(base, target, 0, 0).await;
    let rows = [
        ("held, no id", held("", 0, 0).await, Code::InvalidArgument),
        (
            "held, absent",
            held(ABSENT_SNAPSHOT, 0, 0).await,
            Code::NotFound,
        ),
        ("held, another's id", held("x", 0, 0).await, Code::NotFound),
        ("held, negative", held(first, -1, 0).await, Code::OutOfRange),
        (
            "held, past the end",
            held(first, ODD + 1, 0).await,
            Code::OutOfRange,
        ),
        (
            "held, image, past",
            held(&image, SIZE + 1, 0).await,
            Code::OutOfRange,
        ),
        (
            "held, bad page",
            held(first, 0, -1).await,
            Code::InvalidArgument,
        ),
        (
            "delta, no base",
            delta("", second).await,
            Code::InvalidArgument,
        ),
        (
            "delta, no target",
            delta(first, "").await,
            Code::InvalidArgument,
        ),
        (
            "delta, absent base",
            delta(ABSENT_SNAPSHOT, second).await,
            Code::NotFound,
        ),
        (
            "delta, absent target",
            delta(first, ABSENT_SNAPSHOT).await,
            Code::NotFound,
        ),
        (
            "delta, other volume",
            delta(&other, second).await,
            Code::InvalidArgument,
        ),
        (
            "delta, an image",
            delta(&image, second).await,
            Code::InvalidArgument,
        ),
        (
            "delta, negative",
            metadata.delta(first, second, -1, 0).await,
            Code::OutOfRange,
        ),
        (
            "delta, past",
            metadata.delta(first, second, ODD + 1, 0).await,
            Code::OutOfRange,
        ),
        (
            "delta, bad page",
            metadata.delta(first, second, 0, -1).await,
            Code::InvalidArgument,
        ),
    ];
    for (what, answer, code) in rows {
        let refused = answer.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty(), "{what}");
    }
    // A pool that takes no change takes no look at its metadata either: take a full backup later.
    let service = driver.rig.service();
    let pool = service
        .get_snapshot(&support::named("s1"))
        .await
        .unwrap()
        .pool;
    let node = driver.rig.node();
    let full = goldleaf_types::Bytes(GIB);
    node.set_pool(
        pool,
        goldleaf_server::domain::PoolMode::ReadOnly,
        full,
        full,
    );
    let refused = delta(first, second).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}
