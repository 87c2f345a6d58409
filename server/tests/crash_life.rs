//! Death of the server between any two of wish, effect and fact, and of a call to an agent at any
//! place: real store, agents in memory.
//!
//! One life with every operation is run once undisturbed. Then it is run again for each point; the
//! server dies there, comes back, finishes what it finds, and is asked the same once more. Every
//! answer must be the one of the undisturbed run, and nothing may be lost or left over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

#[path = "crash/forsaken.rs"]
mod forsaken;
mod support;

use std::sync::Arc;

use forsaken::{forsaken, relabel};
use futures::FutureExt;
use futures::future::BoxFuture;
use goldleaf_server::domain::{
    ActivateOptions, Channel, GroupSnapshot, MoreRoom, PolicyChange, PoolDevice, Ref, Snapshot,
    WhenFull,
};
use goldleaf_server::failpoint::{Died, Point, dying_at};
use goldleaf_server::service::{ImageView, PoolView, Service, ServiceError, Target, VolumeView};
use support::images::{fetched, made_of_snapshot, offer, placed, stable};
use support::{
    GIB, NODE, OTHER_NODE, Rig, active, clone_of, digest, group_of, named, pool, registration,
    size, snapshot_of, target, thin,
};

type Seen = Result<String, String>;
type Step = (
    &'static str,
    Box<dyn Fn(Arc<Service>) -> BoxFuture<'static, Seen> + Send + Sync>,
);

/// Ids are minted anew in each run. A lost image is refused by its node, and after a death in that
/// call by its record, which has learnt it from the node.
fn without_ids(text: &str) -> String {
    if text.contains("is not on this node") || text.contains("is not on node") {
        return "an image is not on this node".into();
    }
    if text.contains("was marked lost at") {
        return "a node was marked lost".into();
    }
    let mut out = text.to_owned();
    for prefix in ["vol-", "snap-", "img-", "pool-"] {
        let mut from = 0;
        while let Some(at) = out[from..].find(prefix).map(|at| from + at + prefix.len()) {
            let hex = out[at..]
                .bytes()
                .take(32)
                .filter(u8::is_ascii_hexdigit)
                .count();
            if hex == 32 {
                out.replace_range(at..at + 32, "*");
            }
            from = at;
        }
    }
    out
}

fn of_volume(view: VolumeView) -> String {
    let v = view.volume;
    let device = view
        .report
        .and_then(|r| r.activation)
        .map(|a| a.device_path);
    format!(
        "{} {:?} {} {:?} {:?} {device:?}",
        v.name,
        v.phase,
        v.size.bytes(),
        v.image,
        v.conditions
    )
}

fn of_snapshot(s: Snapshot) -> String {
    format!("{} {:?} {} {:?}", s.name, s.phase, s.size.bytes(), s.image)
}

fn of_group(g: GroupSnapshot) -> String {
    let names: Vec<_> = g.members.iter().map(|m| m.name.as_str()).collect();
    format!("{} {:?} {names:?}", g.name, g.phase)
}

fn of_channel(c: Channel) -> String {
    format!("{} {}", c.name, c.digest)
}

fn of_pool(view: PoolView) -> String {
    format!(
        "{} {:?} {:?}",
        view.pool.name, view.pool.phase, view.pool.mode
    )
}

fn of_image(view: ImageView) -> String {
    let copies: Vec<_> = view
        .image
        .copies
        .iter()
        .map(|c| (c.node, c.phase))
        .collect();
    format!(
        "{} {:?} {:?} {copies:?}",
        view.image.name, view.image.phase, view.image.digest
    )
}

