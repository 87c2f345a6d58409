//! What a device holds already, so that a pool is only ever made on blank ones.
//!
//! Called before a device's first label is written. The answer is libblkid's, which knows what a
//! file system, a volume manager or a partition table looks like; when it cannot be had the device
//! does not count as blank. A dm-thin superblock, which libblkid does not know, is looked for here.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::label::{LabelError, read_label};
use crate::sys::run::run;

/// What `blkid` ends with when it found nothing. It also does so when it could not look, and then
/// says why on stderr.
const FOUND_NOTHING: i32 = 2;
/// What it ends with when it found things that exclude each other.
const AMBIVALENT: i32 = 8;

/// Where dm-thin's superblock has its magic number, in bytes, and the number.
///
/// Source: Linux `drivers/md/dm-thin-metadata.c`, `struct thin_disk_superblock` and
/// `THIN_SUPERBLOCK_MAGIC`.
const THIN_MAGIC_AT: u64 = 32;
const THIN_MAGIC: [u8; 8] = 27_022_010_u64.to_le_bytes();

/// Says in words what is on a device; `None` when nothing is that anyone would know. Blocks.
///
/// # Errors
///
/// [`LabelError::NoProbe`] and [`LabelError::Probe`] when that could not be found out, the errors
/// of [`read_label`] for a label that cannot be read.
pub fn foreign_signature(file: &File) -> Result<Option<String>, LabelError> {
    if let Some(label) = read_label(file)? {
        return Ok(Some(format!(
            "the label of pool {} ({:?}), {} device {}",
            label.pool, label.pool_name, label.role, label.index
        )));
    }
    let mut magic = [0; 8];
    if file.read_exact_at(&mut magic, THIN_MAGIC_AT).is_ok() && magic == THIN_MAGIC {
        return Ok(Some("the metadata of a dm-thin pool".into()));
    }
    // By descriptor: the path may lead elsewhere by now.
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let output =
        run("blkid", &["-p", "-o", "export", path.as_str()]).map_err(LabelError::NoProbe)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(in_words(&text)),
        Some(FOUND_NOTHING) if text.trim().is_empty() && message.is_empty() => Ok(None),
        Some(AMBIVALENT) => Ok(Some(
            "several signatures that exclude each other (see wipefs)".into(),
        )),
        Some(_) | None => Err(LabelError::Probe {
            status: output.status,
            message: message.chars().take(300).collect(),
        }),
    }
}

/// What `blkid -o export` printed, in words; `None` when it only tells of the partition that the
/// device is.
fn in_words(export: &str) -> Option<String> {
    let pairs: Vec<(&str, &str)> = export
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(key, _)| *key != "DEVNAME" && !key.starts_with("PART_ENTRY_"))
        .collect();
    let get = |wanted: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, value)| *value)
    };
    if pairs.is_empty() {
        return None;
    }
    let mut words = match (get("TYPE"), get("PTTYPE")) {
        (Some(kind), Some(table)) => format!("{} and {}", content(kind), partitions(table)),
        (Some(kind), None) => content(kind),
        (None, Some(table)) => partitions(table),
        (None, None) => {
            let keys: Vec<&str> = pairs.iter().map(|(key, _)| *key).collect();
            format!("something that blkid describes by {}", keys.join(", "))
        }
    };
    if let Some(label) = get("LABEL") {
        words.push_str(&format!(", labelled {label:?}"));
    }
    Some(words)
}

fn content(kind: &str) -> String {
    match kind {
        "LVM2_member" => "an LVM2 physical volume".into(),
        "linux_raid_member" => "a member of an md array".into(),
        "crypto_LUKS" => "a LUKS container".into(),
        "swap" => "swap space".into(),
        other => format!("{other} (file system or other content)"),
    }
}

fn partitions(table: &str) -> String {
    match table {
        "gpt" => "a GPT partition table".into(),
        "dos" => "an MBR partition table".into(),
        other => format!("a partition table ({other})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::run::run_within;
    use std::time::Duration;

    fn blank_file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file
    }

    #[test]
    fn a_blank_device_is_blank() {
        assert_eq!(foreign_signature(blank_file().as_file()).unwrap(), None);
    }

    #[test]
    fn what_other_tools_make_is_recognised() {
        let made: [(&str, &[&str], &str); 3] = [
            (
                "mkfs.ext4",
                &["-q", "-F", "-L", "mine"],
                "ext4 (file system or other content)",
            ),
            ("mkfs.xfs", &["-q", "-f"], "xfs"),
            ("mkswap", &[], "swap space"),
        ];
        for (tool, args, words) in made {
            let file = blank_file();
            // xfs has a least size; sparse, so it costs nothing.
            file.as_file().set_len(512 << 20).unwrap();
            let path = file.path().to_str().unwrap();
            let args: Vec<&str> = args.iter().copied().chain([path]).collect();
            let made = run_within(Duration::from_secs(30), tool, &args).unwrap();
            assert!(made.status.success(), "{tool}: {made:?}");
            let found = foreign_signature(file.as_file()).unwrap().unwrap();
            assert!(found.starts_with(words), "{tool}: {found}");
        }
    }

    #[test]
    fn raw_signatures_are_recognised() {
        type Writes = &'static [(u64, &'static [u8])];
        let signs: [(Writes, &str); 4] = [
            // The checksum is of this very label: nobody takes one without for a physical volume.
            (
                &[
                    (512, b"LABELONE\x01"),
                    (528, b"\x8b\xab\x18\x00\x20"),
                    (536, b"LVM2 001"),
                    (544, &[b'A'; 32]),
                ],
                "an LVM2 physical volume",
            ),
            (&[(0, b"LUKS\xba\xbe\x00\x01")], "a LUKS container"),
            (
                &[
                    (446, &[0x80, 0, 2, 0, 0x83, 0, 9, 0, 0, 8, 0, 0, 0, 8]),
                    (510, b"\x55\xaa"),
                ],
                "an MBR partition table",
            ),
            (&[(32, &THIN_MAGIC)], "the metadata of a dm-thin pool"),
        ];
        for (writes, words) in signs {
            let file = blank_file();
            for (at, bytes) in writes {
                file.as_file().write_all_at(bytes, *at).unwrap();
            }
            let found = foreign_signature(file.as_file()).unwrap();
            assert!(
                found.as_deref().is_some_and(|f| f.starts_with(words)),
                "{words}: {found:?}"
            );
        }
    }

    #[test]
    fn being_a_partition_is_no_content() {
        let entry = "DEVNAME=/dev/sda1\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_NUMBER=1\n";
        assert_eq!(in_words(entry), None);
        let full = format!("{entry}LABEL=a b\nTYPE=btrfs\n");
        let words = in_words(&full).unwrap();
        assert_eq!(
            words,
            "btrfs (file system or other content), labelled \"a b\""
        );
        assert!(
            in_words("USAGE=strange\n").is_some(),
            "what is unknown is not blank"
        );
    }

    #[test]
    fn a_device_that_cannot_be_looked_at_is_not_blank() {
        let folder = tempfile::tempdir().unwrap();
        let unreadable = File::open(folder.path()).unwrap();
        assert!(foreign_signature(&unreadable).is_err());
    }
}
