//! What a repair of a pool's metadata would do or did.

use std::fmt::Write;

use goldleaf_proto::v1 as api;

use super::{Printable, bytes, many_text, one_text, print};
use crate::args::Output;
use crate::failure::Failure;

/// Prints it: for people what was found, then a line for each volume and snapshot.
///
/// # Errors
///
/// [`Failure::Output`], or [`Failure::NobodyReads`].
pub fn repair(output: Output, repair: &api::PoolRepair) -> Result<(), Failure> {
    match output {
        Output::Table => print(&text(repair)?),
        Output::Name => print(&many_text(output, &repair.thins)?),
        Output::Json | Output::Yaml => print(&one_text(output, repair)?),
    }
}

fn text(repair: &api::PoolRepair) -> Result<String, Failure> {
    let mut text = String::new();
    let mut line = |what: &str, says: &str| {
        writeln!(text, "{what:<14}{says}").expect("a text takes any text");
    };
    if !repair.damage.is_empty() {
        line("thin_check:", &repair.damage);
    } else if repair.needs_check {
        line("thin_check:", "finds nothing");
    }
    if repair.needs_check {
        line("needs_check:", "set: it takes no change");
    }
    if let Some(found) = repair
        .found_transaction
        .filter(|_| !repair.thins.is_empty())
    {
        let recorded = repair.recorded_transaction;
        line("transaction:", &format!("{found}, recorded {recorded}"));
        if found != recorded && found.checked_add(1) != Some(recorded) {
            line(
                "",
                "not those of one state: it would open for reading and rescue only",
            );
        }
    }
    if !repair.ownerless_thins.is_empty() {
        let thins: Vec<_> = repair.ownerless_thins.iter().map(u32::to_string).collect();
        line("without owner:", &format!(" thins {}", thins.join(", ")));
    }
    if !repair.thins.is_empty() {
        text.push_str(&many_text(Output::Table, &repair.thins)?);
    }
    Ok(text)
}

impl Printable for api::PoolRepair {
    const MESSAGE: &'static str = "goldleaf.v1.PoolRepair";
    const COLUMNS: &'static [&'static str] = &["OUTCOME"];

    fn row(&self) -> Vec<String> {
        let outcome = self.outcome().as_str_name();
        vec![outcome.trim_start_matches("REPAIR_OUTCOME_").to_lowercase()]
    }

    fn name(&self) -> &str {
        &self.kept
    }
}

impl Printable for api::RepairedThin {
    const MESSAGE: &'static str = "goldleaf.v1.RepairedThin";
    const COLUMNS: &'static [&'static str] = &["NAME", "FATE", "MAPPED", "REPAIRED", "ID"];

    fn row(&self) -> Vec<String> {
        let known = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), bytes);
        let fate = match self.fate() {
            api::ThinFate::Unspecified => "unknown",
            api::ThinFate::Whole => "whole",
            api::ThinFate::Unsure => "UNSURE",
            api::ThinFate::Shortened => "SHORTENED",
            api::ThinFate::Lost => "LOST",
            api::ThinFate::LostBefore => "lost before",
        };
        vec![
            self.name.clone(),
            fate.into(),
            known(self.mapped_before_bytes),
            known(self.mapped_after_bytes),
            self.owner.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_was_found_and_what_becomes_of_each() {
        let thin = |name: &str, fate: api::ThinFate, after| api::RepairedThin {
            owner: format!("vol-{name}"),
            name: name.into(),
            mapped_before_bytes: Some(5 << 16),
            mapped_after_bytes: after,
            fate: fate.into(),
            ..Default::default()
        };
        let repair = api::PoolRepair {
            damage: "bad checksum in btree node".into(),
            recorded_transaction: 9,
            found_transaction: Some(5),
            thins: vec![
                thin("a", api::ThinFate::Shortened, Some(1 << 16)),
                thin("b", api::ThinFate::Lost, None),
            ],
            ..Default::default()
        };
        let text = text(&repair).unwrap();
        assert!(text.contains("bad checksum in btree node"), "{text}");
        assert!(
            text.contains("5, recorded 9") && text.contains("rescue only"),
            "{text}"
        );
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert!(
            lines.iter().any(|l| l.starts_with(&["a", "SHORTENED"])),
            "{text}"
        );
        assert!(
            lines.iter().any(|l| l.starts_with(&["b", "LOST"])),
            "{text}"
        );
    }
}
