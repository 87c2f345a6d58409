//! Every disk format ever written, read from files that never change. A test that fails here says
//! that existing pools would not open: add a new version instead.

use goldleaf_types::{
    BlockSize, Bytes, Digest, Labels, PoolId, Sectors, ThinId, VolumeId, VolumeSize,
};

use super::shapes::{BadRow, decode_pool, decode_thin, encode_pool, encode_thin};
use super::*;

const THIN_V1: &str = include_str!("../../tests/golden/thin-v1.json");
const THIN_V1_GROWN: &str = include_str!("../../tests/golden/thin-v1-grown.json");
const THIN_V1_DECOUPLING: &str = include_str!("../../tests/golden/thin-v1-decoupling.json");
const THIN_V1_MARKED: &str = include_str!("../../tests/golden/thin-v1-marked.json");
const THIN_V1_LOST: &str = include_str!("../../tests/golden/thin-v1-lost.json");
const POOL_V1_REPAIR: &str = include_str!("../../tests/golden/pool-v1-repair.json");
const POOL_V1: &str = include_str!("../../tests/golden/pool-v1.json");
const POOL_V1_GROWN: &str = include_str!("../../tests/golden/pool-v1-grown.json");
const POOL_V1_HOME: &str = include_str!("../../tests/golden/pool-v1-home.json");
const LABEL_V1: &str = include_str!("../../tests/golden/label-v1.hex");
const LABEL_V1_GROWN: &str = include_str!("../../tests/golden/label-v1-grown.hex");
const REGION_V1: &str = include_str!("../../tests/golden/region-header-v1.hex");
const LABEL_V1_TWIN: &str = include_str!("../../tests/golden/label-v1-twin.hex");
const LABEL_V1_CLAIMED: &str = include_str!("../../tests/golden/label-v1-claimed.hex");
const REGION_V1_SOLE: &str = include_str!("../../tests/golden/region-header-v1-sole.hex");
// Made up: what a later version might write.
const THIN_FUTURE: &str = include_str!("../../tests/golden/thin-future.json");
const POOL_FUTURE: &str = include_str!("../../tests/golden/pool-future.json");
const LABEL_FUTURE_VERSION: &str = include_str!("../../tests/golden/label-future-version.hex");
const LABEL_FUTURE_FEATURE: &str = include_str!("../../tests/golden/label-future-feature.hex");
const REGION_FUTURE: &str = include_str!("../../tests/golden/region-header-future.hex");

fn thin() -> ThinRecord {
    ThinRecord {
        owner: VolumeId::from_bytes([0x11; 16]).into(),
        name: "vm1".parse().unwrap(),
        labels: Labels::try_from(std::collections::BTreeMap::from([(
            "team".to_owned(),
            "db".to_owned(),
        )]))
        .unwrap(),
        size: VolumeSize::new(20 << 30).unwrap(),
        thin: ThinId::new(17).unwrap(),
        image: Some(ImageRef {
            digest: Digest::from_bytes([0xab; 32]),
            size: Bytes(2 << 30),
        }),
        parent: Some(VolumeId::from_bytes([0x22; 16]).into()),
        created: "2026-11-24T06:00:00Z".parse().unwrap(),
        request: "{\"size_bytes\":21474836480}".into(),
        holder: Some(Holder::Csi),
        phase: Phase::Ready,
        epoch: 3,
        sealed: false,
        read_only: true,
        group: None,
        decouple: None,
        lost_blocks: 0,
        marks: String::new(),
    }
}

/// A row with everything that was added to version 1 since.
fn grown_thin() -> ThinRecord {
    ThinRecord {
        group: Some(goldleaf_types::GroupId::from_bytes([0x66; 16])),
        ..thin()
    }
}

/// A row that is being copied from its image, which was added to version 1 later.
fn decoupling_thin() -> ThinRecord {
    ThinRecord {
        decouple: Some(Decouple {
            rate: Bytes(1 << 20),
            done: Bytes(1 << 16),
        }),
        ..grown_thin()
    }
}

fn pool() -> PoolRecord {
    PoolRecord {
        id: PoolId::from_bytes([0x33; 16]),
        name: "fast".parse().unwrap(),
        block_size: BlockSize::DEFAULT,
        incarnation: Some(goldleaf_types::Incarnation::from_bytes([0x44; 16])),
        transaction_id: 9,
        next_thin: 18,
        no_space: NoSpace::Queue,
        wait_seconds: 0,
        overcommit_percent: 0,
        created: "2026-11-24T06:00:00Z".parse().unwrap(),
        quarantined: vec![5, 6],
        home: None,
        repair: None,
    }
}

