//! Whole imports from local sources, and the ground that the tests of this room stand on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use goldleaf_types::{Bytes, Digest};
use sha2::{Digest as _, Sha256};

use super::qcow2::sample::{Cluster, Sample};
use super::*;

/// An image folder and a folder of sources, gone with it.
pub(super) struct Rig {
    pub(super) state: tempfile::TempDir,
    pub(super) sources: tempfile::TempDir,
    pub(super) images: ImageFolder,
}

pub(super) fn sha(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Bytes of which none is zero.
pub(super) fn full(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap() + 1)
        .collect()
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_budget(Bytes(256 << 20))
    }

    pub(super) fn with_budget(budget: Bytes) -> Self {
        let (state, sources) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let rules = SourceRules {
            roots: vec![sources.path().into()],
        };
        let images = ImageFolder::open(state.path().join("images"), budget, rules).unwrap();
        Self {
            state,
            sources,
            images,
        }
    }

    /// As after a restart of the agent.
    pub(super) fn reopened(self) -> Self {
        let rules = SourceRules {
            roots: vec![self.sources.path().into()],
        };
        let images = ImageFolder::open(self.dir(), Bytes(256 << 20), rules).unwrap();
        Self { images, ..self }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.state.path().join("images")
    }

    /// Names in the image folder, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(super) fn source(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.sources.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(super) fn content(&self, digest: &Digest) -> Vec<u8> {
        use std::io::Read;
        let mut content = Vec::new();
        self.images
            .check(digest)
            .unwrap()
            .file
            .read_to_end(&mut content)
            .unwrap();
        content
    }

    pub(super) async fn import(&self, path: &Path) -> Result<ImageRecord, ImageError> {
        self.images.import(request(path), |_| {}).await
    }
}

pub(super) fn request(path: &Path) -> ImportRequest {
    ImportRequest {
        source: Source::File(path.into()),
        format: Format::Detect,
        source_sha256: None,
        expect: None,
    }
}

#[tokio::test]
async fn a_raw_file_becomes_a_read_only_copy_with_its_holes() {
    let rig = Rig::new();
    let mut bytes = vec![0; 4 << 20];
    bytes[(1 << 20) + 5] = 7;
    let path = rig.source("disk.img", &bytes);
    let told = Arc::new(AtomicU64::new(0));
    let last = Arc::clone(&told);
    let tell = move |p: ImportProgress| {
        assert_eq!(p.total_bytes, Some(4 << 20));
        last.store(p.done_bytes, Ordering::Relaxed);
    };
    let record = rig.images.import(request(&path), tell).await.unwrap();
    assert_eq!(told.load(Ordering::Relaxed), 4 << 20);
    assert_eq!(record.digest, sha(&bytes));
    assert_eq!(record.size, Bytes(4 << 20));
    assert!(
        record.owned_bytes.0 <= 64 << 10,
        "{} for one byte",
        record.owned_bytes
    );
    assert_eq!(record.source, path.display().to_string());
    assert_eq!(rig.images.list(), vec![record.clone()]);
    assert!(rig.content(&record.digest) == bytes);
    let Place::File(copy) = &record.place else {
        panic!("not a file")
    };
    assert!(fs::metadata(copy).unwrap().permissions().readonly());
    assert_eq!(rig.names().len(), 2);

    let rig = rig.reopened();
    assert_eq!(rig.images.list(), [record]);
}

#[tokio::test]
async fn a_qcow2_file_and_its_raw_content_are_the_same_image() {
    let rig = Rig::new();
    let sample = Sample::mixed();
    let (file, _) = sample.file();
    let packed = rig.source("disk.qcow2", &file);
    let record = rig.import(&packed).await.unwrap();
    assert_eq!(record.digest, sha(&sample.content()));
    assert!(rig.content(&record.digest) == sample.content());

    let raw = rig.source("disk.img", &sample.content());
    assert_eq!(
        rig.import(&raw).await.unwrap(),
        record,
        "the first copy stays"
    );
    assert_eq!(rig.names().len(), 2);

    let as_raw = ImportRequest {
        format: Format::Raw,
        ..request(&packed)
    };
    assert_eq!(
        rig.images.import(as_raw, |_| {}).await.unwrap().digest,
        sha(&file)
    );
}

#[tokio::test]
async fn a_sum_that_does_not_fit_is_refused_and_leaves_nothing() {
    let rig = Rig::new();
    let sample = Sample::mixed();
    let (file, _) = sample.file();
    let (raw, packed) = (
        rig.source("a.img", &full(4096)),
        rig.source("a.qcow2", &file),
    );
    let other = sha(b"other");
    for path in [&raw, &packed] {
        let wrong = ImportRequest {
            source_sha256: Some(other),
            ..request(path)
        };
        let error = rig.images.import(wrong, |_| {}).await.unwrap_err();
        assert!(matches!(error, ImageError::WrongSource { .. }), "{error}");
        assert!(error.to_string().starts_with("source_sha256: "), "{error}");
        let wrong = ImportRequest {
            expect: Some(other),
            ..request(path)
        };
        let error = rig.images.import(wrong, |_| {}).await.unwrap_err();
        assert!(matches!(error, ImageError::WrongDigest { .. }), "{error}");
    }
    assert!(rig.names().is_empty());
    let right = ImportRequest {
        source_sha256: Some(sha(&file)),
        expect: Some(sha(&sample.content())),
        ..request(&packed)
    };
    let record = rig.images.import(right.clone(), |_| {}).await.unwrap();

    // What is named and here needs no source any more.
    fs::remove_file(&packed).unwrap();
    assert_eq!(rig.images.import(right, |_| {}).await.unwrap(), record);
}

