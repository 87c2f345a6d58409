//! Compares `csi.proto` with the descriptor that the specification's own Go module publishes.
//!
//! Names, numbers, types, labels, oneofs, JSON names, options (`csi_secret`, `alpha_*`), reserved
//! ranges and streaming, one by one; the comments are ours and not compared. Needs Go, because
//! `tests/tools/build` builds the program that prints the published descriptor.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor,
    FileDescriptor, MessageDescriptor, MethodDescriptor,
};

/// What is true of a thing: "number" is "3", "type" is "string".
type Aspects = BTreeMap<&'static str, String>;
/// All things of a file by kind and name: "field csi.v1.Volume.volume_id".
type Facts = BTreeMap<String, Aspects>;

#[test]
fn csi_proto_is_the_published_specification() {
    let ours = facts(csi_proto::FILE_DESCRIPTOR_SET);
    let published = facts(&published());
    assert!(
        published.len() > 500,
        "only {} things were published",
        published.len()
    );
    let differences = differences(&ours, &published);
    assert!(
        differences.is_empty(),
        "csi.proto differs from the published specification {}:\n  {}",
        csi_proto::SPEC_VERSION,
        differences.join("\n  ")
    );
}

#[test]
fn the_published_version_is_the_one_we_claim() {
    let module = std::fs::read_to_string(tools().join("go.mod")).unwrap();
    let wanted = format!(
        "github.com/container-storage-interface/spec v{}\n",
        csi_proto::SPEC_VERSION
    );
    assert!(
        module.contains(&wanted),
        "tests/tools/go.mod does not ask for {wanted}"
    );
}

#[test]
fn credentials_and_alpha_parts_are_marked() {
    let ours = facts(csi_proto::FILE_DESCRIPTOR_SET);
    let options = |thing: &str| ours[thing]["options"].as_str();
    assert_eq!(
        options("field csi.v1.CreateVolumeRequest.secrets"),
        "csi.v1.csi_secret: true"
    );
    assert_eq!(
        options("service csi.v1.SnapshotMetadata"),
        "csi.v1.alpha_service: true"
    );
    assert_eq!(options("field csi.v1.CreateVolumeRequest.name"), "none");
}

#[test]
fn every_difference_is_told_in_words() {
    let published = facts(csi_proto::FILE_DESCRIPTOR_SET);
    let mut ours = published.clone();
    let field = ours.get_mut("field csi.v1.Volume.volume_id").unwrap();
    field.insert("number", "9".into());
    ours.remove("method csi.v1.Identity.Probe").unwrap();
    ours.insert("message csi.v1.Disk".into(), Aspects::new());
    assert_eq!(
        differences(&ours, &published),
        [
            "field csi.v1.Volume.volume_id: number is 9, published as 2",
            "method csi.v1.Identity.Probe: published, but not ours",
            "message csi.v1.Disk: ours, but not published",
        ]
    );
}

fn tools() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools")
}

/// The published descriptors, printed by the Go program that links the specification's module.
#[expect(
    clippy::disallowed_methods,
    reason = "a test runs the programs that it compares with"
)]
fn published() -> Vec<u8> {
    let build = Command::new(tools().join("build"))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(
        build.status.success(),
        "{}",
        String::from_utf8_lossy(&build.stderr)
    );
    let folder = String::from_utf8(build.stdout).unwrap();
    let print = Command::new(Path::new(folder.trim()).join("csidescriptors"))
        .output()
        .unwrap();
    assert!(
        print.status.success(),
        "{}",
        String::from_utf8_lossy(&print.stderr)
    );
    print.stdout
}

fn differences(ours: &Facts, published: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for (thing, theirs) in published {
        let Some(own) = ours.get(thing) else {
            lines.push(format!("{thing}: published, but not ours"));
            continue;
        };
        lines.extend(
            theirs
                .iter()
                .filter(|(aspect, value)| own.get(*aspect) != Some(*value))
                .map(|(aspect, value)| {
                    format!("{thing}: {aspect} is {}, published as {value}", own[aspect])
                }),
        );
    }
    let extra = ours.keys().filter(|thing| !published.contains_key(*thing));
    lines.extend(extra.map(|thing| format!("{thing}: ours, but not published")));
    lines
}

