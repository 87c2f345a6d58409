//! Holds the table of services in docs/api.md against the services that there are.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::FileDescriptorSet;

const API: &str = include_str!("../../docs/api.md");

type Services = BTreeMap<String, BTreeSet<String>>;

fn there_are() -> Services {
    let set = FileDescriptorSet::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
    let files = set.file.iter().filter(|f| f.package() == "goldleaf.v1");
    let services = files.flat_map(|file| &file.service);
    services
        .map(|service| {
            let calls = service.method.iter().map(|m| m.name().to_owned());
            (service.name().to_owned(), calls.collect())
        })
        .collect()
}

/// Rows like "| `StoreService` | Backup, Other (with a remark) |".
fn are_documented() -> Services {
    let rows = API
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains("Service` |"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let calls = without_remarks(cells[2]);
        let calls = calls.split([',', ';']).map(|call| call.trim().to_owned());
        (cells[1].trim_matches('`').to_owned(), calls.collect())
    })
    .collect()
}

fn without_remarks(text: &str) -> String {
    let mut depth = 0;
    text.chars()
        .filter(|c| {
            depth += i32::from(*c == '(');
            let outside = depth == 0;
            depth -= i32::from(*c == ')');
            outside
        })
        .collect()
}

#[test]
fn the_table_of_services_names_every_call() {
    let (there, documented) = (there_are(), are_documented());
    assert!(there.len() > 3, "{there:?}");
    for (service, calls) in &there {
        let said = documented.get(service);
        assert_eq!(said, Some(calls), "docs/api.md on {service}");
    }
    let names = |services: &Services| services.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documented), names(&there));
}
