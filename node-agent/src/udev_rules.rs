//! A udev rule that keeps the host out of what this node's loop devices hold.
//!
//! Owns one file under `/run/udev/rules.d`, named after the node; `app` has it written before any
//! loop device is made. A volume's own device needs no rule: its events carry flags
//! (`goldleaf_dm`'s cookie). A loop device's events carry none, and udev would link an image's label
//! into `/dev/disk`, start the array inside it and scan it for volume groups.
//!
//! The file lies on what a reboot empties and is never taken back by a stop: volumes and their
//! images outlive the agent. A crash leaves the old file, the new one, or a temporary one that udev
//! does not read (its name does not end in `.rules`).

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::sys::run::{self, RunError};

/// Where udev reads rules that hold until the next boot (udev(7)).
pub const FOLDER: &str = "/run/udev/rules.d";

/// Longest time until udevd by itself sees that its rules changed (systemd's `udev-manager.c`).
const SEEN_WITHIN: Duration = Duration::from_secs(3);

/// Writes the rule for loop devices over files in these folders, and has udevd read it. Does nothing
/// where no udev has ever run. Blocks.
///
/// # Errors
///
/// When the file cannot be written, or a running udevd does not read it.
pub fn keep_out(folder: &Path, node: &str, backing: &[PathBuf]) -> io::Result<()> {
    let udev = folder.parent().unwrap_or(folder);
    if !udev.exists() {
        return Ok(());
    }
    let path = folder.join(format!("10-goldleaf-{node}.rules"));
    let text = rule(backing);
    if !std::fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        std::fs::create_dir_all(folder)?;
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &path)?;
    }
    // Also when the file was right: the agent that wrote it may have died before udevd read it.
    if udev.join("control").exists() {
        reload(&path)?;
    }
    tracing::info!(rule = %path.display(), "udev keeps out of images and pools in files");
    Ok(())
}

/// Has a running udevd read its rules now, `rule` among them.
fn reload(rule: &Path) -> io::Result<()> {
    match run::run("udevadm", &["control", "--reload"]) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(format!(
            "udevadm control --reload: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        // As in a container. Once a boot: later starts find a file that is older.
        Err(RunError::Missing { .. }) => {
            let age = std::fs::metadata(rule)?.modified()?.elapsed();
            if let Some(rest) = SEEN_WITHIN.checked_sub(age.unwrap_or_default()) {
                thread::park_timeout(rest);
            }
            Ok(())
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The rule. What it sets is what each of the host's own rules looks at before it looks inside.
fn rule(backing: &[PathBuf]) -> String {
    let patterns: Vec<_> = backing.iter().map(|folder| pattern(folder)).collect();
    let mut text =
        String::from("# Written by Goldleaf's node agent at its start; changes are lost.\n");
    let _ = writeln!(
        text,
        "SUBSYSTEM==\"block\", KERNEL==\"loop*\", ATTR{{loop/backing_file}}==\"{}\", \\\n  \
         ENV{{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}}=\"1\", \
         ENV{{DM_UDEV_DISABLE_OTHER_RULES_FLAG}}=\"1\", \\\n  \
         ENV{{SYSTEMD_READY}}=\"0\", ENV{{UDISKS_IGNORE}}=\"1\", OPTIONS:=\"nowatch\"",
        patterns.join("|")
    );
    text
}

/// Whatever lies in this folder, as udev's patterns say it. A byte that means something in a rule
/// becomes `?`, which matches it: a rule that fits a little more beats one that is read otherwise.
fn pattern(folder: &Path) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+@".contains(byte);
    let bytes = OsStr::as_bytes(folder.as_os_str()).iter();
    let mut pattern: String = bytes
        .map(|byte| if plain(byte) { char::from(*byte) } else { '?' })
        .collect();
    pattern.push_str("/*");
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> Vec<PathBuf> {
        ["/var/lib/goldleaf/images", "/var/lib/goldleaf/pools"]
            .map(PathBuf::from)
            .into()
    }

    #[test]
    fn the_rule_names_both_folders_and_every_flag_that_the_hosts_rules_look_at() {
        let rule = rule(&folders());
        for part in [
            "==\"/var/lib/goldleaf/images/*|/var/lib/goldleaf/pools/*\"",
            "ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}=\"1\"",
            "ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}=\"1\"",
            "ENV{SYSTEMD_READY}=\"0\"",
            "ENV{UDISKS_IGNORE}=\"1\"",
            "OPTIONS:=\"nowatch\"",
        ] {
            assert!(rule.contains(part), "{part} not in {rule}");
        }
    }

    #[test]
    fn no_byte_of_a_folder_can_end_the_pattern_or_mean_another() {
        for (folder, expected) in [
            ("/a/b-c_d.e", "/a/b-c_d.e/*"),
            ("/a\"b", "/a?b/*"),
            ("/a|b*[c]\\", "/a?b??c??/*"),
            ("/a\nb$c", "/a?b?c/*"),
            ("/\u{e4}", "/??/*"),
        ] {
            assert_eq!(pattern(Path::new(folder)), expected, "{folder:?}");
        }
    }

    #[test]
    fn the_file_is_written_once_and_only_where_there_is_udev() {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("udev/rules.d");
        keep_out(&rules, "n1", &folders()).unwrap();
        assert!(!dir.path().join("udev").exists(), "udev's folder was made");
        std::fs::create_dir(dir.path().join("udev")).unwrap();
        keep_out(&rules, "n1", &folders()).unwrap();
        let path = rules.join("10-goldleaf-n1.rules");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), rule(&folders()));
        let written = std::fs::metadata(&path).unwrap();
        keep_out(&rules, "n1", &folders()).unwrap();
        let inode = |m: &std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(m);
        assert_eq!(inode(&std::fs::metadata(&path).unwrap()), inode(&written));
        // Another folder of state: the file follows.
        keep_out(&rules, "n1", &[PathBuf::from("/srv/images")]).unwrap();
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("\"/srv/images/*\"")
        );
        assert_eq!(std::fs::read_dir(&rules).unwrap().count(), 1);
    }
}
