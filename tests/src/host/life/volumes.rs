//! Steps of a life that have to do with volumes, snapshots and groups.
//!
//! Used by `life`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use goldleaf_dm::{Control, Flush, LockFs};
use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::images::image_of_file;
use super::nodes::relabel;
use super::{Step, labelled, refused, step};
use crate::command::output;
use crate::host::doctor::{mend_ownerless, pool_device};
use crate::host::{Host, blank, over};

const MIB: u64 = 1 << 20;

/// Volumes, snapshots and a group come to be, and what is read of them.
pub(super) const MADE: &[Step] = &[
    step("create a blank volume", "VolumeService.CreateThin", |h| {
        h.create_thin(blank("b", 2 * MIB)).map(volume)
    }),
    step(
        "create an active volume over the image",
        "VolumeService.CreateThin",
        |h| h.create_thin(over("v", 4 * MIB, "golden")).map(volume),
    ),
    step(
        "a volume over a changed image",
        "VolumeService.CreateThin",
        over_a_changed_image,
    ),
    step(
        "a snapshot in a read-only pool",
        "VolumeService.CreateSnapshot",
        snapshot_of_a_read_only_pool,
    ),
    step("activate the blank one", "VolumeService.Activate", |h| {
        h.activate("b").map(volume)
    }),
    step("write to the blank one", "", write_to_the_blank_one),
    step("snapshot the volume", "VolumeService.CreateSnapshot", |h| {
        h.snapshot("s1", "volume/v").map(snapshot)
    }),
    step(
        "snapshot the snapshot",
        "VolumeService.CreateSnapshot",
        |h| h.snapshot("s2", "snapshot/s1").map(snapshot),
    ),
    step("see what the snapshot holds", "", |h| {
        h.allocated("s1").map(|ranges| format!("{ranges:?}"))
    }),
    step(
        "clone the snapshot, larger and active",
        "VolumeService.Clone",
        |h| h.active_clone("c", "snapshot/s2", 6 * MIB).map(volume),
    ),
    step(
        "freeze two at one instant",
        "VolumeService.CreateGroupSnapshot",
        |h| h.group("g", &["v", "b"]).map(group_of),
    ),
    step(
        "make an image of one of them",
        "ImageService.Create",
        image_of_a_snapshot,
    ),
    step("export the other", "VolumeService.Export", |h| {
        h.export(api::ExportRequest {
            source: "snapshot/g.b".into(),
            file: "g.b.qcow2".into(),
            format: api::ExportFormat::Qcow2.into(),
            replace: true,
            ..Default::default()
        })
        .map(|(_, file)| format!("{} of {}", file.digest, file.size_bytes))
    }),
    step(
        "delete one of the group",
        "VolumeService.DeleteSnapshot",
        |h| h.delete_snapshot("g.v").map(|()| "gone".into()),
    ),
    step(
        "delete the group",
        "VolumeService.DeleteGroupSnapshot",
        |h| h.delete_group("g").map(|()| "gone".into()),
    ),
];

/// They change, and their devices go.
pub(super) const CHANGED: &[Step] = &[
    step(
        "label and protect the volume",
        "VolumeService.Update",
        |h| relabel(h, true),
    ),
    step("take its protection off", "VolumeService.Update", |h| {
        relabel(h, false)
    }),
    step("label a snapshot", "VolumeService.UpdateSnapshot", |h| {
        h.update_snapshot(labelled("s1"))
            .map(|s| format!("{:?}", s.labels))
    }),
    step("grow the volume", "VolumeService.Resize", |h| {
        h.resize("v", 8 * MIB).map(volume)
    }),
    step(
        "deactivate the blank one",
        "VolumeService.Deactivate",
        |h| h.deactivate("b").map(volume),
    ),
    step("deactivate the volume", "VolumeService.Deactivate", |h| {
        h.deactivate("v").map(volume)
    }),
    step("deactivate the clone", "VolumeService.Deactivate", |h| {
        h.deactivate("c").map(volume)
    }),
];

/// They go.
pub(super) const GONE: &[Step] = &[
    step("decouple the clone", "VolumeService.Decouple", |h| {
        h.decouple("c").map(volume)
    }),
    step("delete the volume", "VolumeService.Delete", |h| {
        h.delete_volume("v").map(|()| "gone".into())
    }),
    step(
        "delete the first snapshot",
        "VolumeService.DeleteSnapshot",
        |h| h.delete_snapshot("s1").map(|()| "gone".into()),
    ),
    step(
        "delete the second snapshot",
        "VolumeService.DeleteSnapshot",
        |h| h.delete_snapshot("s2").map(|()| "gone".into()),
    ),
    step("delete the clone", "VolumeService.Delete", |h| {
        h.delete_volume("c").map(|()| "gone".into())
    }),
    step("delete the blank one", "VolumeService.Delete", |h| {
        h.delete_volume("b").map(|()| "gone".into())
    }),
    step(
        "delete a thin that nobody owns",
        "DoctorService.Mend",
        mend_ownerless,
    ),
];

pub(super) fn volume(v: api::Volume) -> String {
    let active = v.activation.as_ref().is_some_and(|a| a.active);
    let (phase, image) = (v.phase, !v.image_digest.is_empty());
    format!(
        "{} phase {phase} size {} image {image} active {active}",
        v.name, v.size_bytes
    )
}

pub(super) fn snapshot(s: api::Snapshot) -> String {
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

/// Looks until the image is whole: a call that waits would do so for a minute when the agent dies of it.
fn image_of_a_snapshot(h: &Host) -> Result<String, Status> {
    let source = api::create_image_request::Source::Volume("snapshot/g.v".into());
    h.create_image(api::CreateImageRequest {
        name: "promoted".into(),
        source: Some(source),
        ..Default::default()
    })?;
    let whole = |image: api::Image| (image.phase() == api::Phase::Ready).then_some(Ok(image));
    let image = h.soon("the image is whole", || match h.thins() {
        Err(away) if away.code() == Code::Unavailable => Some(Err(away)),
        Ok(_) | Err(_) => h.get_image("promoted").map_or_else(|e| Some(Err(e)), whole),
    })?;
    Ok(format!("{} {}", image.name, image.digest))
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
    let name = pool_device(&h.get_pool("p")?.id);
    let control = Control::open().expect("device-mapper and root");
    let swap = |table: &str| {
        // A pool's table of ours has no such argument.
        let arguments = ["reload", name.as_str(), "--table", table];
        output("dmsetup", &arguments).expect("dmsetup");
        control
            .suspend(&name, Flush::No, LockFs::No)
            .and_then(|()| control.resume(&name))
            .expect("the other table");
    };
    let found = control.table(&name).expect("the pool's table").targets;
    let pool = found.first().expect("the pool's target");
    let (start, len) = (pool.start.0, pool.len.0);
    let table = format!("{start} {len} {} {}", pool.kind, pool.text);
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
