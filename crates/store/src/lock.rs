//! One process per directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::error::{AtPath, FileError};

/// Longest content of a lock file that is looked at, in bytes.
const MAX_CONTENT: u64 = 64;

/// How long a directory that is in use is waited for. A process that was killed a moment ago keeps its locks until the
/// kernel has taken it down, which lasts as long as its last writes to the disk.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// A directory that cannot be had for oneself.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {owner}; stop it, or use another directory", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// Its process id, `unknown` if the file does not tell.
        owner: String,
    },
    /// The lock file could not be opened, read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Exclusive use of a directory, until it is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    /// Holds the lock: the operating system releases it when the file is closed, also by a kill.
    _file: File,
    incarnation: u64,
}

impl DirectoryLock {
    /// Takes the lock file `path`, whose content is `INCARNATION PID`; waits a while for its owner to end.
    pub(crate) fn acquire(path: &Path) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).at("open", path)?;
        lock(path, &mut file)?;
        let (previous, _) = read_content(&mut file);
        let incarnation = previous.saturating_add(1);
        let content = format!("{incarnation} {}\n", std::process::id());
        let written = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.write_all(content.as_bytes()))
            .and_then(|()| file.set_len(content.len() as u64));
        written.at("write", path)?;
        Ok(Self { _file: file, incarnation })
    }

    /// Counts how often the directory has been taken: names what belongs to this process alone, while
    /// functions of a killed predecessor may still be running.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

fn lock(path: &Path, file: &mut File) -> Result<(), LockError> {
    let asked = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if asked.elapsed() < PATIENCE => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Err(in_use(path, file)),
            Err(TryLockError::Error(error)) => return Err::<(), _>(error).at("lock", path).map_err(Into::into),
        }
    }
}

fn in_use(path: &Path, file: &mut File) -> LockError {
    LockError::InUse { path: path.to_path_buf(), owner: read_content(file).1 }
}

/// Incarnation and process id; 0 and `unknown` where the file does not tell.
fn read_content(file: &mut File) -> (u64, String) {
    let mut content = String::new();
    // The content only makes names and messages; the lock itself does not depend on it.
    let _ = file.take(MAX_CONTENT).read_to_string(&mut content);
    let mut words = content.split_whitespace();
    let incarnation = words.next().and_then(|word| word.parse().ok());
    let owner = words.next().unwrap_or("unknown");
    (incarnation.unwrap_or_default(), owner.to_string())
}
