//! The calls of a fake agent: faults first, then the host's rules, then faults again.

use async_trait::async_trait;
use futures::{StreamExt, stream};
use goldleaf_types::{
    Bytes, Digest, Incarnation, Name, NodeId, PoolId, ThinOwner, VolumeId, VolumeSize,
};
use jiff::Timestamp;
use tokio_stream::wrappers::WatchStream;

use super::host::{Done, Host};
use super::{Cut, FakeNode, Verb};
use crate::agents::{
    AgentError, AgentPort, BlockParts, Export, ExportStep, Import, ImportStep, PoolReports, Repair,
    ThinNews, ThinReports,
};
use crate::domain::{
    ActivateOptions, BlockOrder, CatalogueRow, Check, ExportOrder, Finding, GroupSnapshot,
    ImageAsked, ImageReport, ImportedPool, KeptText, MendOutcome, Mended, MoreRoom, PolicyChange,
    Pool, PoolReport, Progress, ThinOrder, ThinReport,
};

/// The agent of one node.
#[derive(Clone, Debug)]
pub(super) struct FakeAgent {
    pub(super) name: String,
    pub(super) node: FakeNode,
    pub(super) caller: Option<Incarnation>,
}

impl FakeAgent {
    fn away(&self, why: &str) -> AgentError {
        AgentError::Away {
            node: self.name.clone(),
            why: why.into(),
        }
    }

    /// A call that changes nothing.
    pub(super) fn look<T>(
        &self,
        call: impl FnOnce(&Host) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        let host = self.node.host();
        if host.away || host.cut_off {
            return Err(self.away("it is away"));
        }
        call(&host)
    }

    /// A call that changes something, and the faults that were planned for it.
    pub(super) fn change<T>(
        &self,
        verb: Verb,
        call: impl FnOnce(&mut Host) -> Done<T>,
    ) -> Result<T, AgentError> {
        let mut host = self.node.host();
        host.caller = self.caller;
        if host.away || burn(&mut host) {
            return Err(self.away("it is away"));
        }
        let planned = host.cuts.iter().position(|(planned, _)| *planned == verb);
        let cut = planned.map(|at| host.cuts.remove(at).1);
        if cut == Some(Cut::BeforeEffect) {
            return Err(self.away("the call did not reach it"));
        }
        let called = call(&mut host);
        host.away |= called.is_err() && cut == Some(Cut::AfterRefusal);
        let (answer, changed) = called?;
        if changed {
            *host.effects.entry(verb).or_default() += 1;
        }
        let burnt = burn(&mut host);
        drop(host);
        self.node.changed();
        if burnt || cut == Some(Cut::AfterEffect) {
            return Err(self.away("its answer was lost"));
        }
        Ok(answer)
    }
}

/// Passes one cut point. True when the node is cut off.
fn burn(host: &mut Host) -> bool {
    match &mut host.fuse {
        Some(0) => host.cut_off = true,
        Some(left) => *left -= 1,
        None => {}
    }
    host.cut_off
}

#[async_trait]
impl AgentPort for FakeAgent {
    async fn preflight(&self) -> Result<Vec<Check>, AgentError> {
        let check = Check {
            subject: "memory".into(),
            ok: true,
            found: "a fake host".into(),
            remedy: String::new(),
        };
        self.look(|_| Ok(vec![check]))
    }

    async fn examine(&self) -> Result<Vec<Finding>, AgentError> {
        let name: Name = self.name.parse().map_err(|_| self.away("it has no name"))?;
        self.look(|host| Ok(host.examine(&name)))
    }

    async fn mend(&self, keys: &[String], apply: bool) -> Result<Vec<Mended>, AgentError> {
        let results = keys.iter().map(|key| Mended {
            finding: key.clone(),
            outcome: MendOutcome::NotFound,
            action: format!("apply: {apply}"),
            problem: String::new(),
        });
        self.look(|_| Ok(results.collect()))
    }

    async fn create_pool(&self, pool: &Pool) -> Result<PoolReport, AgentError> {
        self.change(Verb::CreatePool, |host| host.create_pool(pool))
    }

    async fn import_pool(
        &self,
        devices: &[String],
        force_from: Option<NodeId>,
    ) -> Result<ImportedPool, AgentError> {
        self.import(devices, force_from)
    }

