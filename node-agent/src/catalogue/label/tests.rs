use super::codec::{AT_CHECKSUM, AT_INCOMPATIBLE, AT_ROLE, AT_VERSION, checksum};
use super::*;
use proptest::prelude::*;

fn label() -> Label {
    Label {
        pool: PoolId::from_bytes([7; 16]),
        pool_name: "fast".into(),
        role: Role::Data,
        index: 0,
        data_count: 2,
        metadata_count: 1,
        layout_generation: 3,
        owner_host: [9; 16],
        claimed: 1_795_520_629,
        clean: false,
        compatible: 0,
        incompatible: 0,
        device_size: Sectors(1 << 21),
        block_size: BlockSize::DEFAULT,
        regions: vec![
            Region {
                kind: RegionKind::Catalogue,
                start: Sectors(2048),
                len: Sectors(32_768),
                order: 0,
            },
            Region {
                kind: RegionKind::Data,
                start: Sectors(34_816),
                len: Sectors(1 << 20),
                order: 0,
            },
        ],
    }
}

fn device() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    file
}

/// Changes a label's bytes and makes the checksum right again.
fn resealed(spoil: impl FnOnce(&mut [u8; LABEL_BYTES])) -> [u8; LABEL_BYTES] {
    let mut sector = label().encode().unwrap();
    spoil(&mut sector);
    let crc = checksum(&sector);
    sector[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&crc.to_le_bytes());
    sector
}

#[test]
fn a_label_lasts_and_a_wiped_one_is_gone() {
    let device = device();
    assert!(read_label(device.as_file()).unwrap().is_none());
    write_label(device.as_file(), &label()).unwrap();
    assert_eq!(read_label(device.as_file()).unwrap(), Some(label()));
    wipe_label(device.as_file()).unwrap();
    assert!(read_label(device.as_file()).unwrap().is_none());
}

#[test]
fn either_copy_alone_serves_and_the_newer_counts() {
    for lost in [COPY_A, COPY_B] {
        let device = device();
        write_label(device.as_file(), &label()).unwrap();
        device
            .as_file()
            .write_all_at(&[0xff; 600], lost + 100)
            .unwrap();
        assert_eq!(
            read_label(device.as_file()).unwrap(),
            Some(label()),
            "lost at {lost}"
        );
    }
    let device = device();
    let newer = Label {
        layout_generation: 4,
        ..label()
    };
    device
        .as_file()
        .write_all_at(&label().encode().unwrap(), COPY_A)
        .unwrap();
    device
        .as_file()
        .write_all_at(&newer.encode().unwrap(), COPY_B)
        .unwrap();
    assert_eq!(read_label(device.as_file()).unwrap(), Some(newer));
}

#[test]
fn two_damaged_copies_are_an_error_and_not_a_blank_device() {
    let device = device();
    write_label(device.as_file(), &label()).unwrap();
    for copy in [COPY_A, COPY_B] {
        device
            .as_file()
            .write_all_at(&[0xff; 8], copy + 60)
            .unwrap();
    }
    assert!(matches!(
        read_label(device.as_file()),
        Err(LabelError::Damaged { .. })
    ));
}

/// A write that is cut short at any sector of either copy leaves the former label or the new one.
#[test]
fn a_torn_write_leaves_the_former_label_or_the_new_one() {
    let newer = Label {
        layout_generation: 4,
        clean: true,
        ..label()
    };
    let (former, new) = (label().encode().unwrap(), newer.encode().unwrap());
    for torn_copy in [COPY_A, COPY_B] {
        for sectors in 0..=LABEL_BYTES / 512 {
            let device = device();
            write_label(device.as_file(), &label()).unwrap();
            if torn_copy == COPY_B {
                device.as_file().write_all_at(&new, COPY_A).unwrap();
            }
            let mut torn = former;
            torn[..sectors * 512].copy_from_slice(&new[..sectors * 512]);
            device.as_file().write_all_at(&torn, torn_copy).unwrap();
            let found = read_label(device.as_file())
                .unwrap()
                .expect("one of the two");
            assert!(
                found == label() || found == newer,
                "torn after {sectors} sectors"
            );
            // A is durable before B is touched, so from then on only the new one may be seen.
            assert!(
                torn_copy == COPY_A || found == newer,
                "B torn after {sectors} sectors"
            );
        }
    }
}

#[test]
fn newer_formats_and_unknown_features_say_upgrade() {
    let newer = resealed(|s| s[AT_VERSION..AT_VERSION + 4].copy_from_slice(&2_u32.to_le_bytes()));
    let error = Label::decode(&newer).unwrap_err();
    assert!(
        matches!(error, LabelError::NewerVersion { found: 2 }),
        "{error}"
    );
    assert!(error.to_string().contains("upgrade"));
    let strange = resealed(|s| s[AT_INCOMPATIBLE] = 4);
    let error = Label::decode(&strange).unwrap_err();
    assert!(
        matches!(error, LabelError::UnknownFeatures { bits: 4 }),
        "{error}"
    );
    // Either copy gives cause to refuse: an older binary never picks the copy it can read.
    let device = device();
    write_label(device.as_file(), &label()).unwrap();
    device.as_file().write_all_at(&newer, COPY_B).unwrap();
    assert!(matches!(
        read_label(device.as_file()),
        Err(LabelError::NewerVersion { .. })
    ));
}

#[test]
fn values_that_cannot_be_are_damage_even_under_a_right_checksum() {
    let role = resealed(|s| s[AT_ROLE] = 9);
    assert!(matches!(
        Label::decode(&role),
        Err(LabelError::Damaged { .. })
    ));
    for spoil in [
        |l: &mut Label| l.index = 2,
        |l: &mut Label| l.regions[1].start = Sectors(2048),
        |l: &mut Label| l.regions[0].start = Sectors(0),
        |l: &mut Label| l.regions[1].len = Sectors(u64::MAX),
        |l: &mut Label| l.regions[0].len = Sectors(0),
        |l: &mut Label| l.pool_name = "x".repeat(129),
        |l: &mut Label| l.pool_name = "a\nb".into(),
        |l: &mut Label| l.regions = vec![l.regions[0]; 5],
    ] {
        let mut bad = label();
        spoil(&mut bad);
        assert!(
            matches!(bad.encode(), Err(LabelError::Invalid { .. })),
            "{bad:?} was written"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..LABEL_BYTES + 10),
    ) {
        let _ = Label::decode(&bytes);
    }

    /// Any change of any field either still is a valid label or is called damaged: never a panic,
    /// never a label that could not be written again.
    #[test]
    fn a_spoiled_label_is_refused_or_valid(at in 24_usize..400, to in any::<u8>()) {
        let sector = resealed(|s| s[at] = to);
        if let Ok(read) = Label::decode(&sector) {
            prop_assert_eq!(Label::decode(&read.encode().unwrap()).unwrap(), read);
        }
    }
}
