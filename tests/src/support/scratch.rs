//! Everything one test makes in the kernel, and its removal.

use std::fs::{self, File, OpenOptions};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use goldleaf_dm::{
    Access, Autoclear, Control, DirectIo, DmName, DmUuid, Events, Flush, LockFs, LoopDevice,
    Removal, Table, Target, loopdev,
};
use goldleaf_types::{Bytes, Sectors};

use super::{Node, Pattern, kernel_under_test, leftovers, patience};

/// Where the files under scratch devices are: memory, whichever kernel runs the test.
const FOLDER: &str = "/dev/shm";
/// How long the removal of one device may take: its last user may be a moment late.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one test owns. Clones are the same scratch; with the last of them all of it goes, and it is
/// asserted that all of it went.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<Owned>);

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::empty());
        if let Err(error) = gone {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

#[derive(Debug)]
struct Owned {
    control: Control,
    /// The beginning of each of its names.
    prefix: String,
    folder: PathBuf,
    devices: Mutex<Vec<DmName>>,
    loops: Mutex<Vec<LoopDevice>>,
}

impl Scratch {
    /// An empty scratch, named after the process and the test.
    ///
    /// # Panics
    ///
    /// Where no kernel is to be tested ([`kernel_under_test`]).
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let control = kernel_under_test();
        let here = Location::caller();
        let thread = std::thread::current();
        let test = match thread.name() {
            Some(name) if name != "main" => name.replace("::", "."),
            Some(_) | None => format!("line{}", here.line()),
        };
        let test: String = test.chars().take(70).collect();
        let prefix = format!("gltest-{}-{test}", std::process::id());
        let folder = Path::new(FOLDER).join(&prefix);
        fs::create_dir(&folder).expect("a folder of its own: one scratch for each test");
        let (devices, loops) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Owned {
            control,
            prefix,
            folder,
            devices,
            loops,
        }))
    }

    /// Device-mapper.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.0.control
    }

    /// A device's name within this scratch.
    ///
    /// # Panics
    ///
    /// When `part` makes no name.
    #[must_use]
    pub fn name(&self, part: &str) -> DmName {
        DmName::new(&format!("{}-{part}", self.0.prefix)).expect("a lawful name")
    }

    /// A device's UUID within this scratch.
    ///
    /// # Panics
    ///
    /// When `part` makes no UUID.
    #[must_use]
    pub fn uuid(&self, part: &str) -> DmUuid {
        DmUuid::new(&format!("GLTEST-{}-{part}", self.0.prefix)).expect("a lawful UUID")
    }

    /// Remembers a device that the test makes by itself, so that it goes too.
    ///
    /// # Panics
    ///
    /// When another thread of the test panicked meanwhile.
    pub fn adopt(&self, name: &DmName) {
        self.0
            .devices
            .lock()
            .expect("no panic holds it")
            .push(name.clone());
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Mounts a device for as long as the answer lives.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn mount(&self, node: &Node, at: &Path, kind: &str) -> Mounted {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount(node.path(), at, kind, flags, None).expect("a mount");
        Mounted(at.to_owned())
    }

    /// A sparse file.
    ///
    /// # Panics
    ///
    /// When there is no room.
    #[must_use]
    pub fn file(&self, part: &str, size: Bytes) -> PathBuf {
        let path = self.0.folder.join(part);
        let file = File::create_new(&path).expect("a new file");
        file.set_len(size.0).expect("a sparse file");
        path
    }

    /// A block device over a file.
    ///
    /// # Panics
    ///
    /// When there is no loop device.
    #[must_use]
    pub fn loop_over(&self, path: &Path, access: Access) -> Node {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path);
        let file = file.expect("the file to attach");
        let device = loopdev::attach(&file, access, Autoclear::No, DirectIo::No);
        let device = device.expect("a loop device");
        let node = Node::of(device.dev());
        self.0.loops.lock().expect("no panic holds it").push(device);
        node
    }

    /// An empty block device.
    #[must_use]
    pub fn disk(&self, part: &str, size: Bytes) -> Node {
        self.loop_over(&self.file(part, size), Access::ReadWrite)
    }

    /// A read-only block device that holds a pattern.
    ///
    /// # Panics
    ///
    /// When there is no room.
    #[must_use]
    pub fn image(&self, part: &str, size: Bytes, pattern: Pattern) -> Node {
        let path = self.file(part, Bytes(0));
        let len = usize::try_from(size.0).expect("an image fits into memory");
        fs::write(&path, pattern.bytes(0, len)).expect("room for the image");
        self.loop_over(&path, Access::ReadOnly)
    }

    /// A live device with this table.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn device(&self, part: &str, table: &Table) -> Node {
        self.try_device(part, table)
            .unwrap_or_else(|error| panic!("{table}: {error}"))
    }

    /// As [`Scratch::device`].
    ///
    /// # Errors
    ///
    /// What the kernel says; the half-made device is gone then.
    pub fn try_device(&self, part: &str, table: &Table) -> Result<Node, goldleaf_dm::DmError> {
        let (control, name) = (self.control(), self.name(part));
        control.create(&name, &self.uuid(part))?;
        self.adopt(&name);
        let live = control
            .load(&name, table)
            .and_then(|()| control.resume(&name));
        match live {
            Ok(device) => Ok(Node::of(device.dev)),
            Err(error) => {
                self.remove(part);
                Err(error)
            }
        }
    }

    /// Removes a device now.
    ///
    /// # Panics
    ///
    /// When it is still in use after a while.
    pub fn remove(&self, part: &str) {
        let name = self.name(part);
        self.0
            .take_away(&name)
            .unwrap_or_else(|error| panic!("{error}"));
        self.0
            .devices
            .lock()
            .expect("no panic holds it")
            .retain(|other| *other != name);
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Owned {
    /// Removes a device if it is there, and lets go whoever waits for its I/O.
    fn take_away(&self, name: &DmName) -> Result<(), goldleaf_dm::DmError> {
        let Some(device) = self.control.find(name)? else {
            return Ok(());
        };
        if device.suspended && device.has_active_table {
            self.release(name)?;
        }
        let events = Events::open()?;
        for _ in 0..50 {
            events.arm()?;
            match self.control.remove(name, Removal::Now) {
                Err(error) if error.is_busy() => events.wait(patience(PATIENCE) / 50).map(drop)?,
                Err(error) if error.is_not_found() => return Ok(()),
                other => return other,
            }
        }
        self.control.remove(name, Removal::Now)
    }

    /// A suspended device holds I/O back: it goes on into errors.
    fn release(&self, name: &DmName) -> Result<(), goldleaf_dm::DmError> {
        let len: u64 = self
            .control
            .table(name)?
            .targets
            .iter()
            .map(|t| t.len.0)
            .sum();
        let error = Table::of(Target::Error(Sectors(len)));
        self.control.load(name, &error)?;
        self.control.suspend(name, Flush::No, LockFs::No)?;
        self.control.resume(name).map(drop)
    }

    fn tear_down(&self) -> Vec<String> {
        let mut trouble = Vec::new();
        let devices = self.devices.lock().map(|d| d.clone()).unwrap_or_default();
        for name in devices.iter().rev() {
            if let Err(error) = self.take_away(name) {
                trouble.push(error.to_string());
            }
        }
        for device in self
            .loops
            .lock()
            .expect("no panic holds it")
            .drain(..)
            .rev()
        {
            if let Err(error) = device.detach() {
                trouble.push(format!("{}: {error}", device.path().display()));
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            trouble.push(format!("{}: {error}", self.folder.display()));
        }
        trouble.extend(leftovers::after(
            patience(PATIENCE),
            &self.control,
            &self.prefix,
        ));
        trouble
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if std::env::var_os("KEEP").is_some_and(|keep| keep == "1") {
            eprintln!(
                "kept: devices {}-*, files {}",
                self.prefix,
                self.folder.display()
            );
            return;
        }
        let trouble = self.tear_down();
        if trouble.is_empty() {
            return;
        }
        let trouble = trouble.join("\n  ");
        if std::thread::panicking() {
            eprintln!("and it left behind:\n  {trouble}");
        } else {
            panic!("the test left behind:\n  {trouble}");
        }
    }
}
