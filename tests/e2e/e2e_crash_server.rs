//! kill -9 of the control plane between any two of wish, effect and fact, on a real kernel.

use goldleaf_tests::host::Host;
use goldleaf_tests::host::life::{LOGGED, Victim, assert_same, cut_short, undisturbed};

/// Every named place, one after the other: nothing lost, nothing leaked, the same answers.
#[test]
fn the_control_plane_can_die_anywhere_and_the_same_call_gives_the_same_answer() {
    let mut host = Host::start("crash-server");
    host.image("golden", &[0x5a; 1 << 20]);
    let expected = undisturbed(&host);
    let points = Victim::Server.points();
    assert!(points.len() > 15, "{points:?}");
    for point in points {
        let answers = cut_short(&mut host, Victim::Server, &point);
        assert_same(&expected, &answers, &point);
    }
    host.end_after(LOGGED);
}