/// A row with everything that was added to version 1 since.
fn grown_pool() -> PoolRecord {
    PoolRecord {
        wait_seconds: 600,
        overcommit_percent: 250,
        ..pool()
    }
}

fn label() -> Label {
    let region = |kind, start, len| Region {
        kind,
        start: Sectors(start),
        len: Sectors(len),
        order: 0,
    };
    Label {
        pool: PoolId::from_bytes([0x33; 16]),
        pool_name: "fast".into(),
        role: Role::Data,
        index: 0,
        data_count: 1,
        metadata_count: 0,
        layout_generation: 1,
        owner_host: [0x55; 16],
        claimed: 0,
        clean: true,
        compatible: 0,
        incompatible: 0,
        device_size: Sectors(1 << 21),
        block_size: BlockSize::DEFAULT,
        regions: vec![
            region(RegionKind::Catalogue, 2048, 32_768),
            region(RegionKind::Metadata, 34_816, 65_536),
            region(RegionKind::Data, 100_352, 1 << 20),
        ],
    }
}

/// The bytes of a golden hex file: comments after `#`, then `offset: bytes` on lines, the rest zero.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = vec![0; 4096];
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let (at, hex) = line.split_once(": ").unwrap();
        let at: usize = at.parse().unwrap();
        let hex = hex::decode(hex.replace(' ', "")).unwrap();
        out[at..at + hex.len()].copy_from_slice(&hex);
    }
    out
}

#[test]
fn the_rows_of_version_1_are_read_and_written_as_ever() {
    assert_eq!(decode_thin(THIN_V1.trim_end().as_bytes()).unwrap(), thin());
    assert_eq!(
        String::from_utf8(encode_thin(&thin()).unwrap()).unwrap(),
        THIN_V1.trim_end()
    );
    let grown = POOL_V1_GROWN.trim_end();
    assert_eq!(decode_pool(grown.as_bytes()).unwrap(), grown_pool());
    let written = encode_pool(&grown_pool()).unwrap();
    assert_eq!(String::from_utf8(written).unwrap(), grown);
    for (grown, thin) in [
        (THIN_V1_GROWN, grown_thin()),
        (THIN_V1_DECOUPLING, decoupling_thin()),
    ] {
        assert_eq!(decode_thin(grown.trim_end().as_bytes()).unwrap(), thin);
        let written = encode_thin(&thin).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), grown.trim_end());
    }
    let marked = ThinRecord {
        marks: "{\"v\":\"1\"}".into(),
        ..thin()
    };
    let row = THIN_V1_MARKED.trim_end();
    assert_eq!(decode_thin(row.as_bytes()).unwrap(), marked);
    assert_eq!(
        String::from_utf8(encode_thin(&marked).unwrap()).unwrap(),
        row
    );
    assert_eq!(decode_pool(POOL_V1.trim_end().as_bytes()).unwrap(), pool());
    assert_eq!(
        String::from_utf8(encode_pool(&pool()).unwrap()).unwrap(),
        POOL_V1.trim_end()
    );
    let at_home = PoolRecord {
        home: Some(goldleaf_types::NodeId::from_bytes([0x55; 16])),
        ..pool()
    };
    let row = POOL_V1_HOME.trim_end();
    assert_eq!(decode_pool(row.as_bytes()).unwrap(), at_home);
    assert_eq!(
        String::from_utf8(encode_pool(&at_home).unwrap()).unwrap(),
        row
    );
}

#[test]
fn what_a_repair_writes_is_read_and_written_as_ever() {
    let repaired = PoolRecord {
        repair: Some(Repair {
            file: "pool-33333333333333333333333333333333.repaired".into(),
            digest: Digest::from_bytes([0xcd; 32]),
        }),
        ..pool()
    };
    let row = POOL_V1_REPAIR.trim_end();
    assert_eq!(decode_pool(row.as_bytes()).unwrap(), repaired);
    assert_eq!(
        String::from_utf8(encode_pool(&repaired).unwrap()).unwrap(),
        row
    );
    let shortened = ThinRecord {
        lost_blocks: 126,
        ..thin()
    };
    let row = THIN_V1_LOST.trim_end();
    assert_eq!(decode_thin(row.as_bytes()).unwrap(), shortened);
    assert_eq!(
        String::from_utf8(encode_thin(&shortened).unwrap()).unwrap(),
        row
    );
}

