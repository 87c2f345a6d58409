//! Images that a node lost or spoilt: the record learns of it, and they come back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::agents::fake::Verb;
use goldleaf_server::domain::{ActivateOptions, Image, ImageSource, Phase};
use goldleaf_types::Bytes;
use support::{GIB, NODE, Rig, digest, image, named, pool, snapshot_of, target, thin, verdict};

async fn golden(rig: &Rig) -> Image {
    rig.service()
        .get_image(&named("golden"))
        .await
        .unwrap()
        .image
}

#[tokio::test]
async fn a_lost_image_from_a_url_is_fetched_again_by_itself() {
    let rig = Rig::new().await;
    let service = rig.service();
    let url = "https://host/golden.raw";
    rig.agents.node(NODE).offer(url, digest(7), Bytes(GIB));
    service.create_pool(pool("fast", "/dev/sda")).await.unwrap();
    let mut wanted = image("golden");
    wanted.asked.source = ImageSource::Url(url.into());
    service.create_image(wanted).await.unwrap();
    rig.settle().await;
    let _ = service.pending.take();

    rig.node().lose_image(digest(7));
    let refused = service.create_thin(thin("v", "golden")).await.unwrap_err();
    assert_eq!(verdict(refused).1, "IMAGE_NOT_HERE");
    let lost = golden(&rig).await;
    assert_eq!(
        (lost.phase, lost.copies[0].phase),
        (Phase::Creating, Phase::Creating)
    );
    let rung: Vec<_> = service.pending.take().into_keys().collect();
    assert!(rung.iter().any(|id| id.to_string() == lost.id.to_string()));
    let waiting = service.create_thin(thin("v", "golden")).await.unwrap_err();
    assert_eq!(verdict(waiting).1, "IMAGE_ON_ITS_WAY");
    assert!(rig.settle().await.is_empty());
    assert_eq!(golden(&rig).await.phase, Phase::Ready);
    service.create_thin(thin("v", "golden")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn a_spoilt_image_from_a_file_fails_and_comes_back_when_it_is_created_again() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.create_thin(thin("v", "golden")).await.unwrap();
    rig.node().spoil_image(digest(7), true);
    let on = ActivateOptions::default();
    let refused = service.activate(&named("v"), on).await.unwrap_err();
    assert_eq!(verdict(refused).1, "IMAGE_CHANGED");
    let lost = golden(&rig).await;
    assert_eq!(
        (lost.phase, lost.copies[0].phase),
        (Phase::Failed, Phase::Failed)
    );
    assert!(lost.copies[0].message.contains("create the image again"));
    let unfit = service.create_thin(thin("w", "golden")).await.unwrap_err();
    assert_eq!(verdict(unfit).1, "NOT_READY");
    assert!(rig.settle().await.is_empty(), "nobody fetches it unasked");
    assert_eq!(rig.node().effects(Verb::ImportImage), 1);

    let again = service.create_image(image("golden")).await.unwrap().image;
    assert_eq!((again.id, again.phase), (lost.id, Phase::Creating));
    assert!(rig.settle().await.is_empty());
    assert_eq!(rig.node().effects(Verb::ImportImage), 2);
    assert_eq!(golden(&rig).await.phase, Phase::Ready);
    service.activate(&named("v"), on).await.unwrap();
    service
        .create_snapshot(snapshot_of("s", "volume/v"))
        .await
        .unwrap();
    service.delete_snapshot(target("s")).await.unwrap();
    rig.check("at the end").await;
}
