//! Requests in the log, without their credentials.
//!
//! Called at the beginning of each call. What holds credentials is marked in the specification
//! (`csi_secret`), and that mark alone decides; mount flags, which it calls confidential without
//! marking them, are left out too.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Value};
use tonic::Request;

/// What is shown instead.
const HIDDEN: &str = "***";

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(csi_proto::FILE_DESCRIPTOR_SET).ok());

/// The request, which the log has seen.
pub fn seen<M: Message>(request: Request<M>) -> M {
    let message = request.into_inner();
    if tracing::enabled!(tracing::Level::DEBUG) {
        tracing::debug!(request = shown(&message), "asked");
    }
    message
}

/// A message of package `csi.v1` as text, without what is secret in it.
#[must_use]
pub fn shown<M: Message>(message: &M) -> String {
    let name = std::any::type_name::<M>();
    let name = format!("csi.v1.{}", name.rsplit("::").next().unwrap_or(name));
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(&name));
    let decoded = descriptor
        .map(|descriptor| DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()));
    match decoded {
        Some(Ok(mut decoded)) => {
            hide(&mut decoded);
            format!("{name} {decoded}")
        }
        Some(Err(_)) | None => name, // never more than is known to be harmless
    }
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let mark = field
        .parent_pool()
        .get_extension_by_name("csi.v1.csi_secret");
    let marked = mark.is_some_and(|mark| {
        let options = field.options();
        options.get_extension(&mark).as_bool() == Some(true)
    });
    marked || field.name() == "mount_flags"
}

fn hide(message: &mut DynamicMessage) {
    let set: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in set {
        if !is_secret(&field) {
            hide_within(message.get_field_mut(&field));
        } else if field.is_map() {
            if let Value::Map(map) = message.get_field_mut(&field) {
                let hidden = |value: &mut Value| *value = Value::String(HIDDEN.into());
                map.values_mut().for_each(hidden);
            }
        } else if field.is_list() {
            message.set_field(&field, Value::List(vec![Value::String(HIDDEN.into())]));
        } else {
            message.clear_field(&field);
        }
    }
}

fn hide_within(value: &mut Value) {
    match value {
        Value::Message(message) => hide(message),
        Value::List(values) => values.iter_mut().for_each(hide_within),
        Value::Map(values) => values.values_mut().for_each(hide_within),
        Value::Bool(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::EnumNumber(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use csi_proto::v1 as csi;

    use super::*;

    /// Every field that the specification marks, in every message, by giving each a secret.
    #[test]
    fn no_secret_of_any_request_is_shown() {
        let pool = POOL.as_ref().unwrap();
        let mut marked = 0;
        for descriptor in pool.all_messages().filter(|m| m.package_name() == "csi.v1") {
            let mut message = DynamicMessage::new(descriptor.clone());
            for field in descriptor.fields().filter(is_secret) {
                marked += 1;
                let value = Value::String("hunter2".into());
                let value = if field.is_map() {
                    Value::Map([(prost_reflect::MapKey::String("key".into()), value)].into())
                } else {
                    Value::List(vec![value])
                };
                message.set_field(&field, value);
            }
            hide(&mut message);
            assert!(!message.to_string().contains("hunter2"), "{message}");
        }
        assert!(marked >= 20, "only {marked} fields are marked");
    }

    #[test]
    fn the_rest_of_a_request_is_shown() {
        let request = csi::NodeStageVolumeRequest {
            volume_id: "vol-1".into(),
            secrets: [("password".into(), "hunter2".into())].into(),
            volume_capability: Some(csi::VolumeCapability {
                access_type: Some(csi::volume_capability::AccessType::Mount(
                    csi::volume_capability::MountVolume {
                        mount_flags: vec!["key=hunter2".into()],
                        ..Default::default()
                    },
                )),
                access_mode: None,
            }),
            ..Default::default()
        };
        let text = shown(&request);
        assert!(
            text.contains("NodeStageVolumeRequest") && text.contains("vol-1"),
            "{text}"
        );
        assert!(
            text.contains("password") && !text.contains("hunter2"),
            "{text}"
        );
    }
}
