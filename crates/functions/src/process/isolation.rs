//! What a function may do besides computing, and how a process is started that may not.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::Once;

use peerless_sandbox::{
    CPU_PERIOD_US, Cgroup, CgroupLimits, Cgroups, Controller, EXIT_NOT_FOUND, EXIT_NOT_ISOLATED, EXIT_NOT_RUN,
    FilePolicy, Policy, Support,
};
use rustix::fs::{Access, access};
use tokio::process::Command;

use super::{ConfigError, ProcessConfig};

/// Most files that a function may have open. Ours has about ten.
const OPEN_FILES: u64 = 256;

/// Most processes and threads of a function. Enough for any library's thread pools on large machines, and far from
/// what hurts the machine.
const PROCESSES: u64 = 1024;

/// Memory, in bytes, for which AWS Lambda gives one core: 1,769 MB. More or less memory gives proportionally more or
/// less. <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
const MEMORY_OF_A_CORE: u64 = 1769 << 20;

/// How much a function is kept from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    /// It dies with the peer, gets no descriptors and no privileges, and has limits on files, memory, CPU and
    /// processes.
    Limits,
    /// Besides, it sees only its own files, no network and no other process, and many system calls are refused.
    Full,
}

/// How functions are isolated from the rest of the machine. Programs are started by way of a launcher, which takes rights
/// from itself and becomes the program (see `peerless_sandbox::launch`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The launcher as a path, and its arguments that come before the policy.
    pub launcher: (PathBuf, Vec<OsString>),
    /// How much.
    pub level: IsolationLevel,
    /// Whether it is an error if this machine lacks a part. Otherwise the pool does without and says so once.
    pub required: bool,
    /// Files and folders that functions may read and execute, besides their program and the system's libraries.
    pub read: Vec<PathBuf>,
    /// Folders that they may write to.
    pub write: Vec<PathBuf>,
    /// Whether the memory limit decides on the CPU time, as on AWS Lambda: one core for each 1,769 MB.
    pub cpu_by_memory: bool,
}

impl Isolation {
    /// What of it this machine lacks, in words for people. Without `memory_limited` nothing is said about limits that
    /// nobody asked for.
    pub fn missing(&self, memory_limited: bool) -> Vec<String> {
        let mut missing = match self.level {
            IsolationLevel::Full => Support::get().missing(),
            IsolationLevel::Limits => Vec::new(),
        };
        if !memory_limited && !self.required {
            return missing;
        }
        let mut wanted = vec![Controller::Pids];
        if memory_limited {
            wanted.push(Controller::Memory);
            wanted.extend(self.cpu_by_memory.then_some(Controller::Cpu));
        }
        let cgroups = Cgroups::get();
        let lacking = wanted.into_iter().filter_map(|wanted| Some((wanted, cgroups.why_not(wanted)?)));
        missing.extend(lacking.map(|(wanted, reason)| format!("cgroup limits on {wanted} ({reason})")));
        missing
    }
}

/// What a pool starts isolated functions with.
#[derive(Debug)]
pub(super) struct Confinement {
    isolation: Box<Isolation>,
    limits: CgroupLimits,
}

/// A function that is about to be started.
pub(super) struct Prepared {
    pub(super) command: Command,
    /// Must live as long as the process.
    pub(super) group: Option<Cgroup>,
}

impl Confinement {
    /// Finds out what this machine can do. Says once in a process what is missing, or refuses.
    pub(super) fn new(config: &ProcessConfig) -> Result<Option<Self>, ConfigError> {
        let Some(isolation) = config.isolation.clone() else { return Ok(None) };
        let memory = config.memory_limit_bytes;
        let missing = isolation.missing(memory.is_some());
        if !missing.is_empty() {
            if isolation.required {
                return Err(ConfigError::Isolation { missing: missing.join("; ") });
            }
            static SAID: Once = Once::new();
            SAID.call_once(|| tracing::warn!("functions run without {}", missing.join("; ")));
        }
        let limits = CgroupLimits {
            memory_bytes: memory,
            cpu_quota_us: memory.filter(|_| isolation.cpu_by_memory).map(cpu_quota),
            processes: Some(PROCESSES),
        };
        Ok(Some(Self { isolation, limits }))
    }

