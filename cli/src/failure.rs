//! What a person reads when a command fails: what, why, and what to do next.

use std::process::ExitCode;

use tonic::Code;
use tonic_types::StatusExt;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No control plane answers.
    #[error(
        "error: no control plane answers at {server}\n  \
         start goldleaf-server there, or name another with --server or GOLDLEAF_SERVER"
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
    Refused(Refusal),
    /// No answer in time.
    #[error("error: no answer within {0:?}\n  repeat the command: it changes nothing twice")]
    TimedOut(std::time::Duration),
    /// The answer cannot be printed.
    #[error("error: the answer cannot be printed: {0}")]
    Output(String),
    /// A node's host lacks something; the table above says what.
    #[error("error: the host lacks what is marked above")]
    Lacking,
    /// An image did not become ready.
    #[error("error: {0}")]
    Failed(String),
}

/// What the control plane said.
#[derive(Debug)]
pub struct Refusal(tonic::Status);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {}", self.0.message())?;
        for violation in self
            .0
            .get_details_bad_request()
            .map(|b| b.field_violations)
            .unwrap_or_default()
        {
            if !self.0.message().contains(&violation.description) {
                write!(f, "\n  {}: {}", violation.field, violation.description)?;
            }
        }
        if let Some(next) = next_step(self.0.code()) {
            write!(f, "\n  {next}")?;
        }
        Ok(())
    }
}

fn next_step(code: Code) -> Option<&'static str> {
    if code == Code::Unavailable {
        Some("this may pass: repeat the command, or look at `goldleaf node list`")
    } else if code == Code::Aborted {
        Some("something else is at work on it: repeat the command")
    } else if code == Code::Internal {
        Some("this is a bug: the server's log has the request's id")
    } else {
        None
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Refusal(status))
    }
}

impl Failure {
    /// 1 for a refusal, 3 when asking again may help: scripts can tell them apart.
    pub fn exit_code(&self) -> ExitCode {
        let passing = match self {
            Self::Unreachable { .. } | Self::TimedOut(_) => true,
            Self::Refused(refusal) => {
                matches!(refusal.0.code(), Code::Unavailable | Code::Aborted)
            }
            Self::Output(_) | Self::Lacking | Self::Failed(_) => false,
        };
        if passing {
            ExitCode::from(3)
        } else {
            ExitCode::FAILURE
        }
    }
}
