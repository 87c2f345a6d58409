//! Changes of labels and protection become the domain's values, for every noun the same.
//!
//! Called by the handlers; the rest of what comes in is converted in `convert`.

use std::str::FromStr;

use goldleaf_proto::v1 as api;

use super::convert::{BadField, bad, field, labels};
use crate::domain::{Ref, Remark};
use crate::service::Update;

/// What to change, and how.
///
/// # Errors
///
/// [`BadField`] when it points at nothing, or sets and takes off the same label.
pub fn update<Id: FromStr>(r: api::UpdateRequest) -> Result<Update<Ref<Id>>, BadField> {
    if let Some(key) = r
        .remove_labels
        .iter()
        .find(|key| r.set_labels.contains_key(*key))
    {
        let problem = format!("{key:?} is in set_labels too: name it in one of them");
        return Err(bad("remove_labels", problem));
    }
    Ok(Update {
        what: field("target", &r.target)?,
        change: Remark {
            set: labels("set_labels", r.set_labels)?,
            remove: r.remove_labels,
            deletion_protection: r.deletion_protection,
        },
        revision: r.expected_revision,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use goldleaf_types::VolumeId;

    use super::*;

    #[test]
    fn every_wrong_field_of_an_update_is_named() {
        let good = api::UpdateRequest {
            target: "vm1".into(),
            set_labels: HashMap::from([("a".to_owned(), "1".to_owned())]),
            remove_labels: vec!["b".into()],
            ..Default::default()
        };
        let wanted = update::<VolumeId>(good.clone()).unwrap();
        assert_eq!(wanted.change.deletion_protection, None);
        type Spoil = fn(&mut api::UpdateRequest);
        let cases: [(&str, Spoil); 3] = [
            ("target", |r| r.target.clear()),
            ("set_labels", |r| {
                r.set_labels.insert("a=b".into(), String::new());
            }),
            ("remove_labels", |r| r.remove_labels.push("a".into())),
        ];
        for (field, spoil) in cases {
            let mut request = good.clone();
            spoil(&mut request);
            assert_eq!(update::<VolumeId>(request).unwrap_err().field, field);
        }
    }
}
