//! What `goldleaf pool open`, `pool rename`, `pool repair` and `pool destroy` are given.

use clap::Args as ClapArgs;

use super::Waiting;

/// A pool to open.
#[derive(Debug, ClapArgs)]
pub struct PoolOpen {
    /// Its id or name.
    pub target: String,
    /// Open one that does not open otherwise, to read what can be read of it: its metadata is not
    /// checked, and nothing is written to its devices. Its volumes can be exported, and activated with
    /// --read-only. It stays so until it is closed.
    #[arg(long)]
    pub rescue: bool,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// Another name for a pool.
#[derive(Debug, ClapArgs)]
pub struct PoolRename {
    /// Its id or present name.
    pub target: String,
    /// The new name.
    pub name: String,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// A pool whose metadata is to be repaired.
#[derive(Debug, ClapArgs)]
pub struct PoolRepair {
    /// Its id or name.
    pub target: String,
    /// Do it: the pool's name, once more. Without it nothing is done.
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Do it even if a volume or snapshot loses something by it, or nobody can say whether one does.
    #[arg(long, requires = "confirm")]
    pub accept_loss: bool,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
}

/// A pool to delete with all that is in it.
#[derive(Debug, ClapArgs)]
pub struct PoolDestroy {
    /// Its id or name.
    pub target: String,
    /// Do it: the pool's name, once more. Without it nothing is done.
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// Only if it has this revision still, as `get -o json` shows it.
    #[arg(
        long,
        value_name = "REVISION",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub if_revision: u64,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}
