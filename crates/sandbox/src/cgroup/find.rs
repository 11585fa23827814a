//! Where in the cgroup file systems this process is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use super::{Base, Controller, PREFIX, Version};

/// Ends the names of groups of processes that have moved down.
const MOVED: &str = "-peer";

/// The folder of this process's own group, in which groups with the controller may be made.
pub(super) fn base(controller: Controller) -> Result<Base, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let base = locate(controller, &read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
        .ok_or_else(|| format!("the {controller} controller is not mounted here"))?;
    if base.version == Version::V1 {
        return Ok(base);
    }
    let base = Base { folder: divided(&base.folder).to_owned(), ..base };
    hand_down(&base.folder, controller)?;
    Ok(base)
}

/// The group to divide: if whoever started this process has moved down to divide its group, it is that one.
fn divided(own: &Path) -> &Path {
    let name = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let moved = name.starts_with(PREFIX) && name.ends_with(MOVED);
    own.parent().filter(|_| moved).unwrap_or(own)
}

/// Finds it in what the kernel says about this process's groups and mounts. A controller is in one version only: in
/// version 1 if a line of `groups` names it.
fn locate(controller: Controller, groups: &str, mounts: &str) -> Option<Base> {
    let named = |controllers: &str, name: &str| controllers.split(',').any(|controller| controller == name);
    let lines: Vec<(&str, &str)> = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')).collect();
    let name = controller.name();
    let (version, group) = match lines.iter().find(|(controllers, _)| named(controllers, name)) {
        Some((_, group)) => (Version::V1, *group),
        None => (Version::V2, lines.iter().find(|(controllers, _)| controllers.is_empty())?.1),
    };
    let folder = mounts.lines().filter_map(Mount::parse).find_map(|mount| {
        let fits = match version {
            Version::V1 => mount.kind == "cgroup" && named(mount.options, name),
            Version::V2 => mount.kind == "cgroup2",
        };
        fits.then(|| mount.folder_of(group))?
    })?;
    Some(Base { version, folder })
}

/// A line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: String,
    point: String,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let (mut mount, mut system) = (mount.split(' '), system.split(' '));
        let (root, point) = (mount.nth(3)?, mount.next()?);
        Some(Self { root: unescaped(root), point: unescaped(point), kind: system.next()?, options: system.nth(1)? })
    }

    /// Where the group is visible, if it is: in a container only a part may be mounted.
    fn folder_of(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        Some(Path::new(&self.point).join(below))
    }
}

/// The kernel writes blanks, tabs, line ends and backslashes in octal.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// Version 2 only: has the groups below `folder` get the controller. A group that hands controllers down must have no
/// processes itself, so this process moves down, if it is the only one.
fn hand_down(folder: &Path, controller: Controller) -> Result<(), String> {
    let name = controller.name();
    let list = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let has = |file: &str| list(file).split_whitespace().any(|word| word == name);
    if has("cgroup.subtree_control") {
        return Ok(());
    }
    if !has("cgroup.controllers") {
        return Err(format!("{} has no {name} controller: it was not delegated", folder.display()));
    }
    let enable = || fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
    let error = match enable() {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let me = process::id().to_string();
    if error.kind() == io::ErrorKind::ResourceBusy && list("cgroup.procs").split_whitespace().eq([me.as_str()]) {
        let moved = move_down(folder, &me).and_then(|()| enable());
        return moved.map_err(|error| format!("{} cannot be divided: {error}", folder.display()));
    }
    Err(match error.kind() {
        io::ErrorKind::ResourceBusy => format!("other processes are in {}, too", folder.display()),
        _ => format!("{} cannot be changed: {error}", folder.display()),
    })
}

fn move_down(folder: &Path, me: &str) -> io::Result<()> {
    let own = folder.join(format!("{PREFIX}{me}{MOVED}"));
    fs::create_dir(&own)?;
    fs::write(own.join("cgroup.procs"), me)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_GROUPS: &str = "9:name=systemd:/\n4:memory:/api/c690\n2:cpu,cpuacct:/\n0::/\n";
    const V1_MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
33 30 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn found(controller: Controller, groups: &str, mounts: &str) -> Option<(Version, String)> {
        let base = locate(controller, groups, mounts)?;
        Some((base.version, base.folder.to_str().unwrap().to_owned()))
    }

    #[test]
    fn controllers_are_found_in_both_versions() {
        let memory = found(Controller::Memory, V1_GROUPS, V1_MOUNTS);
        assert_eq!(memory, Some((Version::V1, "/sys/fs/cgroup/memory/api/c690".to_owned())));
        let cpu = found(Controller::Cpu, V1_GROUPS, V1_MOUNTS);
        assert_eq!(cpu, Some((Version::V1, "/sys/fs/cgroup/cpu,cpuacct/".to_owned())));
        let pids = found(Controller::Pids, V1_GROUPS, V1_MOUNTS);
        assert_eq!(pids, Some((Version::V2, "/sys/fs/cgroup/unified/".to_owned())));
        let v2 = found(
            Controller::Memory,
            "0::/user.slice/my app\n",
            "29 23 0:26 /user.slice /sys/fs/my\\040cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(v2, Some((Version::V2, "/sys/fs/my cgroup/my app".to_owned())));
    }

    #[test]
    fn what_is_not_mounted_is_not_found() {
        for (groups, mounts) in [
            ("", ""),
            (V1_GROUPS, ""),
            ("0::/elsewhere\n", "29 23 0:26 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("nonsense", "nonsense - "),
        ] {
            assert_eq!(found(Controller::Memory, groups, mounts), None);
        }
    }

    #[test]
    fn processes_started_by_one_that_moved_down_divide_the_same_group() {
        for (own, expected) in [
            ("/cg/app.scope", "/cg/app.scope"),
            ("/cg/app.scope/peerless-42-peer", "/cg/app.scope"),
            ("/cg/app.scope/peerless-42-7", "/cg/app.scope/peerless-42-7"),
        ] {
            assert_eq!(divided(Path::new(own)), Path::new(expected));
        }
    }

    #[test]
    fn a_group_that_was_not_given_the_controller_is_told_from_one_that_was() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
        write("cgroup.subtree_control", "");
        write("cgroup.controllers", "cpu pids\n");
        let error = hand_down(folder.path(), Controller::Memory).unwrap_err();
        assert!(error.contains("delegated"), "{error}");
        hand_down(folder.path(), Controller::Cpu).unwrap();
        let enabled = fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+cpu");
        write("cgroup.subtree_control", "cpu memory\n");
        hand_down(folder.path(), Controller::Memory).unwrap();
    }
}
