//! Another node of the same control plane, in the same kernel: an agent with a folder of its own.

use std::path::{Path, PathBuf};

use super::{Host, Process, free_ports};

/// A node beside a host's own.
#[derive(Debug)]
pub struct SecondNode {
    process: Process,
    dir: PathBuf,
}

impl Host {
    /// Starts another node, which may import what the first one may, and waits until it is reachable.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn second_node(&self, name: &str) -> SecondNode {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        let [port, _] = free_ports();
        let arguments = [
            format!("--listen=127.0.0.1:{port}"),
            format!("--server=http://{}", self.address()),
            format!("--socket={}", dir.join("agent.sock").display()),
            format!("--state-dir={}", dir.join("agent").display()),
            format!("--image-source={}", self.dir.join("import").display()),
            format!("--device-dir={}", dir.join("dev").display()),
            format!("--node-name={name}"),
            format!("--host-id={name}"),
        ];
        let started = Process::serve("goldleaf-node-agent", &dir, &arguments, &[]);
        let process = started.expect("another agent");
        self.await_node_named(name);
        SecondNode { process, dir }
    }
}

impl SecondNode {
    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops it.
    ///
    /// # Panics
    ///
    /// When it does not stop well, or holds a copy of an image still.
    pub fn end(mut self) {
        let status = self.process.stop();
        assert!(status.success(), "{status}: {}", self.process.words());
        let left: Vec<_> = std::fs::read_dir(self.dir.join("agent/images"))
            .expect("its image folder")
            .flatten()
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}
