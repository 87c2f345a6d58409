//! Volumes come and go: create, clone, delete, and finishing each.
//!
//! Called by `grpc` and, for what is unfinished, by `reconcile`. The wish names pool, node, image and
//! size, so finishing decides nothing anew: once placed, a volume stays placed. A wish that its
//! agent refuses for good is taken back only after the agent said that it has no such thin.

use goldleaf_types::{Bytes, Labels, Name, ThinOwner, VolumeId, VolumeSize};
use jiff::Timestamp;

use super::decoupling::settled;
use super::placing::{Place, Placement, takes_volumes, trusted};
use super::records::unchanged;
use super::views::VolumeView;
use super::{
    Attempt, Begun, DECISIONS, Op, Service, ServiceError, Target, Unfinished, busy, conflict,
    first, usable,
};
use crate::domain::{
    ActivateOptions, Begin, First, Image, ImageRef, Marks, Phase, Ref, Snapshot, SourceRef, Volume,
    VolumeAsked,
};
use crate::store::Expect;

/// A volume to be, blank or over an image.
#[derive(Clone, Debug)]
pub struct CreateThin {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub size: VolumeSize,
    /// The image that shows through.
    pub image: Option<ImageRef>,
    /// Whether all of the image is to show.
    pub whole_image: bool,
    /// The parameters as they were given.
    pub asked: VolumeAsked,
    /// Where it may go.
    pub placement: Placement,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is protected from deletion.
    pub deletion_protection: bool,
    /// Make its device too.
    pub activate: Option<ActivateOptions>,
}

/// A volume to be that begins as another thin.
#[derive(Clone, Debug)]
pub struct Clone {
    /// Its name.
    pub name: Name,
    /// What it begins as.
    pub source: SourceRef,
    /// Its size, if not the source's.
    pub size: Option<VolumeSize>,
    /// The parameters as they were given.
    pub asked: VolumeAsked,
    /// Where it may go: anywhere over an image, to its source's pool over a thin.
    pub placement: Placement,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is protected from deletion.
    pub deletion_protection: bool,
    /// Make its device too.
    pub activate: Option<ActivateOptions>,
}

/// Why a size less than an image's is refused.
const ALL_OF_IT: &str = "`whole_image` asks for all of it";

/// What both ways of making a volume have in common.
struct Wanted<'a> {
    name: &'a Name,
    asked: &'a VolumeAsked,
    first: First,
    placement: &'a Placement,
    whole_image: bool,
    activate: Option<ActivateOptions>,
}

/// A thin that others can begin as.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) owner: ThinOwner,
    pub(super) pool: goldleaf_types::PoolId,
    pub(super) node: goldleaf_types::NodeId,
    pub(super) size: VolumeSize,
    pub(super) image: Option<goldleaf_types::Digest>,
    pub(super) unchanged: Expect,
}

impl Service {
    /// Makes a volume. The same request again answers the same volume.
    ///
    /// # Errors
    ///
    /// What is refused for good changes nothing; what is cut short is finished by itself.
    pub async fn create_thin(&self, wanted: CreateThin) -> Result<VolumeView, ServiceError> {
        let common = Wanted {
            name: &wanted.name,
            asked: &wanted.asked,
            first: first(&wanted.labels, wanted.deletion_protection),
            placement: &wanted.placement,
            whole_image: wanted.whole_image,
            activate: wanted.activate,
        };
        self.make_once(&common, || self.placed_over(&wanted)).await
    }

    /// The record of a volume to be, and what it rests on.
    async fn placed_over(
        &self,
        wanted: &CreateThin,
    ) -> Result<(Volume, Vec<Expect>), ServiceError> {
        let content = match &wanted.image {
            Some(image) => Some(self.usable_image(image, "image").await?),
            None => None,
        };
        if let Some(content) = content.as_ref().filter(|_| wanted.whole_image) {
            shows_all(&content.image, wanted.size, ALL_OF_IT)?;
        }
        let place = self.place(&wanted.placement, content, wanted.size).await?;
        Ok(placed(wanted, place))
    }