#[tokio::test]
async fn a_source_that_is_no_image_is_refused_with_what_to_do() {
    let rig = Rig::new();
    let mut backed = Sample::mixed().file().0;
    backed[15] = 104;
    for (bytes, word) in [
        (full(1000), "truncate -s %512"),
        (Vec::new(), "is empty"),
        (b"\x1f\x8b\x08 and so on".to_vec(), "gzip"),
        (backed, "backing file"),
        (Sample::mixed().file().0[..20_000].to_vec(), "cut off"),
    ] {
        let error = rig.import(&rig.source("bad", &bytes)).await.unwrap_err();
        assert!(matches!(error, ImageError::Format { .. }), "{error:?}");
        assert!(
            error.to_string().contains(word),
            "{error} does not say {word}"
        );
    }
    let qcow2 = ImportRequest {
        format: Format::Qcow2,
        ..request(&rig.source("raw", &full(512)))
    };
    let error = rig.images.import(qcow2, |_| {}).await.unwrap_err();
    assert!(error.to_string().starts_with("format: "), "{error}");
    let outside = rig.import(Path::new("/etc/hostname")).await.unwrap_err();
    assert!(
        matches!(outside, ImageError::Source { field: "file", .. }),
        "{outside}"
    );
    let device = ImportRequest {
        source: Source::Device("/dev/null".into()),
        ..request(Path::new("/"))
    };
    let error = rig.images.import(device, |_| {}).await.unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Source {
                field: "device",
                ..
            }
        ),
        "{error}"
    );
    assert!(rig.names().is_empty());
}

#[tokio::test]
async fn the_budget_is_kept_before_and_while_content_is_written() {
    let rig = Rig::with_budget(Bytes(256 << 10));
    let error = rig
        .import(&rig.source("big", &full(512 << 10)))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::OverBudget {
                asked: Bytes(524_288),
                ..
            }
        ),
        "not refused early: {error}"
    );
    // Small as it comes, and large when it is unpacked.
    let bomb = Sample {
        version: 3,
        cluster_bits: 16,
        size: 8 << 16,
        clusters: vec![Cluster::Compressed(vec![1; 1 << 16]); 8],
    };
    let bomb = rig.source("bomb", &bomb.file().0);
    let error = rig.import(&bomb).await.unwrap_err();
    assert!(matches!(error, ImageError::OverBudget { .. }), "{error}");
    assert!(error.to_string().contains("--image-budget"), "{error}");
    assert!(rig.names().is_empty());

    // What failed gave its room back, and what is deleted does.
    for round in 0_u8..3 {
        let mut bytes = full(200 << 10);
        bytes[0] = round;
        let record = rig.import(&rig.source("fits", &bytes)).await.unwrap();
        assert!(
            rig.import(&rig.source("more", &full(100 << 10)))
                .await
                .is_err()
        );
        rig.images.remove(&record.digest).unwrap();
    }
}

#[tokio::test]
async fn two_imports_of_the_same_content_at_once_end_with_one() {
    let rig = Rig::new();
    let paths = ["a", "b"].map(|name| rig.source(name, &full(1 << 20)));
    let (a, b) = tokio::join!(rig.import(&paths[0]), rig.import(&paths[1]));
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(rig.names().len(), 2);
    assert_eq!(rig.images.list().len(), 1);
}

#[tokio::test]
async fn an_import_whose_caller_goes_leaves_nothing() {
    let rig = Rig::new();
    let path = rig.source("disk.img", &full(8 << 20));
    let (began, begun) = std::sync::mpsc::sync_channel(0);
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let gone = std::sync::Mutex::new(gone);
    let tell = move |_| {
        // Ends at once for every report after the first.
        if began.send(()).is_ok() {
            let _ = gone.lock().unwrap().recv();
        }
    };
    let import = rig.images.import(request(&path), tell);
    let mut import = Box::pin(import);
    assert!(futures::poll!(&mut import).is_pending());
    begun.recv().unwrap();
    assert_eq!(rig.names().len(), 1, "its part is there while it runs");
    drop(import);
    drop((begun, go));
    until_empty(&rig).await;
    assert!(rig.images.list().is_empty());
}

/// Waits for the folder to be empty: work that was given up ends at its next piece.
pub(super) async fn until_empty(rig: &Rig) {
    for _ in 0..500 {
        if rig.names().is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?} stay", rig.names());
}

#[test]
fn a_source_is_shown_without_its_secrets() {
    let url = "https://me:secret@host.example/disk.img?signature=secret#secret";
    let source = Source::Url(url.parse().unwrap());
    assert_eq!(source.to_string(), "https://host.example/disk.img");
    assert_eq!(format!("{source:?}"), "https://host.example/disk.img");
}
