use std::sync::Arc;

use goldleaf_types::Bytes;
use proptest::prelude::*;

use super::sample::{Cluster, Sample};
use super::*;
use crate::images::budget::Budget;

/// What reading a qcow2 file of these bytes gives.
fn read(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.qcow2");
    std::fs::write(&path, bytes).unwrap();
    let budget: Arc<Budget> = Budget::new(Bytes(64 << 20));
    let mut writer = RawWriter::create(folder.path(), budget.reserve()).unwrap();
    convert(
        &File::open(&path).unwrap(),
        "file",
        &mut writer,
        &Meter::silent(),
    )?;
    let done = writer.finish()?;
    let mut content = vec![0; usize::try_from(done.size.0).unwrap()];
    done.part.file().read_exact_at(&mut content, 0).unwrap();
    Ok(content)
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes) {
        Ok(content) => panic!("{} bytes were read of it", content.len()),
        Err(ImageError::Format {
            field: "file",
            problem,
            ..
        }) => problem,
        Err(other) => panic!("{other:?}"),
    }
}

fn spoilt(at: usize, bytes: &[u8]) -> Vec<u8> {
    let (mut file, _) = Sample::mixed().file();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn data_compressed_data_holes_and_zeroes_are_read() {
    let sample = Sample::mixed();
    assert_eq!(read(&sample.file().0).unwrap(), sample.content());
    let mut two = sample;
    two.version = 2;
    two.clusters[3] = Cluster::Hole;
    assert_eq!(read(&two.file().0).unwrap(), two.content());
}

#[test]
fn what_another_writer_makes_is_read() {
    use imago::qcow2::{Qcow2, Qcow2CreateBuilder};
    use imago::{FormatCreateBuilder, Storage, StorageOpenOptions};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made.qcow2");
    File::create(&path).unwrap();
    let options = || StorageOpenOptions::new().write(true).filename(&path);
    futures::executor::block_on(async {
        let storage = imago::file::File::open(options()).await.unwrap();
        let create = Qcow2CreateBuilder::<imago::file::File, Access>::new(storage);
        create.size(3 << 20).create().await.unwrap();
        let storage = imago::file::File::open(options()).await.unwrap();
        let image = Qcow2::<_, Access>::open_image(storage, true).await.unwrap();
        let access: Access = FormatAccess::new(image);
        access.write(&b"late"[..], (2 << 20) + 100).await.unwrap();
        access.flush().await.unwrap();
    });
    let content = read(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(content.len(), 3 << 20);
    assert_eq!(&content[(2 << 20) + 100..][..4], b"late");
    assert_eq!(content.iter().filter(|b| **b != 0).count(), 4);
}

#[test]
fn every_lie_of_a_header_is_named() {
    let huge = (1_u64 << 62).to_be_bytes();
    let cases: [(usize, &[u8], &str); 28] = [
        (0, b"QFIx", "does not begin"),
        (4, &1_u32.to_be_bytes(), "version 1"),
        (4, &4_u32.to_be_bytes(), "version 4"),
        (8, &4096_u64.to_be_bytes(), "backing file"),
        (16, &5_u32.to_be_bytes(), "backing file"),
        (20, &8_u32.to_be_bytes(), "cluster_bits"),
        (20, &22_u32.to_be_bytes(), "cluster_bits"),
        (20, &u32::MAX.to_be_bytes(), "cluster_bits"),
        (24, &0_u64.to_be_bytes(), "0 bytes"),
        (24, &1000_u64.to_be_bytes(), "qemu-img resize"),
        (24, &huge, "qemu-img resize"),
        (24, &(8_u64 << 40).to_be_bytes(), "l1_size"),
        (32, &1_u32.to_be_bytes(), "encrypted"),
        (36, &0_u32.to_be_bytes(), "l1_size"),
        (36, &u32::MAX.to_be_bytes(), "l1_size"),
        (36, &(1_u32 << 20).to_be_bytes(), "cut off"),
        (40, &0_u64.to_be_bytes(), "l1_table_offset"),
        (40, &4097_u64.to_be_bytes(), "l1_table_offset"),
        (40, &huge, "cut off"),
        (48, &0_u64.to_be_bytes(), "refcount_table_offset"),
        (48, &huge, "cut off"),
        (56, &0_u32.to_be_bytes(), "refcount_table_clusters"),
        (56, &u32::MAX.to_be_bytes(), "refcount_table_clusters"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 1], "not closed cleanly"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 4], "another file"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 16], "subclusters"),
        (96, &7_u32.to_be_bytes(), "refcount_order"),
        (100, &8_u32.to_be_bytes(), "header_length"),
    ];
    for (at, bytes, word) in cases {
        let problem = refusal(&spoilt(at, bytes));
        assert!(
            problem.contains(word),
            "{at}: {problem} does not say {word}"
        );
    }
    let mut zstd = spoilt(72, &[0, 0, 0, 0, 0, 0, 0, 8]);
    zstd[104] = 1;
    assert!(refusal(&zstd).contains("zstd"), "{}", refusal(&zstd));
    assert!(refusal(&zstd).contains("qemu-img convert"));
    assert!(refusal(&zstd[..71]).contains("fewer than a qcow2 header"));
    assert!(refusal(&zstd[..103]).contains("fewer than a qcow2 header"));
}

