//! Content that somebody else has opened becomes a copy like any other.
//!
//! Called by `ops` with a thin that it keeps still meanwhile. As in `import`, nothing has a name
//! before all of it was read and made durable; content that is here already is stored once.

use std::fs::File;

use goldleaf_types::{Bytes, Digest};

use super::content;
use super::error::ImageError;
use super::folder::ImageFolder;
use super::meter::Meter;
use super::record::ImageRecord;
use super::writer::RawWriter;

/// Content to take.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Where it is read from, from its beginning.
    pub file: &'a File,
    /// How much of it there is.
    pub size: Bytes,
    /// What it is of, for people.
    pub source: String,
    /// The digest that it must have, if known.
    pub expect: Option<Digest>,
}

impl ImageFolder {
    /// The copy of this content, if it is here and is what it was. Reads it anew if it looks other
    /// than recorded. Blocks.
    #[must_use]
    pub fn find_good(&self, digest: &Digest) -> Option<ImageRecord> {
        self.0.find_good(digest)
    }

    /// Reads content whole and keeps it. Blocks.
    ///
    /// # Errors
    ///
    /// As an import's; nothing is left then.
    pub fn take(&self, taken: Taken<'_>, meter: &Meter) -> Result<ImageRecord, ImageError> {
        let folder = &self.0;
        let mut writer = RawWriter::create(&folder.dir, folder.budget.reserve())?;
        let wrong = |error| ImageError::Io {
            what: format!("read {}", taken.source),
            source: error,
        };
        content::read_all(taken.file, taken.size, meter, wrong, |piece| {
            writer.write(piece)
        })?;
        let found = writer.digest();
        if let Some(wanted) = taken.expect.filter(|wanted| *wanted != found) {
            return Err(ImageError::WrongDigest { wanted, found });
        }
        let done = writer.finish()?;
        meter.go_on()?;
        folder.keep(done, taken.source)
    }
}
