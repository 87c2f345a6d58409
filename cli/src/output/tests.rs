use super::*;

fn volume() -> api::Volume {
    api::Volume {
        id: "vol-1".into(),
        name: "vm1".into(),
        size_bytes: 20 << 30,
        owned_bytes: Some(3 << 20),
        phase: api::Phase::Ready.into(),
        image_digest: format!("sha256:{}", "a".repeat(64)),
        activation: Some(api::Activation {
            active: true,
            device_path: "/dev/goldleaf/fast/vm1".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn a_table_has_heads_and_one_line_for_each() {
    let text = many_text(Output::Table, &[volume(), api::Volume::default()]).unwrap();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| {
            l.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(
        lines[0],
        ["NAME", "PHASE", "SIZE", "OWNED", "IMAGE", "DEVICE", "ID"]
    );
    assert_eq!(
        lines[1],
        [
            "vm1",
            "ready",
            "20.0 GiB",
            "3.0 MiB",
            "sha256:aaaaaaaaaaaa",
            "/dev/goldleaf/fast/vm1",
            "vol-1"
        ]
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn an_empty_table_still_has_its_heads() {
    let text = many_text::<api::Volume>(Output::Table, &[]).unwrap();
    assert!(text.trim().starts_with("NAME"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn json_has_the_fields_of_the_proto() {
    let text = one_text(Output::Json, &volume()).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["id"], "vol-1");
    assert_eq!(json["size_bytes"], "21474836480"); // the wire's JSON writes 64 bits as text
    assert_eq!(json["phase"], "PHASE_READY");
    assert_eq!(json["activation"]["device_path"], "/dev/goldleaf/fast/vm1");
    let list: Value =
        serde_json::from_str(&many_text(Output::Json, &[volume(), volume()]).unwrap()).unwrap();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
}

#[test]
fn yaml_says_the_same_as_json() {
    let text = one_text(Output::Yaml, &volume()).unwrap();
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read, value(&volume()).unwrap());
}

#[test]
fn names_are_alone_on_their_lines() {
    assert_eq!(
        many_text(Output::Name, &[volume(), volume()]).unwrap(),
        "vm1\nvm1\n"
    );
}

#[test]
fn an_event_is_one_line_of_json_and_says_what_is_gone() {
    let gone = api::EventKind::Gone.into();
    let text = event_text(Output::Json, gone, &volume()).unwrap();
    assert_eq!(text.lines().count(), 1);
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&event["kind"], &event["item"]["id"]),
        (&"GONE".into(), &"vol-1".into())
    );
    assert!(
        event_text(Output::Table, gone, &volume())
            .unwrap()
            .starts_with("gone\tvm1\t")
    );
    let there = api::EventKind::Present.into();
    assert!(
        event_text(Output::Table, there, &volume())
            .unwrap()
            .starts_with("now\tvm1\t")
    );
}

#[test]
fn a_state_says_what_is_wrong() {
    let bad = api::Condition {
        reason: "ThinMissing".into(),
        ..Default::default()
    };
    let good = api::Condition {
        status: true,
        reason: "Fine".into(),
        ..Default::default()
    };
    assert_eq!(
        state(api::Phase::Ready.into(), &[bad, good]),
        "ready (ThinMissing)"
    );
    assert_eq!(state(99, &[]), "99");
}

#[test]
fn what_a_node_did_not_say_is_not_shown_as_zero() {
    let away = api::Pool {
        name: "fast".into(),
        ..Default::default()
    };
    assert_eq!(away.row()[2..7], ["-", "-", "-", "-", "-"]);
    assert_eq!(away.row().len(), api::Pool::COLUMNS.len());
    let seen = api::Pool {
        usage: Some(api::PoolUsage::default()),
        ..away
    };
    assert_eq!(seen.row().len(), api::Pool::COLUMNS.len());
}

#[test]
fn every_message_that_is_printed_is_in_the_descriptors() {
    fn check<T: Printable + Default>() {
        assert!(value(&T::default()).is_ok(), "{}", T::MESSAGE);
        assert_eq!(T::default().row().len(), T::COLUMNS.len(), "{}", T::MESSAGE);
    }
    check::<api::Volume>();
    check::<api::Snapshot>();
    check::<api::Pool>();
    check::<api::Image>();
    check::<api::Node>();
    check::<api::PreflightCheck>();
}
