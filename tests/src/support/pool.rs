//! A thin-pool of a test, over two linear devices as Goldleaf has them.

use goldleaf_dm::{
    Commit, DevNumber, DmError, DmName, Flush, LinearSegment, LockFs, MessageReply, PoolFeatures,
    PoolMessage, PoolStatus, Suspended, Table, Target, Thin, ThinPool, ThinStatus, WorkingPool,
};
use goldleaf_types::{BlockSize, Bytes, Sectors, ThinId};

use super::{Node, Scratch};

/// What a pool is to be.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlan {
    /// Size of the data device.
    pub data: Bytes,
    /// Size of the metadata device.
    pub metadata: Bytes,
    /// What is allocated at a time.
    pub block: BlockSize,
    /// Free blocks at which the kernel warns.
    pub low_water_blocks: u64,
    /// Choices.
    pub features: PoolFeatures,
}

impl Default for PoolPlan {
    fn default() -> Self {
        Self {
            data: Bytes(64 << 20),
            metadata: Bytes(4 << 20),
            block: BlockSize::DEFAULT,
            low_water_blocks: 0,
            features: PoolFeatures {
                error_if_no_space: true,
                ..PoolFeatures::default()
            },
        }
    }
}

/// A live pool. Its thins are named by their number.
#[derive(Clone, Debug)]
pub struct Pool {
    scratch: Scratch,
    plan: PoolPlan,
    part: String,
    metadata: Node,
    data: Node,
    node: Node,
}

/// The whole of a device as a linear table.
fn whole(node: &Node) -> Table {
    let len = node.size().exact_sectors().expect("whole sectors");
    Table::linear([LinearSegment {
        len,
        dev: node.dev(),
        offset: Sectors(0),
    }])
}

/// A thin's number.
fn thin_id(id: u32) -> ThinId {
    ThinId::new(id).expect("a lawful thin id")
}

impl Scratch {
    /// A pool of its own scratch, with `gib` GiB for data, sparse.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    #[track_caller]
    pub fn pool(gib: u64) -> Pool {
        Self::new().add_pool(
            "pool",
            PoolPlan {
                data: Bytes(gib << 30),
                ..PoolPlan::default()
            },
        )
    }

    /// A pool within this scratch.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn add_pool(&self, part: &str, plan: PoolPlan) -> Pool {
        let (meta_part, data_part) = (format!("{part}-tmeta"), format!("{part}-tdata"));
        let below_metadata = self.disk(&format!("{meta_part}.disk"), plan.metadata);
        let below_data = self.disk(&format!("{data_part}.disk"), plan.data);
        let metadata = self.device(&meta_part, &whole(&below_metadata));
        let data = self.device(&data_part, &whole(&below_data));
        let table = pool_table(plan, metadata.dev(), data.dev());
        let node = self.device(part, &table);
        Pool {
            scratch: self.clone(),
            plan,
            part: part.to_owned(),
            metadata,
            data,
            node,
        }
    }
}

fn pool_table(plan: PoolPlan, metadata: DevNumber, data: DevNumber) -> Table {
    Table::of(Target::ThinPool(ThinPool {
        len: plan.data.exact_sectors().expect("whole sectors"),
        metadata,
        data,
        block: plan.block,
        low_water_blocks: plan.low_water_blocks,
        features: plan.features,
    }))
}

impl Pool {
    /// What it was made in.
    #[must_use]
    pub const fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// What it was planned to be.
    #[must_use]
    pub const fn plan(&self) -> PoolPlan {
        self.plan
    }

    /// Its device's name.
    #[must_use]
    pub fn name(&self) -> DmName {
        self.scratch.name(&self.part)
    }

    /// Its device's number.
    #[must_use]
    pub const fn dev(&self) -> DevNumber {
        self.node.dev()
    }

    /// The linear device under its metadata.
    #[must_use]
    pub const fn metadata(&self) -> &Node {
        &self.metadata
    }

    /// The linear device under its data.
    #[must_use]
    pub const fn data(&self) -> &Node {
        &self.data
    }

    /// The name of the linear device under its metadata.
    #[must_use]
    pub fn metadata_name(&self) -> DmName {
        self.scratch.name(&format!("{}-tmeta", self.part))
    }

    /// The table that another plan would have over the same devices.
    #[must_use]
    pub fn table(&self, plan: PoolPlan) -> Table {
        pool_table(plan, self.metadata.dev(), self.data.dev())
    }

    /// Its status now, read without a commit.
    ///
    /// # Panics
    ///
    /// When the kernel's line is none.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let status = self
            .scratch
            .control()
            .status(&self.name(), Commit::No)
            .expect("a status");
        status.targets[0]
            .text
            .parse()
            .expect("a pool's status line")
    }

    /// Its status, of a pool that works.
    ///
    /// # Panics
    ///
    /// When it was given up.
    #[must_use]
    pub fn working(&self) -> WorkingPool {
        match self.status() {
            PoolStatus::Working(status) => status,
            PoolStatus::Fail => panic!("the pool failed"),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn send(&self, message: &PoolMessage) -> Result<MessageReply, DmError> {
        self.scratch.control().pool_message(&self.name(), message)
    }

    /// A new thin of 16 MiB, live and empty.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn thin(&self, id: u32) -> Node {
        self.thin_over(id, Bytes(16 << 20), None)
    }

    /// A new thin, live, over an origin if there is one.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn thin_over(&self, id: u32, size: Bytes, origin: Option<&Node>) -> Node {
        self.send(&PoolMessage::CreateThin(thin_id(id)))
            .expect("a new thin");
        self.activate(id, size, origin)
    }

    /// A live device of an existing thin.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn activate(&self, id: u32, size: Bytes, origin: Option<&Node>) -> Node {
        self.scratch
            .device(&self.thin_part(id), &self.thin_table(id, size, origin))
    }

    /// A thin's table.
    ///
    /// # Panics
    ///
    /// When the size is no whole number of sectors.
    #[must_use]
    pub fn thin_table(&self, id: u32, size: Bytes, origin: Option<&Node>) -> Table {
        Table::of(Target::Thin(Thin {
            len: size.exact_sectors().expect("whole sectors"),
            pool: self.dev(),
            id: thin_id(id),
            origin: origin.map(Node::dev),
        }))
    }

    /// The name of a thin's device.
    #[must_use]
    pub fn thin_name(&self, id: u32) -> DmName {
        self.scratch.name(&self.thin_part(id))
    }

    fn thin_part(&self, id: u32) -> String {
        format!("{}-thin{id}", self.part)
    }

    /// Removes a thin's device; the thin stays.
    pub fn deactivate(&self, id: u32) {
        self.scratch.remove(&self.thin_part(id));
    }

    /// A snapshot of a live thin, not yet live.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn snap(&self, origin: u32, id: u32) {
        let name = self.thin_name(origin);
        let control = self.scratch.control();
        let stopped = Suspended::new(control, &name, Flush::Yes, LockFs::Yes);
        let stopped = stopped.expect("a suspended origin");
        let message = PoolMessage::CreateSnap {
            id: thin_id(id),
            origin: thin_id(origin),
        };
        self.send(&message).expect("a new snapshot");
        drop(stopped);
    }

    /// A live thin's status.
    ///
    /// # Panics
    ///
    /// When the kernel's line is none.
    #[must_use]
    pub fn thin_status(&self, id: u32) -> ThinStatus {
        let status = self
            .scratch
            .control()
            .status(&self.thin_name(id), Commit::No);
        status.expect("a status").targets[0]
            .text
            .parse()
            .expect("a thin's status line")
    }
}
