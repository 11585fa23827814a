//! The errors of finding, pulling and reading datasets.

use std::io;
use std::path::{Path, PathBuf};

use peerless_protocol::Digest;
use thiserror::Error;

/// Why a dataset cannot be had.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// No dataset has this name.
    #[error("dataset {name:?} is unknown, use one of {known}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names that are known, comma-separated.
        known: String,
    },
    /// A file of the dataset is not there.
    #[error("{} is missing; run `peerless data pull {dataset}`", .path.display())]
    Missing {
        /// The dataset's name.
        dataset: String,
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what the dataset's definition says.
    #[error("{} is damaged: {problem}; remove it and run `peerless data pull {dataset}`", .path.display())]
    Damaged {
        /// The dataset's name.
        dataset: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// The files are not the dataset, although they may look like it.
    #[error("the files in {} have digest {found}, but the dataset has {expected}; remove them and pull it again", .folder.display())]
    Digest {
        /// The folder of the files.
        folder: PathBuf,
        /// Digest of the files.
        found: Digest,
        /// Digest of the dataset.
        expected: Digest,
    },
    /// A file that is elsewhere cannot be read.
    #[error("cannot read samples of {file}: {reason}")]
    Elsewhere {
        /// The file's name.
        file: String,
        /// Why not, without secrets.
        reason: String,
        /// Whether it may work later.
        retryable: bool,
    },
    /// A sample that the dataset does not have.
    #[error("sample {sample} does not exist, {} has {samples}", .path.display())]
    NoSample {
        /// The file that was asked.
        path: PathBuf,
        /// The sample's number, from 0.
        sample: u32,
        /// Number of samples in the file.
        samples: u32,
    },
    /// No source had the dataset.
    #[error("no source has {dataset}:\n{}\nput {files} (plain or .gz) into {}, or name the folder that has them", .attempts.join("\n"), .folder.display())]
    NoSource {
        /// The dataset's name.
        dataset: String,
        /// Each source that was tried, and why it failed.
        attempts: Vec<String>,
        /// Names of the files.
        files: String,
        /// Where files can be placed by hand.
        folder: PathBuf,
    },
}

impl DatasetError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn opening(dataset: &str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { dataset: dataset.to_owned(), path: path.to_owned() },
            _ => Self::io("open", path, source),
        }
    }
}

/// What is wrong with a file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileProblem {
    /// The file ends before its header does.
    #[error("it has {length} bytes, less than its header of {header}")]
    NoHeader {
        /// Length of the file, in bytes.
        length: u64,
        /// Length of the header, in bytes.
        header: u64,
    },
    /// The first four bytes are those of another kind of file.
    #[error("its magic number is {found:#010x}, but should be {expected:#010x}")]
    Magic {
        /// The number found.
        found: u32,
        /// The number of the kind of file.
        expected: u32,
    },
    /// A dimension in the header is not the dataset's.
    #[error("its header says {found} {what}, but there should be {expected}")]
    Dimension {
        /// `samples`, `rows` or `columns`.
        what: &'static str,
        /// The number found.
        found: u32,
        /// The dataset's number.
        expected: u32,
    },
    /// The file ends too early.
    #[error("it is truncated to {length} of {expected} bytes")]
    Truncated {
        /// Length of the file, in bytes.
        length: u64,
        /// Length that the header calls for, in bytes.
        expected: u64,
    },
    /// The file goes on behind its last sample.
    #[error("it has {length} bytes, but ends at {expected}")]
    TrailingBytes {
        /// Length of the file, in bytes.
        length: u64,
        /// Length that the header calls for, in bytes.
        expected: u64,
    },
    /// A label that is not a class of the dataset.
    #[error("the label of sample {sample} is {label}, but there are {classes} classes")]
    Label {
        /// The sample's number, from 0.
        sample: u32,
        /// Its label.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
}
