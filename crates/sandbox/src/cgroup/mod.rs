//! Groups of processes with limits on memory, CPU time and their number.
//!
//! Every group is below this process's own one, so that limits on it hold for all of them together. Both versions of
//! cgroups work; a machine can have one controller in the one and the next in the other.

mod find;
mod group;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub use group::Cgroup;

/// The time over which a share of the CPU is kept, in microseconds. That of AWS Lambda; the kernel's default of 100 ms
/// would let a unit of 15 ms run at full speed under any limit above a sixth of a core.
pub const CPU_PERIOD_US: u64 = 20_000;

/// Names of groups begin with this, the id of the process that made them and `-`.
const PREFIX: &str = "peerless-";

/// What a group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory of all its processes, file pages that they caused and shared memory included.
    Memory,
    /// CPU time.
    Cpu,
    /// Number of processes and threads.
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which cgroup file system a controller is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Where groups with a controller can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    version: Version,
    folder: PathBuf,
}

/// Limits of a group. What is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Most memory, in bytes. A process that needs more is killed.
    pub memory_bytes: Option<u64>,
    /// Most CPU time in each [`CPU_PERIOD_US`], in microseconds; that period for one core.
    pub cpu_quota_us: Option<u64>,
    /// Most processes and threads.
    pub processes: Option<u64>,
}

/// Where this process can make groups.
#[derive(Debug)]
pub struct Cgroups {
    bases: BTreeMap<Controller, Base>,
    missing: BTreeMap<Controller, String>,
    next: AtomicU64,
}

impl Cgroups {
    /// Looks, once in a process, where groups can be made, and removes those that processes which were killed have left
    /// there. Where version 2 asks for it, this process moves into a group of its own.
    pub fn get() -> &'static Self {
        static CGROUPS: OnceLock<Cgroups> = OnceLock::new();
        CGROUPS.get_or_init(Self::look)
    }

    fn look() -> Self {
        let (mut bases, mut missing) = (BTreeMap::new(), BTreeMap::new());
        for controller in Controller::ALL {
            match find::base(controller).and_then(|base| usable(&base, controller)) {
                Ok(base) => _ = bases.insert(controller, base),
                Err(reason) => _ = missing.insert(controller, reason),
            }
        }
        let cgroups = Self { bases, missing, next: AtomicU64::new(1) };
        cgroups.folders().for_each(remove_leftovers);
        cgroups
    }

    /// Whether groups can limit this.
    pub fn has(&self, controller: Controller) -> bool {
        self.bases.contains_key(&controller)
    }

    /// Why groups cannot limit this; `None` if they can.
    pub fn why_not(&self, controller: Controller) -> Option<&str> {
        self.missing.get(&controller).map(String::as_str)
    }

    /// Makes a group with those of the limits that can be had. It has no process yet.
    ///
    /// # Errors
    /// Those of the file system; nothing is left then.
    pub fn create(&self, limits: &CgroupLimits) -> io::Result<Cgroup> {
        let name = format!("{PREFIX}{}-{}", process::id(), self.next.fetch_add(1, Ordering::Relaxed));
        Cgroup::create(&self.bases, &name, limits)
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        let mut folders: Vec<&Path> = self.bases.values().map(|base| base.folder.as_path()).collect();
        folders.sort();
        folders.dedup();
        folders.into_iter()
    }
}

/// Tries it: rights, read-only mounts and delegation all come down to whether a group can be made.
fn usable(base: &Base, controller: Controller) -> Result<Base, String> {
    let refused = |error: io::Error| format!("{} cannot be changed: {error}", base.folder.display());
    let probe = base.folder.join(format!("{PREFIX}{}-probe", process::id()));
    fs::create_dir(&probe).map_err(refused)?;
    let limit = match controller {
        Controller::Memory if base.version == Version::V1 => "memory.limit_in_bytes",
        Controller::Memory => "memory.max",
        Controller::Cpu if base.version == Version::V1 => "cpu.cfs_quota_us",
        Controller::Cpu => "cpu.max",
        Controller::Pids => "pids.max",
    };
    let there = probe.join(limit).exists();
    fs::remove_dir(&probe).map_err(refused)?;
    if there { Ok(base.clone()) } else { Err(format!("groups below {} have no {limit}", base.folder.display())) }
}

/// Removes the groups of processes that are gone, if they are empty: what lives there is not this process's to kill. One
/// whose id was given to another process is left until that is gone.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if maker.is_some_and(|maker| !Path::new(&format!("/proc/{maker}")).exists()) {
            // Not empty, or somebody else was faster.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_dead_processes_are_removed_and_those_of_living_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mine = format!("{PREFIX}{}-1", process::id());
        // Above the largest id that Linux gives.
        for name in [mine.as_str(), "peerless-4194999-7", "peerless-4194999-peer", "peerless-x-1", "other-4194999-1"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        remove_leftovers(folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected: [std::ffi::OsString; 3] = ["other-4194999-1".into(), mine.into(), "peerless-x-1".into()];
        expected.sort();
        assert_eq!(left, expected);
    }
}
