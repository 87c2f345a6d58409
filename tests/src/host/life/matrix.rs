//! The crash matrix: what each death came to, as the rows of a table.
//!
//! `docs/crash-matrix.md` keeps the last one that was printed; the tests here hold that document
//! against the failpoints in the code, and the life's steps against the calls of the API.

use std::fmt;
use std::time::Duration;

/// What begins the table.
pub(super) const HEAD: [&str; 2] = [
    "| point | died in | a call of | the caller | again after | lost | leaked | stuck |",
    "|---|---|---|---|---:|---:|---:|---:|",
];

/// What one death came to, put down once everything was looked at.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Where it died, and which time that it came there if not the first: `point#2`.
    pub(super) point: String,
    /// The step it died in.
    pub(super) step: String,
    /// The call that it stands for.
    pub(super) call: String,
    /// Whether the caller had its answer by then.
    pub(super) answered: bool,
    /// From the new start to the same call's answer.
    pub(super) back: Duration,
    /// Answers that were others than without a death.
    pub(super) lost: usize,
    /// What was left over in the end.
    pub(super) leaked: usize,
    /// What was not as it should be in the end.
    pub(super) stuck: usize,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            point,
            step,
            call,
            answered,
            back,
            lost,
            leaked,
            stuck,
        } = self;
        let caller = if *answered {
            "had its answer"
        } else {
            "waited"
        };
        let back = back.as_secs_f64();
        write!(
            f,
            "| `{point}` | {step} | {call} | {caller} | {back:.1} s | {lost} | {leaked} | {stuck} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use prost_reflect::{DescriptorPool, Value};

    use super::super::steps;

    const DOCUMENT: &str = include_str!("../../../../docs/crash-matrix.md");

    const CODE: [&str; 3] = [
        include_str!("../../../../node-agent/src/failpoint.rs"),
        include_str!("../../../../server/src/failpoint.rs"),
        include_str!("../../../../csi/src/failpoint.rs"),
    ];

    /// Calls that change something and are no step of the life, with the reason.
    const NO_STEP: [(&str, &str); 4] = [
        ("NodeService.Register", "each life begins with it"),
        ("StoreService.Backup", "it reads"),
        ("PoolService.Delete", "what Destroy ends with"),
        ("PoolService.Repair", "no metadata of the life is damaged"),
    ];

    /// Each row of the document's tables: the point, and what stands in the other columns.
    fn rows() -> Vec<(&'static str, Vec<&'static str>)> {
        let rows = DOCUMENT.lines().filter_map(|line| {
            let (point, rest) = line.strip_prefix("| `")?.split_once("` |")?;
            let cells = rest.trim_end_matches('|').split('|').map(str::trim);
            point.contains('/').then(|| (point, cells.collect()))
        });
        rows.collect()
    }

    fn in_code() -> BTreeSet<&'static str> {
        let lines = CODE.iter().flat_map(|code| code.lines());
        let points =
            lines.filter_map(|line| line.trim().split_once(" => \"")?.1.strip_suffix("\","));
        points.collect()
    }

    #[test]
    fn the_document_has_every_failpoint_once_and_none_that_is_not() {
        let rows = rows();
        let first = rows.iter().filter(|(point, _)| !point.contains('#'));
        let first: Vec<_> = first.map(|(point, _)| *point).collect();
        let found: BTreeSet<_> = first.iter().copied().collect();
        assert_eq!(found.len(), first.len(), "a point stands there twice");
        let code = in_code();
        assert!(code.len() > 140, "{code:?}");
        let missing: Vec<_> = code.difference(&found).collect();
        let gone: Vec<_> = found.difference(&code).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "docs/crash-matrix.md lacks {missing:?} and has {gone:?}, which are not in the code: \
             make it anew as it says"
        );
    }

    #[test]
    fn every_row_says_what_a_death_came_to_or_names_a_test_that_there_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
        let sources = std::fs::read_dir(folder).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap_or_default())
        });
        let sources: Vec<_> = sources.collect();
        let mut whats: BTreeMap<_, _> = steps().map(|step| (step.what, step.call)).collect();
        whats.extend([
            ("the node registers", "NodeService.Register"),
            ("after the last", ""),
        ]);
        for (point, cells) in rows() {
            if let [step, call, caller, again, counts @ ..] = &cells[..]
                && counts.len() == 3
            {
                assert!(
                    whats.get(step).is_some_and(|known| known == call),
                    "{point}: {call}"
                );
                assert!(["waited", "had its answer"].contains(caller), "{point}");
                assert!(again.ends_with(" s"), "{point}: {again}");
                assert_eq!(counts, ["0", "0", "0"], "{point}");
            } else {
                let named = cells[0].trim_matches('`');
                let there = named.split_once("::").is_some_and(|(file, test)| {
                    let is_it = |(name, text): &(String, String)| {
                        name == file && text.contains(&format!("fn {test}()"))
                    };
                    sources.iter().any(is_it)
                });
                assert!(there, "{point}: no test {named}");
            }
        }
    }

    #[test]
    fn every_call_that_changes_something_is_a_step_of_the_life() {
        let all = DescriptorPool::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
        let role = all
            .get_extension_by_name("goldleaf.v1.required_role")
            .unwrap();
        let viewer = i32::from(goldleaf_proto::v1::Role::Viewer);
        let public = all
            .services()
            .filter(|service| service.full_name().starts_with("goldleaf.v1."));
        let changing: BTreeSet<String> = public
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter(|m| *m.options().get_extension(&role) != Value::EnumNumber(viewer))
            .map(|m| format!("{}.{}", m.parent_service().name(), m.name()))
            .collect();
        assert!(changing.len() > 35, "{changing:?}");
        let known: BTreeSet<String> = steps()
            .map(|step| step.call)
            .chain(NO_STEP.map(|(call, _)| call))
            .filter(|call| !call.is_empty())
            .map(str::to_owned)
            .collect();
        assert_eq!(changing, known);
        for (call, why) in NO_STEP {
            assert!(DOCUMENT.contains(&format!("`{call}`: {why}")), "{call}");
        }
    }
}
