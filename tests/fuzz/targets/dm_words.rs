//! The kernel's status lines and tables, as text: what is read is said the same way again.
#![no_main]

use goldleaf_dm::{PoolStatus, Target, ThinStatus};
use goldleaf_types::Sectors;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(status) = text.parse::<PoolStatus>() {
        assert_eq!(status.to_string().parse::<PoolStatus>().ok(), Some(status));
    }
    if let Ok(status) = text.parse::<ThinStatus>() {
        assert_eq!(status.to_string().parse::<ThinStatus>().ok(), Some(status));
    }
    let Some((kind, parameters)) = text.split_once(' ') else {
        return;
    };
    if let Some(target) = Target::parse(Sectors(2048), kind, parameters) {
        let said = target.to_string();
        let again = said
            .strip_prefix(kind)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| Target::parse(Sectors(2048), kind, rest))
            .or_else(|| Target::parse(Sectors(2048), kind, &said));
        assert_eq!(again, Some(target), "{said}");
    }
});