fn step<T, F, C>(what: &'static str, seen: fn(T) -> String, call: C) -> Step
where
    T: 'static,
    F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    C: Fn(Arc<Service>) -> F + Send + Sync + 'static,
{
    let run = move |service| {
        let call = call(service);
        async move {
            call.await
                .map(seen)
                .map_err(|e| without_ids(&e.to_string()))
        }
        .boxed()
    };
    (what, Box::new(run))
}

fn gone((): ()) -> String {
    "gone".into()
}

/// A whole life, every operation in it. Those that are to be refused say so.
fn life() -> Vec<Step> {
    let mut steps = vec![
        step(
            "register the node",
            |_| "known".into(),
            |s| async move { s.register(registration(NODE, "n1")).await },
        ),
        step("create the pool", of_pool, |s| async move {
            s.create_pool(pool("fast", "/dev/sda")).await
        }),
        step(
            "refused: create a pool on the same device",
            of_pool,
            |s| async move { s.create_pool(pool("slow", "/dev/sda")).await },
        ),
        step("create the image", of_image, |s| fetched(s, "golden")),
        step("create its second name", of_image, |s| {
            fetched(s, "golden-too")
        }),
        step(
            "register another node",
            |_| "known".into(),
            |s| async move { s.register(registration(OTHER_NODE, "n2")).await },
        ),
        step("place the image on it", of_image, placed),
        step("point a channel at it", of_channel, |s| async move {
            s.set_channel(stable("golden")).await
        }),
        step("create a blank volume, active", of_volume, |s| async move {
            s.create_thin(active(thin("blank", ""))).await
        }),
        step(
            "create a volume over the image",
            of_volume,
            |s| async move { s.create_thin(thin("vm1", "debian/stable")).await },
        ),
        step("activate it", of_volume, |s| async move {
            s.activate(&named("vm1"), ActivateOptions::default()).await
        }),
        step("snapshot it", of_snapshot, |s| async move {
            s.create_snapshot(snapshot_of("s1", "volume/vm1")).await
        }),
        step("snapshot the snapshot", of_snapshot, |s| async move {
            s.create_snapshot(snapshot_of("s2", "snapshot/s1")).await
        }),
        step("freeze both at one instant", of_group, |s| async move {
            s.create_group(group_of("both", ["vm1", "blank"])).await
        }),
        step("make an image of one of them", of_image, made_of_snapshot),
        step("delete one of the group", gone, |s| async move {
            s.delete_snapshot(target("both.vm1")).await
        }),
        step("delete the group", gone, |s| async move {
            s.delete_group(target("both")).await
        }),
        step("clone the snapshot, larger", of_volume, |s| async move {
            s.clone_thin(clone_of("vm2", "snapshot/s1", 2 * GIB)).await
        }),
        step("label and protect the volume", of_volume, |s| async move {
            s.update_volume(relabel("vm1", true)).await
        }),
        step("take its protection off", of_volume, |s| async move {
            s.update_volume(relabel("vm1", false)).await
        }),
        step("grow the volume", of_volume, |s| async move {
            s.resize(&named("vm1"), size(3 * GIB), 0).await
        }),
        step("refused: delete the active volume", gone, |s| async move {
            s.delete_volume(target("vm1")).await
        }),
        step(
            "refused: delete the image that is needed",
            gone,
            |s| async move { s.delete_image(target("golden")).await },
        ),
        step(
            "evict it from where it is of no use",
            of_image,
            |s| async move { s.evict_image(&named("golden"), &named("n2")).await },
        ),
        step("evict one name of two", of_image, |s| async move {
            s.evict_image(&named("golden-too"), &named("n1")).await
        }),
        step(
            "refused: evict the image from under the volumes",
            of_image,
            |s| async move { s.evict_image(&named("golden"), &named("n1")).await },
        ),
        step("deactivate it", of_volume, |s| async move {
            s.deactivate(&named("vm1")).await
        }),
        step("decouple it", of_volume, |s| async move {
            s.decouple(&named("vm1"), goldleaf_types::Bytes(0), false)
                .await?;
            s.decouple(&named("vm1"), goldleaf_types::Bytes(0), true)
                .await
        }),
        step("deactivate the blank one", of_volume, |s| async move {
            s.deactivate(&named("blank")).await
        }),
    ];
    steps.extend(takedown());
    steps
}

fn takedown() -> Vec<Step> {
    vec![
        step("delete the first snapshot", gone, |s| async move {
            s.delete_snapshot(target("s1")).await
        }),
        step("delete the volume", gone, |s| async move {
            s.delete_volume(target("vm1")).await
        }),
        step("delete the second snapshot", gone, |s| async move {
            s.delete_snapshot(target("s2")).await
        }),
        step("delete the clone", gone, |s| async move {
            s.delete_volume(target("vm2")).await
        }),
        step(
            "refused: delete the pool that is not empty",
            gone,
            |s| async move { s.delete_pool(target("fast")).await },
        ),
        step("delete the blank volume", gone, |s| async move {
            s.delete_volume(target("blank")).await
        }),
        step("forget the channel", gone, |s| async move {
            s.delete_channel(Target {
                what: Ref::Name("debian/stable".parse().unwrap()),
                revision: 0,
            })
            .await
        }),
        step("delete one name of the image", gone, |s| async move {
            s.delete_image(target("golden")).await
        }),
        step("delete the image of the snapshot", gone, |s| async move {
            s.delete_image(target("promoted")).await
        }),
        step("delete the other name", gone, |s| async move {
            s.delete_image(target("golden-too")).await
        }),
        step("extend the pool", of_pool, |s| async move {
            s.extend_pool(&named("fast"), &more_room()).await
        }),
        step("let writers of the pool wait", of_pool, |s| async move {
            let change = PolicyChange {
                when_full: Some(WhenFull::Queue),
                wait_seconds: Some(600),
                overcommit_percent: Some(200),
            };
            s.set_pool_policy(&named("fast"), &change).await
        }),
        step("close the pool", of_pool, |s| async move {
            s.close_pool(&named("fast")).await
        }),
        step("open the pool", of_pool, |s| async move {
            s.open_pool(&named("fast")).await
        }),
        step("give the pool another name", of_pool, |s| async move {
            let name = "fast-too".parse().unwrap();
            let what = match s.get_pool(&named("fast")).await {
                Ok(_) => named("fast"),
                Err(_) => named("fast-too"), // it has it already
            };
            s.rename_pool(&what, &name, 0).await
        }),
        step("delete the pool", gone, |s| async move {
            s.delete_pool(target("fast-too")).await
        }),
        step(
            "create a pool for another volume",
            of_pool,
            |s| async move { s.create_pool(pool("doomed", "/dev/sdc")).await },
        ),
        step("create that volume", of_volume, |s| async move {
            s.create_thin(thin("v", "")).await
        }),
        step("freeze it", of_snapshot, |s| async move {
            s.create_snapshot(snapshot_of("s", "volume/v")).await
        }),
        step("delete the pool with all in it", gone, |s| async move {
            let doomed = s.destroy_pool(&named("doomed"), "doomed", 0).await?;
            assert!(doomed.done);
            Ok(())
        }),
    ]
}

fn more_room() -> MoreRoom {
    MoreRoom {
        devices: vec![PoolDevice {
            path: "/dev/more".into(),
            create_file_bytes: 0,
        }],
        ..MoreRoom::default()
    }
}

/// What the agent refuses only after the wish: the image or the source is lost on the node.
fn lossy() -> Vec<Step> {
    let mut steps: Vec<_> = life().into_iter().take(10).collect();
    steps.push(step(
        "refused: a volume whose image the node lost",
        of_volume,
        |s| async move { s.create_thin(thin("vm3", "golden")).await },
    ));
    steps.push(step(
        "refused: a snapshot of lost data",
        of_snapshot,
        |s| async move { s.create_snapshot(snapshot_of("s3", "volume/blank")).await },
    ));
    steps.push(step(
        "refused: a group with lost data",
        of_group,
        |s| async move { s.create_group(group_of("both", ["vm1", "blank"])).await },
    ));
    steps.push(step(
        "refused: a clone of lost data",
        of_volume,
        |s| async move { s.clone_thin(clone_of("vm4", "volume/blank", 0)).await },
    ));
    steps
}

/// Before the steps that are to be refused for it.
async fn lose(rig: &Rig, what: &str) {
    if what.contains("image the node lost") {
        rig.node().lose_image(digest(7));
    }
    if what.contains("of lost data") {
        let blank = rig
            .service()
            .get_volume(&named("blank"))
            .await
            .unwrap()
            .volume;
        rig.node().lose_data(blank.id.into());
    }
}

/// Runs a life; dies once at `point`, if given, and comes back. The answers, and whether it died.
async fn run(steps: Vec<Step>, point: Option<Point>) -> (Vec<Seen>, bool) {
    let mut rig = Rig::empty();
    offer(&rig);
    let mut answers = Vec::new();
    let mut died = false;
    for (what, step) in steps {
        lose(&rig, what).await;
        let armed = point.filter(|_| !died);
        let task = tokio::spawn(dying_at(armed, step(Arc::clone(rig.service()))));
        let answer = match task.await {
            Ok(answer) => answer,
            Err(error) => {
                let panic = error.into_panic();
                assert!(panic.is::<Died>(), "{what} panicked by itself");
                died = true;
                rig.restart();
                // What a node refuses for good is tried once and then gone: errors are no matter.
                rig.settle().await;
                rig.check(&format!("{point:?} in {what:?}, back again"))
                    .await;
                step(Arc::clone(rig.service())).await
            }
        };
        answers.push(answer);
        rig.settle().await;
        rig.check(&format!("{point:?}, after {what:?}")).await;
    }
    (answers, died)
}

/// Dying is a panic here; its message would only hide the others.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<Died>() {
                loud(info);
            }
        }));
    });
}