#[test]
fn the_label_of_version_1_is_read_and_written_as_ever() {
    assert_eq!(Label::decode(&bytes(LABEL_V1)).unwrap(), label());
    assert_eq!(label().encode().unwrap().to_vec(), bytes(LABEL_V1));
}

#[test]
fn the_label_of_a_pool_with_a_twin_is_read_and_written_as_ever() {
    let twin = Label {
        incompatible: FEATURE_TWIN,
        ..label()
    };
    assert_eq!(Label::decode(&bytes(LABEL_V1_TWIN)).unwrap(), twin);
    assert_eq!(twin.encode().unwrap().to_vec(), bytes(LABEL_V1_TWIN));
    let claimed = Label {
        claimed: 1_795_520_629,
        ..twin
    };
    assert_eq!(Label::decode(&bytes(LABEL_V1_CLAIMED)).unwrap(), claimed);
    assert_eq!(claimed.encode().unwrap().to_vec(), bytes(LABEL_V1_CLAIMED));
}

#[test]
fn the_label_of_a_device_that_grew_is_read_and_written_as_ever() {
    let region = |kind, order, start, len| Region {
        kind,
        start: Sectors(start),
        len: Sectors(len),
        order,
    };
    let mut grown = Label {
        layout_generation: 4,
        incompatible: super::label::GROWN,
        device_size: Sectors(1 << 23),
        ..label()
    };
    grown.regions.extend([
        region(RegionKind::Data, 2, 1 << 21, 1 << 20),
        region(RegionKind::Metadata, 3, (1 << 21) + (1 << 20), 8192),
        region(RegionKind::Data, 4, 1 << 22, 1 << 20),
    ]);
    assert_eq!(Label::decode(&bytes(LABEL_V1_GROWN)).unwrap(), grown);
    assert_eq!(grown.encode().unwrap().to_vec(), bytes(LABEL_V1_GROWN));
}

/// A region that begins with this header.
fn region(header: &str) -> RegionStorage {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    Medium::write_all_at(&file, &bytes(header), 0).unwrap();
    RegionStorage::new(file, Bytes(0), Bytes(1 << 20))
}

#[test]
fn the_region_headers_of_version_1_are_read_as_ever() {
    use redb::StorageBackend;
    for (header, sole) in [(REGION_V1, false), (REGION_V1_SOLE, true)] {
        let storage = region(header);
        assert_eq!(storage.len().unwrap(), 65_536);
        assert_eq!(storage.is_sole().unwrap(), sole);
    }
}

#[test]
fn whatever_a_later_version_wrote_is_refused_in_clear_words() {
    let refusals = [
        decode_thin(THIN_FUTURE.as_bytes()).unwrap_err().to_string(),
        decode_pool(POOL_FUTURE.as_bytes()).unwrap_err().to_string(),
        Label::decode(&bytes(LABEL_FUTURE_VERSION))
            .unwrap_err()
            .to_string(),
        Label::decode(&bytes(LABEL_FUTURE_FEATURE))
            .unwrap_err()
            .to_string(),
        Catalogue::open(vec![region(REGION_FUTURE)], pool().id)
            .unwrap_err()
            .to_string(),
    ];
    for refusal in refusals {
        assert!(refusal.contains("upgrade"), "{refusal}");
    }
}

#[test]
fn a_row_of_a_newer_version_or_with_an_unknown_field_is_refused_whole() {
    let newer = THIN_V1.replacen("\"v\":\"1\"", "\"v\":\"2\"", 1);
    let error = decode_thin(newer.as_bytes()).unwrap_err();
    assert!(matches!(error, BadRow::Newer { .. }) && error.to_string().contains("upgrade"));
    let strange = POOL_V1.replacen("\"next_thin\"", "\"colour\":1,\"next_thin\"", 1);
    assert!(matches!(
        decode_pool(strange.as_bytes()),
        Err(BadRow::Shape(_))
    ));
    let lacking = POOL_V1.replacen("\"next_thin\":18,", "", 1);
    assert!(matches!(
        decode_pool(lacking.as_bytes()),
        Err(BadRow::Shape(_))
    ));
}
