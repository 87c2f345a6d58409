//! Where a process is to die, for tests: `GOLDLEAF_FAILPOINT=<name>` in its environment, or
//! `<name>#3` for the third time that it comes there.
//!
//! Called by the failpoints of each part, which name the places. Without the variable a look is one
//! comparison.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the environment asks for.
#[derive(Debug)]
struct Wanted {
    name: String,
    /// Which time, from 1 on.
    time: u32,
    reached: AtomicU32,
}

impl Wanted {
    fn read(said: &str) -> Self {
        let (name, time) = match said.rsplit_once('#') {
            // What is no number is a part of a name that no place has: nobody dies of it.
            Some((name, time)) => time.parse().map_or((said, 1), |time| (name, time)),
            None => (said, 1),
        };
        Self {
            name: name.to_owned(),
            time,
            reached: AtomicU32::new(0),
        }
    }

    fn is_due(&self, point: &str) -> bool {
        self.name == point && self.reached.fetch_add(1, Ordering::Relaxed) + 1 == self.time
    }
}

/// Whether this process is to die now that it comes to `point`.
pub fn is_due(point: &str) -> bool {
    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let said = std::env::var("GOLDLEAF_FAILPOINT").ok()?;
        Some(Wanted::read(&said))
    });
    wanted.as_ref().is_some_and(|wanted| wanted.is_due(point))
}

/// Dies as a power cut would end it.
pub fn die(point: &str) -> ! {
    tracing::warn!(point, "dying as asked");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_five(said: &str) -> Vec<usize> {
        let wanted = Wanted::read(said);
        assert!(!wanted.is_due("elsewhere"));
        (1..=5).filter(|_| wanted.is_due("here/x")).collect()
    }

    #[test]
    fn a_process_dies_the_first_time_or_the_time_that_is_said() {
        assert_eq!(of_five("here/x"), [1]);
        assert_eq!(of_five("here/x#1"), [1]);
        assert_eq!(of_five("here/x#4"), [4]);
        assert_eq!(of_five("here/x#6"), [0; 0]);
        assert_eq!(of_five("here/x#"), [0; 0]);
        assert_eq!(of_five("here"), [0; 0]);
        assert_eq!(of_five(""), [0; 0]);
    }
}