    /// The launcher's command for a program, which is checked first: that it is missing is then an error of the start
    /// and not a function that died.
    pub(super) fn prepare(&self, config: &ProcessConfig) -> io::Result<Prepared> {
        access(&config.command, Access::EXEC_OK)?;
        let group = Cgroups::get().create(&self.limits)?;
        let (program, arguments) = &self.isolation.launcher;
        let mut command = Command::new(program);
        command.args(arguments).args(self.policy(config, &group).to_arguments()?).arg(&config.command);
        Ok(Prepared { command, group: (!group.folders().is_empty()).then_some(group) })
    }

    fn policy(&self, config: &ProcessConfig, group: &Cgroup) -> Policy {
        let (full, support) = (self.isolation.level == IsolationLevel::Full, Support::get());
        let files = (full && support.files).then(|| {
            let mut read = self.isolation.read.clone();
            read.push(config.command.clone());
            FilePolicy { read, write: self.isolation.write.clone() }
        });
        Policy {
            parent: Some(process::id()),
            cgroups: group.joins().to_vec(),
            open_files: Some(OPEN_FILES),
            files,
            refuse_system_calls: full && support.system_calls.is_ok(),
        }
    }

    /// What to add to the words of a function that failed, if what failed may have been taken from it.
    pub(super) fn explain(&self, words: &str, exit_code: Option<i32>) -> Option<&'static str> {
        let launchers = [EXIT_NOT_ISOLATED, EXIT_NOT_RUN, EXIT_NOT_FOUND].map(i32::from);
        let denied = words.contains("ermission denied") || words.contains("not permitted");
        let full = self.isolation.level == IsolationLevel::Full;
        (full && (denied || exit_code.is_some_and(|code| launchers.contains(&code)))).then_some(
            "this function is isolated: --function-read PATH lets it read more, --function-isolation limits see all \
             files (docs/isolation.md)",
        )
    }
}

/// The CPU time in each [`CPU_PERIOD_US`] that AWS Lambda gives a function with this much memory, in microseconds.
fn cpu_quota(memory_bytes: u64) -> u64 {
    let quota = u128::from(memory_bytes) * u128::from(CPU_PERIOD_US) / u128::from(MEMORY_OF_A_CORE);
    u64::try_from(quota).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_decides_on_the_share_of_a_core_as_on_lambda() {
        for (megabytes, quota) in [(1769, 20_000), (3538, 40_000), (128, 1447), (10_240, 115_771)] {
            assert_eq!(cpu_quota(megabytes << 20), quota, "{megabytes} MB");
        }
        assert_eq!(cpu_quota(0), 0);
    }

    #[test]
    fn what_was_denied_is_explained_and_other_failures_are_not() {
        let isolation = |level| Isolation {
            launcher: ("/launcher".into(), Vec::new()),
            level,
            required: false,
            read: Vec::new(),
            write: Vec::new(),
            cpu_by_memory: false,
        };
        let explained = |level, words: &str, code| {
            let confinement = Confinement { isolation: Box::new(isolation(level)), limits: CgroupLimits::default() };
            confinement.explain(words, code).is_some()
        };
        assert!(explained(IsolationLevel::Full, "PermissionError: [Errno 13] Permission denied: 'x'", Some(1)));
        assert!(explained(IsolationLevel::Full, "Operation not permitted (os error 1)", None));
        assert!(explained(IsolationLevel::Full, "", Some(127)));
        assert!(!explained(IsolationLevel::Full, "No such file", Some(1)));
        assert!(!explained(IsolationLevel::Limits, "Permission denied", None));
    }
}