    async fn adopt_pool(
        &self,
        pool: PoolId,
        former: Option<Incarnation>,
    ) -> Result<PoolReport, AgentError> {
        self.change(Verb::AdoptPool, |host| host.adopt_pool(pool, former))
    }

    /// Not cut short and not counted: nobody asks for it, so it comes at any moment of a test.
    async fn keep_records(
        &self,
        records: String,
        former: Option<Incarnation>,
    ) -> Result<(), AgentError> {
        let mut host = self.node.host();
        if host.away || host.cut_off {
            return Err(self.away("it is away"));
        }
        host.keep_records(self.caller, (records, former))
    }

    async fn kept_records(&self) -> Result<Option<KeptText>, AgentError> {
        self.look(|host| Ok(host.kept_records.clone()))
    }

    async fn open_pools(&self) -> Result<Vec<ImportedPool>, AgentError> {
        self.look(Host::open_pools)
    }

    async fn catalogue(&self, pool: PoolId) -> Result<Vec<CatalogueRow>, AgentError> {
        self.rows(pool)
    }

    async fn open_pool(&self, pool: PoolId, rescue: bool) -> Result<PoolReport, AgentError> {
        self.change(Verb::OpenPool, |host| match rescue {
            true => host.rescue_pool(pool),
            false => host.open_pool(pool),
        })
    }

    async fn close_pool(&self, pool: PoolId) -> Result<PoolReport, AgentError> {
        self.change(Verb::ClosePool, |host| host.close_pool(pool))
    }

    async fn extend_pool(&self, pool: PoolId, more: &MoreRoom) -> Result<PoolReport, AgentError> {
        self.node.not_held().await;
        self.change(Verb::ExtendPool, |host| host.extend_pool(pool, more))
    }

    async fn set_policy(
        &self,
        pool: PoolId,
        change: &PolicyChange,
    ) -> Result<PoolReport, AgentError> {
        self.node.not_held().await;
        self.change(Verb::SetPolicy, |host| host.set_policy(pool, change))
    }

    async fn rename_pool(&self, pool: PoolId, name: &Name) -> Result<PoolReport, AgentError> {
        self.change(Verb::RenamePool, |host| host.rename_pool(pool, name))
    }

    async fn repair_pool(
        &self,
        pool: PoolId,
        apply: bool,
        accept_loss: bool,
    ) -> Result<Repair, AgentError> {
        Ok(self.repaired(pool, (apply, accept_loss)))
    }

    async fn delete_pool(&self, pool: PoolId, force: bool) -> Result<(), AgentError> {
        self.change(Verb::DeletePool, |host| host.delete_pool(pool, force))
    }

    async fn pools(&self) -> Result<Vec<PoolReport>, AgentError> {
        self.look(Host::pools)
    }

    async fn watch_pools(&self) -> Result<PoolReports, AgentError> {
        self.look(|_| Ok(()))?;
        let agent = self.clone();
        let news = WatchStream::new(self.node.news.subscribe());
        // As a broken connection: the error is the last thing that comes.
        let reports = stream::unfold(Some((agent, news)), |open| async move {
            let (agent, mut news) = open?;
            news.next().await?;
            let report = agent.look(Host::pools);
            let ended = report.is_err();
            Some((report, (!ended).then_some((agent, news))))
        });
        Ok(reports.boxed())
    }

    /// Tells of everything at each change; a real agent tells less.
    async fn watch_thins(&self) -> Result<ThinReports, AgentError> {
        self.look(|_| Ok(()))?;
        let agent = self.clone();
        let news = WatchStream::new(self.node.news.subscribe());
        let reports = stream::unfold(Some((agent, news)), |open| async move {
            let (agent, mut news) = open?;
            news.next().await?;
            let told = agent.look(Host::thins).map(|there| ThinNews {
                there,
                gone: Vec::new(),
                whole: true,
            });
            let ended = told.is_err();
            Some((told, (!ended).then_some((agent, news))))
        });
        Ok(reports.boxed())
    }

