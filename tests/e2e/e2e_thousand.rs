//! A thousand active volumes over one image, and an unclean stop: how soon all are back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::time::{Duration, Instant};

use goldleaf_tests::host::{Host, over};
use goldleaf_tests::model::{self, GOLDEN, golden_bytes};
use goldleaf_tests::support::{check_metadata, patience, say};

const VOLUMES: usize = 1000;
const SIZE: u64 = 2 << 20;

/// What the agent may take, on a processor of its own; an emulated one is given more, and the figure says so.
const LIMIT: Duration = Duration::from_secs(10);

/// As many at once as a node's users would ask for.
const CALLERS: usize = 8;

fn name(number: usize) -> String {
    format!("v{number}")
}

#[test]
fn a_thousand_volumes_are_back_within_ten_seconds_of_an_unclean_stop() {
    let mut host = Host::start("thousand");
    host.image("golden", &golden_bytes());
    host.pool("p", 2 << 30);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let host = &host;
            scope.spawn(move || {
                for number in (caller..VOLUMES).step_by(CALLERS) {
                    host.create_thin(over(&name(number), SIZE, "golden"))
                        .unwrap();
                }
            });
        }
    });
    let pattern = model::device(&host, "volume/v7");
    pattern.write(0, &[0x77; 4096]);
    host.agent = None;
    host.server = None;
    host.lose_devices();
    assert!(!model::has_device(&host, "volume/v7"));
    let pool = host.dir().join("agent/pools/p.pool");
    let began = Instant::now();
    assert_eq!(check_metadata(&pool).unwrap(), None);
    let checked = began.elapsed();
    let began = Instant::now();
    host.start_agent(&[]);
    let (took, limit) = (began.elapsed(), patience(LIMIT));
    for number in 0..VOLUMES {
        let volume = format!("volume/{}", name(number));
        let first = if number == 7 {
            vec![0x77; 4096]
        } else {
            GOLDEN.bytes(0, 4096)
        };
        assert_eq!(
            model::device(&host, &volume).read(0, 4096),
            first,
            "{volume}"
        );
    }
    say(&format!(
        "a thousand volumes: back {:.2} s after the agent's start, its devices there; thin_check \
         alone {:.2} s; allowed here: {limit:?}",
        took.as_secs_f64(),
        checked.as_secs_f64()
    ));
    assert!(took < limit, "{took:?}");
    host.start_server(&[]);
    host.await_node();
    host.end();
}