    /// Decides on a volume and makes it, unless its name is taken.
    async fn make_once<W>(
        &self,
        wanted: &Wanted<'_>,
        decide: impl Fn() -> W,
    ) -> Result<VolumeView, ServiceError>
    where
        W: Future<Output = Result<(Volume, Vec<Expect>), ServiceError>>,
    {
        let _name = self.hold_name::<Volume>(wanted.name).await?;
        for _ in 0..DECISIONS {
            if let Some(volume) = self.records.by_name::<Volume>(wanted.name).await? {
                return self.repeat(volume, wanted).await;
            }
            let (volume, expect) = decide().await?;
            match self.wish(volume, expect).await {
                Err(error) if error.is_conflict() => {} // something it rests on changed
                Err(error) => return Err(error),
                Ok((volume, _held, begun)) => {
                    return self
                        .make_volume(volume, wanted.activate, (Attempt::First, begun))
                        .await;
                }
            }
        }
        Err(busy::<Volume>(
            wanted.name.as_str(),
            "being decided on by others too",
        ))
    }

    /// Makes a volume that begins as another thin. The same request again answers the same volume.
    ///
    /// # Errors
    ///
    /// As [`Self::create_thin`].
    pub async fn clone_thin(&self, wanted: Clone) -> Result<VolumeView, ServiceError> {
        let common = Wanted {
            name: &wanted.name,
            asked: &wanted.asked,
            first: first(&wanted.labels, wanted.deletion_protection),
            placement: &wanted.placement,
            whole_image: false, // a clone that shows less is never made
            activate: wanted.activate,
        };
        self.make_once(&common, || self.begun_as(&wanted)).await
    }

    /// The record of a clone to be, and what it rests on.
    async fn begun_as(&self, wanted: &Clone) -> Result<(Volume, Vec<Expect>), ServiceError> {
        if let SourceRef::Image(image) = &wanted.source {
            return self.begun_as_image(wanted, image).await;
        }
        let source = self.source(&wanted.source).await?;
        let size = wanted.size.unwrap_or(source.size);
        if size < source.size {
            return Err(smaller(size.bytes(), source.size.bytes()));
        }
        let at = (source.pool, source.node);
        if let Some(field) = self.misplaced(&wanted.placement, at).await? {
            let problem = "is not where the source is, and a clone shares its source's pool: \
                           leave it out"
                .into();
            return Err(ServiceError::BadField { field, problem });
        }
        let node = self.node(source.node).await?;
        takes_volumes(&node)?;
        let stays = self.stays(source.pool).await?;
        let expect = vec![source.unchanged.clone(), unchanged(&node), stays];
        Ok((cloned(wanted, &source, size), expect))
    }

    /// As a volume over the image, which the clone shows whole.
    async fn begun_as_image(
        &self,
        wanted: &Clone,
        image: &ImageRef,
    ) -> Result<(Volume, Vec<Expect>), ServiceError> {
        let content = self.usable_image(image, "source").await?;
        let whole =
            VolumeSize::new(content.image.size.0).map_err(|e| ServiceError::OutOfRange {
                field: "source",
                problem: format!("the image's size cannot be a volume's: {e}"),
            })?;
        let size = wanted.size.unwrap_or(whole);
        let remedy =
            "a clone shows all of its source; CreateThin makes a volume that shows the beginning";
        shows_all(&content.image, size, remedy)?;
        let place = self.place(&wanted.placement, Some(content), size).await?;
        let thin = CreateThin {
            name: wanted.name.clone(),
            size,
            image: Some(image.clone()),
            whole_image: true,
            asked: wanted.asked.clone(),
            placement: wanted.placement.clone(),
            labels: wanted.labels.clone(),
            deletion_protection: wanted.deletion_protection,
            activate: wanted.activate,
        };
        Ok(placed(&thin, place))
    }

