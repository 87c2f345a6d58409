//! Every row shape ever written, read from files that never change. A test that fails here says that
//! existing stores would not open: add a new version instead.

use std::collections::BTreeMap;

use goldleaf_types::{
    BlockSize, Bytes, Digest, GroupId, ImageId, Labels, NodeId, PoolId, SnapshotId, ThinOwner,
    VolumeId, VolumeSize,
};

use super::*;
use crate::domain::{
    Adopting, Begin, Condition, First, GroupPart, Image, ImageAsked, ImageCopy, ImageFormat,
    ImageSource, Marks, Node, Parameters, Phase, Pool, PoolAsked, PoolDevice, PoolMode, Refusal,
    Snapshot, ThinKind, Volume, VolumeAsked, WhenFull,
};

const VOLUME_V1: &str = include_str!("../../../tests/golden/volume-v1.json");
const SNAPSHOT_V1: &str = include_str!("../../../tests/golden/snapshot-v1.json");
const IMAGE_V1: &str = include_str!("../../../tests/golden/image-v1.json");
const POOL_V1: &str = include_str!("../../../tests/golden/pool-v1.json");
const NODE_V1: &str = include_str!("../../../tests/golden/node-v1.json");
const POOL_V1_ADOPTING: &str = include_str!("../../../tests/golden/pool-v1-adopting.json");
const NODE_V1_LOST: &str = include_str!("../../../tests/golden/node-v1-lost.json");
const VOLUME_V1_MARKED: &str = include_str!("../../../tests/golden/volume-v1-marked.json");
const POOL_V1_CHANGING: &str = include_str!("../../../tests/golden/pool-v1-changing.json");
const VOLUME_V1_DECOUPLING: &str = include_str!("../../../tests/golden/volume-v1-decoupling.json");
const SNAPSHOT_V1_MARKED: &str = include_str!("../../../tests/golden/snapshot-v1-marked.json");
const SNAPSHOT_V1_GROUP: &str = include_str!("../../../tests/golden/snapshot-v1-group.json");
const IMAGE_V1_MARKED: &str = include_str!("../../../tests/golden/image-v1-marked.json");
const POOL_V1_MARKED: &str = include_str!("../../../tests/golden/pool-v1-marked.json");
const IMAGE_V1_VOLUME: &str = include_str!("../../../tests/golden/image-v1-volume.json");
const PARAMETERS_V1: &str = include_str!("../../../tests/golden/parameters-v1.json");
const PARAMETERS_V1_GROUP: &str = include_str!("../../../tests/golden/parameters-v1-group.json");

fn labels() -> Labels {
    Labels::try_from(BTreeMap::from([("team".to_owned(), "db".to_owned())])).unwrap()
}

fn at() -> jiff::Timestamp {
    "2026-11-24T06:00:00Z".parse().unwrap()
}

fn condition() -> Condition {
    Condition {
        kind: "DataPresent".into(),
        status: false,
        reason: "ThinMissing".into(),
        message: "its data is lost".into(),
        since: at(),
    }
}

fn volume() -> Volume {
    Volume {
        id: VolumeId::from_bytes([0x11; 16]),
        name: "vm1".parse().unwrap(),
        labels: labels(),
        revision: 7,
        phase: Phase::Ready,
        conditions: vec![condition()],
        created: at(),
        size: VolumeSize::new(20 << 30).unwrap(),
        wanted_size: Some(VolumeSize::new(30 << 30).unwrap()),
        decoupling: None,
        pool: PoolId::from_bytes([0x33; 16]),
        node: NodeId::from_bytes([0x44; 16]),
        begin: Begin::Image(Digest::from_bytes([0xab; 32])),
        image: Some(Digest::from_bytes([0xab; 32])),
        asked: VolumeAsked {
            size_bytes: 20 << 30,
            image: "debian-12".into(),
            source: String::new(),
        },
        epoch: 3,
        marks: Marks::default(),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        id: SnapshotId::from_bytes([0x22; 16]),
        name: "s1".parse().unwrap(),
        labels: labels(),
        revision: 7,
        phase: Phase::Creating,
        conditions: Vec::new(),
        created: at(),
        size: VolumeSize::new(512).unwrap(),
        pool: PoolId::from_bytes([0x33; 16]),
        node: NodeId::from_bytes([0x44; 16]),
        image: None,
        source: VolumeId::from_bytes([0x11; 16]).into(),
        asked_source: "volume/vm1".into(),
        marks: Marks::default(),
        group: None,
    }
}

