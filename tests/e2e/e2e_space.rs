//! Pools whose data fills, and what brings them back. Through the public API alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::time::{Duration, Instant};

use goldleaf_proto::v1 as api;
use goldleaf_tests::host::{Host, blank};
use goldleaf_tests::support::{Node, patience};
use tonic::Code;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

fn node(volume: &api::Volume) -> Node {
    let path = &volume.activation.as_ref().unwrap().device_path;
    let file = std::fs::File::open(path).unwrap();
    Node::of(goldleaf_dm::block::number(&file).unwrap())
}

fn create(host: &Host, name: &str, size: u64) -> api::Volume {
    let request = api::CreateThinRequest {
        activate: Some(api::ActivateOptions::default()),
        ..blank(name, size)
    };
    host.create_thin(request).unwrap()
}

fn pool(host: &Host) -> api::Pool {
    host.list_pools(api::ListRequest::default())
        .unwrap()
        .pools
        .remove(0)
}

fn condition<'a>(pool: &'a api::Pool, kind: &str) -> Option<&'a api::Condition> {
    pool.conditions.iter().find(|c| c.r#type == kind)
}

/// A pool of one file of 256 MiB.
fn small_pool(host: &Host, when_full: api::WhenFull) -> String {
    let device = host.pool_file("p.pool", 256);
    let path = device.path.clone();
    host.create_pool(api::CreatePoolRequest {
        name: "p".into(),
        devices: vec![device],
        when_full: when_full.into(),
        ..Default::default()
    })
    .unwrap();
    path
}

fn grow(host: &Host, path: &str, mib: u64) -> api::Pool {
    host.extend_pool(api::ExtendPoolRequest {
        pool: "p".into(),
        grow: vec![api::GrowPoolDevice {
            path: path.into(),
            file_bytes: mib * MIB,
        }],
        ..Default::default()
    })
    .unwrap()
}

