//! Each wrong call gets the code that the specification's error tables give it, one row each.

#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

mod driver;

use driver::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_creation_gets_the_code_that_the_specification_says() {
    let driver = driver().await;
    let there = driver.create(golden("there")).await.unwrap();
    let with = |change: &dyn Fn(&mut csi::CreateVolumeRequest)| {
        let mut request = wanted("new");
        change(&mut request);
        request
    };
    let other_node = OTHER_NODE.to_string();
    let multi = |mode| with(&|r| r.volume_capabilities = vec![capability(mode)]);
    let rows = [
        ("no name", with(&|r| r.name.clear()), Code::InvalidArgument),
        (
            "long name",
            with(&|r| r.name = "x".repeat(129)),
            Code::InvalidArgument,
        ),
        (
            "no capability",
            with(&|r| r.volume_capabilities.clear()),
            Code::InvalidArgument,
        ),
        (
            "multi-node reader",
            multi(Mode::MultiNodeReaderOnly),
            Code::InvalidArgument,
        ),
        (
            "multi-node writer",
            multi(Mode::MultiNodeMultiWriter),
            Code::InvalidArgument,
        ),
        (
            "one multi-node writer",
            multi(Mode::MultiNodeSingleWriter),
            Code::InvalidArgument,
        ),
        ("no mode", multi(Mode::Unknown), Code::InvalidArgument),
        (
            "both accesses",
            with(&|r| r.volume_capabilities.push(mounted(""))),
            Code::InvalidArgument,
        ),
        (
            "unknown fs",
            with(&|r| r.volume_capabilities = vec![mounted("ntfs")]),
            Code::InvalidArgument,
        ),
        (
            "unknown parameter",
            with(&|r| {
                r.parameters = [("imgae".into(), "golden".into())].into();
            }),
            Code::InvalidArgument,
        ),
        (
            "unknown mutable",
            with(&|r| {
                r.mutable_parameters = [("iops".into(), "1".into())].into();
            }),
            Code::InvalidArgument,
        ),
        (
            "negative size",
            with(&|r| r.capacity_range = range(-1, 0)),
            Code::InvalidArgument,
        ),
        (
            "limit below",
            with(&|r| r.capacity_range = range(SIZE, 1)),
            Code::InvalidArgument,
        ),
        (
            "too large",
            with(&|r| r.capacity_range = range(i64::MAX, 0)),
            Code::OutOfRange,
        ),
        (
            "no whole sector",
            with(&|r| r.capacity_range = range(1, 100)),
            Code::OutOfRange,
        ),
        (
            "smaller than its image",
            csi::CreateVolumeRequest {
                capacity_range: range(4096, 0),
                ..golden("new")
            },
            Code::OutOfRange,
        ),
        (
            "smaller than its source",
            csi::CreateVolumeRequest {
                capacity_range: range(4096, 0),
                ..from_volume("new", &there.volume_id)
            },
            Code::OutOfRange,
        ),
        (
            "unknown image",
            with(&|r| {
                r.parameters = [("image".into(), "none".into())].into();
            }),
            Code::NotFound,
        ),
        (
            "unknown pool",
            with(&|r| {
                r.parameters = [("pool".into(), "none".into())].into();
            }),
            Code::NotFound,
        ),
        ("unknown volume", from_volume("new", ABSENT), Code::NotFound),
        (
            "unknown snapshot",
            from_snapshot("new", ABSENT_SNAPSHOT),
            Code::NotFound,
        ),
        ("no id", from_snapshot("new", "some-id"), Code::NotFound),
        (
            "node without pools",
            with(&|r| {
                r.accessibility_requirements = places(&[&other_node]);
            }),
            Code::ResourceExhausted,
        ),
        (
            "unknown node",
            with(&|r| {
                r.accessibility_requirements = places(&["node-x"]);
            }),
            Code::ResourceExhausted,
        ),
        (
            "source elsewhere",
            csi::CreateVolumeRequest {
                accessibility_requirements: places(&[&other_node]),
                ..from_volume("new", &there.volume_id)
            },
            Code::ResourceExhausted,
        ),
        (
            "taken, other size",
            csi::CreateVolumeRequest {
                capacity_range: range(2 * SIZE, 0),
                ..golden("there")
            },
            Code::AlreadyExists,
        ),
        ("taken, blank", wanted("there"), Code::AlreadyExists),
        (
            "taken, other source",
            from_volume("there", ABSENT),
            Code::AlreadyExists,
        ),
        (
            "taken, elsewhere",
            csi::CreateVolumeRequest {
                accessibility_requirements: places(&[&other_node]),
                ..golden("there")
            },
            Code::ResourceExhausted,
        ),
    ];
    for (what, request, code) in rows {
        let refused = driver.create(request).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty(), "{what}");
    }
    assert_eq!(
        driver.rig.node().thins().len(),
        1,
        "a refused volume was made"
    );
    driver.rig.check("after the refusals").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_other_wrong_call_gets_the_code_that_the_specification_says() {
    let driver = driver().await;
    let volume = driver.create(golden("v")).await.unwrap().volume_id;
    let other = driver.create(wanted("w")).await.unwrap().volume_id;
    driver.snapshot("s", &volume).await.unwrap();
    let image = driver.rig.service();
    let image = image
        .records
        .all::<goldleaf_server::domain::Image>()
        .await
        .unwrap()[0]
        .id;
    let image = image.to_string();
    let mut client = driver.client.clone();
    let validate = |id: &str, capabilities| csi::ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities,
        ..Default::default()
    };
    let one = vec![capability(Mode::SingleNodeWriter)];
    let volumes = |max_entries, token: &str| csi::ListVolumesRequest {
        max_entries,
        starting_token: token.into(),
    };
    let get = |id: &str| csi::GetSnapshotRequest {
        snapshot_id: id.into(),
        ..Default::default()
    };
    let volume_of = |id: &str| csi::ControllerGetVolumeRequest {
        volume_id: id.into(),
    };
    let rows: Vec<(&str, Result<(), Status>, Code)> = vec![
        (
            "delete, no id",
            driver.delete("").await,
            Code::InvalidArgument,
        ),
        (
            "snapshot, no name",
            driver.snapshot("", &volume).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "snapshot, no volume",
            driver.snapshot("t", "").await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "snapshot, absent",
            driver.snapshot("t", ABSENT).await.map(drop),
            Code::NotFound,
        ),
        (
            "snapshot, taken",
            driver.snapshot("s", &other).await.map(drop),
            Code::AlreadyExists,
        ),
        (
            "drop, no id",
            driver.delete_snapshot("").await,
            Code::InvalidArgument,
        ),
        (
            "drop an image",
            driver.delete_snapshot(&image).await,
            Code::FailedPrecondition,
        ),
        (
            "snapshots, bad token",
            driver.snapshots(0, "x", "", "").await.map(drop),
            Code::Aborted,
        ),
        (
            "snapshots, bad page",
            driver.snapshots(0, "sx", "", "").await.map(drop),
            Code::Aborted,
        ),
        (
            "snapshots, negative",
            driver.snapshots(-1, "", "", "").await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "get, no id",
            client.get_snapshot(get("")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "get, absent",
            client.get_snapshot(get(ABSENT_SNAPSHOT)).await.map(drop),
            Code::NotFound,
        ),
        (
            "volumes, bad token",
            client.list_volumes(volumes(0, "x")).await.map(drop),
            Code::Aborted,
        ),
        (
            "volumes, negative",
            client.list_volumes(volumes(-1, "")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "volume, no id",
            client.controller_get_volume(volume_of("")).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "volume, absent",
            client
                .controller_get_volume(volume_of(ABSENT))
                .await
                .map(drop),
            Code::NotFound,
        ),
        (
            "validate, no id",
            client
                .validate_volume_capabilities(validate("", one.clone()))
                .await
                .map(drop),
            Code::InvalidArgument,
        ),
        (
            "validate, none",
            client
                .validate_volume_capabilities(validate(&volume, vec![]))
                .await
                .map(drop),
            Code::InvalidArgument,
        ),
        (
            "validate, absent",
            client
                .validate_volume_capabilities(validate(ABSENT, one))
                .await
                .map(drop),
            Code::NotFound,
        ),
        (
            "expand, no id",
            driver.expand("", range(SIZE, 0)).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "expand, no range",
            driver.expand(&volume, None).await.map(drop),
            Code::InvalidArgument,
        ),
        (
            "expand, absent",
            driver.expand(ABSENT, range(SIZE, 0)).await.map(drop),
            Code::NotFound,
        ),
        (
            "expand, too large",
            driver.expand(&volume, range(i64::MAX, 0)).await.map(drop),
            Code::OutOfRange,
        ),
        (
            "expand, to less",
            driver.expand(&volume, range(0, 4096)).await.map(drop),
            Code::OutOfRange,
        ),
        (
            "modify, no id",
            driver.modify("", "deletionProtection", "true").await,
            Code::InvalidArgument,
        ),
        (
            "modify, absent",
            driver.modify(ABSENT, "deletionProtection", "true").await,
            Code::NotFound,
        ),
        (
            "modify, unknown",
            driver.modify(&volume, "iops", "1").await,
            Code::InvalidArgument,
        ),
        (
            "modify, wrong",
            driver.modify(&volume, "deletionProtection", "1").await,
            Code::InvalidArgument,
        ),
    ];
    for (what, answer, code) in rows {
        assert_eq!(answer.expect_err(what).code(), code, "{what}");
    }
    driver.delete(ABSENT).await.unwrap();
    driver.delete("of another driver").await.unwrap();
    driver.delete_snapshot("of another driver").await.unwrap();
    let refused = validate(&volume, vec![capability(Mode::MultiNodeMultiWriter)]);
    let refused = client
        .validate_volume_capabilities(refused)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(refused.confirmed, None);
    assert!(
        refused.message.contains("single-node"),
        "{}",
        refused.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_call_about_health_capacity_and_use_gets_the_code_that_the_specification_says() {
    let driver = driver().await;
    let volume = driver.create(golden("v")).await.unwrap().volume_id;
    let mut client = driver.client.clone();
    let health = |id: &str| csi::ControllerGetVolumeHealthRequest {
        volume_id: id.into(),
        ..Default::default()
    };
    let healths = |max_entries, token: &str| csi::ControllerListVolumeHealthRequest {
        max_entries,
        starting_token: token.into(),
        ..Default::default()
    };
    let capacity = |key: &str, mode| csi::GetCapacityRequest {
        parameters: [(key.to_owned(), "x".to_owned())].into(),
        volume_capabilities: vec![capability(mode)],
        ..Default::default()
    };
    let expand = |mode| csi::ControllerExpandVolumeRequest {
        volume_id: volume.clone(),
        capacity_range: range(2 * SIZE, 0),
        volume_capability: Some(capability(mode)),
        ..Default::default()
    };
    let snapshot = |name: &str, key: &str| csi::CreateSnapshotRequest {
        name: name.into(),
        source_volume_id: volume.clone(),
        parameters: [(key.to_owned(), "x".to_owned())].into(),
        ..Default::default()
    };
    let no_source = csi::CreateVolumeRequest {
        volume_content_source: Some(csi::VolumeContentSource { r#type: None }),
        ..wanted("new")
    };
    let mut with_group = mounted("ext4");
    if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut with_group.access_type {
        mount.volume_mount_group = "9".into();
    }
    let with_group = csi::CreateVolumeRequest {
        volume_capabilities: vec![with_group],
        ..wanted("new")
    };
    let (long, multi) = ("x".repeat(129), Mode::MultiNodeMultiWriter);
    let single = Mode::SingleNodeWriter;
    let publish = csi::ControllerPublishVolumeRequest {
        volume_id: volume.clone(),
        ..Default::default()
    };
    let unpublish = csi::ControllerUnpublishVolumeRequest {
        volume_id: volume.clone(),
        ..Default::default()
    };
    let wrong = Code::InvalidArgument;
    let orphan = driver.expand("x", range(SIZE, 0)).await.map(drop);
    let rows = [
        (
            "create, no source",
            driver.create(no_source).await.map(drop),
            wrong,
        ),
        (
            "create, mount group",
            driver.create(with_group).await.map(drop),
            wrong,
        ),
        (
            "health, no id",
            client
                .controller_get_volume_health(health(""))
                .await
                .map(drop),
            wrong,
        ),
        (
            "health, absent",
            client
                .controller_get_volume_health(health(ABSENT))
                .await
                .map(drop),
            Code::NotFound,
        ),
        (
            "healths, bad token",
            client
                .controller_list_volume_health(healths(0, "x"))
                .await
                .map(drop),
            Code::Aborted,
        ),
        (
            "healths, negative",
            client
                .controller_list_volume_health(healths(-1, ""))
                .await
                .map(drop),
            wrong,
        ),
        (
            "capacity, unknown",
            client
                .get_capacity(capacity("colour", single))
                .await
                .map(drop),
            wrong,
        ),
        (
            "capacity, multi-node",
            client.get_capacity(capacity("pool", multi)).await.map(drop),
            wrong,
        ),
        (
            "expand, multi-node",
            client
                .controller_expand_volume(expand(multi))
                .await
                .map(drop),
            wrong,
        ),
        ("expand, no such id", orphan, Code::NotFound),
        (
            "snapshot, long name",
            client
                .create_snapshot(snapshot(&long, "csi.storage.k8s.io/x"))
                .await
                .map(drop),
            wrong,
        ),
        (
            "snapshot, unknown",
            client
                .create_snapshot(snapshot("s", "colour"))
                .await
                .map(drop),
            wrong,
        ),
        (
            "publish",
            client.controller_publish_volume(publish).await.map(drop),
            Code::Unimplemented,
        ),
        (
            "unpublish",
            client
                .controller_unpublish_volume(unpublish)
                .await
                .map(drop),
            Code::Unimplemented,
        ),
    ];
    for (what, answer, code) in rows {
        let refused = answer.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused:?}");
        assert!(!refused.message().is_empty(), "{what}");
    }
    // In use: the volume is active on its node.
    let service = driver.rig.service();
    let id = volume.parse().unwrap();
    service.activate(&id, Default::default()).await.unwrap();
    let refused = driver.delete(&volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    service.deactivate(&id).await.unwrap();
    driver.delete(&volume).await.unwrap();
    driver.rig.check("at the end").await;
}
