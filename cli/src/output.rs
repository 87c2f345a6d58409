//! Printing: tables for people, the wire's own JSON or YAML for machines.
//!
//! Called by `commands` with what came back. Only `print` writes; everything else makes text.

pub mod blocks;
mod doctor;
mod image;
mod nodes;
mod repair;

pub use repair::repair;

use std::io::{ErrorKind, Write};
use std::sync::LazyLock;

use comfy_table::{ContentArrangement, Table};
use goldleaf_proto::v1 as api;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use crate::args::Output;
use crate::failure::Failure;

/// Something that can be printed every way.
pub trait Printable: Message {
    /// Its full name in the `.proto` files.
    const MESSAGE: &'static str;
    /// Column heads of its table.
    const COLUMNS: &'static [&'static str];
    /// Its row.
    fn row(&self) -> Vec<String>;
    /// Its name.
    fn name(&self) -> &str;
}

/// Prints one thing.
///
/// # Errors
///
/// [`Failure::Output`], or [`Failure::NobodyReads`].
pub fn one<T: Printable>(output: Output, item: &T) -> Result<(), Failure> {
    print(&one_text(output, item)?)
}

/// Prints what one thing takes in its pool.
///
/// # Errors
///
/// As [`one`].
pub fn usage<T: Printable>(
    output: Output,
    item: &T,
    usage: Option<api::ThinUsage>,
) -> Result<(), Failure> {
    match (output, usage) {
        (Output::Table, Some(usage)) => print(&usage_table(item.name(), usage)),
        (Output::Table | Output::Json | Output::Yaml | Output::Name, _) => one(output, item),
    }
}

fn usage_table(name: &str, usage: api::ThinUsage) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["NAME", "PROVISIONED", "OWNED", "EXCLUSIVE", "SHARED"]);
    let figures = [
        usage.provisioned_bytes,
        usage.owned_bytes,
        usage.exclusive_bytes,
        usage.shared_bytes,
    ];
    table.add_row(std::iter::once(name.to_owned()).chain(figures.map(bytes)));
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// Prints a list.
///
/// # Errors
///
/// As [`one`].
pub fn many<T: Printable>(output: Output, items: &[T]) -> Result<(), Failure> {
    print(&many_text(output, items)?)
}

/// Prints an answer whose parts are what a person looks for: the whole of it for machines.
///
/// # Errors
///
/// As [`one`].
pub fn whole<W: Printable, T: Printable>(
    output: Output,
    answer: &W,
    parts: &[T],
) -> Result<(), Failure> {
    match output {
        Output::Json | Output::Yaml => one(output, answer),
        Output::Table | Output::Name => many(output, parts),
    }
}

/// Prints an answer that says nothing but that it was done.
///
/// # Errors
///
/// As [`one`].
pub fn nothing(output: Output) -> Result<(), Failure> {
    match output {
        Output::Json | Output::Yaml => print("{}\n"),
        Output::Table | Output::Name => Ok(()),
    }
}

/// Prints one event of a watch on a line of its own.
///
/// # Errors
///
/// As [`one`].
pub fn event<T: Printable>(output: Output, kind: i32, item: &T) -> Result<(), Failure> {
    print(&event_text(output, kind, item)?)
}

/// A list as the wire's JSON.
///
/// # Errors
///
/// [`Failure::Output`].
pub fn document<T: Printable>(items: &[T]) -> Result<String, Failure> {
    many_text(Output::Json, items)
}

fn one_text<T: Printable>(output: Output, item: &T) -> Result<String, Failure> {
    match output {
        Output::Json => json(&value(item)?),
        Output::Yaml => yaml(&value(item)?),
        Output::Table => Ok(table(std::slice::from_ref(item))),
        Output::Name => Ok(names(std::slice::from_ref(item))),
    }
}

fn many_text<T: Printable>(output: Output, items: &[T]) -> Result<String, Failure> {
    let list = || -> Result<Value, Failure> {
        let values = items.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(serde_json::json!({ "items": values }))
    };
    match output {
        Output::Json => json(&list()?),
        Output::Yaml => yaml(&list()?),
        Output::Table => Ok(table(items)),
        Output::Name => Ok(names(items)),
    }
}

fn event_text<T: Printable>(output: Output, kind: i32, item: &T) -> Result<String, Failure> {
    let gone = kind == i32::from(api::EventKind::Gone);
    let event = || -> Result<Value, Failure> {
        let kind = if gone { "GONE" } else { "PRESENT" };
        Ok(serde_json::json!({ "kind": kind, "item": value(item)? }))
    };
    match output {
        Output::Json => Ok(format!("{}\n", event()?)),
        Output::Yaml => Ok(format!("---\n{}", yaml(&event()?)?)),
        Output::Name => Ok(format!("{}\n", item.name())),
        Output::Table if gone => Ok(format!("gone\t{}\n", item.row().join("\t"))),
        Output::Table => Ok(format!("now\t{}\n", item.row().join("\t"))),
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error of ours.
///
/// # Errors
///
/// [`Failure::Output`], or [`Failure::NobodyReads`].
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
        Err(error) => Err(Failure::Output(error.to_string())),
    }
}

fn names<T: Printable>(items: &[T]) -> String {
    items
        .iter()
        .map(|item| format!("{}\n", item.name()))
        .collect()
}

fn table<T: Printable>(items: &[T]) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(T::COLUMNS.iter().copied());
    for item in items {
        table.add_row(item.row());
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// What the wire's messages look like, decoded once.
static DESCRIPTORS: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).map_err(|e| e.to_string())
});