fn see_it_full(host: &Host) {
    // Full is a pool whose last block is taken. The kernel's mode follows with the next write, and
    // is forgotten when the agent, told by an event before that, has loaded the table again.
    host.soon("the pool is full", || {
        let full = condition(&pool(host), "DataSpace").is_some_and(|c| c.reason == "DataFull");
        full.then_some(())
    });
    let refused = host.create_thin(blank("more", MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("extend"), "{refused:?}");
}

fn block_of(n: u64) -> Vec<u8> {
    let mark = n.to_le_bytes();
    mark.repeat(usize::try_from(BLOCK).unwrap() / mark.len())
}

#[test]
fn writers_that_wait_for_room_see_no_error_and_go_on_by_themselves() {
    let mut host = Host::start("queue");
    let path = small_pool(&host, api::WhenFull::Queue);
    let blocks = 1_500;
    let volumes: Vec<_> = (0..3)
        .map(|n| create(&host, &format!("v{n}"), blocks * BLOCK))
        .collect();
    // 281 MiB in all, and the pool has 191.
    let writers: Vec<_> = volumes
        .iter()
        .map(|volume| {
            let node = node(volume);
            std::thread::spawn(move || {
                for n in 0..blocks {
                    let (_, refused) = node.write_until_refused([n * BLOCK], &block_of(n + 1));
                    assert!(refused.is_none(), "block {n}: {refused:?}");
                }
            })
        })
        .collect();
    see_it_full(&host);
    assert!(writers.iter().any(|w| !w.is_finished()));
    assert_eq!(node(&volumes[0]).read(0, 4096), block_of(1)[..4096]);
    host.agent = None;
    host.start_agent(&[]);
    host.await_node();
    see_it_full(&host);
    let began = Instant::now();
    let pool = grow(&host, &path, 512);
    // A table swapped with a flush would wait for the writers, and they for it.
    assert!(
        began.elapsed() < patience(Duration::from_secs(10)),
        "it was held up"
    );
    assert_eq!(pool.usage.unwrap().mode(), api::PoolMode::ReadWrite);
    for writer in writers {
        writer.join().unwrap();
    }
    for volume in &volumes {
        for n in 0..blocks {
            assert_eq!(node(volume).read(n * BLOCK, 4096), block_of(n + 1)[..4096]);
        }
    }
    host.end();
}

#[test]
fn in_a_full_pool_that_errs_only_writers_to_new_blocks_fail() {
    let mut host = Host::start("full");
    let path = small_pool(&host, api::WhenFull::Error);
    let blocks = 4_000;
    let volume = create(&host, "v", blocks * BLOCK);
    let node = node(&volume);
    let all = (0..blocks).map(|n| n * BLOCK);
    let (taken, refused) = node.write_until_refused(all, &block_of(7));
    assert_eq!(refused.and_then(|e| e.raw_os_error()), Some(28));
    for restarted in [false, true] {
        if restarted {
            host.agent = None;
            host.start_agent(&[]);
            host.await_node();
        }
        see_it_full(&host);
        for n in 0..taken {
            assert_eq!(node.read(n * BLOCK, 4096), block_of(7)[..4096], "block {n}");
        }
        node.write(0, &block_of(7));
        node.try_write(taken * BLOCK, &block_of(7)).unwrap_err();
    }
    let pool = grow(&host, &path, 320);
    assert!(condition(&pool, "DataSpace").is_none_or(|c| c.reason == "DataLow"));
    node.write(taken * BLOCK, &block_of(7));
    assert_eq!(node.read(taken * BLOCK, 4096), block_of(7)[..4096]);
    host.end();
}

/// Writes every block of the volumes, each from a thread of its own, and stops at an error.
fn write_all(volumes: &[api::Volume], blocks: u64) -> Vec<std::thread::JoinHandle<()>> {
    let writer = |volume: &api::Volume| {
        let node = node(volume);
        std::thread::spawn(move || {
            for n in 0..blocks {
                let (_, refused) = node.write_until_refused([n * BLOCK], &block_of(n + 1));
                assert!(refused.is_none(), "block {n}: {refused:?}");
            }
        })
    };
    volumes.iter().map(writer).collect()
}

#[test]
fn a_pool_takes_its_spare_by_itself_and_no_writer_notices() {
    let mut host = Host::start("spare");
    small_pool(&host, api::WhenFull::Queue);
    let spare = host.pool_file("spare.pool", 256);
    let extended = host.extend_pool(api::ExtendPoolRequest {
        pool: "p".into(),
        spares: vec![spare.clone()],
        wait: true,
        ..Default::default()
    });
    let before = extended.unwrap();
    assert_eq!(before.spares, std::slice::from_ref(&spare.path));
    assert_eq!(before.devices.len(), 1);
    let blocks = 1_500;
    let volumes: Vec<_> = (0..3)
        .map(|n| create(&host, &format!("v{n}"), blocks * BLOCK))
        .collect();
    // 281 MiB in all, and the pool has 191. The control plane is away: the node does it alone.
    host.server = None;
    for writer in write_all(&volumes, blocks) {
        writer.join().unwrap();
    }
    host.start_server(&[]);
    host.await_node();
    let used = host.soon("the spare is in use", || {
        let pool = pool(&host);
        condition(&pool, "SparesUsed").is_some().then_some(pool)
    });
    assert_eq!((used.devices.len(), used.spares.len()), (2, 0), "{used:?}");
    let total = |pool: &api::Pool| pool.usage.as_ref().unwrap().data_total_bytes;
    assert_eq!(total(&used), total(&before) + 255 * MIB);
    for volume in &volumes {
        for n in 0..blocks {
            assert_eq!(node(volume).read(n * BLOCK, 4096), block_of(n + 1)[..4096]);
        }
    }
    // Another one, unused, goes with the pool.
    let second = host.pool_file("second.pool", 64);
    host.extend_pool(api::ExtendPoolRequest {
        pool: "p".into(),
        spares: vec![second.clone()],
        wait: true,
        ..Default::default()
    })
    .unwrap();
    for n in 0..3 {
        host.deactivate(&format!("v{n}")).unwrap();
        host.delete_volume(&format!("v{n}")).unwrap();
    }
    host.delete_pool("p").unwrap();
    for path in [spare.path, second.path] {
        assert!(!std::path::Path::new(&path).exists(), "{path} is left");
    }
    host.end();
}

/// How long the kernel lets writers of any full pool wait, in seconds.
fn kernel_waits(seconds: u64) {
    let parameter = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    std::fs::write(parameter, seconds.to_string()).unwrap();
}

fn policy(when_full: api::WhenFull, wait_seconds: u32) -> api::SetPoolPolicyRequest {
    api::SetPoolPolicyRequest {
        pool: "p".into(),
        when_full: Some(when_full.into()),
        wait_seconds: Some(wait_seconds),
        overcommit_percent: None,
        wait: true,
    }
}

fn condition_says(host: &Host, words: &str) {
    host.soon(words, || {
        let pool = pool(host);
        condition(&pool, "DataSpace").filter(|c| c.message.contains(words))?;
        Some(())
    });
}

#[test]
fn writers_wait_as_long_as_their_pool_says_whatever_the_kernel_says() {
    kernel_waits(4);
    let mut host = Host::start("wait");
    let path = small_pool(&host, api::WhenFull::Error);
    let set = host.set_policy(policy(api::WhenFull::Queue, 16)).unwrap();
    assert_eq!(set.policy.unwrap().wait_seconds, 16);
    let blocks = 4_000;
    let volume = create(&host, "v", blocks * BLOCK);
    let node = node(&volume);
    let writer = {
        let node = node.clone();
        let all = (0..blocks).map(|n| n * BLOCK);
        std::thread::spawn(move || node.write_until_refused(all, &block_of(7)))
    };
    see_it_full(&host);
    // Some time after the kernel saw it, on a slow machine.
    let began = Instant::now();
    let (taken, error) = writer.join().unwrap();
    assert_eq!(error.and_then(|e| e.raw_os_error()), Some(28));
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_secs(6),
        "the kernel's time held: {waited:?}"
    );
    condition_says(&host, "need a new block fail");
    let began = Instant::now();
    node.try_write(taken * BLOCK, &block_of(7)).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(8), "it waited again");
    assert_eq!(node.read(0, 4096), block_of(7)[..4096]);

    // Room, and they wait again, though the agent dies of having the kernel count anew.
    grow(&host, &path, 300);
    kernel_waits(6);
    host.agent = None;
    host.start_agent(&[("GOLDLEAF_FAILPOINT", "agent/renew-wait/after-effect")]);
    host.await_node();
    host.set_policy(policy(api::WhenFull::Queue, 600)).unwrap();
    let rest = {
        let node = node.clone();
        std::thread::spawn(move || {
            let all = (taken..blocks).map(|n| n * BLOCK);
            node.write_until_refused(all, &block_of(7)).1
        })
    };
    host.begin_again(&[]);
    condition_says(&host, "wait until there is room");
    std::thread::park_timeout(Duration::from_secs(8));
    assert!(!rest.is_finished(), "the kernel's time held");
    // A shorter time holds at once.
    host.set_policy(policy(api::WhenFull::Error, 0)).unwrap();
    let refused = rest.join().unwrap();
    assert_eq!(refused.and_then(|e| e.raw_os_error()), Some(28));
    kernel_waits(60);
    host.end_after(&["dying as asked"]);
}