fn facts(set: &[u8]) -> Facts {
    let pool = DescriptorPool::decode(set).unwrap();
    let file = pool
        .get_file_by_name("csi.proto")
        .expect("a set with csi.proto");
    let mut facts = Facts::new();
    let about = Aspects::from([
        ("package", file.package_name().to_owned()),
        ("syntax", format!("{:?}", file.syntax())),
        ("imports", imports(&file)),
    ]);
    facts.insert("file csi.proto".into(), about);
    file.messages().for_each(|m| message(&mut facts, &m));
    file.enums().for_each(|e| enumeration(&mut facts, &e));
    file.extensions().for_each(|x| extension(&mut facts, &x));
    for service in file.services() {
        let about = Aspects::from([("options", options(&service.options()))]);
        facts.insert(format!("service {}", service.full_name()), about);
        service.methods().for_each(|m| method(&mut facts, &m));
    }
    facts
}

fn imports(file: &FileDescriptor) -> String {
    let mut names: Vec<_> = file.dependencies().map(|d| d.name().to_owned()).collect();
    names.sort();
    names.join(", ")
}

fn message(facts: &mut Facts, m: &MessageDescriptor) {
    let raw = m.descriptor_proto();
    let about = Aspects::from([
        ("options", options(&m.options())),
        ("map entry", m.is_map_entry().to_string()),
        ("oneofs", list(m.oneofs().map(|o| o.name().to_owned()))),
        (
            "reserved ranges",
            list(m.reserved_ranges().map(|r| format!("{r:?}"))),
        ),
        (
            "reserved names",
            list(m.reserved_names().map(str::to_owned)),
        ),
        (
            "extensions",
            list(raw.extension.iter().map(|x| x.name().to_owned())),
        ),
    ]);
    facts.insert(format!("message {}", m.full_name()), about);
    m.fields().for_each(|f| field(facts, &f));
    m.child_messages().for_each(|c| message(facts, &c));
    m.child_enums().for_each(|e| enumeration(facts, &e));
}

fn field(facts: &mut Facts, f: &FieldDescriptor) {
    let raw = f.field_descriptor_proto();
    let about = Aspects::from([
        ("number", f.number().to_string()),
        ("label", format!("{:?}", f.cardinality())),
        ("type", format!("{:?} {}", raw.r#type(), raw.type_name())),
        (
            "oneof",
            f.containing_oneof()
                .map_or("none".into(), |o| o.name().to_owned()),
        ),
        ("presence", f.supports_presence().to_string()),
        ("packed", f.is_packed().to_string()),
        ("JSON name", f.json_name().to_owned()),
        ("options", options(&f.options())),
    ]);
    facts.insert(format!("field {}", f.full_name()), about);
}

fn extension(facts: &mut Facts, x: &ExtensionDescriptor) {
    let about = Aspects::from([
        ("extends", x.containing_message().full_name().to_owned()),
        ("number", x.number().to_string()),
        ("type", format!("{:?}", x.kind())),
        ("label", format!("{:?}", x.cardinality())),
    ]);
    facts.insert(format!("extension {}", x.full_name()), about);
}

fn enumeration(facts: &mut Facts, e: &EnumDescriptor) {
    let about = Aspects::from([
        ("options", options(&e.options())),
        (
            "reserved ranges",
            list(e.reserved_ranges().map(|r| format!("{r:?}"))),
        ),
        (
            "reserved names",
            list(e.reserved_names().map(str::to_owned)),
        ),
    ]);
    facts.insert(format!("enum {}", e.full_name()), about);
    for v in e.values() {
        let about = Aspects::from([
            ("number", v.number().to_string()),
            ("options", options(&v.options())),
        ]);
        facts.insert(format!("enum value {}.{}", e.full_name(), v.name()), about);
    }
}

fn method(facts: &mut Facts, m: &MethodDescriptor) {
    let about = Aspects::from([
        ("input", m.input().full_name().to_owned()),
        ("output", m.output().full_name().to_owned()),
        ("client streaming", m.is_client_streaming().to_string()),
        ("server streaming", m.is_server_streaming().to_string()),
        ("options", options(&m.options())),
    ]);
    facts.insert(format!("method {}", m.full_name()), about);
}

/// Set options, built-in and custom, in order of their names.
fn options(options: &DynamicMessage) -> String {
    let built_in = options
        .fields()
        .map(|(f, value)| format!("{}: {value}", f.name()));
    let custom = options
        .extensions()
        .map(|(x, value)| format!("{}: {value}", x.full_name()));
    list(built_in.chain(custom))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<_> = items.collect();
    items.sort();
    if items.is_empty() {
        "none".into()
    } else {
        items.join(", ")
    }
}
