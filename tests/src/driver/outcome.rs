//! What a test binary said, read from libtest's lines.

use std::fmt;

/// The results of one binary, or of several added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Names of what failed; the binary itself is "(the whole binary)".
    pub(crate) failures: Vec<String>,
    /// Tests that were not run, and why.
    pub(crate) skipped: Vec<(String, String)>,
}

impl Outcome {
    /// Reads a binary's output. `ended_well` is whether it ended with exit code 0.
    ///
    /// A binary that ends badly without a failed test has failed as a whole, and so has one that
    /// never came to a result line: it was killed, or crashed, between its tests.
    pub(crate) fn read(output: &str, ended_well: bool) -> Self {
        let mut outcome = Self::default();
        let mut results = 0;
        for line in output.lines() {
            if let Some((passed, failed)) = result_line(line) {
                outcome.passed += passed;
                outcome.failed += failed;
                results += 1;
            } else if let Some((test, said)) = test_line(line) {
                outcome.note(test, said);
            }
        }
        if results == 0 || (!ended_well && outcome.failed == 0) {
            outcome.failed += 1;
            outcome.failures.push("(the whole binary)".to_owned());
        }
        outcome
    }

    /// Of a binary that was not run at all.
    pub(crate) fn not_run(reason: &str) -> Self {
        let skipped = vec![("(the whole binary)".to_owned(), reason.to_owned())];
        Self {
            skipped,
            ..Self::default()
        }
    }

    fn note(&mut self, test: &str, said: &str) {
        if said == "FAILED" {
            self.failures.push(test.to_owned());
        } else if let Some(reason) = said.strip_prefix("ignored") {
            let reason = reason.trim_start_matches(',').trim();
            let reason = if reason.is_empty() {
                "no reason given"
            } else {
                reason
            };
            self.skipped.push((test.to_owned(), reason.to_owned()));
        }
    }

    /// Both together.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures.iter().cloned());
        self.skipped.extend(other.skipped.iter().cloned());
        self
    }

    /// Whether something ran and nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        write!(
            f,
            "test: {passed} passed, {failed} failed, {} skipped",
            skipped.len()
        )
    }
}

/// `test result: ok. 3 passed; 0 failed; ...`
fn result_line(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let field = counts.split("; ").find_map(|f| f.strip_suffix(word))?;
        field.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

/// `test some::name ... what happened`
fn test_line(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\nrunning 3 tests\ntest a ... ok\ntest m::b ... ignored, needs a moon\n\
        test c ... ignored\n\ntest result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; \
        0 filtered out; finished in 0.00s\n";

    #[test]
    fn passed_and_skipped_are_counted_with_their_reasons() {
        let outcome = Outcome::read(GOOD, true);
        assert!(outcome.is_good());
        assert_eq!(outcome.to_string(), "test: 1 passed, 0 failed, 2 skipped");
        let reasons = [("m::b", "needs a moon"), ("c", "no reason given")];
        let reasons = reasons.map(|(t, r)| (t.to_owned(), r.to_owned()));
        assert_eq!(outcome.skipped, reasons);
    }

    #[test]
    fn a_failure_is_named() {
        let text = "test a ... FAILED\ntest result: FAILED. 4 passed; 1 failed; 0 ignored; x\n";
        let outcome = Outcome::read(text, false);
        assert_eq!((outcome.passed, outcome.failed), (4, 1));
        assert_eq!(outcome.failures, ["a"]);
        assert!(!outcome.is_good());
    }

    #[test]
    fn a_binary_that_dies_has_failed() {
        for (text, well) in [("", true), ("test a ... ok\n", false), (GOOD, false)] {
            let outcome = Outcome::read(text, well);
            assert_eq!(outcome.failed, 1, "{text:?}");
            assert_eq!(outcome.failures, ["(the whole binary)"]);
        }
    }

    #[test]
    fn nothing_run_is_nothing_good() {
        assert!(!Outcome::default().is_good());
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert!(!Outcome::read(none, true).is_good());
    }

    #[test]
    fn a_binary_that_is_not_run_is_skipped_with_its_reason_and_has_passed_nothing() {
        let outcome = Outcome::not_run("no moon");
        assert_eq!(outcome.to_string(), "test: 0 passed, 0 failed, 1 skipped");
        assert_eq!(outcome.skipped[0].1, "no moon");
        assert!(!outcome.is_good());
    }

    #[test]
    fn doc_tests_of_several_crates_add_up() {
        let two = format!("{GOOD}{GOOD}");
        assert_eq!(Outcome::read(&two, true).passed, 2);
        let sum = Outcome::read(GOOD, true).plus(&Outcome::read(&two, true));
        assert_eq!((sum.passed, sum.skipped.len()), (3, 6));
    }
}
