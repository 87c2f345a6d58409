//! Content on its way in: a part file, its hash and the room it takes.
//!
//! Used by `import`, `qcow2` and `http`. Blocks of zeroes are hashed and not written, so a copy
//! keeps its holes. Dropping a writer removes its part; a crash leaves the part, which the next
//! opening of the folder removes. Nothing here gives content its name: `folder` does.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use goldleaf_types::{Bytes, Digest};
use sha2::{Digest as _, Sha256};

use super::budget::Reservation;
use super::content::{digest_of, piece};
use super::error::ImageError;
use super::import::MAX_SIZE;

/// How the name of a part ends.
pub(super) const PART: &str = "part";

/// Zeroes are left out in blocks of this many bytes: what file systems allocate.
const BLOCK: usize = 4096;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A file that goes unless it is kept.
#[derive(Debug)]
pub(super) struct Part {
    folder: PathBuf,
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Part {
    /// An empty file in this folder.
    pub(super) fn create(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.join(format!("{}.{PART}", uuid::Uuid::new_v4().simple()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ImageError::in_folder(
                folder,
                "make a file in the image folder",
            ))?;
        Ok(Self {
            folder: folder.to_owned(),
            path,
            file,
            kept: false,
        })
    }

    /// What was written.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is until it has its last name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// It has its last name: nothing is to be removed any more.
    pub(super) fn named(&mut self) {
        self.kept = true;
    }

    /// Gives the part its last name, over whatever has it.
    pub(super) fn rename(&mut self, to: &Path) -> Result<(), ImageError> {
        fs::rename(&self.path, to).map_err(ImageError::io("name an image's file"))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(),
                "an unfinished import's file stays until the agent starts again");
        }
    }
}

/// Whole content, durable, without a name.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) part: Part,
    pub(super) digest: Digest,
    pub(super) size: Bytes,
    pub(super) owned: Bytes,
    pub(super) room: Reservation,
}

/// Takes content from its beginning to its end.
#[derive(Debug)]
pub(super) struct RawWriter {
    part: Part,
    hasher: Sha256,
    at: u64,
    room: Reservation,
}

impl RawWriter {
    /// An empty part. Blocks, as everything here.
    pub(super) fn create(folder: &Path, room: Reservation) -> Result<Self, ImageError> {
        Ok(Self {
            part: Part::create(folder)?,
            hasher: Sha256::new(),
            at: 0,
            room,
        })
    }

    /// Bytes taken so far.
    pub(super) fn len(&self) -> u64 {
        self.at
    }

    /// The digest of what came so far.
    pub(super) fn digest(&self) -> Digest {
        digest_of(self.hasher.clone())
    }

    /// What came so far, as a file of that length.
    pub(super) fn file(&self) -> Result<&File, ImageError> {
        let file = self.part.file();
        file.set_len(self.at).map_err(ImageError::in_folder(
            &self.part.folder,
            "size an unfinished image",
        ))?;
        Ok(file)
    }

