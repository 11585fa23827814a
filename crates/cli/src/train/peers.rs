//! The peers' processes as the watcher sees them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;
use peerless_peer::local::SERVER;
use peerless_peer::process::{is_alive, signal};
use peerless_peer::status::{PeerStatus, Phase, status_path};
use rustix::process::Signal;

use super::memory::PeakMemory;
use super::slow::Slow;
use crate::failure::code;
use crate::runs::PEER_COMMAND;

/// Lines of a dead peer's log that are shown.
const TAIL_LINES: usize = 8;
/// How far back in the log they are looked for, in bytes.
const TAIL_BYTES: u64 = 4096;

/// How a peer's process is started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// This program.
    pub(crate) program: PathBuf,
    /// The run directory.
    pub(crate) run: PathBuf,
    /// Flags that all peers get.
    pub(crate) flags: Vec<String>,
    /// Whether peers leave when the watcher dies.
    pub(crate) end_with_watcher: bool,
}

/// How a peer's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With the final state.
    Finished,
    /// It was asked to leave, and did with a checkpoint.
    Left,
    /// With a checkpoint, as its budget pays for no more.
    BudgetUsedUp,
    /// Another worker was lost, without whom there is nothing to do.
    WorkerLost,
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Unknown, as it was not this process that had started it.
    Gone,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finished => write!(f, "finished"),
            Self::Left => write!(f, "left"),
            Self::BudgetUsedUp => write!(f, "budget used up"),
            Self::WorkerLost => write!(f, "another worker lost"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(9) => write!(f, "killed"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Gone => write!(f, "gone"),
        }
    }
}

#[derive(Debug)]
enum Process {
    /// Not started by this process yet.
    None,
    /// Started by this process, which must reap it. The pipe to its stdin is part of it.
    Child(Child),
    /// Found running.
    Attached(u32),
    /// Ended.
    Ended(Exit),
}

/// One peer of the run.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name in the run directory.
    pub(crate) name: String,
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The newest status of its present process, or of its last one.
    pub(crate) status: Option<PeerStatus>,
    /// Words before the program on its command line, such as `ip netns exec NAME`. They must become
    /// the program, not start it: signals go to the process that they begin.
    pub(crate) wrapper: Vec<String>,
    /// Flags that it gets besides those that all peers get.
    pub(crate) flags: Vec<String>,
    /// Whether it has been stopped by SIGSTOP.
    pub(crate) stopped: bool,
    /// Whether it is to be started again when it has ended.
    pub(crate) restart: bool,
    /// When it is to be started again, if it waits for that.
    pub(crate) restart_at: Option<Instant>,
    /// Whether its process is a worker of an all-reduce that was started again.
    pub(crate) replacement: bool,
    /// Whether its end is no surprise.
    pub(crate) end_expected: bool,
    /// Slows its functions down, if a fault says so.
    slow: Option<Slow>,
    /// Of all its processes.
    pub(crate) memory: PeakMemory,
    /// What its processes before this one have sent to other peers, in bytes.
    sent_before: u64,
    process: Process,
    pid: Option<u32>,
    seen: Option<(u64, i64, i64)>,
}

impl Peer {
    pub(crate) fn new(name: String, directory: PathBuf) -> Self {
        Self {
            name,
            directory,
            status: None,
            wrapper: Vec::new(),
            flags: Vec::new(),
            stopped: false,
            restart: false,
            restart_at: None,
            replacement: false,
            end_expected: false,
            slow: None,
            memory: PeakMemory::default(),
            sent_before: 0,
            process: Process::None,
            pid: None,
            seen: None,
        }
    }

    /// Whether it is the run's parameter server.
    pub(crate) fn is_server(&self) -> bool {
        self.name == SERVER
    }

    /// The id of its present or last process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// What its processes have sent to other peers, in bytes, as far as they have said so.
    pub(crate) fn bytes_sent(&self) -> u64 {
        let status = self.status.as_ref().filter(|status| Some(status.pid) == self.pid);
        self.sent_before + status.map_or(0, |status| status.bytes_sent)
    }

    /// Slows its functions down from now on, also those of later processes.
    pub(crate) fn slow_down(&mut self) {
        self.slow.get_or_insert_with(|| Slow::start(self.directory.clone()));
    }

