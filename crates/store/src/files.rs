//! Files that are either whole or absent.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{AtPath, FileError};

/// Ending of a file that is still being written; such files are removed when the store opens.
const TEMPORARY: &str = "tmp";

/// Where a file that will be `path` is written until it is whole.
fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".");
    name.push(TEMPORARY);
    path.with_file_name(name)
}

/// Writes `path` through a temporary file beside it and a rename, all flushed to the device, so that a
/// reader, or a restart after a crash or a loss of power at any moment, sees the old content or the new
/// one and nothing in between. When `write` fails, the temporary file is removed and `path` is as it was.
pub(crate) fn replace_durably(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), FileError> {
    let temporary = temporary_path(path);
    let result = write_temporary(&temporary, write).and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        // The error to report is the first one; a leftover is removed when the store opens again.
        let _ = fs::remove_file(&temporary);
    }
    result.at("write", path)?;
    sync_parent(path)
}

fn write_temporary(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    // Truncates: only one process has the directory, so that an existing file is a leftover.
    let mut file = create_file(path)?;
    write(&mut file)?;
    file.sync_all()
}

/// Creates a file, or empties the one that is there, for writing and reading back.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path)
}

/// Makes a rename or removal in the directory of `path` survive the loss of power.
fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(parent).at("open", parent)?;
    directory.sync_all().at("flush", parent)
}

/// Creates a directory and its parents where they are missing.
pub(crate) fn create_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).at("create directory", path)
}

/// The regular files in a directory, sorted by name.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).at("list", directory)? {
        let entry = entry.at("list", directory)?;
        if entry.file_type().at("inspect", &entry.path())?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Removes a file that may already be gone.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Removes what a crash left half-written in a directory.
pub(crate) fn remove_temporaries(directory: &Path) -> Result<(), FileError> {
    for path in list(directory)? {
        if path.extension().is_some_and(|ending| ending == TEMPORARY) {
            remove(&path)?;
        }
    }
    Ok(())
}
