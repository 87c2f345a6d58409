//! Which test binaries there are, as cargo says it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Place;
use super::job::{Job, Work};
use super::less::Less;
use crate::command::command;

/// The part that matters of cargo's `compiler-artifact` message.
#[derive(Debug, Deserialize)]
struct Artifact {
    package_id: String,
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Builds all test binaries and says what is to be run, what takes longest first.
pub(super) fn jobs(place: &Place) -> Result<Vec<Job>> {
    let output = command("cargo")
        .args([
            "test",
            "--workspace",
            "--features",
            "goldleaf-tests/kernel",
            "--no-run",
        ])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(&place.repo)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo did not start")?;
    ensure!(output.status.success(), "the tests do not build");
    let mut jobs: Vec<Job> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("\"compiler-artifact\""))
        .map(|line| serde_json::from_str::<Artifact>(line).context("cargo's message"))
        .filter_map(|artifact| artifact.map(|a| job(a, &place.kernel)).transpose())
        .collect::<Result<_>>()?;
    jobs.push(Job {
        name: "doc tests".to_owned(),
        in_kernel: false,
        work: Work::DocTests,
        not_here: None,
        less: None,
    });
    jobs.sort_by_key(|job| !job.in_kernel);
    Ok(jobs)
}

fn job(artifact: Artifact, kernel: &str) -> Option<Job> {
    let executable = artifact.executable.filter(|_| artifact.profile.test)?;
    let folder = artifact.manifest_path.parent()?.to_owned();
    let target = artifact.target;
    let in_kernel = is_integration(&target) && is_kernel_name(&target.name);
    // Packages may have tests of one name, and each has a log of its own.
    let name = if is_integration(&target) {
        match package(&artifact.package_id) {
            OURS => target.name,
            other => format!("{other} {}", target.name),
        }
    } else {
        format!("{} {}", target.name, target.kind.join(","))
    };
    Some(Job {
        not_here: not_here(&name, kernel),
        less: Less::of(&name, kernel, |setting| std::env::var_os(setting).is_some()),
        name,
        in_kernel,
        work: Work::Binary { executable, folder },
    })
}

/// The package whose tests are known by their own names alone.
const OURS: &str = env!("CARGO_PKG_NAME");

/// The name in cargo's id of a package: "path+file:///r/proto/csi#csi-proto@0.1.0", or "...#0.1.0"
/// where the folder has the package's name.
fn package(id: &str) -> &str {
    let (path, named) = id.split_once('#').unwrap_or((id, ""));
    match named.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

fn is_integration(target: &Target) -> bool {
    target.kind == ["test"]
}

fn is_kernel_name(name: &str) -> bool {
    name.starts_with("kernel_") || name.starts_with("e2e_")
}

/// Why a test binary cannot run with a kernel.
fn not_here(name: &str, kernel: &str) -> Option<&'static str> {
    match name {
        _ if kernel != "host" => None,
        "reboot" | "powercut" => {
            Some("it cuts the kernel's power, and this machine's own is not cut: KERNEL=uml")
        }
        "e2e_udev" => {
            Some("it starts a udevd, which would meddle with this machine's devices: KERNEL=uml")
        }
        _ => None,
    }
}

/// Runs the examples in the documentation; cargo alone knows how they are built.
pub(super) fn doc_tests(repo: &Path) -> std::process::Command {
    let mut cargo = command("cargo");
    cargo
        .args(["test", "--workspace", "--doc"])
        .current_dir(repo);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, name: &str, test: bool, executable: &str) -> Option<Job> {
        let ours = "path+file:///r/tests#goldleaf-tests@0.1.0";
        of(ours, kind, name, test, executable)
    }

    fn of(package: &str, kind: &str, name: &str, test: bool, executable: &str) -> Option<Job> {
        let line = format!(
            r#"{{"reason":"compiler-artifact","package_id":"{package}","manifest_path":"/r/tests/Cargo.toml",
            "target":{{"kind":["{kind}"],"name":"{name}","src_path":"x"}},
            "profile":{{"opt_level":"0","test":{test}}},"executable":{executable}}}"#
        );
        job(serde_json::from_str(&line).unwrap(), "uml")
    }

    #[test]
    fn kernel_and_end_to_end_tests_go_to_the_test_kernel_and_no_others() {
        for (kind, name, expected) in [
            ("test", "kernel_pool", true),
            ("test", "e2e_volumes", true),
            ("test", "crash_store", false),
            ("lib", "kernel_x", false),
        ] {
            assert_eq!(
                read(kind, name, true, "\"/t/x\"").unwrap().in_kernel,
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn tests_of_one_name_in_two_packages_are_two_jobs() {
        let name = |package| {
            of(package, "test", "comments", true, "\"/t/x\"")
                .unwrap()
                .name
        };
        assert_eq!(
            name("path+file:///r/proto#goldleaf-proto@0.1.0"),
            "goldleaf-proto comments"
        );
        assert_eq!(name("path+file:///r/csi-proto#0.1.0"), "csi-proto comments");
        let ours = read("test", "e2e_volumes", true, "\"/t/x\"").unwrap();
        assert_eq!(ours.name, "e2e_volumes");
    }

    #[test]
    fn only_what_would_harm_this_machine_is_skipped_and_only_on_its_own_kernel() {
        for (name, kernel, skipped) in [
            ("reboot", "host", true),
            ("powercut", "host", true),
            ("e2e_udev", "host", true),
            ("e2e_udev", "qemu", false),
            ("reboot", "uml", false),
            ("reboot", "qemu", false),
            ("e2e_volumes", "host", false),
        ] {
            assert_eq!(not_here(name, kernel).is_some(), skipped, "{name} {kernel}");
        }
    }

    #[test]
    fn what_is_no_test_is_not_run() {
        assert!(read("bin", "goldleaf", false, "\"/t/x\"").is_none());
        assert!(read("lib", "goldleaf", true, "null").is_none());
    }
}
