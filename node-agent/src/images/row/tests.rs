use super::*;
use proptest::prelude::*;

fn copy(folder: &Path) -> ImageRecord {
    let digest = Digest::from_bytes([0x5a; 32]);
    ImageRecord {
        digest,
        size: Bytes(2 << 30),
        owned_bytes: Bytes(700 << 20),
        source: "https://images.example.org/debian-12.qcow2".into(),
        place: Place::File(content_path(folder, &digest)),
        identity: Identity::File {
            device: 2049,
            inode: 131_075,
            size: 2 << 30,
            changed: (1_790_000_000, 123_456_789),
        },
        imported: "2026-09-21T14:13:20Z".parse().unwrap(),
    }
}

fn device() -> ImageRecord {
    ImageRecord {
        digest: Digest::from_bytes([0xc3; 32]),
        owned_bytes: Bytes(0),
        source: "/dev/disk/by-id/golden".into(),
        place: Place::Device("/dev/disk/by-id/golden".into()),
        identity: Identity::Device {
            number: 2064,
            size: 2 << 30,
            boot: "6f9a6a0e-8f3f-4a57-9b0b-0d2f6f6b9c11".into(),
            disk: Some(7),
            written: Some(0),
        },
        ..copy(Path::new("/"))
    }
}

/// One row a line: what version 1 wrote is read for ever, and still written so.
#[test]
fn the_golden_records_are_read_and_written_unchanged() {
    let folder = Path::new("/var/lib/goldleaf/images");
    let golden = include_str!("../../../tests/golden/image-v1.json");
    let lines: Vec<_> = golden.lines().collect();
    assert_eq!(lines.len(), 2);
    for (line, record) in lines.iter().zip([copy(folder), device()]) {
        assert_eq!(decode(folder, line.as_bytes()).unwrap(), record);
        assert_eq!(String::from_utf8(encode(&record).unwrap()).unwrap(), *line);
    }
}

#[test]
fn a_newer_or_richer_row_is_refused_whole() {
    let folder = Path::new("/");
    let text = String::from_utf8(encode(&device()).unwrap()).unwrap();
    let newer = text.replacen("\"v\":\"1\"", "\"v\":\"2\"", 1);
    assert!(matches!(
        decode(folder, newer.as_bytes()),
        Err(BadRow::Newer { .. })
    ));
    let richer = text.replacen('{', "{\"extra\":1,", 1);
    assert!(matches!(
        decode(folder, richer.as_bytes()),
        Err(BadRow::Shape(_))
    ));
    let richer = text.replacen("\"number\"", "\"extra\":1,\"number\"", 1);
    assert!(matches!(
        decode(folder, richer.as_bytes()),
        Err(BadRow::Shape(_))
    ));
}

#[test]
fn a_row_is_replaced_whole_and_belongs_to_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut record = copy(folder.path());
    store(folder.path(), &record).unwrap();
    record.owned_bytes = Bytes(4096);
    store(folder.path(), &record).unwrap();
    assert_eq!(load(folder.path(), &record.digest).unwrap(), record);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let other = device().digest;
    fs::rename(
        row_path(folder.path(), &record.digest),
        row_path(folder.path(), &other),
    )
    .unwrap();
    assert!(matches!(
        load(folder.path(), &other),
        Err(BadRow::OtherDigest(_))
    ));
    assert!(matches!(
        load(folder.path(), &record.digest),
        Err(BadRow::Io(_))
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_row_panic(cut in 0_usize..400, at in 0_usize..400, byte: u8) {
        let mut bytes = encode(&device()).unwrap();
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        bytes.truncate(cut);
        if let Ok(record) = decode(Path::new("/"), &bytes) {
            prop_assert_eq!(decode(Path::new("/"), &encode(&record).unwrap()).unwrap(), record);
        }
    }
}
