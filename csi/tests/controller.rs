//! The Controller service over a real control plane with agents in memory: what it makes, lists and
//! changes.
#![allow(clippy::unwrap_used)] // a test that cannot go on is to fail

mod driver;

use driver::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_volume_is_answered_however_often_and_wherever_it_is_asked_for() {
    let driver = driver().await;
    let node = NODE.to_string();
    let asked = csi::CreateVolumeRequest {
        accessibility_requirements: places(&[&node]),
        ..golden("pvc-1")
    };
    let volume = driver.create(asked.clone()).await.unwrap();
    assert_eq!(volume.capacity_bytes, SIZE);
    assert_eq!(
        volume.accessible_topology,
        places(&[&node]).unwrap().requisite
    );
    assert_eq!(driver.create(asked.clone()).await.unwrap(), volume);
    // Wherever, or with bounds that its size is within, it is the same.
    assert_eq!(driver.create(golden("pvc-1")).await.unwrap(), volume);
    let bounds = csi::CreateVolumeRequest {
        capacity_range: range(1, 2 * SIZE),
        ..golden("pvc-1")
    };
    assert_eq!(driver.create(bounds).await.unwrap(), volume);
    let both = places(&[&OTHER_NODE.to_string(), &node]);
    let anywhere = csi::CreateVolumeRequest {
        accessibility_requirements: both,
        ..wanted("pvc-2")
    };
    let second = driver.create(anywhere).await.unwrap();
    assert_eq!(second.accessible_topology, volume.accessible_topology);
    // What is no name of Goldleaf's is found again all the same.
    let strange = driver.create(wanted("a name/with: things")).await.unwrap();
    assert_eq!(
        driver.create(wanted("a name/with: things")).await.unwrap(),
        strange
    );
    driver.delete(&volume.volume_id).await.unwrap();
    driver.delete(&volume.volume_id).await.unwrap();
    assert_eq!(driver.rig.node().thins().len(), 2);
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_as_another_says_so_and_may_be_larger() {
    let driver = driver().await;
    let volume = driver.create(golden("v")).await.unwrap().volume_id;
    let snapshot = driver.snapshot("s", &volume).await.unwrap();
    assert!(snapshot.ready_to_use && snapshot.size_bytes == SIZE);
    let home = places(&[&NODE.to_string()]);
    assert_eq!(
        snapshot.accessible_topology,
        home.clone().unwrap().requisite
    );
    for (asked, fits) in [(home, true), (places(&[&OTHER_NODE.to_string()]), false)] {
        let request = csi::CreateSnapshotRequest {
            name: "s".into(),
            source_volume_id: volume.clone(),
            accessibility_requirements: asked,
            ..Default::default()
        };
        let answer = driver.client.clone().create_snapshot(request).await;
        assert_eq!(answer.is_ok(), fits, "{answer:?}");
    }
    assert_eq!(driver.snapshot("s", &volume).await.unwrap(), snapshot);
    let image = driver
        .rig
        .service()
        .records
        .all::<goldleaf_server::domain::Image>();
    let image = image.await.unwrap()[0].id.to_string();
    for (name, request) in [
        ("from a volume", from_volume("a", &volume)),
        ("from a snapshot", from_snapshot("b", &snapshot.snapshot_id)),
        ("from an image", from_snapshot("c", &image)),
    ] {
        let larger = csi::CreateVolumeRequest {
            capacity_range: range(3 * SIZE, 0),
            ..request.clone()
        };
        let made = driver.create(larger.clone()).await.unwrap();
        assert_eq!(made.capacity_bytes, 3 * SIZE, "{name}");
        assert_eq!(made.content_source, request.volume_content_source, "{name}");
        assert_eq!(driver.create(larger).await.unwrap(), made, "{name}, again");
    }
    // Without a size it gets its source's.
    let same = csi::CreateVolumeRequest {
        capacity_range: None,
        ..from_snapshot("d", &snapshot.snapshot_id)
    };
    assert_eq!(driver.create(same).await.unwrap().capacity_bytes, SIZE);
    // A retry is answered though its source has gone meanwhile.
    driver.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    let again = csi::CreateVolumeRequest {
        capacity_range: range(3 * SIZE, 0),
        ..from_snapshot("b", &snapshot.snapshot_id)
    };
    driver.create(again).await.unwrap();
    driver.rig.check("at the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_every_thing_once_page_by_page_images_among_the_snapshots() {
    let driver = driver().await;
    let volume = driver.create(wanted("v")).await.unwrap().volume_id;
    let other = driver.create(wanted("w")).await.unwrap().volume_id;
    for n in 0..5 {
        let source = if n == 3 { &other } else { &volume };
        driver.snapshot(&format!("s{n}"), source).await.unwrap();
    }
    for size in [1, 2, 4, 5, 6, 100] {
        let (mut found, mut token) = (vec![], String::new());
        loop {
            let (page, next) = driver.snapshots(size, &token, "", "").await.unwrap();
            assert!(page.len() <= usize::try_from(size).unwrap());
            found.extend(page.into_iter().map(|s| s.snapshot_id));
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found.len(), 6, "{found:?} in pages of {size}");
        assert!(
            found[5].starts_with("img-") && found[..5].iter().all(|id| id.starts_with("snap-"))
        );
    }
    let (of_other, _) = driver.snapshots(0, "", &other, "").await.unwrap();
    assert_eq!(of_other.len(), 1);
    let (images, _) = driver.snapshots(0, "", "", "").await.unwrap();
    let image = images.last().unwrap();
    assert_eq!(image.size_bytes, i64::try_from(GIB).unwrap());
    assert!(image.ready_to_use);
    let (one, _) = driver
        .snapshots(0, "", "", &image.snapshot_id)
        .await
        .unwrap();
    assert_eq!((one.len(), &one[0]), (1, image));
    let (none, _) = driver.snapshots(0, "", "", ABSENT_SNAPSHOT).await.unwrap();
    assert_eq!(none, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_grows_is_protected_and_is_seen_with_its_place_and_health() {
    let driver = driver().await;
    let volume = driver.create(wanted("v")).await.unwrap().volume_id;
    assert_eq!(
        driver.expand(&volume, range(SIZE + 1, 0)).await.unwrap(),
        SIZE + 4096
    );
    assert_eq!(
        driver.expand(&volume, range(SIZE, 0)).await.unwrap(),
        SIZE + 4096
    );
    driver
        .modify(&volume, "deletionProtection", "true")
        .await
        .unwrap();
    let refused = driver.delete(&volume).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    driver
        .modify(&volume, "deletionProtection", "false")
        .await
        .unwrap();
    let mut client = driver.client.clone();
    let request = csi::ControllerGetVolumeRequest {
        volume_id: volume.clone(),
    };
    let seen = client
        .controller_get_volume(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(seen.volume.unwrap().accessible_topology.len(), 1);
    assert_eq!(
        seen.status.unwrap().published_node_ids,
        Vec::<String>::new()
    );
    let health = csi::ControllerGetVolumeHealthRequest {
        volume_id: volume.clone(),
        ..Default::default()
    };
    let health = client
        .controller_get_volume_health(health)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.volume_health.unwrap().health_statuses, []);
    driver.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capacity_is_that_of_the_pools_which_the_class_can_use_from_the_place() {
    let driver = driver().await;
    let mut client = driver.client.clone();
    let mut ask = async |node: Option<String>, pool: &str| {
        let request = csi::GetCapacityRequest {
            parameters: [("pool".to_owned(), pool.to_owned())].into(),
            accessible_topology: node.map(|n| places(&[&n]).unwrap().requisite[0].clone()),
            ..Default::default()
        };
        let answer = client.get_capacity(request).await.unwrap().into_inner();
        (
            answer.available_capacity > 0,
            answer.maximum_volume_size != Some(0),
        )
    };
    assert_eq!(ask(None, "").await, (true, true));
    assert_eq!(ask(Some(NODE.to_string()), "fast").await, (true, true));
    assert_eq!(ask(Some(OTHER_NODE.to_string()), "").await, (false, false));
    assert_eq!(ask(None, "slow").await, (false, false));
}

/// What is said to be left is made, and a page more is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_overcommitment_says_the_largest_volume_that_is_made() {
    use goldleaf_server::domain::PolicyChange;
    let driver = driver().await;
    let capacity = async || {
        let request = csi::GetCapacityRequest::default();
        let answer = driver.client.clone().get_capacity(request).await.unwrap();
        let answer = answer.into_inner();
        (answer.available_capacity, answer.maximum_volume_size)
    };
    let (free, unbounded) = capacity().await;
    assert_eq!(unbounded, Some(1 << 56));
    let half = PolicyChange {
        overcommit_percent: Some(50),
        ..Default::default()
    };
    let service = driver.rig.service();
    let fast = support::named("fast");
    service.set_pool_policy(&fast, &half).await.unwrap();
    let of = |size| csi::CreateVolumeRequest {
        capacity_range: range(size, 0),
        ..wanted("most")
    };
    let (_, most) = capacity().await;
    let most = most.unwrap();
    assert!(most > 0 && most < free, "{most} {free}");
    let refused = driver.create(of(most + 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    driver.create(of(most)).await.unwrap();
    assert_eq!(capacity().await, (0, Some(0)));
}

/// An image by each of the words that a class can say, and a channel that moves between two calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_asked_for_by_channel_or_digest_and_a_channel_may_move() {
    use goldleaf_server::domain::ImageSource;
    use goldleaf_server::service::SetChannel;
    let driver = driver().await;
    let service = driver.rig.service();
    let other = "/import/other.raw";
    driver
        .rig
        .node()
        .offer(other, support::digest(8), goldleaf_types::Bytes(2 * GIB));
    let mut newer = support::image("newer");
    newer.asked.source = ImageSource::File(other.into());
    service.create_image(newer).await.unwrap();
    assert!(driver.rig.settle().await.is_empty());
    let point = async |image: &str| {
        let channel = SetChannel {
            name: "debian/stable".parse().unwrap(),
            image: image.parse().unwrap(),
            labels: Default::default(),
            revision: 0,
        };
        service.set_channel(channel).await.unwrap();
    };
    let by = |name: &str, image: &str| csi::CreateVolumeRequest {
        parameters: [("image".into(), image.into())].into(),
        capacity_range: None,
        ..wanted(name)
    };
    let digest_of = async |name: &str| {
        let what = support::named(name);
        let view = service.get_volume(&what).await.unwrap();
        view.volume.image.unwrap()
    };
    point("golden").await;
    let first = driver.create(by("a", "debian/stable")).await.unwrap();
    assert_eq!(first.capacity_bytes, SIZE);
    point("newer").await;
    assert_eq!(
        driver.create(by("a", "debian/stable")).await.unwrap(),
        first
    );
    assert_eq!(digest_of("a").await, support::digest(7));
    // Other words for what it holds ask for it too; those for something else are a conflict.
    let same = by("a", &support::digest(7).to_string());
    assert_eq!(driver.create(same).await.unwrap(), first);
    let other = driver.create(by("a", "newer")).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    let second = driver.create(by("b", "debian/stable")).await.unwrap();
    assert_eq!(second.capacity_bytes, 2 * SIZE);
    assert_eq!(digest_of("b").await, support::digest(8));
    let bare = support::digest(8).to_string();
    driver.create(by("c", &bare)).await.unwrap();
    assert_eq!(digest_of("c").await, support::digest(8));
    let none = driver.create(by("d", "debian/none")).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    driver.rig.check("at the end").await;
}

/// What an administrator keeps new volumes off says so in the words that have the volume go elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_has_no_capacity_and_is_no_place() {
    let driver = driver().await;
    let home = NODE.to_string();
    let capacity = async || {
        let request = csi::GetCapacityRequest {
            accessible_topology: Some(places(&[&home]).unwrap().requisite[0].clone()),
            ..Default::default()
        };
        let answer = driver.client.clone().get_capacity(request).await.unwrap();
        answer.into_inner().available_capacity
    };
    let there = || csi::CreateVolumeRequest {
        accessibility_requirements: places(&[&home]),
        ..golden("pvc")
    };
    assert!(capacity().await > 0);
    let service = driver.rig.service();
    service.drain(&support::named("n1"), false).await.unwrap();
    assert_eq!(capacity().await, 0);
    let refused = driver.create(there()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    service.resume_node(&support::named("n1")).await.unwrap();
    assert!(capacity().await > 0);
    driver.create(there()).await.unwrap();
}
