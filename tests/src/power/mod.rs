//! Disks that lose what was not flushed when their power is cut.
//!
//! Runs inside a test kernel: a disk of the kernel's own ([`CachedDisk`]) is served as a network
//! block device over a unix socket, and the kernel's nbd driver, connected by qemu-nbd, makes
//! `/dev/nbdN` of it. After a number of requests, or at once, every disk stops answering, decides
//! what survives, and says so outside; then the kernel itself is killed. Nothing that was
//! acknowledged after that moment can have been written.

mod cache;
mod ledger;
pub mod load;
mod nbd;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

pub use cache::CachedDisk;
use nbd::Request;

use crate::command::output;
use crate::model::Dice;

/// The power of some disks.
#[derive(Clone, Debug)]
pub struct Power(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    disks: Vec<CachedDisk>,
    /// Requests that change something until the cut.
    left: Option<u64>,
    dice: Dice,
    /// The file that says that the power is gone.
    notice: PathBuf,
}

impl Power {
    /// Disks without one yet.
    #[must_use]
    pub fn new(seed: u64, notice: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(State {
            disks: Vec::new(),
            left: None,
            dice: Dice::new(seed),
            notice,
        })))
    }

    /// Makes `/dev/nbd<number>` of a disk, which is the `number`th here.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or does not become a device.
    pub fn connect(&self, medium: &Path, number: usize, socket: &Path) -> Result<PathBuf> {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(medium)
            .with_context(|| format!("no disk {}", medium.display()))?;
        let size = goldleaf_dm::block::size(&file)?.0 - cache::BEGIN;
        self.state().disks.push(CachedDisk::new(file));
        ensure!(self.state().disks.len() == number + 1, "disks in order");
        let listener = UnixListener::bind(socket)?;
        let power = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let power = power.clone();
                std::thread::spawn(move || {
                    nbd::serve(stream, size, |request| power.answer(number, request))
                });
            }
        });
        let device = format!("/dev/nbd{number}");
        let address = format!("nbd+unix:///?socket={}", socket.display());
        output(
            "qemu-nbd",
            &["-c", &device, "-f", "raw", "--cache=none", &address],
        )?;
        Ok(device.into())
    }

    /// The power goes with the `requests`th write or flush from now on.
    pub fn cut_after(&self, requests: u64) {
        self.state().left = Some(requests);
    }

    /// The power stays after all, unless it has gone.
    pub fn spare(&self) {
        self.state().left = None;
    }

    /// The power goes now, if it has not gone. Never returns: nothing here has any.
    ///
    /// # Panics
    ///
    /// When what survives cannot be written.
    pub fn cut(&self) -> ! {
        Self::fail(self.state())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no disk panics")
    }

    fn answer(&self, number: usize, request: Request<'_>) -> io::Result<()> {
        let mut state = self.state();
        if !matches!(request, Request::Read(..)) {
            if state.left == Some(0) {
                // What is being written now may be torn as well.
                if let Request::Write(offset, bytes, false) = request {
                    state.disks[number].write(offset, bytes, false)?;
                }
                Self::fail(state)
            }
            state.left = state.left.map(|left| left - 1);
        }
        let disk = &mut state.disks[number];
        match request {
            Request::Read(offset, bytes) => disk.read(offset, bytes),
            Request::Write(offset, bytes, safe) => disk.write(offset, bytes, safe),
            Request::Flush => disk.flush(),
        }
    }

    /// Keeps the lock for ever, so that no disk answers anything any more.
    fn fail(mut state: std::sync::MutexGuard<'_, State>) -> ! {
        let mut dice = state.dice.clone();
        let mut lost = Vec::new();
        for disk in &mut state.disks {
            lost.push(disk.unflushed().to_string());
            disk.cut(&mut dice).expect("what survives");
        }
        let words = lost.join(" ");
        std::fs::write(&state.notice, words).expect("the notice");
        loop {
            std::thread::park();
        }
    }
}
