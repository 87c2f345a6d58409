//! Says what each thing of the API means: nothing goes over the wire unexplained.

mod support {
    pub mod comments;
}

#[test]
fn everything_of_goldleafs_packages_has_a_comment() {
    let bare = support::comments::uncommented(goldleaf_proto::FILE_DESCRIPTOR_SET, "goldleaf.");
    assert!(
        bare.is_empty(),
        "without a comment:\n  {}",
        bare.join("\n  ")
    );
}