fn image() -> Image {
    let node = |n| NodeId::from_bytes([n; 16]);
    Image {
        id: ImageId::from_bytes([0x55; 16]),
        name: "debian-12".parse().unwrap(),
        labels: labels(),
        revision: 7,
        phase: Phase::Ready,
        conditions: Vec::new(),
        created: at(),
        asked: ImageAsked {
            source: ImageSource::Url("https://images.example/debian.qcow2".into()),
            format: ImageFormat::Qcow2,
            source_sha256: "cd".repeat(32),
            digest: None,
        },
        thin: None,
        digest: Some(Digest::from_bytes([0xab; 32])),
        size: Bytes(2 << 30),
        copies: vec![
            ImageCopy {
                node: node(0x44),
                phase: Phase::Failed,
                message: "no room".into(),
                refusal: Some(Refusal::ResourceExhausted),
            },
            ImageCopy::wanted(node(0x45)),
        ],
        marks: Marks::default(),
    }
}

fn pool() -> Pool {
    Pool {
        id: PoolId::from_bytes([0x33; 16]),
        name: "fast".parse().unwrap(),
        labels: labels(),
        revision: 7,
        phase: Phase::Closed,
        conditions: vec![condition()],
        created: at(),
        node: NodeId::from_bytes([0x44; 16]),
        asked: PoolAsked {
            devices: vec![PoolDevice {
                path: "/pools/a".into(),
                create_file_bytes: 1 << 30,
            }],
            metadata_device: Some(PoolDevice {
                path: "/dev/vdb".into(),
                create_file_bytes: 0,
            }),
            block_size: BlockSize::DEFAULT,
            when_full: WhenFull::Queue,
        },
        mode: PoolMode::OutOfDataSpace,
        wanted_name: None,
        doomed: false,
        marks: Marks::default(),
        adopting: None,
    }
}

fn node() -> Node {
    Node {
        id: NodeId::from_bytes([0x44; 16]),
        name: "host1".parse().unwrap(),
        labels: labels(),
        revision: 7,
        phase: Phase::Ready,
        created: at(),
        address: "http://127.0.0.1:4701".into(),
        agent_version: "0.1.0".into(),
        kernel_release: "6.12.0".into(),
        drained: None,
        lost: None,
    }
}

/// That a golden row is read as this noun and that the noun is written as that row.
fn golden<T: Row + PartialEq + std::fmt::Debug>(file: &str, noun: &T) {
    let file = file.trim_end();
    assert_eq!(String::from_utf8(noun.encode()).unwrap(), file);
    assert_eq!(
        &T::decode(&key::<T>(noun.id()), file.as_bytes(), 7).unwrap(),
        noun
    );
}

#[test]
fn the_rows_of_version_1_are_read_and_written_as_ever() {
    golden(VOLUME_V1, &volume());
    golden(SNAPSHOT_V1, &snapshot());
    golden(IMAGE_V1, &image());
    golden(POOL_V1, &pool());
    golden(NODE_V1, &node());
    let given_up = Node {
        drained: Some(at()),
        lost: Some(at()),
        ..node()
    };
    golden(NODE_V1_LOST, &given_up);
    let adopting = Pool {
        adopting: Some(Adopting {
            former: Some(goldleaf_types::Incarnation::from_bytes([0x66; 16])),
        }),
        ..pool()
    };
    golden(POOL_V1_ADOPTING, &adopting);
}

