//! kill -9 of the node agent between any two of wish, effect and fact, on a real kernel.

use goldleaf_tests::host::life::{Victim, every_death};

/// Every named place, one after the other: nothing lost, nothing leaked, nothing stuck.
#[test]
fn the_agent_can_die_anywhere_and_the_same_call_gives_the_same_answer() {
    every_death("crash-agent", Victim::Agent);
}
