//! What a caller is, and what that allows.

use std::fmt;

/// What a caller is: a viewer may less than a user, a user less than an administrator. A node is
/// apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Makes, changes and deletes volumes and snapshots.
    User,
    /// Everything.
    Admin,
    /// A node's agent, which registers itself.
    Node,
}

impl Role {
    /// Whether a caller of this role may what needs `needed`.
    #[must_use]
    pub const fn may(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Admin, _) | (Self::Viewer | Self::User, Self::Viewer) => true,
            (Self::User, Self::User) | (Self::Node, Self::Node) => true,
            (Self::Viewer | Self::User | Self::Node, _) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::User => "user",
            Self::Admin => "admin",
            Self::Node => "node",
        })
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What they are.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_lies_below_it_and_a_node_is_apart() {
        use Role::{Admin, Node, User, Viewer};
        let allowed = |role: Role| [Viewer, User, Admin, Node].map(|needed| role.may(needed));
        assert_eq!(allowed(Viewer), [true, false, false, false]);
        assert_eq!(allowed(User), [true, true, false, false]);
        assert_eq!(allowed(Admin), [true; 4]);
        assert_eq!(allowed(Node), [false, false, false, true]);
    }
}
