//! The steps of nodes and pools as a whole: drained, given up, taken back, adopted, imported.

use goldleaf_server::domain::{ActivateOptions, Ref, Remark};
use goldleaf_server::service::{
    AdoptedPool, Adoption, Drained, ImportPool, Loss, NodeView, Update,
};

use super::support::{NODE, clone_of, labels, named, registration, target, thin};
use super::{Step, gone, life, of_pool, of_volume, step};

/// A change of labels and protection.
pub fn relabel(name: &str, protect: bool) -> Update<Ref<goldleaf_types::VolumeId>> {
    Update {
        what: named(name),
        change: Remark {
            set: labels([("team", "db")]),
            remove: Vec::new(),
            deletion_protection: Some(protect),
        },
        revision: 0,
    }
}

/// A node that is drained, given up and taken back, with volumes and snapshots on it.
pub fn forsaken() -> Vec<Step> {
    let of_node = |view: NodeView| {
        let n = view.node;
        let (drained, lost) = (n.drained.is_some(), n.lost.is_some());
        format!("{} drained {drained} lost {lost}", n.name)
    };
    let of_drain = |drained: Drained| {
        let active: Vec<_> = drained
            .active
            .unwrap()
            .into_iter()
            .map(|a| a.name)
            .collect();
        format!("{active:?}")
    };
    let of_adoption = |adoption: Adoption| {
        let of = |pool: &AdoptedPool| format!("{} {} {}", pool.name, pool.ours, pool.changes.len());
        let all: Vec<_> = adoption.pools.iter().map(of).collect();
        format!("{all:?}")
    };
    let of_loss = |loss: Loss| {
        let all = loss
            .forsaken
            .iter()
            .map(|f| format!("{} {} {}", f.kind, f.name, f.becomes));
        format!("{} {:?}", loss.applied, all.collect::<Vec<_>>())
    };
    let mut steps: Vec<_> = life().into_iter().take(10).collect();
    steps.extend([
        step("drain the node", of_drain, |s| async move {
            s.drain(&named("n1"), true).await
        }),
        step(
            "refused: a volume on a drained node",
            of_volume,
            |s| async move { s.create_thin(thin("vm5", "golden")).await },
        ),
        step(
            "refused: a clone on a drained node",
            of_volume,
            |s| async move { s.clone_thin(clone_of("vm5", "snapshot/s1", 0)).await },
        ),
        step("resume the node", of_node, |s| async move {
            s.resume_node(&named("n1")).await
        }),
        step("say what would be given up", of_loss, |s| async move {
            s.mark_lost(&named("n1"), false).await
        }),
        step("give the node up", of_loss, |s| async move {
            s.mark_lost(&named("n1"), true).await
        }),
        step(
            "refused: register the lost node",
            |_| "known".into(),
            |s| async move { s.register(registration(NODE, "n1")).await },
        ),
        step(
            "refused: activate on the lost node",
            of_volume,
            |s| async move { s.activate(&named("vm1"), ActivateOptions::default()).await },
        ),
        step("delete a snapshot of the lost node", gone, |s| async move {
            s.delete_snapshot(target("s2")).await
        }),
        step("delete a volume of the lost node", gone, |s| async move {
            s.delete_volume(target("vm1")).await
        }),
        step("take the node back", of_node, |s| async move {
            let view = s.take_back(&named("n1")).await?;
            for returned in s.returned_thins().await? {
                s.finish(returned).await?;
            }
            Ok(view)
        }),
        step("adopt what the node has", of_adoption, |s| async move {
            s.adopt_node(&named("n1"), true).await
        }),
        step("see what is there still", of_drain, |s| async move {
            s.drain(&named("n1"), false).await
        }),
        step("close the pool", of_pool, |s| async move {
            s.close_pool(&named("fast")).await
        }),
        step("import the pool", of_pool, |s| async move {
            let devices = vec!["/dev/sda".into()];
            let (node, force_from) = (Some(named("n1")), None);
            s.import_pool(ImportPool {
                node,
                devices,
                force_from,
            })
            .await
        }),
    ]);
    steps
}
