//! Findings: what is not as it should be on a node, or between it and the control plane's records.

use goldleaf_types::Name;

/// How bad a finding is. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Notice,
    /// Something is left over or unfinished; nothing is lost.
    Warning,
    /// Data cannot be reached, or is lost.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub node: Name,
    /// How bad.
    pub severity: Severity,
    /// What kind of thing, one word.
    pub code: String,
    /// What it is about.
    pub subject: String,
    /// What was seen, and against what.
    pub reason: String,
    /// What a person does about it.
    pub remedy: String,
    /// What mending would do, in words; empty when it takes a person.
    pub mend: String,
}

impl Finding {
    /// Names it among all nodes' findings.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.node, self.code, self.subject)
    }

    /// The node of a finding's id, and what that node calls it.
    #[must_use]
    pub fn split(id: &str) -> Option<(&str, &str)> {
        id.split_once('/').filter(|(_, key)| key.contains('/'))
    }
}

/// What became of a finding that was to be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MendOutcome {
    /// It is there, and something would be done.
    WouldDo,
    /// That was done.
    Done,
    /// That was tried and failed.
    Failed,
    /// It is there, and takes a person.
    NeedsPerson,
    /// There is no such finding now.
    NotFound,
}

/// One finding that was to be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The finding's id.
    pub finding: String,
    /// What became of it.
    pub outcome: MendOutcome,
    /// What was or would be done, in words.
    pub action: String,
    /// Why it failed; empty when it did not.
    pub problem: String,
}
