//! Choices that a caller names instead of passing a bare `true`.

/// When a device goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Now, or EBUSY.
    Now,
    /// With its last user.
    Deferred,
}

/// Whether a status makes a pool commit its metadata first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// No: what polling asks for.
    No,
    /// Yes.
    Yes,
}

/// Whether a suspend waits for what was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// It waits until all of it is done.
    Yes,
    /// It is held back and goes on after the resume, through the new table if there is one.
    No,
}

/// Whether a suspend freezes a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockFs {
    /// Yes, so that a snapshot is clean.
    Yes,
    /// No.
    No,
}
