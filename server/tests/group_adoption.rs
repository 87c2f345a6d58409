//! Groups of snapshots after their store is lost or put back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

#[path = "support/lives.rs"]
mod lives;
mod support;

use goldleaf_server::domain::{GroupSnapshot, Pool, Ref, Snapshot};
use goldleaf_server::service::Target;
use goldleaf_types::{GroupId, PoolId};
use lives::{adopt, all, another_life, backup_of, filled, refused, said};
use support::*;
use tonic::Code;

/// The law: groups come back with their snapshots, and the same call answers the same group.
#[tokio::test]
async fn law_groups_come_back_with_the_catalogue() {
    let lost = filled().await;
    let service = lost.service();
    let wanted = || {
        let mut wanted = group_of("both", ["vm1", "vm2"]);
        wanted.labels = labels([("team", "db")]);
        wanted
    };
    let both = service.create_group(wanted()).await.unwrap();
    let halved = service
        .create_group(group_of("halved", ["vm2", "vm1"]))
        .await
        .unwrap();
    let gone = format!("{}", halved.members[0].name);
    service.delete_snapshot(target(&gone)).await.unwrap();
    let whole = service
        .create_group(group_of("deleted", ["vm1"]))
        .await
        .unwrap();
    service.delete_group(target("deleted")).await.unwrap();

    let rig = another_life(&lost, None).await;
    let looked = said(&adopt(&rig, false).await);
    for name in ["both", "halved"] {
        let mut of = looked.iter().filter(|(n, _)| n == name);
        assert!(
            of.next().is_some_and(|(_, b)| b.contains("taken back")),
            "{looked:?}"
        );
    }
    adopt(&rig, true).await;
    assert!(said(&adopt(&rig, true).await).is_empty(), "twice is once");
    let service = rig.service();
    let found = |name: &str| {
        let (service, name) = (std::sync::Arc::clone(service), name.to_owned());
        async move { service.get_group(&named(&name)).await.unwrap() }
    };
    let now = found("both").await;
    assert_eq!(
        GroupSnapshot {
            revision: both.revision,
            ..now
        },
        both
    );
    let again = service.create_group(wanted()).await.unwrap();
    assert_eq!(again.id, both.id);
    let other = service.create_group(group_of("both", ["vm2", "vm1"])).await;
    assert_eq!(refused(other).0, Code::AlreadyExists);
    // Of one that was deleted alone its pool knows nothing any more; its group is what is there.
    let now = found("halved").await;
    assert_eq!(
        (now.id, now.members.as_slice()),
        (halved.id, &halved.members[1..])
    );
    let again = service
        .create_group(group_of("halved", ["vm2", "vm1"]))
        .await;
    assert_eq!(again.unwrap().id, halved.id);
    assert!(service.get_group(&Ref::Id(whole.id)).await.is_err());
    for snapshot in all::<Snapshot>(&rig).await {
        let of = [&both, &halved].into_iter().find(|group| {
            group
                .members
                .iter()
                .any(|member| member.snapshot == snapshot.id)
        });
        assert_eq!(
            snapshot.group,
            of.map(|group| group.id),
            "{}",
            snapshot.name
        );
    }
    // They go as they came.
    service.delete_group(target("both")).await.unwrap();
    service.delete_group(target("halved")).await.unwrap();
    assert_eq!(all::<Snapshot>(&rig).await.len(), 1);
    rig.check("after the groups went").await;
}

/// A group that was made anew since the backup has its name; the one of the backup is shown as lost.
#[tokio::test]
async fn a_group_that_is_there_takes_its_name_from_one_that_is_not() {
    let newer = filled().await;
    let service = newer.service();
    let old = service.create_group(group_of("g", ["vm1"])).await.unwrap();
    let backup = backup_of(&newer).await;
    service.delete_group(target("g")).await.unwrap();
    let new = service
        .create_group(group_of("g", ["vm1", "vm2"]))
        .await
        .unwrap();
    let rig = another_life(&newer, Some(&backup)).await;
    adopt(&rig, true).await;
    let service = rig.service();
    let now = service.get_group(&named("g")).await.unwrap();
    assert_eq!((now.id, now.members), (new.id, new.members));
    let was = service.get_group(&Ref::Id(old.id)).await.unwrap();
    assert!(was.name.as_str().starts_with("g.lost-"), "{}", was.name);
    let target = Target {
        what: Ref::Id(old.id),
        revision: 0,
    };
    service.delete_group(target).await.unwrap();
    assert_eq!(all::<GroupSnapshot>(&rig).await.len(), 1);
    rig.check("after the lost group went").await;
}

/// A name that another pool's group has is said before anything is written.
#[tokio::test]
async fn a_group_whose_name_is_taken_on_another_pool_stops_the_adoption() {
    let lost = filled().await;
    lost.service()
        .create_group(group_of("g", ["vm1"]))
        .await
        .unwrap();
    let rig = another_life(&lost, None).await;
    let mut taken = lost.service().get_group(&named("g")).await.unwrap();
    taken.id = GroupId::mint();
    taken.pool = PoolId::mint();
    taken.members.clear();
    rig.service()
        .records
        .insert(&mut taken, Vec::new())
        .await
        .unwrap();
    let refusal = rig
        .service()
        .adopt_node(&named("n1"), true)
        .await
        .unwrap_err();
    assert!(
        refusal.to_string().contains("is also the name"),
        "{refusal}"
    );
    assert!(all::<Pool>(&rig).await.is_empty() && all::<Snapshot>(&rig).await.is_empty());
}