#[test]
fn rows_with_marks_or_a_group_are_read_and_written_as_ever() {
    let marks = || Marks {
        deletion_protection: true,
        first: Some(First {
            labels: Labels::default(),
            deletion_protection: false,
        }),
    };
    let marked = Volume {
        marks: marks(),
        ..volume()
    };
    golden(VOLUME_V1_MARKED, &marked);
    let decoupling = Volume {
        decoupling: Some(Bytes(1 << 20)),
        ..volume()
    };
    golden(VOLUME_V1_DECOUPLING, &decoupling);
    let marked = Snapshot {
        marks: Marks::new(true),
        ..snapshot()
    };
    golden(SNAPSHOT_V1_MARKED, &marked);
    let of_a_group = Snapshot {
        group: Some(GroupId::from_bytes([0x66; 16])),
        ..snapshot()
    };
    golden(SNAPSHOT_V1_GROUP, &of_a_group);
    let marked = Image {
        marks: marks(),
        ..image()
    };
    golden(IMAGE_V1_MARKED, &marked);
    let marked = Pool {
        marks: Marks::new(true),
        ..pool()
    };
    golden(POOL_V1_MARKED, &marked);
    let changing = Pool {
        wanted_name: Some("slow".parse().unwrap()),
        doomed: true,
        ..pool()
    };
    golden(POOL_V1_CHANGING, &changing);
}

#[test]
fn parameters_of_version_1_are_read_and_written_as_ever() {
    let parameters = Parameters {
        kind: ThinKind::Volume,
        asked: volume().asked,
        part: None,
    };
    assert_eq!(parameters.encode(), PARAMETERS_V1.trim_end());
    let owner = ThinOwner::from(volume().id);
    assert_eq!(
        Parameters::decode(owner, PARAMETERS_V1).unwrap(),
        parameters
    );
    let of_group = Parameters {
        part: Some(GroupPart {
            group: GroupId::from_bytes([0x66; 16]),
            name: "nightly".parse().unwrap(),
            asked_volume: "vm1".into(),
            index: 0,
            count: 2,
            deadline_ms: 5000,
        }),
        kind: ThinKind::Snapshot,
        asked: VolumeAsked {
            source: "vol-11111111111111111111111111111111".into(),
            ..VolumeAsked::default()
        },
    };
    assert_eq!(of_group.encode(), PARAMETERS_V1_GROUP.trim_end());
    assert_eq!(
        Parameters::decode(owner, PARAMETERS_V1_GROUP).unwrap(),
        of_group
    );
    let error = Parameters::decode(owner, "{\"v\":\"2\"}").unwrap_err();
    assert!(matches!(error, BadRow::Newer { .. }) && error.to_string().contains("vol-11"));
    assert!(Parameters::decode(owner, "").is_err());
    assert_eq!(
        ThinKind::from(ThinOwner::from(snapshot().id)),
        ThinKind::Snapshot
    );
}

#[test]
fn every_word_of_a_row_is_read_back_as_it_was_written() {
    let again = |volume: Volume| {
        let key = key::<Volume>(volume.id);
        assert_eq!(
            Volume::decode(&key, &volume.encode(), volume.revision).unwrap(),
            volume
        );
    };
    for phase in [
        Phase::Creating,
        Phase::Ready,
        Phase::Deleting,
        Phase::Failed,
        Phase::Closed,
    ] {
        again(Volume { phase, ..volume() });
    }
    for begin in [Begin::Blank, Begin::Thin(snapshot().id.into())] {
        again(Volume {
            begin,
            wanted_size: None,
            image: None,
            ..volume()
        });
    }
    for mode in [
        PoolMode::Unknown,
        PoolMode::ReadWrite,
        PoolMode::ReadOnly,
        PoolMode::Failed,
    ] {
        let pool = Pool { mode, ..pool() };
        assert_eq!(
            Pool::decode(&key::<Pool>(pool.id), &pool.encode(), 7).unwrap(),
            pool
        );
    }
    for refusal in [
        Refusal::InvalidArgument,
        Refusal::NotFound,
        Refusal::AlreadyExists,
        Refusal::Aborted,
        Refusal::FailedPrecondition,
        Refusal::OutOfRange,
        Refusal::Unavailable,
        Refusal::Internal,
    ] {
        let mut image = image();
        image.copies[0].refusal = Some(refusal);
        image.asked.source = ImageSource::Device("/dev/vdc".into());
        image.asked.format = ImageFormat::Guess;
        assert_eq!(
            Image::decode(&key::<Image>(image.id), &image.encode(), 7).unwrap(),
            image
        );
    }
}

