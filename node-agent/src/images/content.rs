//! Reading and hashing content, piece by piece. Blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use goldleaf_types::{Bytes, Digest};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::meter::Meter;

/// Bytes that are read at a time.
pub(super) const PIECE: usize = 1 << 20;

/// The hash function's answer as a digest.
pub(super) fn digest_of(hasher: Sha256) -> Digest {
    Digest::from_bytes(hasher.finalize().into())
}

/// Length of a piece: what is left, but no more than fits.
pub(super) fn piece(left: u64, room: usize) -> usize {
    usize::try_from(left).map_or(room, |left| left.min(room))
}

/// Reads `size` bytes of a file from the beginning and gives each piece to `take`.
///
/// # Errors
///
/// Those of `take`, and what `wrong` makes of the host's; a file that ends before is `UnexpectedEof`.
pub(super) fn read_all(
    file: &File,
    size: Bytes,
    meter: &Meter,
    wrong: impl Fn(io::Error) -> ImageError,
    take: impl FnMut(&[u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    read_all_with(
        |piece, at| file.read_exact_at(piece, at),
        size,
        meter,
        wrong,
        take,
    )
}

/// As [`read_all`], of what `read` reads.
pub(super) fn read_all_with(
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
    size: Bytes,
    meter: &Meter,
    wrong: impl Fn(io::Error) -> ImageError,
    mut take: impl FnMut(&[u8]) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    meter.begin(Some(size.0));
    while at < size.0 {
        let piece = &mut buffer[..piece(size.0 - at, PIECE)];
        read(piece, at).map_err(&wrong)?;
        take(piece)?;
        at += piece.len() as u64;
        meter.at(at, Some(size.0))?;
    }
    Ok(())
}

/// The digest of a file's or device's first `size` bytes.
pub(super) fn hash(
    file: &File,
    size: Bytes,
    meter: &Meter,
    wrong: impl Fn(io::Error) -> ImageError,
) -> Result<Digest, ImageError> {
    let mut hasher = Sha256::new();
    read_all(file, size, meter, wrong, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(digest_of(hasher))
}