    /// The thin that a request wants to begin as.
    pub(super) async fn source(&self, source: &SourceRef) -> Result<Source, ServiceError> {
        match source {
            SourceRef::Volume(what) => {
                let volume = self.records.get::<Volume>(what, "source").await?;
                usable(&volume, volume.phase)?;
                settled(&volume)?;
                trusted(&self.node(volume.node).await?)?;
                Ok(Source {
                    owner: volume.id.into(),
                    pool: volume.pool,
                    node: volume.node,
                    size: volume.size,
                    image: volume.image,
                    unchanged: unchanged(&volume),
                })
            }
            SourceRef::Snapshot(what) => {
                let snapshot = self.records.get::<Snapshot>(what, "source").await?;
                usable(&snapshot, snapshot.phase)?;
                trusted(&self.node(snapshot.node).await?)?;
                Ok(Source {
                    owner: snapshot.id.into(),
                    pool: snapshot.pool,
                    node: snapshot.node,
                    size: snapshot.size,
                    image: snapshot.image,
                    unchanged: unchanged(&snapshot),
                })
            }
            SourceRef::Image(_) => Err(ServiceError::BadField {
                field: "source",
                problem: "an image never changes, so there is nothing to freeze: clone it".into(),
            }),
        }
    }

    /// A name that is taken: the same volume if the same was asked for.
    async fn repeat(
        &self,
        volume: Volume,
        wanted: &Wanted<'_>,
    ) -> Result<VolumeView, ServiceError> {
        let (_held, volume) = self.hold(&volume, Op::Create).await?;
        let Some(volume) = volume else {
            return Err(busy::<Volume>(wanted.name.as_str(), Op::Delete.doing()));
        };
        if volume.phase == Phase::Deleting {
            return Err(busy::<Volume>(wanted.name.as_str(), Op::Delete.doing()));
        }
        volume
            .same_or_conflict(wanted.asked, &wanted.first)
            .map_err(|field| conflict(&volume, field))?;
        let at = (volume.pool, volume.node);
        if let Some(field) = self.misplaced(wanted.placement, at).await? {
            return Err(conflict(&volume, field));
        }
        if wanted.whole_image {
            self.shows_all_of_its_image(&volume).await?;
        }
        self.stays(volume.pool).await?;
        if volume.phase == Phase::Creating {
            let begun = self.pending.begin(Unfinished::Volume(volume.id));
            return self
                .make_volume(volume, wanted.activate, (Attempt::Again, begun))
                .await;
        }
        match wanted.activate {
            Some(options) => self.activate_ready(volume, options).await,
            None => self.view_volume(volume).await,
        }
    }

    /// Refuses a volume that shows less than all of the image that it was made over.
    async fn shows_all_of_its_image(&self, volume: &Volume) -> Result<(), ServiceError> {
        let Begin::Image(digest) = volume.begin else {
            return Ok(());
        };
        // Whatever it was asked for by: a channel may point elsewhere by now.
        let same = |image: &Image| image.digest == Some(digest);
        match self.records.first::<Image>(same).await? {
            Some(image) => shows_all(&image, volume.size, ALL_OF_IT),
            None => Ok(()), // it left its image, which is gone
        }
    }

    /// Deletes a volume. One that is not there is as good.
    ///
    /// # Errors
    ///
    /// What its node refuses leaves it as it was.
    pub async fn delete_volume(&self, target: Target<Ref<VolumeId>>) -> Result<(), ServiceError> {
        self.delete_one::<Volume>(target).await
    }

    /// [`Self::make`], as the answer of a creation.
    async fn make_volume(
        &self,
        volume: Volume,
        activate: Option<ActivateOptions>,
        course: (Attempt, Begun),
    ) -> Result<VolumeView, ServiceError> {
        let (volume, report) = self.make(volume, activate, course).await?;
        Ok(VolumeView {
            volume,
            report: Some(report),
        })
    }