/// The wire's JSON of a message, with the field names of the `.proto` files.
fn value<T: Printable>(item: &T) -> Result<Value, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Output(e.to_string());
    let pool = DESCRIPTORS.as_ref().map_err(|e| failed(e))?;
    let descriptor = pool
        .get_message_by_name(T::MESSAGE)
        .ok_or_else(|| failed(&format!("no message {}", T::MESSAGE)))?;
    let message = DynamicMessage::decode(descriptor, item.encode_to_vec().as_slice())
        .map_err(|e| failed(&e))?;
    let options = prost_reflect::SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|e| failed(&e))
}

fn json(value: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Output(e.to_string()))?;
    Ok(text + "\n")
}

fn yaml(value: &Value) -> Result<String, Failure> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::Output(e.to_string()))?;
    Ok(text.trim_end().to_owned() + "\n")
}

/// Bytes for people: three digits, binary units.
pub fn bytes(n: u64) -> String {
    bytesize::ByteSize::b(n).display().iec().to_string()
}

fn phase(number: i32) -> String {
    match api::Phase::try_from(number) {
        Ok(phase) => phase
            .as_str_name()
            .trim_start_matches("PHASE_")
            .to_lowercase(),
        Err(_) => number.to_string(),
    }
}

/// The phase, with what is wrong beside it.
fn state(number: i32, conditions: &[api::Condition]) -> String {
    let bad: Vec<_> = conditions
        .iter()
        .filter(|c| !c.status)
        .map(|c| c.reason.as_str())
        .collect();
    if bad.is_empty() {
        phase(number)
    } else {
        format!("{} ({})", phase(number), bad.join(", "))
    }
}

/// As [`state`], and how far long work has come.
fn state_at_work(
    number: i32,
    conditions: &[api::Condition],
    progress: Option<api::Progress>,
) -> String {
    let state = state(number, conditions);
    let part = |p: api::Progress| p.done_bytes.saturating_mul(100).checked_div(p.total_bytes);
    match progress.and_then(part) {
        Some(percent) => format!("{state} {percent} %"),
        None => state,
    }
}

/// A digest that people can tell apart; "-" for none.
fn short(digest: &str) -> String {
    if digest.is_empty() {
        return "-".into();
    }
    digest.chars().take("sha256:".len() + 12).collect()
}

impl Printable for api::Volume {
    const MESSAGE: &'static str = "goldleaf.v1.Volume";
    const COLUMNS: &'static [&'static str] =
        &["NAME", "PHASE", "SIZE", "OWNED", "IMAGE", "DEVICE", "ID"];

    fn row(&self) -> Vec<String> {
        let device = self
            .activation
            .as_ref()
            .filter(|a| a.active)
            .map_or_else(|| "-".into(), |a| a.device_path.clone());
        vec![
            self.name.clone(),
            state_at_work(self.phase, &self.conditions, self.progress),
            bytes(self.size_bytes),
            self.owned_bytes.map_or_else(|| "-".into(), bytes),
            short(&self.image_digest),
            device,
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::Snapshot {
    const MESSAGE: &'static str = "goldleaf.v1.Snapshot";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "SIZE", "SOURCE", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            bytes(self.size_bytes),
            self.source.clone(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::GroupSnapshot {
    const MESSAGE: &'static str = "goldleaf.v1.GroupSnapshot";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "SNAPSHOTS", "ID"];

    fn row(&self) -> Vec<String> {
        let names: Vec<_> = self.members.iter().map(|m| m.name.as_str()).collect();
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            names.join(", "),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::Pool {
    const MESSAGE: &'static str = "goldleaf.v1.Pool";
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "PHASE", "MODE", "USED", "SIZE", "METADATA", "VOLUMES", "ID",
    ];

    fn row(&self) -> Vec<String> {
        let Some(usage) = self.usage else {
            let unknown = || "-".to_owned(); // its node did not say
            let state = state(self.phase, &self.conditions);
            return vec![
                self.name.clone(),
                state,
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                unknown(),
                self.id.clone(),
            ];
        };
        let share = |used: u64, total: u64| match used.saturating_mul(100).checked_div(total) {
            Some(percent) => format!("{percent} %"),
            None => "-".into(),
        };
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            usage
                .mode()
                .as_str_name()
                .trim_start_matches("POOL_MODE_")
                .to_lowercase(),
            bytes(usage.data_used_bytes),
            bytes(usage.data_total_bytes),
            share(usage.metadata_used_bytes, usage.metadata_total_bytes),
            usage.thin_count.to_string(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::DestroyPoolResponse {
    const MESSAGE: &'static str = "goldleaf.v1.DestroyPoolResponse";
    const COLUMNS: &'static [&'static str] = &["DONE", "VOLUMES", "SNAPSHOTS"];

    fn row(&self) -> Vec<String> {
        let done = if self.done { "yes" } else { "no" };
        vec![
            done.into(),
            self.volumes.join(", "),
            self.snapshots.join(", "),
        ]
    }

    fn name(&self) -> &'static str {
        ""
    }
}

impl Printable for api::Node {
    const MESSAGE: &'static str = "goldleaf.v1.Node";
    const COLUMNS: &'static [&'static str] = &["NAME", "STATE", "KERNEL", "AGENT", "ADDRESS", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            self.kernel_release.clone(),
            self.agent_version.clone(),
            self.address.clone(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Printable for api::PreflightCheck {
    const MESSAGE: &'static str = "goldleaf.v1.PreflightCheck";
    const COLUMNS: &'static [&'static str] = &["CHECK", "OK", "FOUND", "REMEDY"];

    fn row(&self) -> Vec<String> {
        let ok = if self.ok { "yes" } else { "LACKING" };
        vec![
            self.subject.clone(),
            ok.into(),
            self.found.clone(),
            self.remedy.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.subject
    }
}

#[cfg(test)]
mod tests;
