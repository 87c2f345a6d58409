//! The host does not look inside: a real udevd with the rules of LVM, md and file systems, golden
//! images that hold one of each, and a hundred clones, through the public API on a real kernel.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to fail")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use goldleaf_dm::{Commit, Control, DmName, Owned};
use goldleaf_tests::command::output;
use goldleaf_tests::host::{Host, over};
use goldleaf_tests::support::Udev;

const MIB: u64 = 1 << 20;
const IMAGE: u64 = 24 * MIB;
const LABEL: &str = "GL-INSIDE";
const GROUP: &str = "glinside";
/// What each image holds, which is its name.
const KINDS: [&str; 4] = ["filesystem", "group", "array", "partitions"];
const CLONES: usize = 25;

fn run(program: &str, arguments: &[&str]) -> String {
    output(program, arguments).unwrap_or_else(|e| panic!("{e:#}"))
}

/// A loop device that is nobody's but this test's.
struct Loop(String);

impl Loop {
    fn over(path: &Path) -> Self {
        let made = run("losetup", &["-f", "--show", path.to_str().unwrap()]);
        Self(made.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output("losetup", &["-d", &self.0]);
    }
}

/// Makes a file of each kind in a folder, while no udevd runs.
fn make_images(folder: &Path) {
    for kind in KINDS {
        let path = folder.join(kind);
        File::create(&path).unwrap().set_len(IMAGE).unwrap();
        match kind {
            "filesystem" => {
                run("mkfs.ext4", &["-q", "-L", LABEL, path.to_str().unwrap()]);
            }
            "group" => {
                let disk = Loop::over(&path);
                run("lvm", &["pvcreate", "-q", &disk.0]);
                run("lvm", &["vgcreate", "-q", "-An", GROUP, &disk.0]);
                let options = ["-q", "-An", "-Zn", "-Wn", "-l", "100%FREE", "-n", "root"];
                run("lvm", &[&["lvcreate"], &options[..], &[GROUP]].concat());
                run("lvm", &["vgchange", "-q", "-an", GROUP]);
            }
            "array" => {
                let disk = Loop::over(&path);
                let make = [
                    "--create",
                    "/dev/md7",
                    "--run",
                    "--force",
                    "--level=1",
                    "--raid-devices=1",
                ];
                mdadm(&[&make[..], &["--metadata=1.2", &disk.0]].concat());
                mdadm(&["--stop", "/dev/md7"]);
            }
            _ => partition(&path),
        }
    }
}

fn mdadm(arguments: &[&str]) {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = repo.join(".build/udev/tree/sbin/mdadm");
    run(program.to_str().unwrap(), arguments);
}

/// One partition of type Linux over all but the first MiB (the DOS label's layout is fixed).
fn partition(path: &Path) {
    let mut sector = vec![0; 512];
    sector[440..444].copy_from_slice(&0x600d_1eaf_u32.to_le_bytes());
    sector[450] = 0x83;
    sector[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    let sectors = u32::try_from((IMAGE - MIB) / 512).unwrap();
    sector[458..462].copy_from_slice(&sectors.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let file = File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &sector, 0).unwrap();
}

/// A device-mapper device.
struct Device {
    name: String,
    owned: Option<Owned>,
    open: u32,
}

fn devices() -> Vec<Device> {
    let control = Control::open().unwrap();
    let listed = control.list().unwrap().into_iter();
    listed
        .filter_map(|listed| {
            let name = DmName::new(&listed.name).unwrap();
            // One that went meanwhile is none.
            let device = control.status(&name, Commit::No).ok()?.device;
            Some(Device {
                owned: Owned::from_uuid(&device.uuid),
                name: device.name,
                open: device.open_count,
            })
        })
        .collect()
}

fn arrays() -> Vec<String> {
    let text = fs::read_to_string("/proc/mdstat").unwrap();
    let arrays = text.lines().filter(|line| line.starts_with("md"));
    arrays.map(str::to_owned).collect()
}

/// What the host does with the same bytes on a loop device that is not Goldleaf's.
fn the_host_looks_inside_what_is_its_own(udev: &Udev, folder: &Path) {
    let before = Udev::links();
    {
        let _disks: Vec<_> = KINDS
            .iter()
            .map(|kind| Loop::over(&folder.join(kind)))
            .collect();
        udev.settle();
        let links = Udev::links();
        let new = |part: &str| links.difference(&before).any(|link| link.contains(part));
        assert!(new(LABEL), "the label was not linked: {links:?}");
        let names: Vec<_> = devices().into_iter().map(|device| device.name).collect();
        assert!(
            names.iter().any(|name| name.starts_with(GROUP)),
            "the group was not activated: {names:?}"
        );
        let found = arrays();
        assert_eq!(found.len(), 1, "the array was not started");
        run("lvm", &["vgchange", "-q", "-an", GROUP]);
        let array = found[0].split_whitespace().next().unwrap();
        mdadm(&["--stop", &format!("/dev/{array}")]);
    }
    udev.settle();
    assert_eq!(Udev::links(), before, "what was detached is linked still");
}

/// Nothing of what is inside is known to the host, and nobody holds a volume.
fn nothing_was_looked_into(links: &std::collections::BTreeSet<String>, when: &str) {
    assert_eq!(&Udev::links(), links, "{when}");
    assert_eq!(arrays(), Vec::<String>::new(), "{when}");
    let mut volumes = 0;
    for Device { name, owned, open } in devices() {
        match owned {
            Some(Owned::Thin(_)) => {
                assert_eq!(open, 0, "{name} is held open {when}");
                volumes += 1;
            }
            Some(_) => {}
            None => panic!("the host made {name} {when}"),
        }
    }
    assert_eq!(volumes, KINDS.len() * CLONES, "{when}");
    let blocks = fs::read_dir("/sys/class/block").unwrap().flatten();
    let parts = blocks
        .filter(|b| b.path().join("partition").exists())
        .map(|b| b.file_name());
    assert_eq!(parts.count(), 0, "a partition of a volume or image {when}");
}

/// Debian's rules leave a new device of nobody's alone too; others need not. What udev knows of a
/// volume is its owner's word.
fn the_owner_said_so(udev: &Udev, host: &Host) {
    let volume = host.volume("filesystem-0").unwrap();
    let node = fs::canonicalize(volume.activation.unwrap().device_path).unwrap();
    let known = udev.run(
        "bin/udevadm",
        &["info", "--query=property", node.to_str().unwrap()],
    );
    for flag in [
        "PRIMARY_SOURCE",
        "DISABLE_SUBSYSTEM_RULES",
        "DISABLE_DISK_RULES",
        "DISABLE_OTHER_RULES",
    ] {
        let line = format!("DM_UDEV_{flag}_FLAG=1");
        assert!(known.lines().any(|l| l == line), "{line} not in {known}");
    }
}

/// The line for lvm.conf that the documentation gives.
fn documented_filter() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find(|line| line.trim().starts_with("global_filter"))
        .unwrap();
    format!("devices {{ {} }}", line.trim())
}

/// How many physical volumes of the guests' group lvm sees, with this setting added to its own.
fn physical_volumes(setting: Option<&str>) -> usize {
    let mut arguments = vec!["pvs", "--noheadings", "-o", "pv_name,vg_name"];
    arguments.extend(
        setting
            .into_iter()
            .flat_map(|setting| ["--config", setting]),
    );
    let seen = run("lvm", &arguments);
    seen.lines().filter(|line| line.contains(GROUP)).count()
}

#[test]
fn a_hundred_clones_of_images_that_hold_a_group_an_array_a_table_and_a_label_are_left_alone() {
    let mut host = Host::idle("udev");
    let folder = host.dir().join("inside");
    fs::create_dir(&folder).unwrap();
    make_images(&folder);
    let mut udev = Udev::start();
    the_host_looks_inside_what_is_its_own(&udev, &folder);
    let links = Udev::links();

    let path = format!("{}:{}", udev.programs(), std::env::var("PATH").unwrap());
    host.start_server(&[]);
    host.start_agent(&[("PATH", path.as_str())]);
    host.await_node();
    host.pool("p", 1024 * MIB);
    for kind in KINDS {
        host.image(kind, &fs::read(folder.join(kind)).unwrap());
        for number in 0..CLONES {
            host.create_thin(over(&format!("{kind}-{number}"), 2 * IMAGE, kind))
                .unwrap();
        }
    }
    udev.settle();
    nothing_was_looked_into(&links, "after a hundred activations");
    the_owner_said_so(&udev, &host);
    for action in ["change", "add"] {
        udev.plug(action);
        nothing_was_looked_into(&links, &format!("after udevadm trigger, {action}"));
    }
    // What a guest writes is no more the host's affair than what the image held.
    let device = host
        .volume("partitions-0")
        .unwrap()
        .activation
        .unwrap()
        .device_path;
    run("mkfs.ext4", &["-q", "-F", "-L", "GL-GUEST", &device]);
    udev.settle();
    nothing_was_looked_into(&links, "after a guest made a file system");
    udev.restart();
    udev.plug("change");
    nothing_was_looked_into(&links, "after another udevd began");

    // A person who types `pvs` is not kept out by rules, but by the documented filter.
    assert!(
        physical_volumes(None) > 0,
        "lvm sees nothing even without a filter"
    );
    assert_eq!(physical_volumes(Some(&documented_filter())), 0);

    for kind in KINDS {
        for number in 0..CLONES {
            host.deactivate(&format!("{kind}-{number}")).unwrap();
        }
    }
    fs::remove_dir_all::<PathBuf>(folder).unwrap();
    host.end();
    udev.settle();
    assert_eq!(Udev::links(), links, "links to what is gone");
}
