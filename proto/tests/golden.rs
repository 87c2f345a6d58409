//! Pins the wire: names, numbers and types of `goldleaf.v1` and `goldleaf.agent.v1`.
//!
//! A change of the wire is made on purpose: `UPDATE_GOLDEN=1 cargo test -p goldleaf-proto` writes
//! the listing anew, and the diff of `golden/api.txt` shows what callers will meet.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::path::Path;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::Label;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

#[test]
fn the_wire_is_as_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/api.txt");
    let now = listing();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    let gone: Vec<_> = golden
        .lines()
        .filter(|l| !now.lines().any(|n| n == *l))
        .collect();
    let new: Vec<_> = now
        .lines()
        .filter(|l| !golden.lines().any(|g| g == *l))
        .collect();
    assert!(
        now == golden,
        "the wire changed; if that is meant, run with UPDATE_GOLDEN=1\n- {}\n+ {}",
        gone.join("\n- "),
        new.join("\n+ "),
    );
}

#[test]
fn each_enum_begins_with_a_value_that_is_never_meant() {
    for file in files() {
        for e in &file.enum_type {
            let first = e.value.first().unwrap();
            assert_eq!(first.number(), 0, "{}", e.name());
            assert!(first.name().ends_with("_UNSPECIFIED"), "{}", first.name());
        }
    }
}

fn files() -> Vec<prost_types::FileDescriptorProto> {
    let set = FileDescriptorSet::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut files = set.file;
    files.retain(|f| f.package().starts_with("goldleaf."));
    assert!(!files.is_empty());
    files
}

/// One line for each field, enum value and method, sorted.
fn listing() -> String {
    let mut lines = Vec::new();
    for file in files() {
        let package = file.package();
        for m in &file.message_type {
            message(&mut lines, package, m);
        }
        for e in &file.enum_type {
            enumeration(&mut lines, package, e);
        }
        for s in &file.service {
            let service = format!("{package}.{}", s.name());
            lines.extend(s.method.iter().map(|m| method(&service, m)));
        }
        for x in &file.extension {
            let (what, name, number) = (x.extendee(), x.name(), x.number());
            lines.push(format!(
                "{package}.{name} extends {} = {number}",
                &what[1..]
            ));
        }
    }
    lines.extend(roles());
    lines.sort();
    lines.join("\n") + "\n"
}

/// The role that each method needs: an option of ours, which only reflection keeps.
fn roles() -> Vec<String> {
    let pool = DescriptorPool::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).unwrap();
    let option = pool
        .get_extension_by_name("goldleaf.v1.required_role")
        .unwrap();
    let methods = pool
        .services()
        .flat_map(|s| s.methods().collect::<Vec<_>>());
    methods
        .map(|m| {
            let options = m.options();
            let role = options.get_extension(&option).as_enum_number().unwrap();
            let role = goldleaf_proto::v1::Role::try_from(role).unwrap();
            assert_ne!(
                role,
                goldleaf_proto::v1::Role::Unspecified,
                "{}",
                m.full_name()
            );
            let service = m.parent_service().full_name().to_owned();
            format!("{service}/{} needs {}", m.name(), role.as_str_name())
        })
        .collect()
}

fn message(lines: &mut Vec<String>, parent: &str, m: &DescriptorProto) {
    let name = format!("{parent}.{}", m.name());
    if m.field.is_empty() {
        lines.push(format!("{name} = (empty)"));
    }
    lines.extend(m.field.iter().map(|f| field(&name, m, f)));
    lines.extend(m.reserved_range.iter().map(|r| {
        format!("{name} reserves {}..{}", r.start(), r.end()) // the end is not in it
    }));
    lines.extend(
        m.reserved_name
            .iter()
            .map(|n| format!("{name} reserves {n}")),
    );
    m.nested_type.iter().for_each(|n| message(lines, &name, n));
    m.enum_type
        .iter()
        .for_each(|e| enumeration(lines, &name, e));
}

fn field(parent: &str, m: &DescriptorProto, f: &FieldDescriptorProto) -> String {
    let label = match f.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if f.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let named = f.type_name().trim_start_matches('.');
    let kind = match named {
        "" => f
            .r#type()
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
        named => named.to_owned(),
    };
    let choice = match f.oneof_index {
        Some(i) if !f.proto3_optional() => {
            format!(
                " in oneof {}",
                m.oneof_decl[usize::try_from(i).unwrap()].name()
            )
        }
        Some(_) | None => String::new(),
    };
    format!(
        "{parent}.{} = {} {label}{kind}{choice}",
        f.name(),
        f.number()
    )
}

fn enumeration(lines: &mut Vec<String>, parent: &str, e: &EnumDescriptorProto) {
    let name = format!("{parent}.{}", e.name());
    lines.extend(
        e.value
            .iter()
            .map(|v| format!("{name}.{} = {}", v.name(), v.number())),
    );
    lines.extend(e.reserved_range.iter().map(|r| {
        format!("{name} reserves {}..={}", r.start(), r.end()) // the end is in it
    }));
    lines.extend(
        e.reserved_name
            .iter()
            .map(|n| format!("{name} reserves {n}")),
    );
}

fn method(service: &str, m: &MethodDescriptorProto) -> String {
    let stream = |on| if on { "stream " } else { "" };
    format!(
        "{service}/{} ({}{}) -> {}{}",
        m.name(),
        stream(m.client_streaming()),
        m.input_type().trim_start_matches('.'),
        stream(m.server_streaming()),
        m.output_type().trim_start_matches('.'),
    )
}
