//! What a person reads when a command fails: what, why, and what to do next.
//!
//! Called by `main` alone, which prints it and exits with its code: 1 for a refusal, 3 when asking
//! again may help. (2 is a wrong command line, which clap answers.)

use std::error::Error;

use tonic::Code;
use tonic_types::StatusExt;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No control plane answers.
    #[error(
        "error: no control plane answers at {server}: {}\n  \
         start goldleaf-server there, or name another with --server or GOLDLEAF_SERVER",
        root(source)
    )]
    Unreachable {
        /// Where.
        server: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No answer in time.
    #[error(
        "error: no answer within {0:?}\n  \
         repeat the command: it changes nothing twice; or wait longer with --timeout"
    )]
    TimedOut(std::time::Duration),
    /// A watch that ought to go on ended.
    #[error("error: the control plane ended the watch\n  repeat the command to go on")]
    WatchEnded,
    /// The answer cannot be printed.
    #[error("error: the answer cannot be printed: {0}")]
    Output(String),
    /// Whoever read our output has gone; nothing is wrong.
    #[error("nobody reads the output")]
    NobodyReads,
    /// One label was given twice with different values.
    #[error("error: label {0} is given twice\n  name each label once")]
    LabelTwice(String),
    /// A node's host lacks something; the table above says what.
    #[error("error: the host lacks what is marked above\n  do as REMEDY says and look again")]
    Lacking,
    /// The doctor found something; the table above says what.
    #[error("error: {0} finding(s)\n  do as REMEDY says, or: goldleaf doctor mend ID")]
    Findings(usize),
    /// Something was not mended.
    #[error("error: {0} finding(s) were not mended\n  OUTCOME and PROBLEM above say why")]
    NotMended(usize),
    /// A node is drained, and what is active there could not be learnt.
    #[error(
        "error: node {node} is drained, and nobody knows what is active there: {why}\n  \
         repeat the command when its agent answers"
    )]
    ActiveUnknown {
        /// The node.
        node: String,
        /// Why nobody knows.
        why: String,
    },
    /// A bundle was written, and not everything is in it.
    #[error("error: the bundle has what there is; it lacks\n{0}")]
    Incomplete(String),
    /// A file cannot be written.
    #[error("error: cannot write {path}: {source}\n  name a file that does not exist yet")]
    Unwritable {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An image did not become ready.
    #[error("error: image {name}: {why}")]
    ImageFailed {
        /// The image.
        name: String,
        /// A sentence that says what to do.
        why: String,
    },
}

/// What the control plane said.
#[derive(Debug)]
pub struct Refusal {
    status: tonic::Status,
    request: String,
}

impl Refusal {
    /// Whether the thing is at another revision than was demanded.
    fn other_revision(&self) -> bool {
        let info = self.status.get_details_error_info();
        info.is_some_and(|info| info.reason == "OTHER_REVISION")
    }

    /// Whether the same call may succeed later, with nothing changed.
    fn may_pass(&self) -> bool {
        let passes = matches!(
            self.status.code(),
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled
        );
        self.broke() || (passes && !self.other_revision()) // a revision never comes back
    }

    /// What to do next, where the message does not always say it.
    fn next_step(&self) -> Option<&'static str> {
        if self.other_revision() {
            return Some("somebody changed it: look at it again, then say its present revision");
        }
        next_step(self.status.code())
    }

    /// Whether the connection broke, rather than anybody saying no.
    fn broke(&self) -> bool {
        self.status.code() == Code::Unknown
            && self
                .status
                .source()
                .is_some_and(|s| s.is::<tonic::transport::Error>())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.broke() {
            return f.write_str(
                "error: the connection to the control plane broke\n  \
                 repeat the command: it changes nothing twice",
            );
        }
        match self.status.message() {
            "" => write!(f, "error: {}", self.status.code().description())?,
            message => write!(f, "error: {message}")?,
        }
        let bad_request = self.status.get_details_bad_request();
        for violation in bad_request.map(|b| b.field_violations).unwrap_or_default() {
            if !self.status.message().contains(&violation.description) {
                write!(f, "\n  {}: {}", violation.field, violation.description)?;
            }
        }
        if let Some(next) = self.next_step() {
            write!(f, "\n  {next}")?;
        }
        if matches!(
            self.status.code(),
            Code::Internal | Code::Unknown | Code::DataLoss
        ) {
            write!(f, "\n  request id: {}", self.request)?;
        }
        Ok(())
    }
}