fn as_planned(answers: &[Seen], steps: &[Step]) {
    for ((what, _), answer) in steps.iter().zip(answers) {
        assert_eq!(
            answer.is_err(),
            what.starts_with("refused"),
            "{what}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_and_leaks_nothing_wherever_it_died() {
    quiet();
    let (whole, _) = run(life(), None).await;
    as_planned(&whole, &life());
    let (refused, _) = run(lossy(), None).await;
    as_planned(&refused, &lossy());
    let (given_up, _) = run(forsaken(), None).await;
    as_planned(&given_up, &forsaken());
    for point in Point::ALL {
        let (answers, died) = run(life(), Some(*point)).await;
        assert_eq!(answers, whole, "after dying at {}", point.name());
        let (answers, died_too) = run(lossy(), Some(*point)).await;
        assert_eq!(answers, refused, "after dying at {}", point.name());
        // The other places are the same there as in a life.
        let of_nodes = ["-node/", "mark-lost/", "import-pool/", "adopt-pool/"];
        let there = of_nodes.iter().any(|part| point.name().contains(part));
        let (steps, point_there) = match there {
            true => (forsaken(), Some(*point)),
            false => (Vec::new(), None),
        };
        let (answers, died_there) = run(steps, point_there).await;
        assert!(
            !there || answers == given_up,
            "after dying at {}: {answers:?}",
            point.name()
        );
        assert!(
            died || died_too || died_there,
            "{} was never reached",
            point.name()
        );
    }
}

/// The node is cut off at each place of each call in turn, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cut_off_anywhere_costs_a_retry_and_nothing_else() {
    let (whole, _) = run(life(), None).await;
    for cut in 0..200 {
        let rig = Rig::empty();
        offer(&rig);
        rig.node().cut_after(Some(cut));
        let mut answers = Vec::new();
        let mut struck = false;
        for (what, step) in life() {
            let mut answer = step(Arc::clone(rig.service())).await;
            if rig.node().was_cut() {
                struck = true;
                rig.node().cut_after(None);
                rig.settle().await;
                rig.check(&format!("cut {cut} in {what:?}, back again"))
                    .await;
                answer = step(Arc::clone(rig.service())).await;
            }
            answers.push(answer);
            rig.settle().await;
            rig.check(&format!("cut {cut}, after {what:?}")).await;
        }
        assert_eq!(answers, whole, "cut {cut}");
        if !struck {
            assert!(cut > 20, "only {cut} cuts were tried");
            return;
        }
    }
    panic!("the life never outlived the fuse");
}