#[test]
fn an_image_of_a_snapshot_says_of_which() {
    let mut image = image();
    image.asked = ImageAsked {
        source: ImageSource::Volume("snapshot/s1".into()),
        format: ImageFormat::Guess,
        source_sha256: String::new(),
        digest: None,
    };
    image.thin = Some(SnapshotId::from_bytes([0x22; 16]).into());
    let row = IMAGE_V1_VOLUME.trim_end();
    let key = key::<Image>(image.id);
    assert_eq!(Image::decode(&key, row.as_bytes(), 7).unwrap(), image);
    assert_eq!(String::from_utf8(image.encode()).unwrap(), row);
}

/// That a spoilt row of each kind is refused, and how.
fn refused<T: Row + std::fmt::Debug>(file: &str, id: T::Id) {
    let key = key::<T>(id);
    let newer = file.replacen("\"v\":\"1\"", "\"v\":\"2\"", 1);
    let error = T::decode(&key, newer.as_bytes(), 1).unwrap_err();
    assert!(
        matches!(&error, BadRow::Newer { found, .. } if found == "2"),
        "{error}"
    );
    assert!(
        error.to_string().contains(&key) && error.to_string().contains("upgrade"),
        "{error}"
    );
    let strange = file.replacen("\"name\"", "\"colour\":1,\"name\"", 1);
    let lacking = file.replacen("\"phase\":", "\"phrase\":", 1);
    for bad in [
        strange.as_str(),
        lacking.as_str(),
        "",
        "{}",
        "[]",
        &file[..file.len() / 2],
    ] {
        let error = T::decode(&key, bad.as_bytes(), 1).unwrap_err();
        assert!(matches!(error, BadRow::Shape { .. }), "{bad}: {error}");
        assert!(error.to_string().contains(&key), "{error}");
    }
}

#[test]
fn a_row_of_a_newer_version_or_with_an_unknown_or_missing_field_is_refused_whole() {
    refused::<Volume>(VOLUME_V1, volume().id);
    refused::<Snapshot>(SNAPSHOT_V1, snapshot().id);
    refused::<Image>(IMAGE_V1, image().id);
    refused::<Pool>(POOL_V1, pool().id);
    refused::<Node>(NODE_V1, node().id);
    let inner = VOLUME_V1.replacen("\"image\":\"debian-12\"", "\"image\":\"x\",\"extra\":1", 1);
    assert!(Volume::decode(&key::<Volume>(volume().id), inner.as_bytes(), 1).is_err());
}

#[test]
fn a_row_under_another_id_is_refused() {
    let other = key::<Volume>(VolumeId::from_bytes([0x12; 16]));
    let error = Volume::decode(&other, VOLUME_V1.as_bytes(), 1).unwrap_err();
    assert!(matches!(error, BadRow::Misplaced { .. }), "{error}");
}

#[test]
fn a_key_is_made_and_read_in_one_place() {
    let volume = volume();
    assert_eq!(key::<Volume>(volume.id), format!("volume/{}", volume.id));
    assert_eq!(name_key::<Volume>(&volume.name), "volume-name/vm1");
    assert!(!name_key::<Volume>(&volume.name).starts_with(&prefix::<Volume>()));
    assert_eq!(
        id_of_key::<Volume>(&key::<Volume>(volume.id)).unwrap(),
        volume.id
    );
    for bad in [
        "volume",
        "volume/",
        "volume-name/vm1",
        "pool/x",
        "volume/vol-1",
    ] {
        assert!(id_of_key::<Volume>(bad).is_err(), "{bad} passed");
    }
    let Write::Put(key, value) = volume.put_name() else {
        panic!("no put")
    };
    let entry = Entry {
        key,
        value,
        created: 1,
        modified: 1,
    };
    assert_eq!(id_of_name::<Volume>(&entry).unwrap(), volume.id);
    assert!(id_of_name::<Pool>(&entry).is_err());
}

#[test]
fn a_change_is_the_noun_since_or_nothing() {
    let volume = volume();
    let mut change = Change {
        key: key::<Volume>(volume.id),
        value: Some(volume.encode()),
        created: 1,
        revision: 7,
    };
    assert_eq!(Volume::from_change(&change).unwrap(), Some(volume));
    change.value = None;
    assert_eq!(Volume::from_change(&change).unwrap(), None);
}
