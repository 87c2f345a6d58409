//! Who this host is.
//!
//! Owns nothing: the identity comes from the host's installation, so that it outlives the agent's
//! folder. Called once at start. Two hosts with one machine id (a cloned installation) must be
//! told apart with `--host-id`, or one could take the other's pools for its own.

use goldleaf_types::{Name, NodeId};
use sha2::{Digest as _, Sha256};

/// The identity of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// What pool labels carry as their owner.
    pub owner: [u8; 16],
    /// The node's id, the same bytes.
    pub node: NodeId,
    /// The node's name.
    pub name: Name,
    /// The kernel's release.
    pub kernel_release: String,
}

/// Why a host has no identity.
#[derive(Debug, thiserror::Error)]
pub enum NoIdentity {
    /// There is no machine id.
    #[error("this host has no machine id: run systemd-machine-id-setup, or give --host-id")]
    MachineId(#[source] std::io::Error),
    /// What is to tell this host from others is the same on many.
    #[error(
        "{from} says nothing that tells this host from others: {remedy}, or every such host \
         takes the others' pools for its own"
    )]
    Nothing {
        /// Where it was looked for.
        from: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The host's name is no node name.
    #[error("the host's name cannot name a node: give --node-name")]
    Name(#[source] goldleaf_types::BadName),
}

impl Host {
    /// This host, as the installation says unless told otherwise.
    ///
    /// # Errors
    ///
    /// [`NoIdentity`] when the installation says nothing usable.
    pub fn find(host_id: Option<&str>, name: Option<Name>) -> Result<Self, NoIdentity> {
        let uname = rustix::system::uname();
        let text = match host_id {
            Some(text) => text.to_owned(),
            None => std::fs::read_to_string("/etc/machine-id").map_err(NoIdentity::MachineId)?,
        };
        if !tells(&text) {
            return Err(match host_id {
                Some(_) => NoIdentity::Nothing {
                    from: "--host-id (GOLDLEAF_HOST_ID)",
                    remedy: "give it a text that no other host has, or leave it out",
                },
                None => NoIdentity::Nothing {
                    from: "/etc/machine-id",
                    remedy: "run systemd-machine-id-setup, or give --host-id",
                },
            });
        }
        // Hashed with a word of our own: a machine id is not to be shown around (machine-id(5)).
        let hash: [u8; 32] = Sha256::new()
            .chain_update(b"goldleaf node\0")
            .chain_update(text.trim())
            .finalize()
            .into();
        let mut owner = [0; 16];
        owner.copy_from_slice(&hash[..16]);
        let name = match name {
            Some(name) => name,
            None => uname
                .nodename()
                .to_string_lossy()
                .parse()
                .map_err(NoIdentity::Name)?,
        };
        Ok(Self {
            owner,
            node: NodeId::from_bytes(owner),
            name,
            kernel_release: uname.release().to_string_lossy().into_owned(),
        })
    }
}

/// Whether a text can tell one host from another. An image's machine id is empty or
/// "uninitialized" until its first boot has minted one (machine-id(5)).
fn tells(text: &str) -> bool {
    !matches!(text.trim(), "" | "uninitialized")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_many_hosts_have_is_no_identity() {
        for text in ["", " \n", "uninitialized", "uninitialized\n"] {
            let name: Name = "n1".parse().unwrap();
            let refused = Host::find(Some(text), Some(name)).unwrap_err().to_string();
            assert!(refused.contains("--host-id"), "{text:?}: {refused}");
            assert!(!tells(text), "{text:?} passed as a machine id");
        }
    }

    #[test]
    fn the_same_host_id_is_the_same_node_and_another_is_not() {
        let name: Name = "n1".parse().unwrap();
        let find = |id| Host::find(Some(id), Some(name.clone())).unwrap();
        assert_eq!(find("a"), find("a\n"));
        assert_ne!(find("a").owner, find("b").owner);
    }
}
