//! Labels and deletion protection: what an update changes, and what protection refuses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::domain::{Ref, Remark, Volume};
use goldleaf_server::service::{CreateThin, Listing, ServiceError, Update};
use goldleaf_types::Labels;
use support::{Rig, everything, image, labels, named, pool, snapshot_of, target, thin, verdict};
use tonic::Code;

fn change<Id>(name: &str, change: Remark) -> Update<Ref<Id>> {
    Update {
        what: named(name),
        change,
        revision: 0,
    }
}

fn protect<Id>(name: &str, on: bool) -> Update<Ref<Id>> {
    let deletion_protection = Some(on);
    change(
        name,
        Remark {
            deletion_protection,
            ..Remark::default()
        },
    )
}

/// That an error is the refusal of protection, which says how to take it off.
fn refused_as_protected(done: Result<(), ServiceError>) {
    let error = done.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("deletion_protection") && text.contains("--unprotect"),
        "{text}"
    );
    let field = Some("deletion_protection".to_owned());
    let expected = (
        Code::FailedPrecondition,
        "DELETION_PROTECTED".to_owned(),
        field,
    );
    assert_eq!(verdict(error), expected);
}

#[tokio::test]
async fn what_is_protected_is_not_deleted_until_that_is_taken_off() {
    let mut rig = Rig::furnished().await;
    let service = rig.service();
    let guarded = CreateThin {
        deletion_protection: true,
        ..thin("vm1", "")
    };
    service.create_thin(guarded).await.unwrap();
    service
        .create_snapshot(snapshot_of("s1", "volume/vm1"))
        .await
        .unwrap();
    service.update_snapshot(protect("s1", true)).await.unwrap();
    service.update_image(protect("golden", true)).await.unwrap();
    service.create_pool(pool("slow", "/dev/sdb")).await.unwrap();
    service.update_pool(protect("slow", true)).await.unwrap();

    rig.restart(); // protection is in the records
    let service = rig.service();
    refused_as_protected(service.delete_volume(target("vm1")).await);
    refused_as_protected(service.delete_snapshot(target("s1")).await);
    refused_as_protected(service.delete_image(target("golden")).await);
    refused_as_protected(service.delete_pool(target("slow")).await);
    rig.check("after the refusals").await;

    service.update_snapshot(protect("s1", false)).await.unwrap();
    service.update_volume(protect("vm1", false)).await.unwrap();
    service
        .update_image(protect("golden", false))
        .await
        .unwrap();
    service.update_pool(protect("slow", false)).await.unwrap();
    service.delete_snapshot(target("s1")).await.unwrap();
    service.delete_volume(target("vm1")).await.unwrap();
    service.delete_image(target("golden")).await.unwrap();
    service.delete_pool(target("slow")).await.unwrap();
    rig.check("at the end").await;
}

#[tokio::test]
async fn an_update_may_demand_a_revision_and_a_repeated_one_is_not_refused() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let made = service.create_thin(thin("vm1", "")).await.unwrap().volume;
    let wanted = |value: &str, revision| Update {
        revision,
        ..change(
            "vm1",
            Remark {
                set: labels([("team", value)]),
                ..Remark::default()
            },
        )
    };
    let first = service
        .update_volume(wanted("db", made.revision))
        .await
        .unwrap()
        .volume;
    assert!(first.revision > made.revision);
    assert_eq!(first.labels, labels([("team", "db")]));
    let again = service
        .update_volume(wanted("db", made.revision))
        .await
        .unwrap()
        .volume;
    assert_eq!(again, first, "what is made already changes nothing");
    let stale = service
        .update_volume(wanted("web", made.revision))
        .await
        .unwrap_err();
    let verdict = verdict(stale);
    assert_eq!(
        (verdict.0, verdict.1.as_str()),
        (Code::Aborted, "OTHER_REVISION")
    );
    let of_team = Listing {
        labels: labels([("team", "db")]),
        ..everything()
    };
    let found = service.list_volumes(&of_team).await.unwrap();
    assert_eq!(found.items.len(), 1, "a list finds it by its new label");
}

#[tokio::test]
async fn a_repeated_creation_is_compared_with_what_was_asked_for_first() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let asked = || CreateThin {
        labels: labels([("a", "1")]),
        ..thin("vm1", "golden")
    };
    let made = service.create_thin(asked()).await.unwrap().volume;
    let remark = Remark {
        set: labels([("b", "2")]),
        remove: vec!["a".into()],
        deletion_protection: Some(true),
    };
    service.update_volume(change("vm1", remark)).await.unwrap();
    let again = service.create_thin(asked()).await.unwrap().volume;
    assert_eq!((again.id, &again.labels), (made.id, &labels([("b", "2")])));
    let other = CreateThin {
        deletion_protection: true,
        ..asked()
    };
    let error = service.create_thin(other).await.unwrap_err();
    assert_eq!(verdict(error).2.as_deref(), Some("deletion_protection"));
    // The image's and the pool's too.
    let tagged = Remark {
        set: labels([("os", "linux")]),
        ..Remark::default()
    };
    service
        .update_image(change("golden", tagged.clone()))
        .await
        .unwrap();
    service.update_pool(change("fast", tagged)).await.unwrap();
    service.create_image(image("golden")).await.unwrap();
    service.create_pool(pool("fast", "/dev/sda")).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_was_updated_while_it_was_made_is_finished_as_it_was_ordered() {
    use goldleaf_server::agents::fake::{Cut, Verb};
    let rig = Rig::furnished().await;
    let service = rig.service();
    rig.node().cut(Verb::CreateThin, Cut::AfterEffect);
    let asked = || CreateThin {
        labels: labels([("a", "1")]),
        ..thin("vm1", "")
    };
    service.create_thin(asked()).await.unwrap_err();
    let remark = Remark {
        remove: vec!["a".into()],
        ..Remark::default()
    };
    service.update_volume(change("vm1", remark)).await.unwrap();
    assert_eq!(rig.settle().await, Vec::<String>::new());
    let made = service
        .records
        .by_name::<Volume>(&"vm1".parse().unwrap())
        .await;
    assert_eq!(made.unwrap().unwrap().labels, Labels::default());
    rig.check("at the end").await;
}
