//! Errors of the file system, which every part of the store shares.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// An operation on a file or directory that failed.
#[derive(Debug, Error)]
pub enum FileError {
    /// No space, quota or allowed file size is left. What was being written has been removed.
    #[error("{action} {}: the disk is full; free some space and resume the run", path.display())]
    Full {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

/// Names the action and the file that an I/O error belongs to.
pub(crate) trait AtPath<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        self.map_err(|source| {
            let path = path.to_path_buf();
            match source.kind() {
                StorageFull | QuotaExceeded | FileTooLarge => FileError::Full { action, path },
                _ => FileError::Io { action, path, source },
            }
        })
    }
}

/// A damaged file that was passed over; what it held is found elsewhere or computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Skipped {
    pub(crate) fn new(path: &Path, reason: impl ToString) -> Self {
        Self { path: path.to_path_buf(), reason: reason.to_string() }
    }
}