    /// Finishes whatever a volume's record says is unfinished.
    pub(super) async fn finish_volume(&self, id: VolumeId) -> Result<(), ServiceError> {
        let Some(found) = self.records.by_id::<Volume>(id).await? else {
            return Ok(());
        };
        let op = match found.phase {
            Phase::Creating => Op::Create,
            Phase::Deleting => Op::Delete,
            Phase::Ready if found.wanted_size.is_some() => Op::Resize,
            Phase::Ready => Op::Decouple,
            Phase::Failed | Phase::Closed => return Ok(()),
        };
        if found.phase == Phase::Ready && !found.wishes() {
            return Ok(());
        }
        let (_held, volume) = self.hold(&found, op).await?;
        let Some(volume) = volume else { return Ok(()) };
        let begun = self.pending.begin(Unfinished::Volume(id));
        match (volume.phase, volume.wanted_size) {
            (Phase::Creating, _) => {
                let done = self.make(volume, None, (Attempt::Again, begun)).await;
                done.map(|_| ())
            }
            (Phase::Deleting, _) => self.take_away(volume, begun).await,
            (Phase::Ready, Some(size)) => self.grow(volume, size, begun).await.map(|_| ()),
            (Phase::Ready, None) if volume.decoupling.is_some() => {
                self.go_on_decoupling(volume, begun).await
            }
            (Phase::Ready, None) | (Phase::Failed | Phase::Closed, _) => {
                begun.done();
                Ok(())
            }
        }
    }
}

/// The refusal of a size below the present one.
pub(super) fn smaller(asked: Bytes, least: Bytes) -> ServiceError {
    ServiceError::OutOfRange {
        field: "size_bytes",
        problem: format!(
            "{} B is less than the present {} B: a volume only grows",
            asked.0, least.0
        ),
    }
}

/// Refuses a size that would show less than all of an image.
fn shows_all(image: &Image, size: VolumeSize, why: &str) -> Result<(), ServiceError> {
    if size.bytes() >= image.size {
        return Ok(());
    }
    let (asked, whole) = (size.bytes().0, image.size.0);
    Err(ServiceError::OutOfRange {
        field: "size_bytes",
        problem: format!("{asked} B is less than the image's {whole} B: {why}"),
    })
}

fn placed(wanted: &CreateThin, place: Place) -> (Volume, Vec<Expect>) {
    let mut expect = vec![unchanged(&place.pool), unchanged(&place.node)];
    let digest = place.content.map(|content| {
        expect.extend(content.expected());
        content.digest
    });
    let volume = Volume {
        id: VolumeId::mint(),
        name: wanted.name.clone(),
        labels: wanted.labels.clone(),
        revision: 0,
        phase: Phase::Creating,
        conditions: Vec::new(),
        created: Timestamp::now(),
        size: wanted.size,
        wanted_size: None,
        decoupling: None,
        pool: place.pool.id,
        node: place.pool.node,
        begin: digest.map_or(Begin::Blank, Begin::Image),
        image: digest,
        asked: wanted.asked.clone(),
        epoch: 1,
        marks: Marks::new(wanted.deletion_protection),
    };
    (volume, expect)
}

fn cloned(wanted: &Clone, source: &Source, size: VolumeSize) -> Volume {
    Volume {
        id: VolumeId::mint(),
        name: wanted.name.clone(),
        labels: wanted.labels.clone(),
        revision: 0,
        phase: Phase::Creating,
        conditions: Vec::new(),
        created: Timestamp::now(),
        size,
        wanted_size: None,
        decoupling: None,
        pool: source.pool,
        node: source.node,
        begin: Begin::Thin(source.owner),
        image: source.image,
        asked: wanted.asked.clone(),
        epoch: 1,
        marks: Marks::new(wanted.deletion_protection),
    }
}
