//! What this host needs for Goldleaf to work, and how to get what lacks.
//!
//! Called by `goldleaf-node-agent preflight` and by the service of that name. Looks, changes
//! nothing.

use std::path::Path;

use goldleaf_dm::Control;
use goldleaf_proto::v1 as api;

/// One thing a host needs.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was looked at.
    pub subject: &'static str,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// How to get what lacks.
    pub remedy: &'static str,
}

/// Oldest thin-pool target that reads an origin right that ends inside a pool block
/// (lvm2's test `lvcreate-thin-external.sh` asks for the same).
const THIN_POOL: [u32; 3] = [1, 13, 0];

/// Programs that are run, and where Debian has them.
const TOOLS: [(&str, &str); 5] = [
    ("thin_check", "apt-get install thin-provisioning-tools"),
    ("thin_repair", "apt-get install thin-provisioning-tools"),
    ("thin_ls", "apt-get install thin-provisioning-tools"),
    ("thin_delta", "apt-get install thin-provisioning-tools"),
    ("blkid", "apt-get install util-linux"),
];

/// Looks at everything.
#[must_use]
pub fn checks() -> Vec<Check> {
    let mut checks = vec![Check {
        subject: "root",
        ok: rustix::process::geteuid().is_root(),
        found: format!("user id {}", rustix::process::geteuid().as_raw()),
        remedy: "run the agent as root: device-mapper takes nobody else",
    }];
    let control = Control::open();
    checks.push(Check {
        subject: "device-mapper",
        ok: control.is_ok(),
        found: match control.as_ref().map(Control::version) {
            Ok(Ok(version)) => format!("interface {version}"),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        },
        remedy: "modprobe dm-mod",
    });
    checks.extend(targets(control.ok().as_ref()));
    checks.push(Check {
        subject: "loop devices",
        ok: Path::new("/dev/loop-control").exists(),
        found: "/dev/loop-control".into(),
        remedy: "modprobe loop",
    });
    for (tool, remedy) in TOOLS {
        let found = find(tool);
        checks.push(Check {
            subject: tool,
            ok: found.is_some(),
            found: found.unwrap_or_else(|| "not on the path".into()),
            remedy,
        });
    }
    checks
}

fn targets(control: Option<&Control>) -> Vec<Check> {
    let targets = control
        .and_then(|c| c.target_versions().ok())
        .unwrap_or_default();
    let version = |name: &str| targets.iter().find(|t| t.name == name).map(|t| t.version);
    let mut checks = Vec::new();
    for (name, oldest, remedy) in [
        ("linear", [1, 0, 0], "modprobe dm-mod"),
        ("zero", [1, 0, 0], "modprobe dm-zero"),
        (
            "thin-pool",
            THIN_POOL,
            "modprobe dm-thin-pool; if it is too old, a newer kernel",
        ),
        (
            "thin",
            THIN_POOL,
            "modprobe dm-thin-pool; if it is too old, a newer kernel",
        ),
    ] {
        let found = version(name);
        checks.push(Check {
            subject: match name {
                "linear" => "target linear",
                "zero" => "target zero",
                "thin" => "target thin",
                _ => "target thin-pool",
            },
            ok: found.is_some_and(|v| v >= oldest),
            found: found.map_or_else(
                || "not in the kernel".into(),
                |[a, b, c]| format!("{a}.{b}.{c}"),
            ),
            remedy,
        });
    }
    checks
}

/// Version of the kernel's thin-pool target.
#[must_use]
pub fn thin_pool_target() -> Option<String> {
    let targets = Control::open().ok()?.target_versions().ok()?;
    let [a, b, c] = targets.iter().find(|t| t.name == "thin-pool")?.version;
    Some(format!("{a}.{b}.{c}"))
}

fn find(tool: &str) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain([
            Path::new("/usr/sbin").to_owned(),
            Path::new("/sbin").to_owned(),
        ])
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
        .map(|file| file.display().to_string())
}

/// The checks for the wire.
#[must_use]
pub fn response(checks: &[Check]) -> api::PreflightResponse {
    let wire = |check: &Check| api::PreflightCheck {
        subject: check.subject.into(),
        ok: check.ok,
        found: check.found.clone(),
        remedy: if check.ok {
            String::new()
        } else {
            check.remedy.into()
        },
    };
    api::PreflightResponse {
        checks: checks.iter().map(wire).collect(),
        ok: checks.iter().all(|c| c.ok),
    }
}

/// The checks for people, one a line.
#[must_use]
pub fn report(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let mark = if check.ok { "ok     " } else { "LACKING" };
        let remedy = if check.ok {
            String::new()
        } else {
            format!("  ->  {}", check.remedy)
        };
        format!("{mark} {:<18} {}{remedy}\n", check.subject, check.found)
    };
    checks.iter().map(line).collect()
}