#[test]
fn no_more_is_promised_than_the_limit_lets() {
    let host = Host::start("limit");
    small_pool(&host, api::WhenFull::Error);
    let total = pool(&host).usage.unwrap().data_total_bytes;
    host.set_policy(api::SetPoolPolicyRequest {
        pool: "p".into(),
        overcommit_percent: Some(200),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    create(&host, "v", total + total / 2);
    let refused = host
        .create_thin(blank("more", total / 2 + MIB))
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    for words in ["provisioned", "--overcommit", "pool extend"] {
        assert!(refused.message().contains(words), "{words}: {refused:?}");
    }
    let sixth = total / 6 / 4096 * 4096;
    // Of those that come at once, so many are made as the limit lets.
    let made = std::thread::scope(|scope| {
        let many: Vec<_> = (0..8)
            .map(|n| {
                let host = &host;
                scope.spawn(move || host.create_thin(blank(&format!("m{n}"), sixth)).is_ok())
            })
            .collect();
        let made = many.into_iter().map(|m| m.join().unwrap());
        made.filter(|made| *made).count()
    });
    assert_eq!(made, 3);
    assert!(pool(&host).usage.unwrap().provisioned_bytes <= 2 * total);
    host.snapshot("s", "volume/v").unwrap();
    let grown = host.resize("v", 2 * total).unwrap_err();
    assert_eq!(grown.code(), Code::ResourceExhausted, "{grown:?}");
    host.set_policy(api::SetPoolPolicyRequest {
        pool: "p".into(),
        overcommit_percent: Some(0),
        wait: true,
        ..Default::default()
    })
    .unwrap();
    host.resize("v", 2 * total).unwrap();
    host.end();
}
