//! Finds what a `.proto` file leaves uncommented. Shared by the tests of both wire crates.

use std::collections::HashSet;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Names of everything without a comment in the packages whose names begin with `prefix`:
/// messages, fields, oneofs, enums, their values, services, methods and extensions.
pub fn uncommented(set: &[u8], prefix: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(set).expect("a descriptor set");
    let ours: Vec<_> = set
        .file
        .iter()
        .filter(|f| f.package().starts_with(prefix))
        .collect();
    assert!(!ours.is_empty(), "no file of package {prefix}");
    ours.into_iter().flat_map(file).collect()
}

/// Where things are, by path in the file's descriptor, and what each is called.
struct Things(Vec<(Vec<i32>, String)>);

fn file(file: &FileDescriptorProto) -> Vec<String> {
    let mut things = Things(Vec::new());
    let package = file.package();
    for (i, m) in (0..).zip(&file.message_type) {
        things.message(&[4, i], package, m);
    }
    for (i, e) in (0..).zip(&file.enum_type) {
        things.enumeration(&[5, i], package, e);
    }
    for (i, s) in (0..).zip(&file.service) {
        let name = things.add(&[6, i], package, s.name());
        for (j, m) in (0..).zip(&s.method) {
            things.add(&[6, i, 2, j], &name, m.name());
        }
    }
    for (i, x) in (0..).zip(&file.extension) {
        things.add(&[7, i], package, x.name());
    }
    let info = file
        .source_code_info
        .as_ref()
        .expect("compiled with source info");
    let commented: HashSet<&[i32]> = info
        .location
        .iter()
        .filter(|l| !l.leading_comments().trim().is_empty())
        .map(|l| l.path.as_slice())
        .collect();
    let mut bare = things.0;
    bare.retain(|(path, _)| !commented.contains(path.as_slice()));
    bare.into_iter().map(|(_, name)| name).collect()
}

impl Things {
    fn add(&mut self, path: &[i32], parent: &str, name: &str) -> String {
        let name = format!("{parent}.{name}");
        self.0.push((path.to_vec(), name.clone()));
        name
    }

    fn message(&mut self, path: &[i32], parent: &str, message: &DescriptorProto) {
        if message.options.as_ref().is_some_and(|o| o.map_entry()) {
            return; // the compiler's own, of a map field
        }
        let at = |kind, i| [path, &[kind, i]].concat();
        let name = self.add(path, parent, message.name());
        for (i, f) in (0..).zip(&message.field) {
            self.add(&at(2, i), &name, f.name());
        }
        for (i, m) in (0..).zip(&message.nested_type) {
            self.message(&at(3, i), &name, m);
        }
        for (i, e) in (0..).zip(&message.enum_type) {
            self.enumeration(&at(4, i), &name, e);
        }
        for (i, o) in (0..).zip(&message.oneof_decl) {
            if !o.name().starts_with('_') {
                self.add(&at(8, i), &name, o.name()); // the others are of `optional` fields
            }
        }
    }

    fn enumeration(&mut self, path: &[i32], parent: &str, enumeration: &EnumDescriptorProto) {
        let name = self.add(path, parent, enumeration.name());
        for (i, v) in (0..).zip(&enumeration.value) {
            self.add(&[path, &[2, i]].concat(), &name, v.name());
        }
    }
}
