//! Printing: tables for people, the wire's own JSON for machines.

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
/// [`Failure::Output`].
pub fn one<T: Printable>(output: Output, item: &T) -> Result<(), Failure> {
    match output {
        Output::Json => print_json(&value(item)?),
        Output::Yaml => print_yaml(&value(item)?),
        Output::Table | Output::Name => {
            print_rows(output, std::slice::from_ref(item));
            Ok(())
        }
    }
}

/// Prints a list.
///
/// # Errors
///
/// [`Failure::Output`].
pub fn many<T: Printable>(output: Output, items: &[T]) -> Result<(), Failure> {
    let list = || -> Result<Value, Failure> {
        let values = items.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(serde_json::json!({ "items": values }))
    };
    match output {
        Output::Json => print_json(&list()?),
        Output::Yaml => print_yaml(&list()?),
        Output::Table | Output::Name => {
            print_rows(output, items);
            Ok(())
        }
    }
}

/// Prints one event of a watch on a line of its own.
///
/// # Errors
///
/// [`Failure::Output`].
pub fn event<T: Printable>(output: Output, kind: i32, item: &T) -> Result<(), Failure> {
    let gone = kind == i32::from(api::EventKind::Gone);
    match output {
        Output::Json | Output::Yaml => {
            let event = serde_json::json!({
                "kind": if gone { "GONE" } else { "PRESENT" },
                "item": value(item)?,
            });
            println!("{event}");
        }
        Output::Name => println!("{}", item.name()),
        Output::Table if gone => println!("gone\t{}", item.row().join("\t")),
        Output::Table => println!("now\t{}", item.row().join("\t")),
    }
    Ok(())
}

fn print_rows<T: Printable>(output: Output, items: &[T]) {
    if output == Output::Name {
        items.iter().for_each(|item| println!("{}", item.name()));
        return;
    }
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(T::COLUMNS.iter().copied());
    for item in items {
        table.add_row(item.row());
    }
    println!("{table}");
}

/// The wire's JSON of a message, with the field names of the `.proto` files.
fn value<T: Printable>(item: &T) -> Result<Value, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Output(e.to_string());
    let pool =
        DescriptorPool::decode(goldleaf_proto::FILE_DESCRIPTOR_SET).map_err(|e| failed(&e))?;
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

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Output(e.to_string()))?;
    println!("{text}");
    Ok(())
}

fn print_yaml(value: &Value) -> Result<(), Failure> {
    let text = serde_saphyr::to_string(value).map_err(|e| Failure::Output(e.to_string()))?;
    print!("{text}");
    Ok(())
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

fn short(digest: &str) -> String {
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
        let or_dash = |s: String| if s.is_empty() { "-".into() } else { s };
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            bytes(self.size_bytes),
            self.owned_bytes.map_or_else(|| "-".into(), bytes),
            or_dash(short(&self.image_digest)),
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

impl Printable for api::Pool {
    const MESSAGE: &'static str = "goldleaf.v1.Pool";
    const COLUMNS: &'static [&'static str] = &[
        "NAME", "PHASE", "MODE", "USED", "SIZE", "METADATA", "VOLUMES", "ID",
    ];

    fn row(&self) -> Vec<String> {
        let usage = self.usage.unwrap_or_default();
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

impl Printable for api::Image {
    const MESSAGE: &'static str = "goldleaf.v1.Image";
    const COLUMNS: &'static [&'static str] = &["NAME", "PHASE", "SIZE", "DIGEST", "NODES", "ID"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            state(self.phase, &self.conditions),
            bytes(self.size_bytes),
            short(&self.digest),
            self.copies.len().to_string(),
            self.id.clone(),
        ]
    }

    fn name(&self) -> &str {
        &self.name
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
mod tests {
    use super::*;

    #[test]
    fn json_has_the_fields_of_the_proto() {
        let volume = api::Volume {
            id: "vol-1".into(),
            size_bytes: 1 << 40,
            phase: api::Phase::Ready.into(),
            ..Default::default()
        };
        let json = value(&volume).unwrap();
        assert_eq!(json["id"], "vol-1");
        assert_eq!(json["size_bytes"], "1099511627776");
        assert_eq!(json["phase"], "PHASE_READY");
    }

    #[test]
    fn a_state_says_what_is_wrong() {
        let bad = api::Condition {
            reason: "ThinMissing".into(),
            ..Default::default()
        };
        assert_eq!(
            state(api::Phase::Ready.into(), &[bad]),
            "ready (ThinMissing)"
        );
    }
}
