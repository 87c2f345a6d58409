//! What is done with nodes.

use clap::{Args as ClapArgs, Subcommand};

use super::{Selection, Target};

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Lists nodes.
    #[command(after_help = "Examples:
  goldleaf node list
  goldleaf node list -l team=web -o json")]
    List(Selection),
    /// Shows one node.
    #[command(after_help = "Example:
  goldleaf node get host1 -o yaml")]
    Get(Target),
    /// Says what a node's host lacks, and how to get it. Exit code 1 if anything.
    #[command(after_help = "Examples:
  goldleaf node preflight
  goldleaf node preflight host1 -o json")]
    Preflight {
        /// Its name or id, if there are several.
        #[arg(default_value = "", hide_default_value = true)]
        node: String,
    },
    /// Keeps new volumes off a node, and says what is active there.
    #[command(after_help = "Examples:
  goldleaf node drain host1
  goldleaf node drain host1 --deactivate-unused -o json")]
    Drain(NodeDrain),
    /// Lets new volumes go to a drained node again.
    #[command(after_help = "Example:
  goldleaf node resume host1")]
    Resume(Target),
    /// Gives a node up that is gone for good; first without --apply, to see what that means.
    #[command(after_help = "Examples:
  goldleaf node lost host1
  goldleaf node lost host1 --apply")]
    Lost(NodeLost),
    /// Trusts a node again that was marked lost.
    #[command(after_help = "Example:
  goldleaf node take-back host1")]
    TakeBack(Target),
    /// Takes over a node's pools from another store of the control plane: one that is lost, or whose
    /// backup this one was made from; first without --apply, to see what that means.
    #[command(after_help = "Examples:
  goldleaf node adopt host1
  goldleaf node adopt host1 --apply")]
    Adopt(NodeAdopt),
    /// Prints nodes as they change.
    #[command(after_help = "Examples:
  goldleaf node watch
  goldleaf node watch -o json | jq -r .item.name")]
    Watch(Selection),
}

/// A node to keep new volumes off.
#[derive(Debug, ClapArgs)]
pub struct NodeDrain {
    /// Its name or id.
    pub target: String,
    /// Also take away the devices that are there for the host and that nobody holds open.
    #[arg(long)]
    pub deactivate_unused: bool,
}

/// A node to give up.
#[derive(Debug, ClapArgs)]
pub struct NodeLost {
    /// Its name or id.
    pub target: String,
    /// Do it; otherwise only say what would be given up.
    #[arg(long)]
    pub apply: bool,
}

/// A node whose pools are to be taken over.
#[derive(Debug, ClapArgs)]
pub struct NodeAdopt {
    /// Its name or id.
    pub target: String,
    /// Do it; otherwise only say what would change.
    #[arg(long)]
    pub apply: bool,
}
