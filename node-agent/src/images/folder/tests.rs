use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::images::tests::{Rig, full, sha};

async fn imported(rig: &Rig) -> (ImageRecord, PathBuf) {
    let record = rig
        .import(&rig.source("disk.img", &full(1 << 20)))
        .await
        .unwrap();
    let path = row::content_path(&rig.dir(), &record.digest);
    (record, path)
}

/// Writes a byte to a copy, as nobody should, and waits for its change time to say so.
fn tamper(path: &Path, at: u64, byte: u8) {
    use std::os::unix::fs::FileExt;
    let before = Identity::of(&File::open(path).unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    let seen = (0..1_000_000).any(|_| {
        file.write_all_at(&[byte], at).unwrap();
        Identity::of(&file).unwrap() != before
    });
    assert!(seen, "the change does not show");
}

fn hashed(rig: &Rig) -> u64 {
    rig.images
        .0
        .hashed
        .load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn content_that_only_looks_changed_is_hashed_once_and_is_fine() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    tamper(&path, 0, full(1)[0]);
    let checked = rig.images.check(&record.digest).unwrap();
    assert_ne!(checked.record.identity, record.identity);
    let now = Identity::of(&checked.file).unwrap();
    assert_eq!(checked.record.identity, now);
    rig.images.check(&record.digest).unwrap();
    assert_eq!(hashed(&rig), 1);
    // What it looks like now is on record, so nothing is hashed after a restart either.
    let rig = rig.reopened();
    assert_eq!(rig.images.list()[0].identity, now);
}

#[tokio::test]
async fn content_that_changed_is_refused_until_it_is_right_again() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    tamper(&path, 70_000, 0);
    for _ in 0..2 {
        let error = rig.images.check(&record.digest).unwrap_err();
        assert!(matches!(error, ImageError::Changed { .. }), "{error}");
        assert!(
            error.to_string().contains("import the image again"),
            "{error}"
        );
    }
    assert_eq!(hashed(&rig), 1);
    assert!(rig.images.verify(&record.digest, |_| {}).is_err());
    tamper(&path, 70_000, full(70_001)[70_000]);
    rig.images.check(&record.digest).unwrap();

    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    let error = rig.images.check(&record.digest).unwrap_err().to_string();
    assert!(
        error.contains("4 KiB") && error.contains("1 MiB"),
        "{error}"
    );
}

/// The change time is coarser than writes are: verify reads whatever it says.
#[tokio::test]
async fn verify_finds_what_no_change_time_shows() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    rig.images.verify(&record.digest, |_| {}).unwrap();
    tamper(&path, 5, 0);
    let looks = Identity::of(&File::open(&path).unwrap()).unwrap();
    let forged = ImageRecord {
        identity: looks,
        ..record.clone()
    };
    rig.images.0.record(&forged).unwrap();
    rig.images.check(&record.digest).unwrap();
    let error = rig.images.verify(&record.digest, |_| {}).unwrap_err();
    assert!(matches!(error, ImageError::Changed { .. }), "{error}");
}

#[tokio::test]
async fn importing_again_mends_a_bad_copy_and_a_missing_one() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    tamper(&path, 5, 0);
    let again = rig
        .import(&rig.sources.path().join("disk.img"))
        .await
        .unwrap();
    assert_eq!(again.digest, record.digest);
    assert!(rig.content(&record.digest) == full(1 << 20));

    fs::remove_file(&path).unwrap();
    assert!(rig.images.list().is_empty());
    let error = rig.images.check(&record.digest).unwrap_err();
    assert!(matches!(error, ImageError::Missing { .. }), "{error}");
    rig.import(&rig.sources.path().join("disk.img"))
        .await
        .unwrap();
    assert_eq!(rig.images.list().len(), 1);
    // The room of the bad copies was given back.
    let left = Bytes((256 << 20) - rig.images.list()[0].owned_bytes.0);
    rig.images.0.budget.would_fit(left).unwrap();
    assert!(rig.images.0.budget.would_fit(Bytes(left.0 + 1)).is_err());
}

#[tokio::test]
async fn what_a_crash_left_is_gone_after_the_next_opening() {
    let rig = Rig::new();
    let (record, _) = imported(&rig).await;
    let good = rig.names();
    let other = sha(b"other");
    fs::write(rig.dir().join("0123.part"), b"half").unwrap();
    fs::write(
        rig.dir().join(format!("{}.json.new", other.hex())),
        b"{\"v\":",
    )
    .unwrap();
    fs::write(row::content_path(&rig.dir(), &other), full(512)).unwrap();
    let rig = rig.reopened();
    assert_eq!(rig.names(), good);
    assert_eq!(rig.images.list(), [record]);
}

/// Content was replaced and its record was not yet: it is hashed, not believed and not refused.
#[tokio::test]
async fn a_crash_between_content_and_record_of_a_mended_copy_heals() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    let fresh = rig.dir().join("fresh");
    fs::write(&fresh, full(1 << 20)).unwrap();
    fs::rename(&fresh, &path).unwrap();
    let rig = rig.reopened();
    let checked = rig.images.check(&record.digest).unwrap();
    assert_ne!(checked.record.identity, record.identity);
}

#[tokio::test]
async fn a_record_without_content_and_one_that_cannot_be_read_are_not_listed() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    let row_file = row::row_path(&rig.dir(), &record.digest);
    let text = fs::read_to_string(&row_file).unwrap();
    fs::write(&row_file, text.replacen("\"v\":\"1\"", "\"v\":\"9\"", 1)).unwrap();
    let rig = rig.reopened();
    assert!(rig.images.list().is_empty());
    assert!(
        path.exists(),
        "what a newer version recorded is not ours to delete"
    );

    fs::write(&row_file, text).unwrap();
    fs::remove_file(&path).unwrap();
    let rig = rig.reopened();
    assert!(rig.images.list().is_empty());
    assert!(row_file.exists());
    rig.import(&rig.sources.path().join("disk.img"))
        .await
        .unwrap();
    assert_eq!(rig.images.list().len(), 1);
}

#[tokio::test]
async fn deleting_twice_is_deleting_once() {
    let rig = Rig::new();
    let (record, _) = imported(&rig).await;
    rig.images.remove(&record.digest).unwrap();
    assert!(rig.names().is_empty());
    rig.images.remove(&record.digest).unwrap();
    let error = rig.images.check(&record.digest).unwrap_err();
    assert!(matches!(error, ImageError::Missing { digest } if digest == record.digest));
}

/// Many volumes over one image are activated at once after its change time changed.
#[tokio::test]
async fn many_checks_at_once_hash_changed_content_once() {
    let rig = Rig::new();
    let (record, path) = imported(&rig).await;
    tamper(&path, 0, full(1)[0]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| rig.images.check(&record.digest).unwrap());
        }
    });
    assert_eq!(hashed(&rig), 1);
}
