//! Images made of volumes and snapshots, and files that those are exported to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use futures::StreamExt;
use goldleaf_server::agents::ExportStep;
use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{ActivateOptions, ExportFormat, ExportOrder, ImageSource, Phase};
use goldleaf_server::service::{CreateImage, ServiceError, Unfinished};
use goldleaf_types::{Bytes, Digest};
use support::{
    GIB, OTHER_NODE, Rig, digest, group_of, image, named, snapshot_of, target, thin, verdict,
};
use tonic::Code;

/// What the fake host reads off a thin over the golden image.
fn content() -> Digest {
    Digest::from_bytes([7 ^ 0x80; 32])
}

fn of(name: &str, source: &str) -> CreateImage {
    let mut wanted = image(name);
    wanted.asked.source = ImageSource::Volume(source.into());
    wanted.source = Some(source.parse().unwrap());
    wanted.node = None;
    wanted
}

/// A volume "vm1" over the golden image, and its snapshot "s1".
async fn rig() -> Rig {
    let rig = Rig::furnished().await;
    rig.service()
        .create_thin(thin("vm1", "golden"))
        .await
        .unwrap();
    rig.service()
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await
        .unwrap();
    rig
}

#[tokio::test]
async fn a_volume_and_a_snapshot_become_images_and_the_same_call_the_same_image() {
    let rig = rig().await;
    let service = rig.service();
    for (name, source) in [("a", "volume/vm1"), ("b", "snapshot/s1")] {
        let made = service.create_image(of(name, source)).await.unwrap().image;
        assert!(rig.settle().await.is_empty());
        let ready = service.create_image(of(name, source)).await.unwrap().image;
        assert_eq!((ready.id, ready.phase), (made.id, Phase::Ready));
        assert_eq!((ready.digest, ready.size), (Some(content()), Bytes(GIB)));
    }
    assert_eq!(rig.node().images(), [digest(7), content()], "stored once");
    assert_eq!(rig.node().effects(Verb::ImportImage), 2);
    let other = verdict(
        service
            .create_image(of("a", "snapshot/s1"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (other.0, other.2.as_deref()),
        (Code::AlreadyExists, Some("volume"))
    );
    // The source may go; what was made of it stays, and is what it was.
    service.delete_volume(target("vm1")).await.unwrap();
    let after = service
        .create_image(of("a", "volume/vm1"))
        .await
        .unwrap()
        .image;
    assert_eq!(after.phase, Phase::Ready);
    service.create_thin(thin("vm2", "a")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_before_anything_is_wished_for() {
    let rig = rig().await;
    rig.register(OTHER_NODE, "n2").await;
    let service = rig.service();
    service
        .activate(&named("vm1"), ActivateOptions::default())
        .await
        .unwrap();
    let active = service
        .create_image(of("a", "volume/vm1"))
        .await
        .unwrap_err();
    assert!(active.to_string().contains("snapshot"), "{active}");
    assert_eq!(verdict(active).0, Code::FailedPrecondition);
    service.create_image(of("b", "snapshot/s1")).await.unwrap();
    let unknown = verdict(
        service
            .create_image(of("c", "volume/none"))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        (unknown.0, unknown.2.as_deref()),
        (Code::NotFound, Some("volume"))
    );
    let elsewhere = CreateImage {
        node: Some(named("n2")),
        ..of("d", "snapshot/s1")
    };
    let elsewhere = verdict(service.create_image(elsewhere).await.unwrap_err());
    assert_eq!(
        (elsewhere.0, elsewhere.2.as_deref()),
        (Code::InvalidArgument, Some("node"))
    );
    for name in ["a", "c", "d"] {
        assert!(
            service.get_image(&named(name)).await.is_err(),
            "{name} was recorded"
        );
    }
}

#[tokio::test]
async fn a_source_stays_until_its_image_is_there() {
    let rig = rig().await;
    let service = rig.service();
    service.create_group(group_of("g", ["vm1"])).await.unwrap();
    let sources = ["volume/vm1", "snapshot/s1", "snapshot/g.vm1"];
    for (name, source) in ["a", "b", "c"].into_iter().zip(sources) {
        service.create_image(of(name, source)).await.unwrap();
    }
    for refused in [
        service.delete_volume(target("vm1")).await,
        service.delete_snapshot(target("s1")).await,
        service.delete_group(target("g")).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(
            refused.to_string().contains("being made of it"),
            "{refused}"
        );
        assert_eq!(verdict(refused).1, "IN_USE");
    }
    assert!(rig.settle().await.is_empty());
    service.delete_group(target("g")).await.unwrap();
    service.delete_snapshot(target("s1")).await.unwrap();
    service.delete_volume(target("vm1")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn an_image_of_a_thin_begins_again_after_a_restart_and_is_made_on_its_node_alone() {
    let mut rig = rig().await;
    rig.register(OTHER_NODE, "n2").await;
    let id = rig
        .service()
        .create_image(of("a", "snapshot/s1"))
        .await
        .unwrap()
        .image
        .id;
    rig.restart();
    assert!(rig.settle().await.is_empty());
    let service = rig.service();
    assert_eq!(
        service.get_image(&named("a")).await.unwrap().image.digest,
        Some(content())
    );
    service
        .place_image(&named("a"), &[named("n2")])
        .await
        .unwrap();
    service.finish(Unfinished::Image(id)).await.unwrap();
    let shown = service.get_image(&named("a")).await.unwrap().image;
    let copy = shown.copy_on(OTHER_NODE).unwrap();
    assert_eq!((shown.phase, copy.phase), (Phase::Ready, Phase::Failed));
    assert!(copy.message.contains("node alone"), "{}", copy.message);
}

fn to(file: &str, replace: bool) -> ExportOrder {
    ExportOrder {
        file: file.into(),
        format: ExportFormat::Raw,
        replace,
        image: None,
    }
}

/// The steps of an export; the last is its result.
async fn exported(
    rig: &Rig,
    source: &str,
    order: &ExportOrder,
) -> Vec<Result<ExportStep, goldleaf_server::agents::AgentError>> {
    let source = source.parse().unwrap();
    match rig.service().export(&source, order.clone(), None).await {
        Ok((_, steps)) => steps.collect().await,
        Err(ServiceError::Agent(refused)) => vec![Err(refused)],
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn an_export_tells_how_far_it_has_come_and_ends_with_its_file() {
    let rig = rig().await;
    let steps = exported(&rig, "snapshot/s1", &to("s1.raw", false)).await;
    let [Ok(ExportStep::Progress(half)), Ok(ExportStep::Done(file))] = &steps[..] else {
        panic!("{steps:?}")
    };
    assert_eq!((half.done, half.total), (Bytes(GIB / 2), Bytes(GIB)));
    assert_eq!(
        (file.path.as_str(), file.digest),
        ("/export/s1.raw", content())
    );
    let again = exported(&rig, "snapshot/s1", &to("s1.raw", false)).await;
    assert!(again.last().unwrap().is_err(), "{again:?}");
    let replaced = exported(&rig, "snapshot/s1", &to("s1.raw", true)).await;
    assert_eq!(replaced, steps);
    // An answer that was lost is asked for again.
    rig.node().cut(Verb::Export, Cut::AfterEffect);
    let cut = exported(&rig, "volume/vm1", &to("vm1.raw", true)).await;
    assert!(cut.last().unwrap().is_err(), "{cut:?}");
    let whole = exported(&rig, "volume/vm1", &to("vm1.raw", true)).await;
    assert!(whole.last().unwrap().is_ok(), "{whole:?}");
    assert_eq!(rig.node().files(), ["s1.raw", "vm1.raw"]);
    let unknown = rig
        .service()
        .export(&"volume/none".parse().unwrap(), to("x", false), None)
        .await;
    assert_eq!(verdict(unknown.err().unwrap()).0, Code::NotFound);
}

#[tokio::test]
async fn who_stops_listening_stops_the_export() {
    let rig = rig().await;
    rig.node().hold_imports(true);
    let source = "volume/vm1".parse().unwrap();
    let (_, mut steps) = rig
        .service()
        .export(&source, to("x", false), None)
        .await
        .unwrap();
    assert!(matches!(
        steps.next().await,
        Some(Ok(ExportStep::Progress(_)))
    ));
    drop(steps);
    rig.node().hold_imports(false);
    assert!(rig.node().files().is_empty());
}

/// A rescue shows thins by ids that no record has.
#[tokio::test]
async fn a_thin_that_has_no_record_is_exported_by_its_id_and_no_other() {
    let rig = rig().await;
    let owner = rig.node().copy_thin().to_string();
    let steps = exported(&rig, &owner, &to("t.raw", false)).await;
    assert!(matches!(steps.last(), Some(Ok(ExportStep::Done(_)))));
    assert_eq!(rig.node().files(), ["t.raw"]);
    let unknown = goldleaf_types::VolumeId::from_bytes([77; 16]).to_string();
    let source = unknown.parse().unwrap();
    let refused = rig.service().export(&source, to("u.raw", false), None);
    assert_eq!(verdict(refused.await.err().unwrap()).0, Code::NotFound);
}
