//! One whole life of a pool with volumes, snapshots and a clone, to be cut short anywhere.
//!
//! Each step is a call of the public API; its answer is put down without what may differ between
//! two runs (times, revisions, minted ids). A run that was cut short and repeated must give the
//! very answers of one that was not.

use std::collections::BTreeSet;

use goldleaf_dm::{Control, Owned};
use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::{Host, blank, over};

const MIB: u64 = 1 << 20;

/// One step: what it does, and how.
pub type Step = (&'static str, fn(&Host) -> Result<String, Status>);

fn volume(v: api::Volume) -> String {
    let active = v.activation.as_ref().is_some_and(|a| a.active);
    let (phase, image) = (v.phase, !v.image_digest.is_empty());
    format!("{} phase {phase} size {} image {image} active {active}", v.name, v.size_bytes)
}

fn snapshot(s: api::Snapshot) -> String {
    format!("{} phase {} size {} image {}", s.name, s.phase, s.size_bytes, !s.image_digest.is_empty())
}

fn pool(p: api::Pool) -> String {
    let mode = p.usage.as_ref().map(|u| u.mode);
    format!("{} phase {} mode {mode:?}", p.name, p.phase)
}

/// The steps, in order. The image they need is made before.
pub const LIFE: &[Step] = &[
    ("create the pool", |h| {
        let path = h.dir().join("agent/pools/p.pool").display().to_string();
        let devices = vec![api::PoolDevice { path, create_file_bytes: 256 * MIB }];
        h.create_pool(api::CreatePoolRequest { name: "p".into(), devices, ..Default::default() })
            .map(pool)
    }),
    ("create a blank volume", |h| h.create_thin(blank("b", 2 * MIB)).map(volume)),
    ("create an active volume over the image", |h| {
        h.create_thin(over("v", 4 * MIB, "golden")).map(volume)
    }),
    ("activate the blank one", |h| h.activate("b").map(volume)),
    ("snapshot the volume", |h| h.snapshot("s1", "volume/v").map(snapshot)),
    ("snapshot the snapshot", |h| h.snapshot("s2", "snapshot/s1").map(snapshot)),
    ("clone the snapshot, larger and active", |h| {
        h.active_clone("c", "snapshot/s2", 6 * MIB).map(volume)
    }),
    ("grow the volume", |h| h.resize("v", 8 * MIB).map(volume)),
    ("deactivate the blank one", |h| h.deactivate("b").map(volume)),
    ("deactivate the volume", |h| h.deactivate("v").map(volume)),
    ("deactivate the clone", |h| h.deactivate("c").map(volume)),
    ("delete the volume", |h| h.delete_volume("v").map(|()| "gone".into())),
    ("delete the first snapshot", |h| h.delete_snapshot("s1").map(|()| "gone".into())),
    ("delete the second snapshot", |h| h.delete_snapshot("s2").map(|()| "gone".into())),
    ("delete the clone", |h| h.delete_volume("c").map(|()| "gone".into())),
    ("delete the blank one", |h| h.delete_volume("b").map(|()| "gone".into())),
    ("close the pool", |h| h.close_pool(api::ClosePoolRequest { pool: "p".into() }).map(pool)),
    ("open the pool", |h| h.open_pool(api::OpenPoolRequest { pool: "p".into() }).map(pool)),
    ("delete the pool", |h| h.delete_pool("p").map(|()| "gone".into())),
];

/// Which of the two dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The control plane.
    Server,
    /// The node agent.
    Agent,
}

impl Victim {
    const fn program(self) -> &'static str {
        match self {
            Self::Server => "goldleaf-server",
            Self::Agent => "goldleaf-node-agent",
        }
    }

    /// Every place at which it can be made to die.
    ///
    /// # Panics
    ///
    /// When it does not say.
    #[must_use]
    pub fn points(self) -> Vec<String> {
        let program = super::program(self.program()).display().to_string();
        let said = crate::command::output(&program, &["failpoints"]).expect("its failpoints");
        said.lines().map(str::to_owned).collect()
    }
}

/// Asks until the answer is no passing refusal: a process that is coming back, or work that the
/// control plane is finishing by itself.
fn ask(host: &Host, what: &str, step: fn(&Host) -> Result<String, Status>) -> String {
    host.soon(what, || match step(host) {
        Ok(answer) => Some(answer),
        Err(e) if matches!(e.code(), Code::Unavailable | Code::Aborted | Code::Cancelled) => None,
        Err(e) => panic!("{what}: {e:?}\n{}", host.logs()),
    })
}

/// Runs the life undisturbed.
///
/// # Panics
///
/// When a step is refused.
#[must_use]
pub fn undisturbed(host: &Host) -> Vec<String> {
    LIFE.iter().map(|(what, step)| ask(host, what, *step)).collect()
}

/// Runs the life with a victim that dies at `point`; brings it back and repeats the call that it
/// died in. The answers.
///
/// # Panics
///
/// When it never dies, or something is lost or left over.
#[must_use]
pub fn cut_short(host: &mut Host, victim: Victim, point: &str) -> Vec<String> {
    restart(host, victim, &[("GOLDLEAF_FAILPOINT", point)]);
    let mut died = false;
    let mut answers = Vec::new();
    for (what, step) in LIFE {
        let first = step(host);
        let process = match victim {
            Victim::Server => host.server.as_mut(),
            Victim::Agent => host.agent.as_mut(),
        };
        let process = process.expect("a running victim");
        let dead = !died && (first.is_err() || !process.runs()) && process.died();
        if dead {
            died = true;
            restart(host, victim, &[]);
        }
        let answer = match first {
            Ok(answer) if !dead => answer,
            Ok(_) | Err(_) => ask(host, what, *step),
        };
        answers.push(answer);
    }
    assert!(died, "{point} was never reached");
    no_device_is_left(point);
    answers
}

fn restart(host: &mut Host, victim: Victim, environment: &[(&str, &str)]) {
    match victim {
        Victim::Server => {
            host.server = None;
            host.start_server(environment);
        }
        Victim::Agent => {
            host.agent = None;
            host.start_agent(environment);
        }
    }
    host.await_node();
}

/// After a whole life no device of a pool or volume is there.
fn no_device_is_left(point: &str) {
    let listed = Control::open().and_then(|c| c.list()).expect("a list of devices");
    let left: BTreeSet<String> = listed
        .into_iter()
        .filter_map(|d| d.uuid.as_deref().and_then(Owned::from_uuid))
        .filter(|owned| !matches!(owned, Owned::Image(_)))
        .map(|owned| owned.name().to_string())
        .collect();
    assert!(left.is_empty(), "{point}: left {left:?}");
}