    async fn import_image(
        &self,
        asked: &ImageAsked,
        thin: Option<ThinOwner>,
    ) -> Result<Import, AgentError> {
        let report = self.look(|host| host.source(asked, thin))?;
        let half = Progress {
            done: Bytes(report.size.0 / 2),
            total: report.size,
        };
        let (agent, asked) = (self.clone(), asked.clone());
        let end = async move {
            agent.node.not_held().await;
            agent
                .change(Verb::ImportImage, |host| host.import(&asked, thin))
                .map(ImportStep::Done)
        };
        let begin = stream::once(std::future::ready(Ok(ImportStep::Progress(half))));
        Ok(begin.chain(stream::once(end)).boxed())
    }

    async fn export_thin(
        &self,
        owner: ThinOwner,
        order: &ExportOrder,
    ) -> Result<Export, AgentError> {
        let file = self.look(|host| host.export(owner, order))?;
        let half = Progress {
            done: Bytes(file.size.0 / 2),
            total: file.size,
        };
        let (agent, order) = (self.clone(), order.clone());
        let end = async move {
            agent.node.not_held().await;
            agent.change(Verb::Export, |host| {
                let file = host.export(owner, &order)?;
                host.files.insert(order.file.clone());
                Ok((ExportStep::Done(file), true))
            })
        };
        let begin = stream::once(std::future::ready(Ok(ExportStep::Progress(half))));
        Ok(begin.chain(stream::once(end)).boxed())
    }

    async fn images(&self) -> Result<Vec<ImageReport>, AgentError> {
        self.look(|host| {
            let report = |(digest, size): (&Digest, &Bytes)| ImageReport {
                digest: *digest,
                size: *size,
            };
            Ok(host.images.iter().map(report).collect())
        })
    }

    async fn verify_image(&self, digest: Digest) -> Result<ImageReport, AgentError> {
        self.look(|host| host.verify(digest))
    }

    async fn delete_image(&self, digest: Digest) -> Result<(), AgentError> {
        self.change(Verb::DeleteImage, |host| host.delete_image(digest))
    }

    async fn create_thin(
        &self,
        order: &ThinOrder,
        activate: Option<ActivateOptions>,
    ) -> Result<ThinReport, AgentError> {
        self.change(Verb::CreateThin, |host| host.create_thin(order, activate))
    }

    async fn create_group(&self, group: &GroupSnapshot) -> Result<Timestamp, AgentError> {
        self.change(Verb::CreateGroup, |host| host.create_group(group))
    }

    async fn mark_thin(
        &self,
        owner: ThinOwner,
        marks: String,
        epoch: u64,
    ) -> Result<(), AgentError> {
        self.change(Verb::Mark, |host| host.mark_thin(owner, marks, epoch))
    }

    async fn resize(
        &self,
        volume: VolumeId,
        size: VolumeSize,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        self.change(Verb::Resize, |host| host.resize(volume, size, epoch))
    }

    async fn decouple(
        &self,
        volume: VolumeId,
        _: Bytes,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        self.change(Verb::Decouple, |host| host.decouple(volume, epoch))
    }

    async fn activate(
        &self,
        volume: VolumeId,
        options: ActivateOptions,
        epoch: u64,
    ) -> Result<ThinReport, AgentError> {
        self.change(Verb::Activate, |host| host.activate(volume, options, epoch))
    }

    async fn deactivate(&self, volume: VolumeId, epoch: u64) -> Result<ThinReport, AgentError> {
        self.change(Verb::Deactivate, |host| host.deactivate(volume, epoch))
    }

    async fn delete_thin(
        &self,
        pool: PoolId,
        owner: ThinOwner,
        epoch: u64,
    ) -> Result<(), AgentError> {
        self.change(Verb::DeleteThin, |host| {
            host.delete_thin(pool, owner, epoch)
        })
    }

    async fn thin(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        self.look(|host| host.thin(owner))
    }

    async fn thin_usage(&self, owner: ThinOwner) -> Result<ThinReport, AgentError> {
        self.look(|host| host.thin_usage(owner))
    }

    async fn blocks(&self, order: &BlockOrder) -> Result<BlockParts, AgentError> {
        let parts = self.look(|host| host.blocks(order))?;
        Ok(stream::iter(parts.into_iter().map(Ok)).boxed())
    }

    async fn thins(&self) -> Result<Vec<ThinReport>, AgentError> {
        // The sender lives as long as the node that we hold.
        let _ = self
            .node
            .lists_held
            .subscribe()
            .wait_for(|held| !held)
            .await;
        self.look(Host::thins)
    }
}
