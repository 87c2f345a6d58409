//! Steps of a life that have to do with its pool.
//!
//! Used by `life`.

use goldleaf_proto::v1 as api;
use tonic::{Code, Status};

use super::nodes::import_closed;
use super::volumes::{snapshot, volume};
use super::{Step, labelled, refused, step};
use crate::host::{Host, blank};

const MIB: u64 = 1 << 20;

/// From nothing to a pool.
pub(super) const FIRST: &[Step] = &[
    step("a pool on what is no device", "PoolService.Create", |h| {
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
    step("create the pool", "PoolService.Create", |h| {
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
    step("label the pool", "PoolService.Update", |h| {
        h.update_pool(labelled("p"))
            .map(|p| format!("{:?}", p.labels))
    }),
];

/// An empty pool that changes and goes.
pub(super) const LAST: &[Step] = &[
    step("see that the pool holds nothing", "", holds_nothing),
    step("extend the pool", "PoolService.Extend", |h| {
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
    step(
        "let writers of the pool wait",
        "PoolService.SetPolicy",
        |h| {
            h.set_policy(api::SetPoolPolicyRequest {
                pool: "p".into(),
                when_full: Some(api::WhenFull::Queue.into()),
                wait_seconds: Some(600),
                overcommit_percent: Some(200),
                ..Default::default()
            })
            .map(pool)
        },
    ),
    step("close the pool", "PoolService.Close", |h| {
        h.close_pool(api::ClosePoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .map(pool)
    }),
    step(
        "import the closed pool",
        "PoolService.Import",
        import_closed,
    ),
    step("open the pool", "PoolService.Open", |h| {
        h.open_pool(api::OpenPoolRequest {
            pool: "p".into(),
            ..Default::default()
        })
        .map(pool)
    }),
    // Opening compared the kernel's thins with the rows: one that was leaked shows now.
    step("see that the pool still holds nothing", "", holds_nothing),
    step("give the pool another name", "PoolService.Rename", |h| {
        rename(h, "p", "q")
    }),
    step("give it its name back", "PoolService.Rename", |h| {
        rename(h, "q", "p")
    }),
    step(
        "create a volume that goes with its pool",
        "VolumeService.CreateThin",
        |h| h.create_thin(blank("doomed", 2 * MIB)).map(volume),
    ),
    step("freeze it", "VolumeService.CreateSnapshot", |h| {
        h.snapshot("doomed-too", "volume/doomed").map(snapshot)
    }),
    step(
        "delete the pool with all in it",
        "PoolService.Destroy",
        |h| {
            let done = h.destroy_pool(api::DestroyPoolRequest {
                pool: "p".into(),
                confirm: "p".into(),
                ..Default::default()
            })?;
            Ok(format!("done {}", done.done))
        },
    ),
];

fn pool(p: api::Pool) -> String {
    let mode = p.usage.as_ref().map(|u| u.mode);
    format!("{} phase {} mode {mode:?}", p.name, p.phase)
}

/// By its id: a try that died may have renamed it, and the node tells of that at any moment.
fn rename(h: &Host, from: &str, to: &str) -> Result<String, Status> {
    let found = match h.get_pool(from) {
        Err(e) if e.code() == Code::NotFound => h.get_pool(to),
        other => other,
    };
    h.rename_pool(api::RenamePoolRequest {
        pool: found?.id,
        name: to.into(),
        ..Default::default()
    })
    .map(pool)
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
