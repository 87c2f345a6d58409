//! Says what each thing of CSI means: the file reads without the specification beside it.

#[path = "../../tests/support/comments.rs"]
mod comments;

#[test]
fn everything_of_csi_has_a_comment() {
    let bare = comments::uncommented(csi_proto::FILE_DESCRIPTOR_SET, "csi.");
    assert!(
        bare.is_empty(),
        "without a comment:\n  {}",
        bare.join("\n  ")
    );
}

#[test]
fn everything_of_kubelets_registration_has_a_comment() {
    let set = csi_proto::KUBELET_DESCRIPTOR_SET;
    let bare = comments::uncommented(set, "pluginregistration");
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}
