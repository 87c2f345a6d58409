//! Every wrong field of every request is named.

use goldleaf_types::{NodeId, PoolId};

use super::*;
use crate::service::CreateImage;

type Spoil<R> = (&'static str, fn(&mut R));

fn names_each<R: Clone, T>(good: &R, cases: &[Spoil<R>])
where
    T: TryFrom<R, Error = BadField>,
{
    assert!(T::try_from(good.clone()).is_ok(), "the good one is refused");
    for (field, spoil) in cases {
        let mut request = good.clone();
        spoil(&mut request);
        match T::try_from(request) {
            Ok(_) => panic!("{field} passed"),
            Err(bad) => assert_eq!(bad.field, *field),
        }
    }
}

fn many_labels() -> HashMap<String, String> {
    (0..65).map(|n| (format!("k{n}"), String::new())).collect()
}

#[test]
fn every_wrong_field_of_a_volume_is_named() {
    let good = api::CreateThinRequest {
        name: "vm1".into(),
        size_bytes: 1 << 30,
        image: "debian-12".into(),
        pool: "fast".into(),
        ..Default::default()
    };
    names_each::<_, CreateThin>(
        &good,
        &[
            ("name", |r| r.name.clear()),
            ("name", |r| r.name = "../x".into()),
            ("name", |r| r.name = "a".repeat(129)),
            ("name", |r| r.name = VolumeId::mint().to_string()),
            ("name", |r| r.name = "0".repeat(64)),
            ("size_bytes", |r| r.size_bytes = 0),
            ("size_bytes", |r| r.size_bytes = 513),
            ("size_bytes", |r| r.size_bytes = u64::MAX - 511),
            ("image", |r| r.image = "a b".into()),
            ("image", |r| r.image = VolumeId::mint().to_string()),
            ("pool", |r| r.pool = "/".into()),
            ("placement.node", |r| {
                r.placement = Some(api::Placement {
                    node: "a/b".into(),
                    ..Default::default()
                });
            }),
            ("placement.pool_labels", |r| {
                let pool_labels = HashMap::from([("a=b".to_owned(), String::new())]);
                r.placement = Some(api::Placement {
                    pool_labels,
                    ..Default::default()
                });
            }),
            ("labels", |r| r.labels = many_labels()),
            ("activate.holder", |r| {
                r.activate = Some(api::ActivateOptions {
                    holder: 9,
                    read_only: false,
                });
            }),
        ],
    );
}

#[test]
fn every_wrong_field_of_a_clone_or_snapshot_is_named() {
    let good = api::CloneRequest {
        name: "vm2".into(),
        source: "volume/vm1".into(),
        ..Default::default()
    };
    names_each::<_, CloneThin>(
        &good,
        &[
            ("name", |r| r.name = ".x".into()),
            ("source", |r| r.source.clear()),
            ("source", |r| r.source = "vm1".into()),
            ("source", |r| r.source = "pool/x".into()),
            ("pool", |r| r.pool = "a/b".into()),
            ("size_bytes", |r| r.size_bytes = 1),
            ("labels", |r| r.labels = many_labels()),
            ("activate.holder", |r| {
                r.activate = Some(api::ActivateOptions {
                    holder: -1,
                    read_only: false,
                });
            }),
        ],
    );
    let good = api::CreateSnapshotRequest {
        name: "s1".into(),
        source: "volume/vm1".into(),
        ..Default::default()
    };
    names_each::<_, CreateSnapshot>(
        &good,
        &[
            ("name", |r| r.name.clear()),
            ("source", |r| r.source = "snapshot/".into()),
            ("labels", |r| r.labels = many_labels()),
        ],
    );
}

#[test]
fn every_wrong_field_of_a_pool_is_named() {
    let device = |path: &str, bytes| api::PoolDevice {
        path: path.into(),
        create_file_bytes: bytes,
    };
    let good = api::CreatePoolRequest {
        name: "fast".into(),
        devices: vec![device("/dev/sda", 0), device("/srv/pools/a", 1 << 30)],
        metadata_device: Some(device("/dev/sdb", 0)),
        ..Default::default()
    };
    names_each::<_, CreatePool>(
        &good,
        &[
            ("name", |r| r.name = PoolId::mint().to_string()),
            ("node", |r| r.node = "a b".into()),
            ("devices", |r| r.devices.clear()),
            ("devices[0].path", |r| r.devices[0].path = "sda".into()),
            ("devices[1].create_file_bytes", |r| {
                r.devices[1].create_file_bytes = 512
            }),
            ("metadata_device.path", |r| {
                r.metadata_device = Some(api::PoolDevice::default())
            }),
            ("block_size_bytes", |r| r.block_size_bytes = 4096),
            ("when_full", |r| r.when_full = 7),
            ("labels", |r| r.labels = many_labels()),
        ],
    );
}

#[test]
fn every_wrong_field_of_an_image_is_named() {
    use api::create_image_request::Source;
    let good = api::CreateImageRequest {
        name: "debian-12".into(),
        source: Some(Source::Url("https://host/debian.qcow2".into())),
        source_sha256: "A0".repeat(32),
        ..Default::default()
    };
    let image = CreateImage::try_from(good.clone()).unwrap();
    assert_eq!(
        image.asked.source_sha256,
        "a0".repeat(32),
        "one text for one value"
    );
    names_each::<_, CreateImage>(
        &good,
        &[
            ("name", |r| r.name = "x/y".into()),
            ("source", |r| r.source = None),
            ("file", |r| r.source = Some(Source::File("x.qcow2".into()))),
            ("device", |r| r.source = Some(Source::Device(String::new()))),
            ("url", |r| {
                r.source = Some(Source::Url("ftp://host/x".into()))
            }),
            ("url", |r| r.source = Some(Source::Url("/x".into()))),
            ("source_sha256", |r| r.source_sha256.clear()),
            ("source_sha256", |r| r.source_sha256 = "g".repeat(64)),
            ("digest", |r| r.digest = "sha256:0".into()),
            ("format", |r| r.format = 3),
            ("node", |r| r.node = "-".into()),
            ("labels", |r| r.labels = many_labels()),
        ],
    );
}

#[test]
fn every_wrong_field_of_a_registration_is_named() {
    let good = api::RegisterNodeRequest {
        id: NodeId::mint().to_string(),
        name: "n1".into(),
        address: "http://127.0.0.1:4701".into(),
        ..Default::default()
    };
    names_each::<_, NodeAsked>(
        &good,
        &[
            ("id", |r| r.id = "n1".into()),
            ("name", |r| r.name = "n 1".into()),
            ("address", |r| r.address.clear()),
            ("address", |r| r.address = "127.0.0.1:4701".into()),
            ("address", |r| r.address = "http://10.0.0.1:4701".into()),
            ("address", |r| r.address = "http://127.0.0.1".into()),
            ("address", |r| r.address = "https://127.0.0.1:4701".into()),
            ("address", |r| r.address = "http://example.com:4701".into()),
            ("agent_version", |r| r.agent_version = "x".repeat(257)),
            ("kernel_release", |r| r.kernel_release = "\n".into()),
            ("labels", |r| r.labels = many_labels()),
        ],
    );
    let mut six = good;
    six.address = "http://[::1]:4701".into();
    assert!(NodeAsked::try_from(six).is_ok());
}

#[test]
fn every_wrong_field_of_the_small_requests_is_named() {
    let named = |result: Result<(), BadField>| result.unwrap_err().field;
    let resize = |volume: &str, size_bytes| {
        let r = api::ResizeRequest {
            volume: volume.into(),
            size_bytes,
            expected_revision: 0,
            ..Default::default()
        };
        super::resize(&r).map(|_| ())
    };
    assert!(resize("vm1", 512).is_ok());
    assert_eq!(named(resize("", 512)), "volume");
    assert_eq!(named(resize("vm1", 0)), "size_bytes");
    let delete = |text: &str| {
        let r = api::DeleteRequest {
            target: text.into(),
            expected_revision: 0,
            ..Default::default()
        };
        target::<VolumeId, Name>(&r).map(|_| ())
    };
    assert!(delete("vm1").is_ok());
    assert_eq!(named(delete("")), "target");
    assert_eq!(named(delete(&PoolId::mint().to_string())), "target");
    let list = |size, labels: HashMap<String, String>| {
        let page = Some(api::PageRequest {
            size,
            token: String::new(),
        });
        listing(api::ListRequest {
            page,
            filter: Some(api::Filter { labels }),
        })
        .map(|l| l.size)
    };
    assert_eq!(list(0, HashMap::new()), Ok(100));
    assert_eq!(list(1000, HashMap::new()), Ok(1000));
    assert_eq!(list(1001, HashMap::new()).unwrap_err().field, "page.size");
    assert_eq!(list(1, many_labels()).unwrap_err().field, "filter.labels");
    let filter = Some(api::Filter {
        labels: many_labels(),
    });
    let watched = watch(api::WatchRequest {
        resume_token: String::new(),
        filter,
    });
    assert_eq!(watched.unwrap_err().field, "filter.labels");
    assert_eq!(optional::<NodeId>("node", "x").unwrap_err().field, "node");
}

#[test]
fn a_pool_is_not_renamed_to_what_looks_like_an_id() {
    let asked = |name: &str| {
        let pool = "fast".into();
        let request = api::RenamePoolRequest {
            pool,
            name: name.into(),
            ..Default::default()
        };
        super::super::convert_pools::renaming(&request)
    };
    assert_eq!(asked("slow").unwrap().1.as_str(), "slow");
    for name in [PoolId::mint().to_string(), "0".repeat(64), "a/b".into()] {
        assert_eq!(asked(&name).unwrap_err().field, "name");
    }
}
