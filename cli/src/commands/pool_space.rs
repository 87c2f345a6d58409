//! `goldleaf pool extend` and `goldleaf pool set`.

use goldleaf_proto::v1 as api;

use crate::args::{PoolExtend, PoolSet, WhenFull};

/// The request of an extension.
pub fn extension(wanted: PoolExtend) -> api::ExtendPoolRequest {
    let devices = |devices: Vec<String>, files: Vec<(String, u64)>| {
        let devices = devices.into_iter().map(|path| (path, 0)).chain(files);
        devices
            .map(|(path, create_file_bytes)| api::PoolDevice {
                path,
                create_file_bytes,
            })
            .collect()
    };
    let grow = wanted.grow.into_iter().map(|path| (path, 0));
    let grow = grow.chain(wanted.grow_files);
    api::ExtendPoolRequest {
        pool: wanted.target,
        devices: devices(wanted.devices, wanted.files),
        metadata_devices: devices(wanted.metadata_devices, wanted.metadata_files),
        spares: devices(wanted.spares, wanted.spare_files),
        grow: grow
            .map(|(path, file_bytes)| api::GrowPoolDevice { path, file_bytes })
            .collect(),
        metadata_bytes: wanted.metadata,
        wait: wanted.waiting.wait,
    }
}

/// The wire's word for what writers meet.
pub const fn when_full(choice: WhenFull) -> api::WhenFull {
    match choice {
        WhenFull::Error => api::WhenFull::Error,
        WhenFull::Queue => api::WhenFull::Queue,
    }
}

/// The request of another policy.
pub fn policy(wanted: PoolSet) -> api::SetPoolPolicyRequest {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    api::SetPoolPolicyRequest {
        pool: wanted.target,
        when_full: wanted.when_full.map(|choice| when_full(choice).into()),
        wait_seconds: wanted.queue_time.map(seconds),
        overcommit_percent: wanted.overcommit,
        wait: wanted.waiting.wait,
    }
}
