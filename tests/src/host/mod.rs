//! A host with Goldleaf on it: a control plane and a node agent as real processes in the test
//! kernel, called through the public API alone.
//!
//! Everything of it lies in one folder on tmpfs. [`Host::end`] asserts that nothing is left in the
//! kernel; a test that fails leaves nothing either, unless `KEEP=1`.

mod calls;
pub mod csi;
pub mod csi_rig;
mod doctor;
pub mod life;
mod lines;
mod process;
mod repair;
mod second;
mod wreck;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use goldleaf_proto::v1 as api;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

pub use calls::{blank, over};
pub use doctor::plant_ownerless_thin;
pub use lines::Lines;
pub use process::{Process, program};
pub use repair::{confirmed_repair, dry_repair};
pub use second::SecondNode;

/// The node's name.
pub const NODE: &str = "n1";

use crate::support::{kernel_under_test, patience};

/// How long something that comes by itself may take.
const SOON: Duration = Duration::from_secs(60);

/// Warnings that each of the two gives when the other is not there yet, or no more.
const PASSING: &[&str] = &[
    "not registered",
    "no stream from its agent",
    "does not answer",
];

/// A host with Goldleaf on it.
#[derive(Debug)]
pub struct Host {
    dir: PathBuf,
    runtime: Runtime,
    server_port: u16,
    agent_port: u16,
    channel: Channel,
    /// What makes it this host and no other.
    host_id: String,
    /// The control plane, while it runs.
    pub server: Option<Process>,
    /// The agent, while it runs.
    pub agent: Option<Process>,
}

impl Host {
    /// Starts both, and waits until the node is reachable.
    ///
    /// # Panics
    ///
    /// When one does not start.
    #[must_use]
    pub fn start(test: &str) -> Self {
        let mut host = Self::idle(test);
        host.start_server(&[]);
        host.start_agent(&[]);
        host.await_node();
        host
    }

    /// As [`Host::start`], another host, with a control plane of its own.
    ///
    /// # Panics
    ///
    /// As [`Host::start`].
    #[must_use]
    pub fn start_another(test: &str, host_id: &str) -> Self {
        let mut host = Self::idle(test);
        host_id.clone_into(&mut host.host_id);
        host.start_server(&[]);
        host.start_agent(&[]);
        host.await_node();
        host
    }

    /// A host on which nothing runs yet.
    ///
    /// # Panics
    ///
    /// When its folder cannot be made.
    #[must_use]
    pub fn idle(test: &str) -> Self {
        let dir = format!("/dev/shm/gl-{}-{test}", std::process::id());
        Self::on(Path::new(&dir))
    }

    /// A host in this folder, with whatever is in it, on which nothing runs yet.
    ///
    /// # Panics
    ///
    /// When the folder cannot be made.
    #[must_use]
    pub fn on(dir: &Path) -> Self {
        drop(kernel_under_test());
        let dir = dir.to_owned();
        std::fs::create_dir_all(dir.join("import")).expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let [server_port, agent_port] = free_ports();
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{server_port}"));
        let endpoint = endpoint.expect("an address").timeout(patience(SOON));
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self {
            dir,
            runtime,
            server_port,
            agent_port,
            channel,
            host_id: "a host of the tests".to_owned(),
            server: None,
            agent: None,
        }
    }

