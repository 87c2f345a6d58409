//! One whole life of a pool with volumes, snapshots and a clone, to be cut short anywhere.
//!
//! Each step is a call of the public API; its answer is put down without what may differ between
//! two runs (times, revisions, minted ids). A run that was cut short and repeated must give the
//! very answers of one that was not.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use goldleaf_dm::Owned;
use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::life_nodes::{adopt, drain, gone_meanwhile, import_closed, marks, relabel};
use super::{Host, Process, blank, over, wreck};
use crate::command::output;

const MIB: u64 = 1 << 20;

/// One step: what it does, and how.
pub type Step = (&'static str, fn(&Host) -> Result<String, Status>);

fn volume(v: api::Volume) -> String {
    let active = v.activation.as_ref().is_some_and(|a| a.active);
    let (phase, image) = (v.phase, !v.image_digest.is_empty());
    format!(
        "{} phase {phase} size {} image {image} active {active}",
        v.name, v.size_bytes
    )
}

fn snapshot(s: api::Snapshot) -> String {
    format!(
        "{} phase {} size {} image {}",
        s.name,
        s.phase,
        s.size_bytes,
        !s.image_digest.is_empty()
    )
}

fn group_of(g: api::GroupSnapshot) -> String {
    let names: Vec<_> = g.members.iter().map(|m| m.name.as_str()).collect();
    format!("{} phase {} of {names:?}", g.name, g.phase)
}

fn pool(p: api::Pool) -> String {
    let mode = p.usage.as_ref().map(|u| u.mode);
    format!("{} phase {} mode {mode:?}", p.name, p.phase)
}

/// What a step says that was to be refused and was made after all: its refusal was never answered,
/// and what was wrong has been put right before the wish was looked at again.
const MADE_LATER: &str = "made later, and taken away again";

/// A refusal that is meant to come, put down as an answer.
fn refused(
    answer: Result<String, Status>,
    code: Code,
    take_away: impl FnOnce() -> Result<(), Status>,
) -> Result<String, Status> {
    match answer {
        Err(e) if e.code() == code => Ok(format!("refused with {code:?}")),
        Ok(_) => take_away().map(|()| MADE_LATER.to_owned()),
        Err(e) => Err(e),
    }
}

/// Whether a run that was cut short gave the answers of one that was not.
///
/// # Panics
///
/// When it did not, with the first step that differs.
pub fn assert_same(expected: &[String], answers: &[String], point: &str) {
    assert_eq!(expected.len(), answers.len(), "{point}");
    for ((expected, answer), (what, _)) in expected.iter().zip(answers).zip(LIFE) {
        let unanswered = expected.starts_with("refused") && answer == MADE_LATER;
        assert!(
            expected == answer || unanswered,
            "after dying at {point}, {what:?} answered {answer:?} and not {expected:?}"
        );
    }
}

fn copies(i: api::Image) -> String {
    let phases: Vec<_> = i.copies.iter().map(|copy| copy.phase).collect();
    format!("{} phase {} copies {phases:?}", i.name, i.phase)
}

fn image_of_file(h: &Host, name: &str) -> Result<api::Image, Status> {
    let path = h.dir().join("import").join(format!("{name}.raw"));
    if !path.exists() {
        // Once: an import that goes on by itself may be reading it.
        h.import(&format!("{name}.raw"), &[0x77; 1 << 20]);
    }
    let source = api::create_image_request::Source::File(path.display().to_string());
    h.create_image(api::CreateImageRequest {
        name: name.into(),
        source: Some(source),
        wait: true,
        ..Default::default()
    })
}

fn rename(h: &Host, from: &str, to: &str) -> Result<String, Status> {
    let now = match h.get_pool(from) {
        Err(e) if e.code() == Code::NotFound => to, // it has it already
        _ => from,
    };
    h.rename_pool(api::RenamePoolRequest {
        pool: now.into(),
        name: to.into(),
        ..Default::default()
    })
    .map(pool)
}

/// So much that it is deleted in steps.
fn write_to_the_blank_one(h: &Host) -> Result<String, Status> {
    let volume = h.volume("b")?;
    let path = volume.activation.unwrap_or_default().device_path;
    let mut file = File::options().write(true).open(path).expect("its device");
    let content = [0x11; 1 << 20];
    file.write_all(&content).expect("room");
    file.sync_all().expect("a safe place");
    Ok("written".into())
}

/// Makes a volume over an image that was changed behind our back, and puts the image right again.
fn over_a_changed_image(h: &Host) -> Result<String, Status> {
    let hex = h
        .get_image("golden")?
        .digest
        .trim_start_matches("sha256:")
        .to_owned();
    let path = h.dir().join(format!("agent/images/{hex}.raw"));
    let kept = std::fs::read(&path).expect("the stored image");
    let put = |content: &[u8]| {
        // In place: volumes are active over this very file.
        let file = File::options()
            .write(true)
            .open(&path)
            .expect("the stored image");
        file.write_all_at(content, 0)
            .and_then(|()| file.sync_all())
            .expect("its content");
    };
    put(&vec![0; kept.len()]);
    let answer = h.create_thin(api::CreateThinRequest {
        activate: None,
        ..over("wrong", 4 * MIB, "golden")
    });
    put(&kept);
    // As the refusal says: a copy that was found changed is used again once it is imported again.
    image_of_file(h, "golden")?;
    refused(answer.map(volume), Code::FailedPrecondition, || {
        h.delete_volume("wrong")
    })
}

/// Takes a snapshot while the kernel's pool is read-only, and makes it writable again.
fn snapshot_of_a_read_only_pool(h: &Host) -> Result<String, Status> {
    let id = h.get_pool("p")?.id;
    let name = format!("goldleaf-{id}-pool");
    let dmsetup = |arguments: &[&str]| output("dmsetup", arguments).expect("dmsetup");
    let swap = |table: &str| {
        dmsetup(&["reload", &name, "--table", table]);
        dmsetup(&["suspend", "--noflush", "--nolockfs", &name]);
        dmsetup(&["resume", &name]);
    };
    let table = dmsetup(&["table", &name]).trim().to_owned();
    swap(&table.replace(" 1 error_if_no_space", " 2 error_if_no_space read_only"));
    let answer = h.snapshot("none", "volume/v");
    let group = h.group("none", &["v", "b"]);
    swap(&table);
    refused(group.map(group_of), Code::FailedPrecondition, || {
        h.delete_group("none")
    })?;
    refused(answer.map(snapshot), Code::FailedPrecondition, || {
        h.delete_snapshot("none")
    })
}

/// Waits until the pool's own node says that no thin, no data and nothing foreign is in it.
fn holds_nothing(h: &Host) -> Result<String, Status> {
    let empty = |pool: &api::Pool| {
        let foreign = pool.conditions.iter().any(|c| c.r#type == "NothingForeign");
        let used = pool
            .usage
            .as_ref()
            .map(|u| (u.thin_count, u.data_used_bytes));
        !foreign && used == Some((0, 0))
    };
    h.soon(
        "no thin, no data and nothing foreign is in the pool",
        || match h.get_pool("p") {
            Ok(pool) => empty(&pool).then(|| Ok("nothing".to_owned())),
            Err(e) => Some(Err(e)),
        },
    )
}

/// What both log of a life that is cut short: the death itself, and what the refused steps are
/// refused for.
pub const LOGGED: &[&str] = &[
    "dying as asked",
    "an image's content changed",
    // A look at the rows while it is so.
    "changed on this node",
    "takes no change",
    "is a file outside the pool folder",
    "mending",
    "nobody owns",
    // A creation that was given up and died on: the agent does not make it anew.
    "was deleted and is not made again",
    // A death between the suspension of several volumes and their snapshots.
    "its device was found suspended; resumed",
    // A death while the mappings are read; the kernel would keep that root for good.
    "a metadata snapshot was left held; released",
];

/// The steps, in order. The image `golden` is there before.
pub const LIFE: &[Step] = &[
    ("create an image", |h| {
        image_of_file(h, "second").map(|i| format!("{} {}", i.name, i.digest))
    }),
    ("take the image from its node", |h| {
        h.evict("second", super::NODE).map(copies)
    }),
    ("place it there again", |h| {
        h.place("second", &[super::NODE]).map(copies)
    }),
    ("point a channel at it", |h| {
        h.point("some/channel", "second")
            .map(|c| format!("{} {}", c.name, c.digest))
    }),
    ("a pool on what is no device", |h| {
        let devices = vec![api::PoolDevice {
            path: "/etc/passwd".into(),
            create_file_bytes: 0,
        }];
        let request = api::CreatePoolRequest {
            name: "none".into(),
            devices,
            ..Default::default()
        };
        refused(
            h.create_pool(request).map(pool),
            Code::InvalidArgument,
            || h.delete_pool("none"),
        )
    }),
    ("create the pool", |h| {
        let path = h.dir().join("agent/pools/p.pool").display().to_string();
        let devices = vec![api::PoolDevice {
            path,
            create_file_bytes: 256 * MIB,
        }];
        h.create_pool(api::CreatePoolRequest {
            name: "p".into(),
            devices,
            ..Default::default()
        })
        .map(pool)
    }),
    ("create a blank volume", |h| {
        h.create_thin(blank("b", 2 * MIB)).map(volume)
    }),
    ("create an active volume over the image", |h| {
        h.create_thin(over("v", 4 * MIB, "golden")).map(volume)
    }),
    ("a volume over a changed image", over_a_changed_image),
    (
        "a snapshot in a read-only pool",
        snapshot_of_a_read_only_pool,
    ),
    ("activate the blank one", |h| h.activate("b").map(volume)),
    ("write to the blank one", write_to_the_blank_one),
    ("snapshot the volume", |h| {
        h.snapshot("s1", "volume/v").map(snapshot)
    }),
    ("snapshot the snapshot", |h| {
        h.snapshot("s2", "snapshot/s1").map(snapshot)
    }),
    ("see what the snapshot holds", |h| {
        h.allocated("s1").map(|ranges| format!("{ranges:?}"))
    }),
    ("clone the snapshot, larger and active", |h| {
        h.active_clone("c", "snapshot/s2", 6 * MIB).map(volume)
    }),
    ("freeze two at one instant", |h| {
        h.group("g", &["v", "b"]).map(group_of)
    }),
    ("make an image of one of them", |h| {
        let source = api::create_image_request::Source::Volume("snapshot/g.v".into());
        h.create_image(api::CreateImageRequest {
            name: "promoted".into(),
            source: Some(source),
            wait: true,
            ..Default::default()
        })
        .map(|i| format!("{} {}", i.name, i.digest))
    }),
    ("export the other", |h| {
        h.export(api::ExportRequest {
            source: "snapshot/g.b".into(),
            file: "g.b.qcow2".into(),
            format: api::ExportFormat::Qcow2.into(),
            replace: true,
        })
        .map(|(_, file)| format!("{} of {}", file.digest, file.size_bytes))
    }),
    ("delete one of the group", |h| {
        h.delete_snapshot("g.v").map(|()| "gone".into())
    }),
    ("delete the group", |h| {
        h.delete_group("g").map(|()| "gone".into())
    }),
    ("label and protect the volume", |h| relabel(h, true)),
    ("take its protection off", |h| relabel(h, false)),
    ("grow the volume", |h| h.resize("v", 8 * MIB).map(volume)),
    ("deactivate the blank one", |h| {
        h.deactivate("b").map(volume)
    }),
    ("deactivate the volume", |h| h.deactivate("v").map(volume)),
    ("deactivate the clone", |h| h.deactivate("c").map(volume)),
    ("drain the node", drain),
    ("a volume on a drained node", |h| {
        refused(
            h.create_thin(blank("none", MIB)).map(volume),
            Code::FailedPrecondition,
            || h.delete_volume("none"),
        )
    }),
    ("resume the node", |h| h.resume_node().map(marks)),
    ("give the node up", |h| {
        h.lose_node(true)
            .map(|loss| format!("{}", loss.given_up.len()))
    }),
    ("delete a snapshot of the lost node", |h| {
        h.delete_snapshot("s2").map(|()| "gone".into())
    }),
    ("take the node back", |h| h.take_node_back().map(marks)),
    ("see that what was deleted meanwhile goes", gone_meanwhile),
    ("adopt what the node has", adopt),
    ("decouple the clone", |h| h.decouple("c").map(volume)),
    ("delete the volume", |h| {
        h.delete_volume("v").map(|()| "gone".into())
    }),
    ("delete the first snapshot", |h| {
        h.delete_snapshot("s1").map(|()| "gone".into())
    }),
    ("delete the second snapshot", |h| {
        h.delete_snapshot("s2").map(|()| "gone".into())
    }),
    ("delete the clone", |h| {
        h.delete_volume("c").map(|()| "gone".into())
    }),
    ("delete the blank one", |h| {
        h.delete_volume("b").map(|()| "gone".into())
    }),
    (
        "delete a thin that nobody owns",
        super::doctor::mend_ownerless,
    ),
    ("see that the pool holds nothing", holds_nothing),
    ("extend the pool", |h| {
        let file = |name: &str, mib: u64| api::PoolDevice {
            path: h.dir().join("agent/pools").join(name).display().to_string(),
            create_file_bytes: mib << 20,
        };
        h.extend_pool(api::ExtendPoolRequest {
            pool: "p".into(),
            devices: vec![file("more.pool", 64)],
            metadata_devices: vec![file("metadata.pool", 16)],
            spares: vec![file("spare.pool", 16)],
            ..Default::default()
        })
        .map(pool)
    }),
    ("let writers of the pool wait", |h| {
        h.set_policy(api::SetPoolPolicyRequest {
            pool: "p".into(),
            when_full: Some(api::WhenFull::Queue.into()),
            wait_seconds: Some(600),
            overcommit_percent: Some(200),
            ..Default::default()
        })
        .map(pool)
    }),
    ("close the pool", |h| {
        h.close_pool(api::ClosePoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .map(pool)
    }),
    ("import the closed pool", import_closed),
    ("open the pool", |h| {
        h.open_pool(api::OpenPoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .map(pool)
    }),
    // Opening compared the kernel's thins with the rows: one that was leaked shows now.
    ("see that the pool still holds nothing", holds_nothing),
    ("give the pool another name", |h| rename(h, "p", "q")),
    ("give it its name back", |h| rename(h, "q", "p")),
    ("create a volume that goes with its pool", |h| {
        h.create_thin(blank("doomed", 2 * MIB)).map(volume)
    }),
    ("freeze it", |h| {
        h.snapshot("doomed-too", "volume/doomed").map(snapshot)
    }),
    ("delete the pool with all in it", |h| {
        let done = h.destroy_pool(api::DestroyPoolRequest {
            pool: "p".into(),
            confirm: "p".into(),
            ..Default::default()
        })?;
        Ok(format!("done {}", done.done))
    }),
    ("delete the image of the snapshot", |h| {
        h.delete_image("promoted").map(|()| "gone".into())
    }),
    ("forget the channel", |h| {
        h.delete_channel(api::DeleteRequest {
            target: "some/channel".into(),
            ..Default::default()
        })
        .map(|_| "gone".into())
    }),
    ("delete the image", |h| {
        h.delete_image("second").map(|()| "gone".into())
    }),
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
        // A pool's metadata is not used up in so short a life: `law_metadata_brake` dies there.
        let elsewhere = [
            "agent/brake-pool/",
            "agent/release-pool/",
            "agent/renew-wait/",
        ];
        let here = |point: &&str| !elsewhere.iter().any(|e| point.starts_with(e));
        said.lines().filter(here).map(str::to_owned).collect()
    }
}

/// Asks until the answer is no passing refusal: a process that is coming back, or work that the
/// control plane is finishing by itself.
fn ask(host: &Host, what: &str, step: fn(&Host) -> Result<String, Status>) -> String {
    host.soon(what, || match step(host) {
        Ok(answer) => Some(answer),
        Err(e)
            if matches!(
                e.code(),
                Code::Unavailable | Code::Aborted | Code::Cancelled
            ) =>
        {
            None
        }
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
    let answers: Vec<_> = LIFE
        .iter()
        .map(|(what, step)| ask(host, what, *step))
        .collect();
    assert!(
        !answers.iter().any(|a| a == MADE_LATER),
        "not refused: {answers:#?}"
    );
    answers
}

/// Runs the life with a victim that dies at `point`; brings it back and repeats the call that it
/// died in. The answers.
///
/// # Panics
///
/// When it never dies, or something is lost or left over.
#[must_use]
pub fn cut_short(host: &mut Host, victim: Victim, point: &str) -> Vec<String> {
    let mut died = begin(host, victim, point);
    let mut answers = Vec::new();
    for (what, step) in LIFE {
        let first = step(host);
        let process = running(host, victim);
        let dead = !died && (first.is_err() || !process.runs()) && process.died();
        if dead {
            died = true;
            start(host, victim, &[]);
            host.await_node();
        }
        let answer = match first {
            Ok(answer) if !dead => answer,
            Ok(_) | Err(_) => ask(host, what, *step),
        };
        answers.push(answer);
    }
    assert!(died, "{point} was never reached");
    no_device_is_left(host, point);
    answers
}

/// Starts the victim so that it will die, and waits for the node. Whether it died at once: a
/// registration is the first thing that a control plane meets.
fn begin(host: &mut Host, victim: Victim, point: &str) -> bool {
    start(host, victim, &[("GOLDLEAF_FAILPOINT", point)]);
    if point.contains("register-node") {
        start(host, Victim::Agent, &[]); // it registers as it starts
        assert!(
            running(host, victim).died(),
            "{point} was not reached by a registration"
        );
        start(host, victim, &[]);
        host.await_node();
        return true;
    }
    host.await_node();
    false
}

fn running(host: &mut Host, victim: Victim) -> &mut Process {
    let process = match victim {
        Victim::Server => host.server.as_mut(),
        Victim::Agent => host.agent.as_mut(),
    };
    process.expect("a running victim")
}

fn start(host: &mut Host, victim: Victim, environment: &[(&str, &str)]) {
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
}

/// After a whole life no device of a pool or volume is there.
fn no_device_is_left(host: &Host, point: &str) {
    let left: Vec<_> = wreck::devices(host.dir())
        .into_iter()
        .filter(|(_, owned)| !matches!(owned, Owned::Image(_)))
        .collect();
    assert!(left.is_empty(), "{point}: left {left:?}");
}
