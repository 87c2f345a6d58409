//! Repairs of pools' metadata: a dry run changes nothing, a repair is done once, whoever waits for it,
//! and what its node refuses is told as it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

mod support;

use std::sync::Mutex;

use futures::StreamExt;
use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::pool_service_server::PoolService;
use goldleaf_server::agents::fake::{Cut, Verb};
use goldleaf_server::domain::{
    Phase, Pool, PoolMode, PoolRepair, RepairAsked, RepairOutcome, RepairStep, ThinFate, Volume,
};
use goldleaf_server::grpc::Api;
use goldleaf_server::service::ServiceError;
use goldleaf_types::Bytes;
use support::*;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

fn asked(confirm: &str, accept_loss: bool) -> RepairAsked {
    RepairAsked {
        confirm: confirm.into(),
        accept_loss,
        revision: 0,
    }
}

async fn repair(rig: &Rig, asked: RepairAsked) -> Result<PoolRepair, ServiceError> {
    rig.service()
        .repair_pool(&named("fast"), &asked, |_, _| ())
        .await
}

async fn fast(rig: &Rig) -> Pool {
    let records = &rig.service().records;
    records
        .by_name(&"fast".parse().unwrap())
        .await
        .unwrap()
        .unwrap()
}

/// A pool with a volume, whose metadata is damaged; a repair loses the volume, if it is to.
async fn damaged(loses: bool) -> Rig {
    let rig = Rig::furnished().await;
    rig.service().create_thin(thin("vm1", "")).await.unwrap();
    let records = &rig.service().records;
    let vm1: Volume = records
        .by_name(&"vm1".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let loses: Vec<_> = loses.then(|| vm1.id.into()).into_iter().collect();
    rig.node().damage_pool(fast(&rig).await.id, &loses);
    assert!(rig.service().open_pool(&named("fast")).await.is_err());
    rig
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_a_confirmed_one_does_it_once() {
    let rig = damaged(false).await;
    let steps = Mutex::new(Vec::new());
    let told = |step, _| steps.lock().unwrap().push(step);
    let would = rig
        .service()
        .repair_pool(&named("fast"), &asked("", false), told)
        .await
        .unwrap();
    assert_eq!(would.outcome, RepairOutcome::WouldDo);
    assert_eq!(would.thins.len(), 1);
    assert_eq!(*steps.lock().unwrap(), [RepairStep::Copying]);
    let (code, reason, _) = verdict(repair(&rig, asked("slow", false)).await.unwrap_err());
    assert_eq!(
        (code, reason.as_str()),
        (Code::InvalidArgument, "BAD_FIELD")
    );
    assert_eq!(rig.node().effects(Verb::RepairPool), 0);
    let done = repair(&rig, asked("fast", false)).await.unwrap();
    assert_eq!(done.outcome, RepairOutcome::Done);
    assert!(!done.kept.is_empty());
    assert_eq!(fast(&rig).await.phase, Phase::Ready);
    let again = repair(&rig, asked("fast", false)).await.unwrap();
    assert_eq!(again.outcome, RepairOutcome::NothingToDo);
    assert_eq!(rig.node().effects(Verb::RepairPool), 1);
}

#[tokio::test]
async fn a_repair_whose_answer_is_lost_is_told_by_the_next_one() {
    let rig = damaged(false).await;
    rig.node().cut(Verb::RepairPool, Cut::AfterEffect);
    let (code, _, _) = verdict(repair(&rig, asked("fast", false)).await.unwrap_err());
    assert_eq!(code, Code::Unavailable);
    let again = repair(&rig, asked("fast", false)).await.unwrap();
    assert_eq!(again.outcome, RepairOutcome::NothingToDo);
    assert_eq!(fast(&rig).await.phase, Phase::Ready);
    assert_eq!(rig.node().effects(Verb::RepairPool), 1);
}

#[tokio::test]
async fn what_would_be_lost_has_to_be_accepted_and_another_revision_is_refused() {
    let rig = damaged(true).await;
    let would = repair(&rig, asked("", false)).await.unwrap();
    assert_eq!(would.thins[0].fate, ThinFate::Lost);
    let refused = verdict(repair(&rig, asked("fast", false)).await.unwrap_err());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::FailedPrecondition, "WOULD_LOSE")
    );
    let other = RepairAsked {
        revision: 4711,
        ..asked("fast", true)
    };
    let refused = verdict(repair(&rig, other).await.unwrap_err());
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (Code::Aborted, "OTHER_REVISION")
    );
    assert_eq!(rig.node().effects(Verb::RepairPool), 0);
    let done = repair(&rig, asked("fast", true)).await.unwrap();
    assert_eq!(done.outcome, RepairOutcome::Done);
}

