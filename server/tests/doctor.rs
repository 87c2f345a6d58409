//! The control plane's half of the doctor: its records against what the nodes have.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use goldleaf_server::domain::{MendOutcome, Severity};
use goldleaf_server::service::ServiceError;
use support::{NODE, OTHER_NODE, Rig, digest, named, snapshot_of, thin};

async fn found(rig: &Rig) -> Vec<String> {
    let examination = rig.service().examine(&[]).await.unwrap();
    examination.findings.iter().map(|f| f.id()).collect()
}

#[tokio::test]
async fn nothing_is_found_where_records_and_nodes_agree() {
    let rig = Rig::furnished().await;
    rig.service()
        .create_thin(thin("v", "golden"))
        .await
        .unwrap();
    rig.service()
        .create_snapshot(snapshot_of("s", "volume/v"))
        .await
        .unwrap();
    let examination = rig.service().examine(&[]).await.unwrap();
    assert_eq!(examination.findings, Vec::new());
    assert_eq!(examination.examined.len(), 1);
}

#[tokio::test]
async fn each_difference_between_a_node_and_the_records_has_its_name() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    let kept = service
        .create_thin(thin("kept", "golden"))
        .await
        .unwrap()
        .volume
        .id;
    let gone = service
        .create_thin(thin("gone", "golden"))
        .await
        .unwrap()
        .volume
        .id;
    rig.node().forget_thin(gone.into());
    assert_eq!(found(&rig).await, [format!("n1/NotOnNode/{gone}")]);

    rig.node().lose_image(digest(7));
    rig.node().lose_data(kept.into());
    let image = service.get_image(&named("golden")).await.unwrap().image.id;
    let mut expected = [
        format!("n1/NotOnNode/{gone}"),
        format!("n1/LostThin/{kept}"),
        format!("n1/CopyMissing/{image}"),
    ];
    let mut all = found(&rig).await;
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    let first = &service.examine(&[]).await.unwrap().findings[0];
    assert_eq!(first.severity, Severity::Error, "the worst come first");
}

#[tokio::test]
async fn what_the_records_never_heard_of_is_said() {
    let rig = Rig::furnished().await;
    rig.service()
        .create_thin(thin("v", "golden"))
        .await
        .unwrap();
    let stranger = rig.node().copy_thin();
    assert_eq!(
        found(&rig).await,
        [format!("n1/UnknownToServer/{stranger}")]
    );
}

#[tokio::test]
async fn a_node_that_is_away_is_a_finding_and_the_others_are_examined() {
    let rig = Rig::furnished().await;
    rig.register(OTHER_NODE, "n2").await;
    rig.agents.node(OTHER_NODE).set_away(true);
    let examination = rig.service().examine(&[]).await.unwrap();
    let ids: Vec<_> = examination.findings.iter().map(|f| f.id()).collect();
    assert_eq!(ids, [format!("n2/NodeAway/{OTHER_NODE}")]);
    assert_eq!(examination.examined.len(), 1);
    let only = rig.service().examine(&[named("n1")]).await.unwrap();
    assert_eq!(only.findings, Vec::new());
    let unknown = rig.service().examine(&[named("n9")]).await.unwrap_err();
    assert_eq!(support::verdict(unknown).0, tonic::Code::NotFound);
}

#[tokio::test]
async fn mending_goes_to_the_node_of_the_finding_and_bad_ids_are_refused() {
    let rig = Rig::furnished().await;
    let ids = ["n1/StrayLoop//dev/loop4".to_owned(), "n9/X/y".to_owned()];
    let mended = rig.service().mend(&ids, true).await.unwrap();
    let outcomes: Vec<_> = mended
        .iter()
        .map(|m| (m.finding.as_str(), m.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("n1/StrayLoop//dev/loop4", MendOutcome::NotFound),
            ("n9/X/y", MendOutcome::NotFound),
        ]
    );
    let bad = rig.service().mend(&["StrayLoop".to_owned()], false).await;
    assert!(
        matches!(
            bad,
            Err(ServiceError::BadField {
                field: "findings",
                ..
            })
        ),
        "{bad:?}"
    );
    assert_eq!(rig.node().all_effects(), 2, "a pool and an image, no more");
}

#[tokio::test]
async fn nothing_is_asked_of_a_lost_node_and_that_it_is_lost_is_a_finding() {
    let rig = Rig::furnished().await;
    let service = rig.service();
    service.mark_lost(&named("n1"), true).await.unwrap();
    let examination = service.examine(&[]).await.unwrap();
    let [finding] = &examination.findings[..] else {
        panic!("{examination:?}")
    };
    assert_eq!(finding.id(), format!("n1/NodeLost/{NODE}"));
    assert_eq!(finding.severity, Severity::Warning);
    assert!(finding.reason.contains("lost"), "{finding:?}");
    assert!(examination.examined.is_empty());
    let lost = |error| support::verdict(error).1;
    let stray = ["n1/StrayLoop//dev/loop4".to_owned()];
    for apply in [false, true] {
        let refused = service.mend(&stray, apply).await.unwrap_err();
        assert_eq!(lost(refused), "NODE_LOST");
    }
    let refused = service.preflight(Some(&named("n1"))).await.unwrap_err();
    assert_eq!(lost(refused), "NODE_LOST");
}
