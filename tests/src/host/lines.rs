//! A program that goes on printing, read line by line: a watch.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::patience;

/// Longest wait for a line.
const SOON: Duration = Duration::from_secs(60);

/// A running program's lines; it ends when this is dropped.
#[derive(Debug)]
pub struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    /// Starts the program.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn of(mut program: Command) -> Self {
        let mut child = program
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let out = child.stdout.take().expect("its output is ours");
        let (told, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            for line in lines {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line of which something holds; others may come before it.
    ///
    /// # Panics
    ///
    /// When none comes within a minute; with those that came.
    pub fn until(&mut self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + patience(SOON);
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if holds(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line ({error}): {what}; these came: {seen:#?}"),
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
