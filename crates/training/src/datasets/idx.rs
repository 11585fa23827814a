//! IDX files, the format of MNIST: a big-endian header (magic number, then the size of each
//! dimension) and unsigned bytes behind it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{DatasetError, IdxProblem};

/// Unsigned bytes (0x08) in three dimensions.
const IMAGES: u32 = 0x0803;
/// Unsigned bytes (0x08) in one dimension.
const LABELS: u32 = 0x0801;

/// An opened file of images.
#[derive(Debug)]
pub(super) struct Images {
    path: PathBuf,
    file: File,
    samples: u32,
    header: u64,
}

impl Images {
    /// Opens a file that must hold `samples` images of `side` rows and columns.
    pub(super) fn open(dataset: &str, path: &Path, samples: u32, side: [usize; 2]) -> Result<Self, DatasetError> {
        let dimensions = [("samples", samples), ("rows", side[0] as u32), ("columns", side[1] as u32)];
        let (file, header) = open(dataset, path, IMAGES, &dimensions)?;
        Ok(Self { path: path.to_owned(), file, samples, header })
    }

    /// Fills `pixels`, which has the size of an image, with a sample.
    pub(super) fn read(&self, sample: u32, pixels: &mut [u8]) -> Result<(), DatasetError> {
        if sample >= self.samples {
            return Err(no_sample(&self.path, sample, self.samples));
        }
        let offset = self.header + u64::from(sample) * pixels.len() as u64;
        self.file.read_exact_at(pixels, offset).map_err(|error| DatasetError::io("read", &self.path, error))
    }
}

/// The labels of a file, held in memory: one byte per sample.
#[derive(Debug)]
pub(super) struct Labels {
    path: PathBuf,
    labels: Vec<u8>,
}

impl Labels {
    /// Reads a file that must hold `samples` labels below `classes`.
    pub(super) fn open(dataset: &str, path: &Path, samples: u32, classes: usize) -> Result<Self, DatasetError> {
        let (mut file, _) = open(dataset, path, LABELS, &[("samples", samples)])?;
        let mut labels = vec![0; samples as usize];
        file.read_exact(&mut labels).map_err(|error| DatasetError::io("read", path, error))?;
        if let Some(sample) = labels.iter().position(|&label| usize::from(label) >= classes) {
            let problem = IdxProblem::Label { sample, label: labels[sample], classes };
            return Err(damaged(dataset, path, problem));
        }
        Ok(Self { path: path.to_owned(), labels })
    }

    pub(super) fn get(&self, sample: u32) -> Result<u8, DatasetError> {
        let label = self.labels.get(sample as usize).copied();
        label.ok_or_else(|| no_sample(&self.path, sample, self.labels.len() as u32))
    }
}

/// Opens a file, checks header and length, and leaves it at its first sample.
fn open(
    dataset: &str,
    path: &Path,
    magic: u32,
    dimensions: &[(&'static str, u32)],
) -> Result<(File, u64), DatasetError> {
    let mut file = File::open(path).map_err(|error| DatasetError::opening(dataset, path, error))?;
    let read = |error| DatasetError::io("read", path, error);
    let length = file.metadata().map_err(read)?.len();
    let mut header = vec![0; 4 + 4 * dimensions.len()];
    if length < header.len() as u64 {
        let problem = IdxProblem::NoHeader { length, header: header.len() as u64 };
        return Err(damaged(dataset, path, problem));
    }
    file.read_exact(&mut header).map_err(read)?;
    check(&header, length, magic, dimensions).map_err(|problem| damaged(dataset, path, problem))?;
    Ok((file, header.len() as u64))
}

fn check(header: &[u8], length: u64, magic: u32, dimensions: &[(&'static str, u32)]) -> Result<(), IdxProblem> {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|&word| u32::from_be_bytes(word));
    match words.next() {
        Some(found) if found != magic => return Err(IdxProblem::Magic { found, expected: magic }),
        _ => {}
    }
    for (&(what, expected), found) in dimensions.iter().zip(words) {
        if found != expected {
            return Err(IdxProblem::Dimension { what, found, expected });
        }
    }
    let samples: u64 = dimensions.iter().map(|&(_, size)| u64::from(size)).product();
    let expected = header.len() as u64 + samples;
    match length {
        _ if length < expected => Err(IdxProblem::Truncated { length, expected }),
        _ if length > expected => Err(IdxProblem::TrailingBytes { length, expected }),
        _ => Ok(()),
    }
}

fn damaged(dataset: &str, path: &Path, problem: IdxProblem) -> DatasetError {
    DatasetError::Idx { dataset: dataset.to_owned(), path: path.to_owned(), problem }
}

fn no_sample(path: &Path, sample: u32, samples: u32) -> DatasetError {
    DatasetError::NoSample { path: path.to_owned(), sample, samples }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(words: &[u32], bytes: &[u8]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).chain(bytes.iter().copied()).collect()
    }

    fn images(content: &[u8]) -> Result<Images, DatasetError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        std::fs::write(&path, content).unwrap();
        Images::open("mnist", &path, 2, [1, 3])
    }

    fn problem(content: &[u8]) -> IdxProblem {
        match images(content).unwrap_err() {
            DatasetError::Idx { problem, .. } => problem,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_sample_is_read_from_its_place() {
        let images = images(&idx(&[IMAGES, 2, 1, 3], &[1, 2, 3, 4, 5, 6])).unwrap();
        let mut pixels = [0; 3];
        images.read(1, &mut pixels).unwrap();
        assert_eq!(pixels, [4, 5, 6]);
        assert!(matches!(images.read(2, &mut pixels), Err(DatasetError::NoSample { sample: 2, samples: 2, .. })));
    }

    #[test]
    fn a_truncated_file_is_refused_with_its_length() {
        assert_eq!(problem(&idx(&[IMAGES, 2, 1, 3], &[0; 5])), IdxProblem::Truncated { length: 21, expected: 22 });
        assert_eq!(problem(&idx(&[IMAGES, 2], &[])), IdxProblem::NoHeader { length: 8, header: 16 });
        assert_eq!(problem(&[]), IdxProblem::NoHeader { length: 0, header: 16 });
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(problem(&idx(&[IMAGES, 2, 1, 3], &[0; 7])), IdxProblem::TrailingBytes { length: 23, expected: 22 });
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let found = idx(&[LABELS, 2, 1, 3], &[0; 6]);
        assert_eq!(problem(&found), IdxProblem::Magic { found: LABELS, expected: IMAGES });
        let found = idx(&[IMAGES, 3, 1, 3], &[0; 9]);
        assert_eq!(problem(&found), IdxProblem::Dimension { what: "samples", found: 3, expected: 2 });
        let found = idx(&[IMAGES, 2, 1, u32::MAX], &[0; 6]);
        assert_eq!(problem(&found), IdxProblem::Dimension { what: "columns", found: u32::MAX, expected: 3 });
    }

    #[test]
    fn a_label_beyond_the_classes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        std::fs::write(&path, idx(&[LABELS, 3], &[0, 9, 10])).unwrap();
        let error = Labels::open("mnist", &path, 3, 10).unwrap_err();
        assert!(error.to_string().contains("the label of sample 2 is 10, but there are 10 classes"), "{error}");
    }

    #[test]
    fn a_missing_file_says_how_to_get_it() {
        let error = Labels::open("mnist", Path::new("/nowhere/labels"), 3, 10).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/labels is missing; run `peerless data pull mnist`");
    }
}
