//! What the long tests do less of where the kernel's processors are emulated.
//!
//! Asked by the driver for each binary. Whatever is less is said before the run, beside the result and
//! in the end: who wants all of it sets the same variable, and then nothing is less.

use std::fmt;

/// How much of a long test is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Less {
    test: &'static str,
    /// The variable that says how much.
    pub(super) setting: &'static str,
    /// What it is under an emulator.
    pub(super) emulated: &'static str,
    /// What that comes to, and what it would be otherwise.
    means: &'static str,
}

const LESS: [Less; 4] = [
    Less {
        test: "powercut",
        setting: "GOLDLEAF_CUTS",
        emulated: "4",
        means: "4 power cuts instead of 20",
    },
    Less {
        test: "e2e_model",
        setting: "GOLDLEAF_OPERATIONS",
        emulated: "400",
        means: "400 operations instead of 2000",
    },
    Less {
        test: "e2e_crash_agent",
        setting: "GOLDLEAF_SHARE",
        emulated: "6",
        means: "a death at every 6th place instead of at each",
    },
    Less {
        test: "e2e_crash_server",
        setting: "GOLDLEAF_SHARE",
        emulated: "6",
        means: "a death at every 6th place instead of at each",
    },
];

impl Less {
    /// What is less of a test with a kernel, unless the environment (`set`) says how much.
    pub(super) fn of(test: &str, kernel: &str, set: impl Fn(&str) -> bool) -> Option<Self> {
        let less = LESS.into_iter().find(|less| less.test == test);
        less.filter(|less| kernel == "qemu" && !set(less.setting))
    }
}

impl fmt::Display for Less {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { means, setting, .. } = self;
        write!(f, "{means} (set {setting} for another amount)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_tests_do_less_only_when_emulated_and_only_if_nobody_said_how_much() {
        let nobody = |_: &str| false;
        let less = Less::of("powercut", "qemu", nobody).unwrap();
        assert_eq!(
            less.to_string(),
            "4 power cuts instead of 20 (set GOLDLEAF_CUTS for another amount)"
        );
        for (test, kernel, set) in [
            ("powercut", "uml", ""),
            ("powercut", "host", ""),
            ("e2e_volumes", "qemu", ""),
            ("powercut", "qemu", "GOLDLEAF_CUTS"),
        ] {
            let is_set = |name: &str| name == set;
            assert_eq!(
                Less::of(test, kernel, is_set),
                None,
                "{test} {kernel} {set}"
            );
        }
    }

    #[test]
    fn what_is_said_is_what_is_set() {
        for less in LESS {
            assert!(less.means.contains(less.emulated), "{less:?}");
        }
    }
}
