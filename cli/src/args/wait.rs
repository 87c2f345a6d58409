//! Whether a command waits for what passes by itself, the same words for each.

use clap::Args as ClapArgs;

/// Whether to wait.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct Waiting {
    /// Wait, as long as --timeout says, for a node that is away, an image on its way or other work
    /// on the same thing, instead of failing at once.
    #[arg(long)]
    pub wait: bool,
}

/// One resource to do something to that may take a while.
#[derive(Debug, ClapArgs)]
pub struct WaitedTarget {
    /// Its name or id.
    pub target: String,
    /// Waiting.
    #[command(flatten)]
    pub waiting: Waiting,
}