    /// Starts the control plane.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_server(&mut self, environment: &[(&str, &str)]) {
        let arguments = self.server_arguments();
        let started = Process::serve("goldleaf-server", &self.dir, &arguments, environment);
        self.server = Some(started.expect("the control plane"));
    }

    /// Starts the agent; what this host had is back when this returns.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_agent(&mut self, environment: &[(&str, &str)]) {
        let arguments = self.agent_arguments();
        let started = Process::serve("goldleaf-node-agent", &self.dir, &arguments, environment);
        self.agent = Some(started.expect("the agent"));
    }

    /// Every device goes, as with a kernel; what the pool's file holds stays.
    ///
    /// # Panics
    ///
    /// While the agent runs, or when device-mapper does not answer.
    pub fn lose_devices(&self) {
        assert!(self.agent.is_none(), "its agent would bring them back");
        wreck::clear_devices(&self.dir);
        let left = wreck::devices(&self.dir);
        assert!(left.is_empty(), "{left:?}");
        // Links lie on what a reboot empties.
        let _ = std::fs::remove_dir_all(self.dir.join("dev"));
    }

    /// The agent died where it was told to; another begins.
    ///
    /// # Panics
    ///
    /// When it lives.
    pub fn begin_again(&mut self, environment: &[(&str, &str)]) {
        let dead = self.agent.as_mut().is_some_and(|agent| agent.died());
        assert!(dead, "it did not die: {}", self.logs());
        self.agent = None;
        self.start_agent(environment);
        self.await_node();
    }

    /// A file for a pool, where the agent may make it.
    #[must_use]
    pub fn pool_file(&self, name: &str, mib: u64) -> api::PoolDevice {
        let path = self.dir().join("agent/pools").join(name);
        api::PoolDevice {
            path: path.display().to_string(),
            create_file_bytes: mib << 20,
        }
    }

    /// How the control plane is started.
    #[must_use]
    pub fn server_arguments(&self) -> Vec<String> {
        vec![
            format!("--listen=127.0.0.1:{}", self.server_port),
            format!("--state-dir={}", self.dir.join("server").display()),
        ]
    }

    /// How the agent is started.
    #[must_use]
    pub fn agent_arguments(&self) -> Vec<String> {
        vec![
            format!("--listen=127.0.0.1:{}", self.agent_port),
            format!("--server=http://127.0.0.1:{}", self.server_port),
            format!("--socket={}", self.dir.join("agent.sock").display()),
            format!("--state-dir={}", self.dir.join("agent").display()),
            format!("--image-source={}", self.dir.join("import").display()),
            format!(
                "--export-dir={}",
                self.dir.join("import/exported").display()
            ),
            format!("--device-dir={}", self.dir.join("dev").display()),
            format!("--node-name={NODE}"),
            format!("--host-id={}", self.host_id),
            // So little that ordinary tests go that way too.
            "--delete-in-steps-from=512K".to_owned(),
        ]
    }

    /// Waits until the control plane hears the agent, or says that it does not listen to it.
    ///
    /// # Panics
    ///
    /// When it does not within a minute.
    pub fn await_node(&self) {
        self.await_node_named(NODE);
    }

    fn await_node_named(&self, name: &str) {
        self.soon("the node is reachable", || {
            self.is_heard(name).ok()?.then_some(())
        });
    }

    /// Whether the control plane hears this node, or knows why it does not want to.
    pub(crate) fn is_heard(&self, name: &str) -> Result<bool, tonic::Status> {
        let node = self.node(name)?;
        let said = |kind: &str, status| {
            let mut conditions = node.conditions.iter();
            conditions.any(|c| c.r#type == kind && c.status == status)
        };
        Ok(said("NodeReachable", true) || said("Trusted", false))
    }

    /// Asks again until there is an answer: for what comes by itself.
    ///
    /// # Panics
    ///
    /// When it does not come within a minute.
    pub fn soon<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let (began, limit) = (Instant::now(), patience(SOON));
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                began.elapsed() < limit,
                "not within {limit:?}: {what}\n{}",
                self.logs()
            );
            self.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        }
    }

    /// Lets time pass.
    pub fn pause(&self, time: Duration) {
        self.runtime
            .block_on(async { tokio::time::sleep(time).await });
    }

    /// What both logged.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |name| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        format!(
            "--- goldleaf-server\n{}--- goldleaf-node-agent\n{}",
            log("goldleaf-server.log"),
            log("goldleaf-node-agent.log")
        )
    }

    /// The control plane's address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server_port)
    }

    /// The folder of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts a file where the agent may import it from.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn import(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join("import").join(name);
        std::fs::write(&path, content).expect("a file to import");
        path
    }

    /// A pool of one sparse file.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn pool(&self, name: &str, size: u64) -> api::Pool {
        let path = self.dir.join("agent/pools").join(format!("{name}.pool"));
        let device = api::PoolDevice {
            path: path.display().to_string(),
            create_file_bytes: size,
        };
        self.create_pool(api::CreatePoolRequest {
            name: name.into(),
            devices: vec![device],
            ..Default::default()
        })
        .unwrap_or_else(|e| panic!("{e:?}\n{}", self.logs()))
    }

    /// An image of a raw file with this content.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn image(&self, name: &str, content: &[u8]) -> api::Image {
        let path = self.import(&format!("{name}.raw"), content);
        self.image_of(name, &path)
    }

    /// An image of a file that is where the agent may import it from.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn image_of(&self, name: &str, path: &Path) -> api::Image {
        let image = self.create_image(api::CreateImageRequest {
            name: name.into(),
            source: Some(api::create_image_request::Source::File(
                path.display().to_string(),
            )),
            wait: true,
            ..Default::default()
        });
        image.unwrap_or_else(|e| panic!("{e:?}\n{}", self.logs()))
    }

    /// The end of a host on which nothing ran.
    ///
    /// # Panics
    ///
    /// When something is left.
    pub fn end_idle(self) {
        assert!(
            self.server.is_none() && self.agent.is_none(),
            "end it with `end`"
        );
        let left = wreck::left(&self.dir);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Deletes everything through the API, stops both, and sees that nothing is left.
    ///
    /// # Panics
    ///
    /// When something does not go, something is left, or an error or a warning was logged.
    pub fn end(self) {
        self.end_after(&[]);
    }

    /// As [`Self::end`], after a test that makes them log errors and warnings with these words.
    ///
    /// # Panics
    ///
    /// As [`Self::end`], other errors and warnings.
    pub fn end_after(mut self, expected: &[&str]) {
        self.delete_everything();
        for mut process in [self.agent.take(), self.server.take()]
            .into_iter()
            .flatten()
        {
            let status = process.stop();
            assert!(
                status.success(),
                "it stopped with {status}\n{}",
                self.logs()
            );
        }
        let left = wreck::left(&self.dir);
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.logs());
        let logs = self.logs();
        let known = |line: &str| PASSING.iter().chain(expected).any(|w| line.contains(w));
        let trouble = logs
            .lines()
            .filter(|l| (l.contains(" ERROR ") || l.contains(" WARN ")) && !known(l));
        let trouble: Vec<_> = trouble.collect();
        assert!(trouble.is_empty(), "logged: {trouble:#?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.agent = None;
        self.server = None;
        if std::env::var_os("KEEP").is_none() {
            wreck::clear(&self.dir);
        }
    }
}

/// Two ports that nobody has now.
fn free_ports() -> [u16; 2] {
    // Both at once: a port that is given back may be the next that is given.
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("its number").port())
}
