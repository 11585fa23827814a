//! One function process: its start, one exchange with it, its end.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, io};

use peerless_sandbox::Cgroup;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::ProcessConfig;
use super::isolation::{Confinement, Prepared};
use super::spawner::Spawner;
use super::stderr::StderrTail;
use crate::error::{Death, InvokeError};
use crate::report::MAX_REPORT_BYTES;

/// How long a function that closed stdout may take to exit, so that its exit code is its own.
const EXIT_GRACE: Duration = Duration::from_millis(500);

/// Environment variables that functions get from the peer. Names and not a pattern such as `PEERLESS_*`: the token that
/// remote functions are called with and the password of a database begin like that.
const INHERITED: [&str; 9] = [
    "PATH",
    "HOME",
    "XDG_CACHE_HOME",
    "PEERLESS_DATA",
    "LANG",
    "LC_ALL",
    "RUST_LOG",
    "RUST_BACKTRACE",
    ALLOCATOR_SETTINGS.0,
];

/// A function allocates and frees the same tensors for every unit. By default the GNU C library gives what was freed
/// back to the system, which clears every page of what is allocated anew: a quarter of some units' time. With these
/// settings it keeps up to 4 GiB, and asks for huge pages; other libraries take no notice. Rejected: an allocator of our
/// own choice in the program, which needs twice the memory for small models and does not reach functions in other
/// languages.
pub const ALLOCATOR_SETTINGS: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1",
);

/// What run-times write to stderr when an allocation fails: Rust, C++, Python.
const OUT_OF_MEMORY_SIGNS: [&str; 3] = ["memory allocation of ", "std::bad_alloc", "MemoryError"];

/// A live function.
pub(super) struct Function {
    pid: u32,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: StderrTail,
    line: Vec<u8>,
    /// Dropped last: what is left in it by then is killed.
    group: Option<Cgroup>,
}

/// Why an exchange gave no line.
pub(super) enum Broken {
    /// The pipes are closed: dead, or as good as.
    Silent,
    /// The line does not end.
    LineTooLong,
}

impl Function {
    pub(super) fn spawn(
        config: &ProcessConfig,
        confinement: Option<&Confinement>,
        spawner: &Spawner,
    ) -> Result<Self, InvokeError> {
        Self::try_spawn(config, confinement, spawner).map_err(|error| InvokeError::Spawn {
            command: config.command.clone(),
            kind: error.kind(),
            message: error.to_string(),
        })
    }

