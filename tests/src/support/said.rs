//! What a test is told from outside, and the figures that it tells.

use std::io::Write;

use crate::FIGURE;

/// A number that the environment sets, if it does.
///
/// # Panics
///
/// When it is no number.
#[must_use]
pub fn setting(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|t| !t.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Says a line past libtest's capture: it stands in the log of a test that passed, too.
///
/// # Panics
///
/// When standard error is gone.
pub fn say(line: &str) {
    std::io::stderr()
        .write_all(format!("\n{FIGURE}{line}\n").as_bytes())
        .expect("standard error");
}