/// What to do next, for codes whose messages do not always say it.
fn next_step(code: Code) -> Option<&'static str> {
    match code {
        Code::Unavailable => {
            Some("this may pass: repeat the command, or look at `goldleaf node list`")
        }
        Code::Aborted => {
            Some("something else is at work on it: look again, then repeat the command")
        }
        Code::NotFound => {
            Some("`goldleaf pool|image|volume|snapshot|node list` shows what there is")
        }
        Code::AlreadyExists => Some("choose another name, or repeat with the first parameters"),
        Code::ResourceExhausted => Some("`goldleaf pool list` shows what is free"),
        Code::InvalidArgument => Some("see the command's --help"),
        Code::Unimplemented => {
            Some("the control plane does not know this call: is it older than this command?")
        }
        Code::DeadlineExceeded | Code::Cancelled => {
            Some("repeat the command: it changes nothing twice")
        }
        Code::Internal | Code::Unknown | Code::DataLoss => {
            Some("this is a bug: the logs of server and agent say more under the request id")
        }
        Code::Ok
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated => None,
    }
}

/// The deepest cause: "connection refused" rather than "transport error".
fn root(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

impl Failure {
    /// What the control plane said to the request with this id.
    pub fn refused(status: tonic::Status, request: &str) -> Self {
        Self::Refused(Box::new(Refusal {
            status,
            request: request.to_owned(),
        }))
    }

    /// 0 if nothing is wrong, 1 for a refusal, 3 when asking again may help.
    pub fn exit_code(&self) -> u8 {
        let passing = match self {
            Self::Unreachable { .. }
            | Self::TimedOut(_)
            | Self::WatchEnded
            | Self::ActiveUnknown { .. } => true,
            Self::Refused(refusal) => refusal.may_pass(),
            Self::NobodyReads => return 0,
            Self::LabelTwice(_) => return 2,
            Self::Output(_)
            | Self::Lacking
            | Self::Findings(_)
            | Self::NotMended(_)
            | Self::Incomplete(_)
            | Self::Unwritable { .. }
            | Self::ImageFailed { .. } => false,
        };
        if passing { 3 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[expect(clippy::disallowed_methods, reason = "a test plays the control plane")]
    fn refused(code: Code, message: &str) -> Failure {
        Failure::refused(tonic::Status::new(code, message), "req-1")
    }

    #[test]
    fn a_refusal_says_what_and_what_to_do_next() {
        assert_eq!(
            refused(Code::Unavailable, "node host1 is away").to_string(),
            "error: node host1 is away\n  \
             this may pass: repeat the command, or look at `goldleaf node list`"
        );
        let exact = refused(
            Code::FailedPrecondition,
            "volume vm1 is active: deactivate it first",
        );
        assert_eq!(
            exact.to_string(),
            "error: volume vm1 is active: deactivate it first"
        );
    }

    #[test]
    fn only_a_bug_shows_the_request_id() {
        assert!(
            refused(Code::Internal, "x")
                .to_string()
                .ends_with("request id: req-1")
        );
        assert!(
            !refused(Code::NotFound, "no volume x")
                .to_string()
                .contains("req-1")
        );
    }

    #[test]
    fn a_refused_field_is_named() {
        let details =
            ErrorDetails::with_bad_request_violation("size_bytes", "is no multiple of 512");
        let status =
            tonic::Status::with_error_details(Code::InvalidArgument, "bad volume", details);
        let text = Failure::refused(status, "r").to_string();
        assert!(
            text.contains("\n  size_bytes: is no multiple of 512"),
            "{text}"
        );
    }

    #[test]
    fn exit_codes_tell_what_may_pass_from_what_does_not() {
        for code in [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded] {
            assert_eq!(refused(code, "x").exit_code(), 3, "{code:?}");
        }
        for code in [
            Code::NotFound,
            Code::AlreadyExists,
            Code::InvalidArgument,
            Code::Internal,
            Code::FailedPrecondition,
            Code::ResourceExhausted,
            Code::OutOfRange,
        ] {
            assert_eq!(refused(code, "x").exit_code(), 1, "{code:?}");
        }
        let reason = |reason: &str| {
            let none = std::collections::HashMap::new();
            let details = ErrorDetails::with_error_info(reason, "goldleaf", none);
            let status = tonic::Status::with_error_details(Code::Aborted, "volume vm1", details);
            Failure::refused(status, "r")
        };
        assert_eq!(reason("BUSY").exit_code(), 3);
        let changed = reason("OTHER_REVISION");
        assert_eq!(changed.exit_code(), 1, "it cannot pass by itself");
        assert!(changed.to_string().contains("revision"), "{changed}");
        assert_eq!(
            Failure::TimedOut(std::time::Duration::from_secs(1)).exit_code(),
            3
        );
        assert_eq!(Failure::Lacking.exit_code(), 1);
        assert_eq!(Failure::NobodyReads.exit_code(), 0);
    }
}
