//! What a source holds, by its first bytes.

use super::error::ImageError;
use super::import::Format;

/// Bytes that are looked at.
pub(super) const HEAD: usize = 512;

/// How content is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// As a disk reads it.
    Raw,
    /// QEMU's format.
    Qcow2,
}

const QCOW: &[u8] = b"QFI\xfb";

/// Beginnings of what is surely no raw disk: place, bytes, name.
const FOREIGN: [(usize, &[u8], &str); 10] = [
    (0, b"\x1f\x8b\x08", "gzip data"),
    (0, b"\xfd7zXZ\0", "xz data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
];

/// How a source is stored, from what was said and from its first bytes.
///
/// # Errors
///
/// [`ImageError::Format`] for a format that cannot be read here, with what can.
pub(super) fn detect(said: Format, head: &[u8]) -> Result<Stored, ImageError> {
    match said {
        Format::Raw => Ok(Stored::Raw),
        Format::Qcow2 if head.starts_with(QCOW) => Ok(Stored::Qcow2),
        Format::Qcow2 => Err(ImageError::format(
            "format",
            "the source does not begin as qcow2 does: say RAW, or leave it out to look",
        )),
        Format::Detect if head.starts_with(QCOW) => Ok(Stored::Qcow2),
        Format::Detect => {
            let found = FOREIGN
                .iter()
                .find(|(at, magic, _)| head.get(*at..).is_some_and(|h| h.starts_with(magic)));
            match found {
                None => Ok(Stored::Raw),
                Some((_, _, name)) => Err(ImageError::format(
                    "format",
                    format!(
                        "the source begins as {name}: unpack it or convert it with `qemu-img \
                         convert -O qcow2` first, or say RAW if a disk really begins so"
                    ),
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_counts_and_else_the_first_bytes() {
        let mut vdi = [0; 0x44];
        vdi[0x40..].copy_from_slice(b"\x7f\x10\xda\xbe");
        assert_eq!(
            detect(Format::Detect, b"QFI\xfb\0\0\0\x03").unwrap(),
            Stored::Qcow2
        );
        assert_eq!(detect(Format::Detect, b"").unwrap(), Stored::Raw);
        assert_eq!(detect(Format::Detect, &[0; HEAD]).unwrap(), Stored::Raw);
        assert_eq!(detect(Format::Raw, b"QFI\xfb").unwrap(), Stored::Raw);
        assert_eq!(detect(Format::Raw, &vdi).unwrap(), Stored::Raw);
        assert!(detect(Format::Qcow2, &[0; HEAD]).is_err());
        let error = detect(Format::Detect, &vdi).unwrap_err().to_string();
        assert!(
            error.starts_with("format: ") && error.contains("VDI"),
            "{error}"
        );
    }
}