    /// The next bytes. A source that never ends is refused here, for zeroes take no room.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.at.saturating_add(bytes.len() as u64) > MAX_SIZE {
            let problem = format!(
                "goes on beyond {}, the largest image: take another source",
                Bytes(MAX_SIZE)
            );
            return Err(ImageError::format("source", problem));
        }
        self.hasher.update(bytes);
        let mut left = bytes;
        while !left.is_empty() {
            let zeroes = self.run(left, true);
            self.at += zeroes as u64;
            left = &left[zeroes..];
            let data = self.run(left, false);
            if data > 0 {
                self.room.grow(data as u64)?;
                self.part
                    .file
                    .write_all_at(&left[..data], self.at)
                    .map_err(ImageError::in_folder(
                        &self.part.folder,
                        "write an image's content",
                    ))?;
                self.at += data as u64;
                left = &left[data..];
            }
        }
        Ok(())
    }

    /// How many bytes at the beginning are in blocks of the file that are all zero, or are not.
    fn run(&self, bytes: &[u8], zero: bool) -> usize {
        let mut end = 0;
        while end < bytes.len() {
            let in_block =
                usize::try_from((self.at + end as u64) % BLOCK as u64).expect("less than a block");
            let block = &bytes[end..bytes.len().min(end + BLOCK - in_block)];
            if is_zero(block) != zero {
                break;
            }
            end += block.len();
        }
        end
    }

    /// The next bytes, all zero, at most a few megabytes at a time: the caller looks at its meter.
    pub(super) fn zeroes(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let zeroes = &ZEROES[..piece(left, ZEROES.len())];
            self.hasher.update(zeroes);
            left -= zeroes.len() as u64;
        }
        self.at += count;
    }

    /// Forgets what came so far.
    pub(super) fn restart(&mut self) -> Result<(), ImageError> {
        self.part.file.set_len(0).map_err(ImageError::in_folder(
            &self.part.folder,
            "empty an unfinished image",
        ))?;
        self.hasher = Sha256::new();
        self.at = 0;
        self.room.settle(0)
    }

    /// Makes the content whole, read-only and durable.
    pub(super) fn finish(mut self) -> Result<Finished, ImageError> {
        let folder = self.part.folder.clone();
        let wrong = ImageError::in_folder(&folder, "make an image's content durable");
        let file = &self.part.file;
        file.set_len(self.at).map_err(&wrong)?;
        file.set_permissions(fs::Permissions::from_mode(0o400))
            .map_err(&wrong)?;
        file.sync_all().map_err(&wrong)?;
        // Sectors of 512 bytes whatever the file system's block is: stat(2).
        let owned = file
            .metadata()
            .map_err(&wrong)?
            .blocks()
            .saturating_mul(512);
        self.room.settle(owned)?;
        Ok(Finished {
            part: self.part,
            digest: digest_of(self.hasher),
            size: Bytes(self.at),
            owned: Bytes(owned),
            room: self.room,
        })
    }
}

/// Compares as many bytes at once as the compiler sees fit. At most 64 KiB at a time.
pub(super) fn is_zero(block: &[u8]) -> bool {
    block == &ZEROES[..block.len()]
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the pieces, what is read back and hashed is what was written.
        #[test]
        fn content_survives_its_holes_and_its_pieces(
            runs in prop::collection::vec((any::<bool>(), 1_usize..20_000), 1..12),
            cut in 1_usize..9_000,
        ) {
            let whole: Vec<u8> = runs
                .iter()
                .flat_map(|(zero, len)| std::iter::repeat_n(if *zero { 0 } else { 7 }, *len))
                .collect();
            let folder = tempfile::tempdir().unwrap();
            let budget = Budget::new(Bytes(u64::MAX));
            let mut writer = RawWriter::create(folder.path(), budget.reserve()).unwrap();
            writer.write(b"thrown away").unwrap();
            writer.restart().unwrap();
            for piece in whole.chunks(cut) {
                writer.write(piece).unwrap();
            }
            writer.zeroes(5000);
            let done = writer.finish().unwrap();
            let mut expected = whole;
            expected.resize(expected.len() + 5000, 0);
            prop_assert_eq!(done.size.0, expected.len() as u64);
            prop_assert_eq!(fs::read(&done.part.path).unwrap(), expected.clone());
            let hash: [u8; 32] = Sha256::digest(&expected).into();
            prop_assert_eq!(done.digest.as_bytes(), &hash);
        }
    }

    #[test]
    fn a_source_of_zeroes_that_never_ends_is_refused_beyond_the_largest_image() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::new(Bytes(64 << 10));
        let mut writer = RawWriter::create(folder.path(), budget.reserve()).unwrap();
        writer.at = MAX_SIZE - BLOCK as u64;
        writer.write(&ZEROES[..BLOCK]).unwrap();
        let refused = writer.write(&[0]);
        assert!(
            matches!(
                refused,
                Err(ImageError::Format {
                    field: "source",
                    ..
                })
            ),
            "{refused:?}"
        );
        assert_eq!(writer.len(), MAX_SIZE);
    }

    #[test]
    fn zeroes_take_no_room_and_a_dropped_part_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::new(Bytes(64 << 10));
        let mut writer = RawWriter::create(folder.path(), budget.reserve()).unwrap();
        writer.write(&vec![0; 8 << 20]).unwrap();
        writer.write(b"end").unwrap();
        let done = writer.finish().unwrap();
        assert_eq!(done.size, Bytes((8 << 20) + 3));
        assert!(done.owned.0 <= 64 << 10, "{} for three bytes", done.owned);
        assert!(
            budget.would_fit(Bytes(64 << 10)).is_err(),
            "nothing was counted"
        );
        drop(done);
        budget.would_fit(Bytes(64 << 10)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
