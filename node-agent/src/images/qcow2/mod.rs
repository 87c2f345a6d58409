//! qcow2 sources: read once, into raw content.
//!
//! Called by `import`. `header` and `tables` look at everything that says where data is before any
//! of it is believed: the library that then reads the mapping takes what lies past the end of the
//! file for zeroes, and we never do. Nothing in a source can make this write or open another file.

mod header;
mod tables;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use imago::{FormatAccess, Mapping};

use self::header::{HEADER_MAX, Header};
use super::content::{PIECE, piece};
use super::error::ImageError;
use super::meter::Meter;
use super::writer::RawWriter;

/// Zeroes that are hashed between two looks at the meter.
const ZEROES_AT_ONCE: usize = 16 << 20;

type Access = FormatAccess<imago::file::File>;

/// Writes what a disk made of this file would read. Blocks.
///
/// # Errors
///
/// [`ImageError::Format`] naming `field`, for a file that is damaged, cut off or needs anything
/// beside itself.
pub(super) fn convert(
    file: &File,
    field: &'static str,
    writer: &mut RawWriter,
    meter: &Meter,
) -> Result<(), ImageError> {
    let len = file
        .metadata()
        .map_err(ImageError::io("look at the qcow2 file"))?
        .len();
    let mut head = vec![0; piece(len, HEADER_MAX)];
    file.read_exact_at(&mut head, 0)
        .map_err(ImageError::io("read the qcow2 header"))?;
    let header =
        Header::parse(&head, len).map_err(|bad| ImageError::format(field, bad.to_string()))?;
    tables::Tables {
        file,
        header: &header,
        len,
        field,
    }
    .check(meter)?;

    // The library's futures wait for nothing but its reads, which block this thread.
    futures::executor::block_on(async {
        let access = open(file).await.map_err(unreadable(field, 0))?;
        if access.size() != header.size {
            return Err(ImageError::format(field, "its size is read as another one"));
        }
        copy(&access, file, field, writer, meter).await
    })
}

async fn open(file: &File) -> io::Result<Access> {
    let storage = imago::file::File::try_from(file.try_clone()?)?;
    let image = imago::qcow2::Qcow2::<_, Access>::open_image(storage, false).await?;
    Ok(FormatAccess::new(image))
}

/// Everything from the first byte to the last.
async fn copy(
    access: &Access,
    file: &File,
    field: &'static str,
    writer: &mut RawWriter,
    meter: &Meter,
) -> Result<(), ImageError> {
    let size = access.size();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    meter.begin(Some(size));
    while at < size {
        let (mapping, mapped) = access
            .get_mapping(at, size - at)
            .await
            .map_err(unreadable(field, at))?;
        let (count, read) = match mapping {
            Mapping::Zero { .. } => {
                let count = piece(mapped, ZEROES_AT_ONCE) as u64;
                writer.zeroes(count);
                (count, None)
            }
            Mapping::Raw { offset, .. } => {
                let piece = &mut buffer[..piece(mapped, PIECE)];
                // Exactly, where the library would fill up with zeroes.
                (
                    piece.len() as u64,
                    Some(file.read_exact_at(piece, offset).map(|()| piece)),
                )
            }
            Mapping::Special { .. } => {
                let piece = &mut buffer[..piece(mapped, PIECE)];
                let count = piece.len() as u64;
                (
                    count,
                    Some(access.read(&mut *piece, at).await.map(|()| piece)),
                )
            }
            // Nothing else is, and the library may come to know more.
            Mapping::Eof { .. } | _ => (0, None),
        };
        if count == 0 {
            return Err(ImageError::format(
                field,
                format!("nothing says what is at byte {at}"),
            ));
        }
        if let Some(read) = read {
            writer.write(read.map_err(unreadable(field, at))?)?;
        }
        at += count;
        meter.at(at, Some(size))?;
    }
    Ok(())
}

fn unreadable(field: &'static str, at: u64) -> impl Fn(io::Error) -> ImageError {
    move |source| ImageError::Format {
        field,
        problem: format!(
            "the qcow2 image cannot be read at byte {at} of its content: look at it with \
             `qemu-img check`, or convert it to raw"
        ),
        source: Some(source),
    }
}

#[cfg(test)]
pub(super) mod sample;
#[cfg(test)]
mod tests;