    /// Whether its process lives, as far as known.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.process, Process::Child(_) | Process::Attached(_))
    }

    /// How its process ended.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.process {
            Process::Ended(exit) => Some(exit),
            _ => None,
        }
    }

    /// Takes over a process that runs already; whether there is one.
    pub(crate) fn attach(&mut self) -> anyhow::Result<bool> {
        let status = PeerStatus::read(&self.directory)?;
        let Some(status) = status.filter(|status| is_alive(status.pid, PEER_COMMAND)) else { return Ok(false) };
        self.process = Process::Attached(status.pid);
        self.pid = Some(status.pid);
        self.status = Some(status);
        Ok(true)
    }

    /// Reads what a process that has ended said last.
    pub(crate) fn recall(&mut self) -> anyhow::Result<()> {
        self.status = PeerStatus::read(&self.directory)?;
        if let Some(status) = &self.status {
            self.pid = Some(status.pid);
            let exit = if status.phase == Phase::Finished { Exit::Finished } else { Exit::Gone };
            self.process = Process::Ended(exit);
        }
        Ok(())
    }

    /// Takes it for one that was never started.
    pub(crate) fn forget(&mut self) {
        (self.status, self.pid, self.process) = (None, None, Process::None);
    }

    /// Starts its process in a process group of its own, so that Ctrl-C in a terminal reaches the
    /// watcher alone.
    pub(crate) fn start(&mut self, launch: &Launch) -> anyhow::Result<()> {
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot create {}", self.directory.display()))?;
        let log = log_path(&self.directory);
        let stdout = OpenOptions::new().create(true).append(true).open(&log);
        let stdout = stdout.with_context(|| format!("cannot open {}", log.display()))?;
        let stderr = stdout.try_clone().with_context(|| format!("cannot open {}", log.display()))?;
        let mut words = self.wrapper.iter().map(OsStr::new).chain([launch.program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or(launch.program.as_os_str()));
        command.args(words).args([PEER_COMMAND, "start", "--name", &self.name, "--run-dir"]).arg(&launch.run);
        command.args(&launch.flags).args(&self.flags);
        if launch.end_with_watcher {
            command.arg("--end-with-parent");
        }
        let stdin = if launch.end_with_watcher { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.program.display()))?;
        self.sent_before = self.bytes_sent();
        self.pid = Some(child.id());
        self.process = Process::Child(child);
        (self.stopped, self.restart, self.restart_at, self.end_expected) = (false, false, None, false);
        self.replacement = false;
        Ok(())
    }

    /// Sends a signal to its process; whether there was one.
    pub(crate) fn signal(&mut self, number: Signal) -> bool {
        // A child that has ended but was not reaped still has its id, so the signal hits nobody else.
        let sent = self.lives() && self.pid.is_some_and(|pid| signal(pid, number));
        if sent {
            match number {
                Signal::STOP => self.stopped = true,
                Signal::CONT => self.stopped = false,
                _ => self.end_expected = true,
            }
        }
        sent
    }

    /// Reads its status if it has changed, and looks whether its process has ended; its exit if it
    /// ended just now.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<Exit>> {
        let status = match &mut self.process {
            Process::None | Process::Ended(_) => return Ok(None),
            Process::Child(child) => child.try_wait().context("cannot wait for a peer")?,
            Process::Attached(pid) if is_alive(*pid, PEER_COMMAND) => None,
            Process::Attached(_) => Some(ExitStatus::from_raw(0)),
        };
        self.memory.look(self.pid);
        // After the look at the process, so that the last status of one that has ended is not missed.
        self.refresh();
        let Some(status) = status else { return Ok(None) };
        if status.code() == Some(code::IN_USE.into()) && self.attach()? {
            return Ok(None);
        }
        let exit = self.exit_of(status);
        self.process = Process::Ended(exit);
        Ok(Some(exit))
    }

    fn exit_of(&self, status: ExitStatus) -> Exit {
        let phase = self.status.as_ref().filter(|status| Some(status.pid) == self.pid).map(|status| status.phase);
        match (phase, status.code(), status.signal()) {
            (_, _, Some(signal)) => Exit::Signal(signal),
            (Some(Phase::Finished), Some(0), _) => Exit::Finished,
            (Some(Phase::Left), Some(0), _) => Exit::Left,
            (_, Some(code), _) if code == i32::from(code::BUDGET) => Exit::BudgetUsedUp,
            (_, Some(code), _) if code == i32::from(code::WORKER_LOST) => Exit::WorkerLost,
            (Some(Phase::Left), ..) if self.budget_used_up() => Exit::BudgetUsedUp,
            _ if matches!(self.process, Process::Attached(_)) => Exit::Gone,
            (_, code, None) => Exit::Code(code.unwrap_or_default()),
        }
    }

    fn budget_used_up(&self) -> bool {
        self.status.as_ref().and_then(|status| status.bill).is_some_and(|bill| bill.used_up)
    }

    /// A status that cannot be read is looked at again later: to watch is never a reason to stop.
    fn refresh(&mut self) {
        let Ok(metadata) = fs::metadata(status_path(&self.directory)) else { return };
        // A status is replaced by renaming, so that every one is another file.
        let seen = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        if self.seen == Some(seen) {
            return;
        }
        let Ok(Some(status)) = PeerStatus::read(&self.directory) else { return };
        // What is there may still be what an earlier process said.
        if Some(status.pid) == self.pid {
            self.status = Some(status);
            self.seen = Some(seen);
        }
    }
}

/// Where a peer's process writes its log.
pub(crate) fn log_path(directory: &Path) -> PathBuf {
    directory.join("peer.log")
}

/// The last lines of a peer's log.
pub(crate) fn log_tail(directory: &Path) -> Vec<String> {
    text_tail(&log_path(directory))
}

/// The last lines of a file that are not empty.
pub(crate) fn text_tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    // A log that cannot be read has no lines to show.
    let tail = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