    fn try_spawn(config: &ProcessConfig, confinement: Option<&Confinement>, spawner: &Spawner) -> io::Result<Self> {
        let Prepared { mut command, group } = match confinement {
            Some(confinement) => confinement.prepare(config)?,
            None => Prepared { command: Command::new(&config.command), group: None },
        };
        command
            .args(&config.args)
            .env_clear()
            .envs(reduced_environment(env::vars_os()))
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = match confinement {
            Some(_) => spawner.spawn(command)?,
            None => command.spawn()?,
        };
        // All four are there: the pipes were asked for, and nobody has waited for the child.
        let gone = || io::Error::other("the process has no id or pipes");
        let pid = child.id().ok_or_else(gone)?;
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        limit_memory(pid, config.memory_limit_bytes)?;
        Ok(Self {
            pid,
            child,
            stdin,
            stdout: BufReader::new(stdout),
            stderr: StderrTail::follow(pid, stderr),
            line: Vec::new(),
            group,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a task and waits for the line that follows. Not to be used again once it was dropped
    /// half-way or broken.
    pub(super) async fn exchange(&mut self, task: &[u8]) -> Result<&[u8], Broken> {
        self.stdin.write_all(task).await.map_err(|_| Broken::Silent)?;
        self.line.clear();
        loop {
            let bytes = self.stdout.fill_buf().await.map_err(|_| Broken::Silent)?;
            if bytes.is_empty() {
                return Err(Broken::Silent);
            }
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let length = end.map_or(bytes.len(), |end| end + 1);
            if self.line.len() + length > MAX_REPORT_BYTES {
                return Err(Broken::LineTooLong);
            }
            self.line.extend_from_slice(&bytes[..length]);
            self.stdout.consume(length);
            if end.is_some() {
                return Ok(&self.line);
            }
        }
    }

    /// Whether it wrote more than the line that was asked for.
    pub(super) fn has_surplus(&self) -> bool {
        !self.stdout.buffer().is_empty()
    }

    /// Returns when the idle function exits, closes stdout or writes to it: it is of no more use
    /// then. Can be dropped at any moment.
    pub(super) async fn misbehaves(&mut self) -> &'static str {
        tokio::select! {
            _ = self.child.wait() => "exited",
            bytes = self.stdout.fill_buf() => match bytes {
                Ok([]) | Err(_) => "closed its stdout",
                Ok(_) => "wrote to stdout without being asked",
            },
        }
    }

    /// Ends the function, waits until it is gone, and says how it ended.
    pub(super) async fn kill(&mut self) -> Option<ExitStatus> {
        self.kill_group();
        self.child.wait().await.ok()
    }

    /// Finds out why the function fell silent; it is gone afterwards.
    pub(super) async fn autopsy(
        &mut self,
        memory_limit: Option<u64>,
        confinement: Option<&Confinement>,
    ) -> InvokeError {
        let status = match tokio::time::timeout(EXIT_GRACE, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_alive) => self.kill().await,
        };
        let mut stderr = self.stderr.last_lines().await;
        let function = self.pid;
        let death = status.map_or(Death::Signal(0), death);
        let no_memory = death != Death::Exit(0) && OUT_OF_MEMORY_SIGNS.iter().any(|sign| stderr.contains(sign));
        let killed_for_memory = self.group.as_ref().is_some_and(|group| group.killed_for_memory() > 0);
        if no_memory || killed_for_memory {
            return InvokeError::OutOfMemory { function, death, limit: memory_limit, stderr };
        }
        let code = status.and_then(|status| status.code());
        if let Some(hint) = confinement.and_then(|confinement| confinement.explain(&stderr, code)) {
            stderr += &format!("\n({hint})");
        }
        InvokeError::Died { function, death, stderr }
    }

    /// `SIGKILL` to the function and whatever it started. Only while the function is not reaped: after
    /// that its id may name somebody else.
    fn kill_group(&mut self) {
        if let Some(group) = self.child.id().and_then(pid) {
            // Fails only when the group is empty already.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Function {
    /// The last resort, when a runtime goes away with functions in it: nobody is left who could wait
    /// asynchronously, so it waits here, for the milliseconds that dying by `SIGKILL` takes.
    fn drop(&mut self) {
        self.kill_group();
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}

fn death(status: ExitStatus) -> Death {
    match (status.code(), status.signal()) {
        (Some(code), _) => Death::Exit(code),
        (None, signal) => Death::Signal(signal.unwrap_or_default()),
    }
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// Set by the parent once the process runs: a hook between fork and exec would need `unsafe` and the
/// slow way to start a process. The first task comes after it, so all work is under the limit.
fn limit_memory(id: u32, bytes: Option<u64>) -> io::Result<()> {
    let (Some(bytes), Some(pid)) = (bytes, pid(id)) else {
        return Ok(());
    };
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    let refused = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot set the memory limit of {bytes} bytes: {error}; is it above the peer's own?"),
        )
    };
    prlimit(Some(pid), Resource::Data, limit).map_err(|error| refused(error.into()))?;
    Ok(())
}

fn reduced_environment(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let passed = |name: &OsStr| INHERITED.iter().any(|known| name == *known);
    let defaults = [("RAYON_NUM_THREADS", "1"), ALLOCATOR_SETTINGS];
    let mut environment: Vec<_> = defaults.map(|(name, value)| (name.into(), value.into())).into();
    environment.extend(all.filter(|(name, _)| passed(name)));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_sees_no_more_of_the_environment_than_it_needs() {
        let all = [
            "PATH",
            "AWS_SECRET_ACCESS_KEY",
            "PEERLESS_DATA",
            "PEERLESS_FUNCTION_TOKEN",
            "PEERLESS_REDIS_PASSWORD",
            "LD_PRELOAD",
            "RAYON_NUM_THREADS",
        ];
        let reduced = reduced_environment(all.into_iter().map(|name| (name.into(), "8".into())));
        let text: Vec<_> =
            reduced.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        let allocator = format!("{}={}", ALLOCATOR_SETTINGS.0, ALLOCATOR_SETTINGS.1);
        assert_eq!(text, ["RAYON_NUM_THREADS=1", &allocator, "PATH=8", "PEERLESS_DATA=8"]);
    }

    #[test]
    fn who_sets_the_allocator_up_differently_decides() {
        let reduced = reduced_environment([("GLIBC_TUNABLES".into(), "mine".into())].into_iter());
        assert_eq!(reduced.last(), Some(&("GLIBC_TUNABLES".into(), "mine".into())));
    }
}
