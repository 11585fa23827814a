//! One group.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Base, CPU_PERIOD_US, CgroupLimits, Controller, Version};

/// The shortest time that the kernel takes as a quota, in microseconds.
const SHORTEST_QUOTA_US: u64 = 1000;

/// How often a group with processes in it is looked at again, a millisecond apart, before it is left.
const REMOVAL_ATTEMPTS: usize = 100;

/// A group of processes with limits. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    /// One for each controller in version 1, one for all in version 2.
    folders: Vec<PathBuf>,
    joins: Vec<PathBuf>,
    /// Where kills for memory are counted.
    memory: Option<PathBuf>,
}

impl Cgroup {
    pub(super) fn create(bases: &BTreeMap<Controller, Base>, name: &str, limits: &CgroupLimits) -> io::Result<Self> {
        let mut group = Self { folders: Vec::new(), joins: Vec::new(), memory: None };
        for (&controller, base) in bases.iter().filter(|(controller, _)| limits.has(**controller)) {
            let folder = base.folder.join(name);
            if !group.folders.contains(&folder) {
                fs::create_dir(&folder)?;
                group.folders.push(folder.clone());
                // A thread that moves itself by this file of version 1 waits for no lock of all processes, which takes
                // milliseconds. Version 2 moves whole processes only.
                let join = if base.version == Version::V1 { "tasks" } else { "cgroup.procs" };
                group.joins.push(folder.join(join));
            }
            limit(&folder, base.version, controller, limits)?;
            if controller == Controller::Memory {
                let events = if base.version == Version::V1 { "memory.oom_control" } else { "memory.events" };
                group.memory = Some(folder.join(events));
            }
        }
        Ok(group)
    }

    /// The files by which a process joins, as [`Policy::cgroups`](crate::Policy::cgroups) takes them.
    pub fn joins(&self) -> &[PathBuf] {
        &self.joins
    }

    /// The folders of the group, by ascending [`Controller`].
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// How many of its processes the kernel has killed because the group's memory was used up; 0 where that is not
    /// known.
    pub fn killed_for_memory(&self) -> u64 {
        let events = self.memory.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.folders.iter().for_each(|folder| remove(folder));
    }
}

impl CgroupLimits {
    fn has(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory_bytes.is_some(),
            Controller::Cpu => self.cpu_quota_us.is_some(),
            Controller::Pids => self.processes.is_some(),
        }
    }
}

fn limit(folder: &Path, version: Version, controller: Controller, limits: &CgroupLimits) -> io::Result<()> {
    let set = |file: &str, value: String| {
        let path = folder.join(file);
        fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    // Without these the limits hold less well: swap is not always there, nor is the kill of the whole group.
    let set_if_there = |file: &str, value: &str| match fs::metadata(folder.join(file)) {
        Ok(_) => set(file, value.to_owned()),
        Err(_) => Ok(()),
    };
    match controller {
        Controller::Memory => {
            let Some(bytes) = limits.memory_bytes.map(|bytes| bytes.to_string()) else { return Ok(()) };
            if version == Version::V1 {
                set("memory.limit_in_bytes", bytes.clone())?;
                return set_if_there("memory.memsw.limit_in_bytes", &bytes);
            }
            set("memory.max", bytes)?;
            set_if_there("memory.swap.max", "0")?;
            set_if_there("memory.oom.group", "1")
        }
        Controller::Cpu => {
            let Some(quota) = limits.cpu_quota_us.map(|quota| quota.max(SHORTEST_QUOTA_US)) else { return Ok(()) };
            if version == Version::V1 {
                set("cpu.cfs_period_us", CPU_PERIOD_US.to_string())?;
                return set("cpu.cfs_quota_us", quota.to_string());
            }
            set("cpu.max", format!("{quota} {CPU_PERIOD_US}"))
        }
        Controller::Pids => match limits.processes {
            Some(most) => set("pids.max", most.to_string()),
            None => Ok(()),
        },
    }
}

/// Kills what is in a group, wherever it moved in sessions and process groups, and removes the group. One that does not
/// empty is left to the next process that makes groups here.
fn remove(folder: &Path) {
    for _ in 0..REMOVAL_ATTEMPTS {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => kill(folder),
            _ => return,
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn kill(folder: &Path) {
    // Version 2, from Linux 5.14 on.
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for member in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        // It may be gone by now.
        let _ = kill_process(member, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CgroupLimits =
        CgroupLimits { memory_bytes: Some(256 << 20), cpu_quota_us: Some(5000), processes: Some(64) };

    /// What is written, with plain files in the place of the kernel's, in one version of cgroups.
    fn written(version: Version) -> (tempfile::TempDir, Cgroup) {
        let folder = tempfile::tempdir().unwrap();
        let base = |controller: Controller| match version {
            Version::V1 => folder.path().join(controller.name()),
            Version::V2 => folder.path().join("all"),
        };
        let bases = Controller::ALL.map(|controller| (controller, Base { version, folder: base(controller) }));
        bases.iter().for_each(|(_, base)| fs::create_dir_all(&base.folder).unwrap());
        let group = Cgroup::create(&bases.into_iter().collect(), "g", &LIMITS).unwrap();
        (folder, group)
    }

    fn read(folder: &tempfile::TempDir, path: &str) -> String {
        fs::read_to_string(folder.path().join(path)).unwrap()
    }

    #[test]
    fn version_1_has_a_folder_for_each_controller() {
        let (folder, group) = written(Version::V1);
        assert_eq!(group.joins().len(), 3);
        assert!(group.joins().iter().all(|join| join.ends_with("g/tasks")));
        assert_eq!(read(&folder, "memory/g/memory.limit_in_bytes"), "268435456");
        assert_eq!(read(&folder, "cpu/g/cpu.cfs_quota_us"), "5000");
        assert_eq!(read(&folder, "cpu/g/cpu.cfs_period_us"), "20000");
        assert_eq!(read(&folder, "pids/g/pids.max"), "64");
        fs::write(folder.path().join("memory/g/memory.oom_control"), "under_oom 0\noom_kill 2\n").unwrap();
        assert_eq!(group.killed_for_memory(), 2);
    }

    #[test]
    fn version_2_has_one_folder_for_all() {
        let (folder, group) = written(Version::V2);
        assert_eq!(group.joins(), [folder.path().join("all/g/cgroup.procs")]);
        assert_eq!(read(&folder, "all/g/memory.max"), "268435456");
        assert_eq!(read(&folder, "all/g/cpu.max"), "5000 20000");
        assert_eq!(read(&folder, "all/g/pids.max"), "64");
        fs::write(folder.path().join("all/g/memory.events"), "max 7\noom 1\noom_kill 1\noom_group_kill 1\n").unwrap();
        assert_eq!(group.killed_for_memory(), 1);
    }

    #[test]
    fn only_what_is_limited_gets_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let base = Base { version: Version::V1, folder: folder.path().to_owned() };
        let bases = BTreeMap::from([(Controller::Memory, base)]);
        let limits = CgroupLimits { processes: Some(5), ..CgroupLimits::default() };
        let group = Cgroup::create(&bases, "g", &limits).unwrap();
        assert!(group.folders().is_empty() && group.joins().is_empty());
        assert_eq!(group.killed_for_memory(), 0);
    }
}
