//! A real udevd in the test kernel, with the rules of Debian's packages udev, mdadm, dmsetup and lvm2.
//!
//! Its programs are unpacked under `.build/udev`, not installed. Its rules lie on a tmpfs over
//! `/usr/lib/udev`, with the path of an unpacked program where they name one that this machine does
//! not have. Both go with the kernel; nothing here is for a kernel that somebody else uses too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::patience;
use crate::command::{command, output};

const RULES: &str = "/usr/lib/udev/rules.d";

/// How long it may take to have seen every device.
const SETTLED: Duration = Duration::from_secs(120);

/// How long it may take to answer after its start.
const ANSWERS: Duration = Duration::from_secs(30);

/// A running udevd.
#[derive(Debug)]
pub struct Udev {
    tree: PathBuf,
    process: Child,
}

impl Udev {
    /// Starts it, and waits until it has seen every device that is there.
    ///
    /// # Panics
    ///
    /// When it does not start, or this is a machine's own kernel.
    #[must_use]
    pub fn start() -> Self {
        let kernel = std::env::var("GOLDLEAF_TEST_KERNEL").expect("run by `tests/run`");
        assert_ne!(
            kernel, "host",
            "it would meddle with this machine's devices"
        );
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a repository");
        let tree = repo.join(".build/udev/tree");
        lay_rules(&tree);
        let process = Self::spawn(&tree);
        let udev = Self { tree, process };
        udev.await_control();
        udev.plug("add");
        udev
    }

    /// Where its programs are: an agent that has it in its PATH finds `udevadm`.
    #[must_use]
    pub fn programs(&self) -> String {
        format!(
            "{}:{}",
            self.tree.join("bin").display(),
            self.tree.join("sbin").display()
        )
    }

    /// Runs one of its programs.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let path = self.tree.join(program);
        let path = path.to_str().expect("a path");
        output(path, arguments).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Waits until all that happened so far is dealt with.
    ///
    /// # Panics
    ///
    /// When it is not within two minutes.
    pub fn settle(&self) {
        let timeout = format!("--timeout={}", patience(SETTLED).as_secs());
        self.run("bin/udevadm", &["settle", &timeout]);
    }

    /// Has it look at every block device anew, as at a boot (`add`) or when somebody asks (`change`).
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn plug(&self, action: &str) {
        let action = format!("--action={action}");
        self.run(
            "bin/udevadm",
            &["trigger", "--subsystem-match=block", &action],
        );
        self.settle();
    }

    /// Stops it and starts another, as an upgrade does.
    ///
    /// # Panics
    ///
    /// When the other does not start.
    pub fn restart(&mut self) {
        self.run("bin/udevadm", &["control", "--exit"]);
        let _ = self.process.wait();
        self.process = Self::spawn(&self.tree);
        self.await_control();
    }

    fn spawn(tree: &Path) -> Child {
        let daemon = tree.join("lib/systemd/systemd-udevd");
        // Unpacked, its link leads to this machine's own `/bin`.
        let program = Path::new("/run/gl-udev/systemd-udevd");
        fs::create_dir_all("/run/gl-udev").expect("a folder");
        let _ = fs::remove_file(program);
        let target = fs::read_link(&daemon).expect("a link");
        symlink(
            tree.join(target.strip_prefix("/").unwrap_or(&target)),
            program,
        )
        .expect("a link");
        let log = fs::File::create("/run/gl-udev/log").expect("a log");
        command(program)
            .env("LD_LIBRARY_PATH", tree.join("usr/lib/x86_64-linux-gnu"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("udevd")
    }

    fn await_control(&self) {
        for _ in 0..patience(ANSWERS).as_millis() / 100 {
            let asked = command(self.tree.join("bin/udevadm"))
                .args(["control", "--ping", "--timeout=5"])
                .stderr(Stdio::null())
                .status();
            if asked.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        let log = fs::read_to_string("/run/gl-udev/log").unwrap_or_default();
        panic!("udevd does not answer: {log}");
    }

    /// Every link under `/dev` that names what is inside a device: labels, identities, arrays, groups.
    /// Those by sequence number name just the device.
    #[must_use]
    pub fn links() -> BTreeSet<String> {
        let mut links = BTreeSet::new();
        for folder in ["/dev/disk", "/dev/md"] {
            gather(Path::new(folder), &mut links);
        }
        links
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Puts the rules of this machine's packages and of the unpacked ones where udevd reads them.
fn lay_rules(tree: &Path) {
    let laid = Path::new("/run/gl-udev/rules");
    if laid.exists() {
        return;
    }
    fs::create_dir_all(laid).expect("a folder");
    let mdadm = tree.join("sbin/mdadm").display().to_string();
    for folder in [PathBuf::from(RULES), tree.join("lib/udev/rules.d")] {
        for rule in fs::read_dir(&folder).expect("rules").flatten() {
            let text = fs::read_to_string(rule.path()).expect("a rule");
            let text = text.replace("/sbin/mdadm", &mdadm);
            fs::write(laid.join(rule.file_name()), text).expect("a rule");
        }
    }
    output("mount", &["--bind", "/run/gl-udev/rules", RULES]).expect("rules in their place");
}

fn gather(folder: &Path, links: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name() == "by-diskseq" {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), links);
        } else {
            links.insert(entry.path().display().to_string());
        }
    }
}