#[test]
fn every_lie_of_a_table_is_named() {
    let (file, at) = Sample::mixed().file();
    let end = file.len() as u64;
    let cases: [(usize, u64, &str); 9] = [
        (at.l1, end.next_multiple_of(4096), "cut off"),
        (at.l1, 4096 + 512, "no cluster begins"),
        (at.l1, 4096 | 1, "mean nothing"),
        (at.l2, (1 << 63) | (1 << 55), "cut off"),
        (at.l2, 4096 + 512, "no cluster begins"),
        (at.l2, 4096 | 2, "mean nothing"),
        (at.l2 + 16, (1 << 62) | end, "cut off"),
        (at.l2 + 16, (1 << 62) | (0xf << 58) | (end - 512), "cut off"),
        (at.l2 + 16, (1 << 63) | (1 << 62) | 4096, "not possible"),
    ];
    for (place, entry, word) in cases {
        let problem = refusal(&spoilt(place, &entry.to_be_bytes()));
        assert!(
            problem.contains(word),
            "{entry:#x}: {problem} does not say {word}"
        );
    }
    // Compressed data that is none.
    let problem = refusal(&spoilt(
        at.l2 + 16,
        &((1_u64 << 62) | at.data as u64).to_be_bytes(),
    ));
    assert!(problem.contains("byte 8192"), "{problem}");
}

/// Cut anywhere, it is refused: what is missing is never read as zeroes.
#[test]
fn a_cut_file_is_never_read() {
    let mut plain = Sample::mixed();
    plain
        .clusters
        .retain(|c| !matches!(c, Cluster::Compressed(_)));
    plain.size = 4 * 4096;
    for sample in [Sample::mixed(), plain] {
        let (file, _) = sample.file();
        for cut in (0..file.len()).step_by(97).chain([file.len() - 1]) {
            let problem = refusal(&file[..cut]);
            assert!(
                problem.contains("cut off") || problem.contains("fewer than"),
                "cut at {cut}: {problem}"
            );
        }
    }
}

fn cluster(size: usize) -> impl Strategy<Value = Cluster> {
    let bytes = || {
        prop::collection::vec(any::<u8>(), 1..8)
            .prop_map(move |word| word.iter().copied().cycle().take(size).collect::<Vec<u8>>())
    };
    prop_oneof![
        Just(Cluster::Hole),
        Just(Cluster::Zero),
        bytes().prop_map(Cluster::Data),
        bytes().prop_map(Cluster::Compressed),
    ]
}

fn sample() -> impl Strategy<Value = Sample> {
    (9_u32..=14).prop_flat_map(|cluster_bits| {
        prop::collection::vec(cluster(1 << cluster_bits), 1..150).prop_map(move |clusters| Sample {
            version: 3,
            cluster_bits,
            size: (clusters.len() as u64) << cluster_bits,
            clusters,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_image_is_read_as_it_was_meant(sample in sample()) {
        prop_assert_eq!(read(&sample.file().0).unwrap(), sample.content());
    }

    /// What is cut off is missed, or was not needed.
    #[test]
    fn a_cut_image_is_refused_or_read_as_it_was_meant(sample in sample(), cut in any::<prop::sample::Index>()) {
        let (file, _) = sample.file();
        if let Ok(content) = read(&file[..cut.index(file.len())]) {
            prop_assert!(content == sample.content());
        }
    }

    /// Any damage is read or refused, without a panic and without end.
    #[test]
    fn damage_never_panics(hits in prop::collection::vec((0_usize..6 * 4096, any::<u8>()), 1..6)) {
        let (mut file, _) = Sample::mixed().file();
        for (at, byte) in hits {
            let len = file.len();
            file[at % len] = byte;
        }
        // A size that is a lie and yet possible would be hashed to its end.
        let size = Header::parse(&file[..HEADER_MAX], file.len() as u64).map_or(0, |h| h.size);
        if size <= 16 << 20
            && let Ok(content) = read(&file)
        {
            prop_assert_eq!(content.len() as u64, size);
        }
    }

    #[test]
    fn damage_in_the_header_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..HEADER_MAX),
        at in 4_usize..HEADER_MAX,
    ) {
        let (mut file, _) = Sample::mixed().file();
        let end = (at + bytes.len()).min(HEADER_MAX);
        file[at..end].copy_from_slice(&bytes[..end - at]);
        let len = file.len() as u64;
        if let Ok(header) = Header::parse(&file[..HEADER_MAX], len) {
            prop_assert!(header.size <= crate::images::import::MAX_SIZE);
            prop_assert!(header.l1_offset + header.l1_used * 8 <= len);
            prop_assert!(header.l1_used * header.l2_entries() * header.cluster() >= header.size);
        }
    }
}
