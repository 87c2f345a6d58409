//! `goldleaf doctor`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use goldleaf_proto::v1 as api;

use super::{Call, all};
use crate::args::{Doctor, DoctorVerb as Verb, Selection};
use crate::failure::Failure;
use crate::output;

pub async fn run(call: &Call, command: Doctor) -> Result<(), Failure> {
    match command.verb {
        None => examine(call, command.nodes).await,
        Some(Verb::Mend { findings, apply }) => mend(call, findings, apply).await,
        Some(Verb::Bundle { file }) => bundle(call, &file).await,
    }
}

async fn examine(call: &Call, nodes: Vec<String>) -> Result<(), Failure> {
    let mut doctor = call.client.doctor();
    let found = call
        .answer(doctor.examine(api::ExamineRequest { nodes }))
        .await?;
    if found.findings.is_empty() {
        eprintln!(
            "all is well on {} node(s): {}",
            found.examined.len(),
            found.examined.join(", ")
        );
    }
    output::many(call.global.output, &found.findings)?;
    let bad = |finding: &api::Finding| finding.severity() > api::Severity::Notice;
    match found.findings.iter().filter(|f| bad(f)).count() {
        0 => Ok(()),
        count => Err(Failure::Findings(count)),
    }
}

async fn mend(call: &Call, findings: Vec<String>, apply: bool) -> Result<(), Failure> {
    let mut doctor = call.client.doctor();
    let request = api::MendRequest { findings, apply };
    let answer = call.answer(doctor.mend(request)).await?;
    output::many(call.global.output, &answer.results)?;
    if !apply {
        eprintln!("nothing was changed: say --apply to do it");
    }
    let undone = |result: &&api::Mended| match result.outcome() {
        api::MendOutcome::Done => false,
        // What somebody asked to be done and was not, for whatever reason.
        api::MendOutcome::WouldDo | api::MendOutcome::NeedsPerson | api::MendOutcome::NotFound => {
            apply
        }
        api::MendOutcome::Failed | api::MendOutcome::Unspecified => true,
    };
    match answer.results.iter().filter(undone).count() {
        0 => Ok(()),
        count => Err(Failure::NotMended(count)),
    }
}

/// What goes into a bundle, and what could not be had: it is wanted most when something is ill.
#[derive(Default)]
struct Bundle {
    files: BTreeMap<String, String>,
    lacking: Vec<String>,
}

impl Bundle {
    fn add<T: output::Printable>(&mut self, what: &str, items: Result<Vec<T>, Failure>) -> Vec<T> {
        let text = items.and_then(|items| Ok((output::document(&items)?, items)));
        match text {
            Ok((text, items)) => {
                self.files.insert(format!("{what}.json"), text);
                items
            }
            Err(why) => {
                self.lacking.push(format!("{what}: {why}"));
                Vec::new()
            }
        }
    }
}

async fn bundle(call: &Call, path: &Path) -> Result<(), Failure> {
    let mut bundle = Bundle::default();
    let selection = || Selection { labels: Vec::new() };
    macro_rules! list {
        ($service:ident, $verb:ident, $field:ident) => {{
            let items = all(selection(), |page| {
                let mut service = call.client.$service();
                async move {
                    let answer = call.answer(service.$verb(page)).await?;
                    Ok((answer.$field, answer.next_page_token))
                }
            });
            bundle.add(stringify!($field), items.await)
        }};
    }
    let nodes: Vec<api::Node> = list!(nodes, list, nodes);
    list!(pools, list, pools);
    list!(images, list, images);
    list!(volumes, list, volumes);
    list!(volumes, list_snapshots, snapshots);
    list!(volumes, list_group_snapshots, groups);
    for node in nodes {
        let mut service = call.client.nodes();
        let node = node.name;
        let request = api::PreflightRequest { node: node.clone() };
        let lacks = call.answer(service.preflight(request)).await;
        let checks = lacks.map(|lacks| lacks.checks);
        bundle.add(&format!("preflight-{node}"), checks);
    }
    let mut doctor = call.client.doctor();
    let found = call.answer(doctor.examine(api::ExamineRequest::default()));
    let findings = found.await.map(|found| found.findings);
    bundle.add("findings", findings);
    let Bundle { mut files, lacking } = bundle;
    let version = format!("goldleaf {}\n", env!("CARGO_PKG_VERSION"));
    files.insert("version.txt".into(), version);
    if !lacking.is_empty() {
        files.insert("errors.txt".into(), lacking.join("\n") + "\n");
    }
    write(path, &files).map_err(|source| Failure::Unwritable {
        path: path.display().to_string(),
        source,
    })?;
    eprintln!("{}: {} files", path.display(), files.len());
    if lacking.is_empty() {
        Ok(())
    } else {
        Err(Failure::Incomplete(lacking.join("\n")))
    }
}

/// Writes an archive of texts; a file of that name is not replaced.
fn write(path: &Path, files: &BTreeMap<String, String>) -> std::io::Result<()> {
    let file = File::create_new(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("goldleaf/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_bundle_holds_what_was_put_in_and_replaces_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let files = BTreeMap::from([
            ("a.json".to_owned(), "{}\n".to_owned()),
            ("b.txt".to_owned(), "x".repeat(3000)),
        ]);
        write(&path, &files).unwrap();
        let mut read = BTreeMap::new();
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            read.insert(name.trim_start_matches("goldleaf/").to_owned(), text);
        }
        assert_eq!(read, files);
        let again = write(&path, &files).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    }
}