/// A repair takes minutes. The other pools of its node open and close meanwhile, and what the node tells
/// of them, and of the pool itself, reaches their records; the pool itself waits for its repair.
#[tokio::test]
async fn a_repair_keeps_neither_other_pools_nor_the_nodes_reports_waiting() {
    let rig = damaged(false).await;
    let service = rig.service();
    let slow = service.create_pool(pool("slow", "/dev/sdb")).await.unwrap();
    rig.node().hold_imports(true);
    let begun = std::sync::Arc::new(tokio::sync::Notify::new());
    let repairing = tokio::spawn({
        let (service, begun) = (
            std::sync::Arc::clone(service),
            std::sync::Arc::clone(&begun),
        );
        let asked = asked("fast", false);
        async move {
            let told = |_, _| begun.notify_one();
            service.repair_pool(&named("fast"), &asked, told).await
        }
    });
    begun.notified().await;
    let refused = service.close_pool(&named("fast")).await.unwrap_err();
    assert!(refused.to_string().contains("being repaired"), "{refused}");
    let (code, _, _) = verdict(service.open_pool(&named("fast")).await.unwrap_err());
    assert_eq!(code, Code::Aborted);
    let others = async {
        service.close_pool(&named("slow")).await.unwrap();
        service.open_pool(&named("slow")).await.unwrap();
        let (total, of_slow) = (Bytes(GIB), slow.pool.id);
        rig.node()
            .set_pool(of_slow, PoolMode::OutOfDataSpace, total, total);
        let reports = service.agent_of(NODE).await.unwrap().pools().await.unwrap();
        assert_eq!(reports.len(), 2);
        service.follow_pools(NODE, &reports).await.unwrap();
        let pool = service.get_pool(&named("slow")).await.unwrap().pool;
        assert_eq!(pool.mode, PoolMode::OutOfDataSpace);
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), others);
    in_time.await.expect("others wait for the repair");
    assert!(!repairing.is_finished());
    rig.node().hold_imports(false);
    let done = repairing.await.unwrap().unwrap();
    assert_eq!(done.outcome, RepairOutcome::Done);
    assert_eq!(fast(&rig).await.phase, Phase::Ready);
    service.close_pool(&named("fast")).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_does_not_open_is_opened_for_rescue_and_takes_no_volume() {
    let rig = damaged(false).await;
    let service = rig.service();
    let view = service.rescue_pool(&named("fast")).await.unwrap();
    let is = (view.pool.phase, view.pool.mode);
    assert_eq!(is, (Phase::Ready, PoolMode::ReadOnly));
    assert_eq!(fast(&rig).await.mode, PoolMode::ReadOnly);
    assert!(service.create_thin(thin("vm2", "")).await.is_err());
    service.close_pool(&named("fast")).await.unwrap();
}

/// Begins as a caller would, over the API.
async fn begin(api: &Api, confirm: &str) -> <Api as PoolService>::RepairStream {
    let request = api::RepairPoolRequest {
        pool: "fast".into(),
        confirm: confirm.into(),
        ..Default::default()
    };
    api.repair(Request::new(request))
        .await
        .unwrap()
        .into_inner()
}

async fn next_step(events: &mut <Api as PoolService>::RepairStream) -> api::RepairStep {
    let next = tokio::time::timeout(std::time::Duration::from_secs(30), events.next());
    next.await.expect("nothing comes").unwrap().unwrap().step()
}

#[tokio::test]
async fn a_look_ends_with_its_caller_and_a_repair_that_waited_for_it_goes_on_without() {
    let rig = damaged(false).await;
    let (service, stop) = (rig.service(), CancellationToken::new());
    let api = Api::new(std::sync::Arc::clone(service), stop.clone());
    rig.node().hold_imports(true);
    let mut look = begin(&api, "").await;
    assert_eq!(next_step(&mut look).await, api::RepairStep::Copying);
    let mut repairing = begin(&api, "fast").await;
    assert_eq!(next_step(&mut repairing).await, api::RepairStep::Waiting);
    drop(look);
    assert_eq!(next_step(&mut repairing).await, api::RepairStep::Copying);
    drop(repairing);
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let refused = service.close_pool(&named("fast")).await.unwrap_err();
    assert!(refused.to_string().contains("being repaired"), "{refused}");
    rig.node().hold_imports(false);
    eventually("it is repaired", async || {
        rig.node().effects(Verb::RepairPool) == 1 && fast(&rig).await.phase == Phase::Ready
    })
    .await;
    // A stop does not wait for a look either.
    rig.node().hold_imports(true);
    let mut look = begin(&api, "").await;
    assert_eq!(next_step(&mut look).await, api::RepairStep::Copying);
    stop.cancel();
    let stopped = look.next().await.unwrap().unwrap_err();
    assert_eq!(stopped.code(), Code::Unavailable);
}
