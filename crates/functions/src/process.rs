//! Functions as processes of this machine.
//!
//! The pool starts from nothing, adds a process whenever a call finds no warm one, up to a limit,
//! and ends those that idle. Processes are started with `posix_spawn` (std takes it as long as the
//! program is a path and neither user, group nor a hook before exec is asked for), never with
//! `fork`: a peer is large, and copying its page tables takes longer than a warm unit's overhead.
//!
//! # What a function program has to do
//! - Read tasks from stdin and write reports to stdout, one JSON document per line each.
//! - Write logs to stderr only.
//! - Exit when stdin ends, *also while it works on a task*: read stdin on a thread of its own. That
//!   is how functions go away when their peer dies by `kill -9`; those that are isolated are killed
//!   then by the kernel besides.
//! - Be ready to be killed at any moment. Idle functions are, too: they have no state to save.
//!
//! The environment is cut down to a few names (`PATH`, `HOME`, `PEERLESS_DATA` and the like), so that
//! the peer's tokens, passwords and keys stay with the peer; `RAYON_NUM_THREADS=1` is added, as the
//! pool gets its parallelism from processes. With [`Isolation`] functions are kept from the rest of the
//! machine as well.
//!
//! Each function leads a process group of its own, so that Ctrl-C in a terminal reaches the peer
//! alone, and whatever a function started is killed with it when the pool ends it. (Helpers of a
//! function that dies by itself are left: after it is reaped its id could name somebody else.)

mod child;
mod isolation;
mod keep_warm;
mod pool;
mod spawner;
mod stderr;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use thiserror::Error;

pub use self::child::ALLOCATOR_SETTINGS;
use self::isolation::Confinement;
pub use self::isolation::{Isolation, IsolationLevel};
use self::pool::Shared;
use crate::error::InvokeError;
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};

/// Which program the functions are, and what they may use.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// The function program, as a path with a slash in it. A bare name is refused: looking it up in
    /// `PATH` with a changed environment takes the slow way to start a process.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables to add to (or replace in) the reduced environment.
    pub env: Vec<(OsString, OsString)>,
    /// Most processes. More than cores help only when functions wait for something.
    pub concurrency: usize,
    /// Most calls that wait for a function; further ones fail with [`InvokeError::QueueFull`].
    pub queue_limit: usize,
    /// How long a function may idle at most. Longer saves cold starts, shorter saves memory.
    pub idle_timeout: Duration,
    /// Whether the machine is paid for by time: then a function is ended earlier, when the memory that it has idled in
    /// has cost as much as starting another function does.
    pub machine_is_paid: bool,
    /// Longest time an attempt may take, the start of a cold function included. Only a net for
    /// functions that hang: slow ones are the business of the caller's deadlines.
    pub time_limit: Duration,
    /// Most memory of a function, as `RLIMIT_DATA` in bytes: private writable memory (heap and
    /// stacks), what a function can be blamed for. `RLIMIT_AS` would count files mapped to be
    /// read (states, datasets) and address space that allocators reserve and never touch; a limit
    /// on resident memory (`RLIMIT_RSS`) is not enforced by Linux. An allocation beyond it fails,
    /// which ends programs that are not prepared for that. Where the function is isolated and cgroups can
    /// be made, its group has this limit, too: that counts what `RLIMIT_DATA` does not, shared
    /// memory and the processes that it starts, and the function that passes it is killed.
    pub memory_limit_bytes: Option<u64>,
    /// What else functions are kept from; `None` for what an ordinary child of the peer may do.
    pub isolation: Option<Box<Isolation>>,
}

impl ProcessConfig {
    /// Defaults: one function per core, 1024 waiting calls, 60 s idle, a machine that costs nothing, 5 min per attempt, no memory
    /// limit, no isolation.
    pub fn new(command: impl Into<PathBuf>) -> Self {
        Self {
            command: command.into(),
            args: Vec::new(),
            env: Vec::new(),
            concurrency: available_parallelism().map_or(1, usize::from),
            queue_limit: 1024,
            idle_timeout: Duration::from_secs(60),
            machine_is_paid: false,
            time_limit: Duration::from_secs(300),
            memory_limit_bytes: None,
            isolation: None,
        }
    }
}

impl ProcessConfig {
    /// Lets isolated functions read and write what their tasks will name, and gives them a folder of their own for
    /// temporary files.
    pub fn allow(&mut self, read: &Path, write: &Path, temporary: &Path) {
        let Some(isolation) = &mut self.isolation else { return };
        isolation.read.push(read.to_owned());
        isolation.write.extend([write.to_owned(), temporary.to_owned()]);
        self.env.push(("TMPDIR".into(), temporary.into()));
    }
}

/// A [`ProcessConfig`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The program is a bare name.
    #[error("the function program {0:?} has no slash in it; give a path, such as ./{0}")]
    BareCommand(String),
    /// No process may run, or more than can be counted.
    #[error("the pool's concurrency is {0}, but must be between 1 and {MAX_CONCURRENCY}")]
    Concurrency(usize),
    /// The isolation is required, and this machine lacks parts of it.
    #[error("functions cannot be isolated in full, this machine lacks: {missing}")]
    Isolation {
        /// What is missing.
        missing: String,
    },
}

/// Far above what one machine can run, far below what overflows a counter.
const MAX_CONCURRENCY: usize = 1 << 16;

/// A pool of function processes. Needs a tokio runtime with I/O and time enabled for every call.
///
/// Dropping it kills the functions; the runtime reaps them soon after. [`FunctionPlatform::shutdown`]
/// waits for that.
pub struct ProcessPool {
    shared: Arc<Shared>,
}

impl ProcessPool {
    /// An empty pool; starts nothing.
    ///
    /// # Errors
    /// [`ConfigError`] for a configuration that no call could succeed with.
    pub fn new(config: ProcessConfig) -> Result<Self, ConfigError> {
        if !config.command.as_os_str().as_encoded_bytes().contains(&b'/') {
            return Err(ConfigError::BareCommand(config.command.display().to_string()));
        }
        if !(1..=MAX_CONCURRENCY).contains(&config.concurrency) {
            return Err(ConfigError::Concurrency(config.concurrency));
        }
        let confinement = Confinement::new(&config)?;
        Ok(Self { shared: Shared::new(config, confinement) })
    }
}

impl FunctionPlatform for ProcessPool {
    fn name(&self) -> &'static str {
        pool::PLATFORM
    }

    fn concurrency(&self) -> usize {
        self.shared.concurrency()
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        Box::pin(self.shared.invoke(call))
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.shared.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.shutdown())
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_work_is_refused() {
        let bare = ProcessPool::new(ProcessConfig::new("python3"));
        assert_eq!(bare.err(), Some(ConfigError::BareCommand("python3".into())));
        for concurrency in [0, MAX_CONCURRENCY + 1] {
            let config = ProcessConfig { concurrency, ..ProcessConfig::new("./function") };
            assert_eq!(ProcessPool::new(config).err(), Some(ConfigError::Concurrency(concurrency)));
        }
    }
}
