//! IDX files, the format of MNIST: a big-endian header (magic number, then the size of each
//! dimension) and unsigned bytes behind it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ByteRanges, DatasetError, FileDefinition, FileProblem};

/// Unsigned bytes (0x08) in three dimensions.
const IMAGES: u32 = 0x0803;
/// Unsigned bytes (0x08) in one dimension.
const LABELS: u32 = 0x0801;

/// Length of the header in front of so many dimensions, in bytes.
const fn header_bytes(dimensions: u64) -> u64 {
    4 + 4 * dimensions
}

/// An opened file of images.
#[derive(Debug)]
pub(super) struct Images {
    path: PathBuf,
    file: File,
    samples: u32,
}

impl Images {
    /// Opens a file that must hold `samples` images of `side` rows and columns.
    pub(super) fn open(dataset: &str, path: &Path, samples: u32, side: [usize; 2]) -> Result<Self, DatasetError> {
        let dimensions = [("samples", samples), ("rows", side[0] as u32), ("columns", side[1] as u32)];
        let file = open(dataset, path, IMAGES, &dimensions)?;
        Ok(Self { path: path.to_owned(), file, samples })
    }

    /// The pixels of these samples, `size` bytes each, one sample behind the other.
    pub(super) fn read(&self, samples: &[u32], size: usize) -> Result<Vec<u8>, DatasetError> {
        let mut pixels = vec![0; samples.len() * size];
        for (&sample, pixels) in samples.iter().zip(pixels.chunks_exact_mut(size)) {
            check_sample(&self.path, sample, self.samples)?;
            let offset = header_bytes(3) + u64::from(sample) * size as u64;
            self.file.read_exact_at(pixels, offset).map_err(|error| DatasetError::io("read", &self.path, error))?;
        }
        Ok(pixels)
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
        let mut file = open(dataset, path, LABELS, &[("samples", samples)])?;
        let mut labels = vec![0; samples as usize];
        file.read_exact(&mut labels).map_err(|error| DatasetError::io("read", path, error))?;
        let found = labels.iter().zip(0..).find(|&(&label, _)| usize::from(label) >= classes);
        if let Some((&label, sample)) = found {
            return Err(damaged(dataset, path, FileProblem::Label { sample, label, classes }));
        }
        Ok(Self { path: path.to_owned(), labels })
    }

    pub(super) fn read(&self, samples: &[u32]) -> Result<Vec<u8>, DatasetError> {
        let label = |&sample: &u32| {
            let label = self.labels.get(sample as usize).copied();
            label.ok_or_else(|| no_sample(&self.path, sample, self.labels.len() as u32))
        };
        samples.iter().map(label).collect()
    }
}

/// Files of images and labels that are elsewhere. Only what samples take is read: neither headers, which the
/// dataset's definition determines, nor other labels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere {
    pub dataset: &'static str,
    pub images: &'static FileDefinition,
    pub labels: &'static FileDefinition,
    pub samples: u32,
    pub classes: usize,
}

impl Elsewhere {
    /// Pixels and labels of these samples.
    pub(super) fn read(
        &self,
        ranges: &mut dyn ByteRanges,
        samples: &[u32],
        size: usize,
    ) -> Result<(Vec<u8>, Vec<u8>), DatasetError> {
        for &sample in samples {
            check_sample(Path::new(self.images.name), sample, self.samples)?;
        }
        let pixels = read_elements(ranges, self.images, header_bytes(3), samples, size)?;
        let labels = read_elements(ranges, self.labels, header_bytes(1), samples, 1)?;
        if let Some((&label, &sample)) =
            labels.iter().zip(samples).find(|&(&label, _)| usize::from(label) >= self.classes)
        {
            let problem = FileProblem::Label { sample, label, classes: self.classes };
            return Err(damaged(self.dataset, Path::new(self.labels.name), problem));
        }
        Ok((pixels, labels))
    }
}

/// Elements of `size` bytes behind a header.
fn read_elements(
    ranges: &mut dyn ByteRanges,
    file: &FileDefinition,
    header: u64,
    elements: &[u32],
    size: usize,
) -> Result<Vec<u8>, DatasetError> {
    let offsets: Vec<u64> = elements.iter().map(|&element| header + u64::from(element) * size as u64).collect();
    let mut bytes = vec![0; elements.len() * size];
    ranges.read(file.name, file.bytes, &offsets, &mut bytes)?;
    Ok(bytes)
}

fn check_sample(path: &Path, sample: u32, samples: u32) -> Result<(), DatasetError> {
    if sample < samples { Ok(()) } else { Err(no_sample(path, sample, samples)) }
}

/// Opens a file, checks header and length, and leaves it at its first sample.
fn open(dataset: &str, path: &Path, magic: u32, dimensions: &[(&'static str, u32)]) -> Result<File, DatasetError> {
    let mut file = File::open(path).map_err(|error| DatasetError::opening(dataset, path, error))?;
    let read = |error| DatasetError::io("read", path, error);
    let length = file.metadata().map_err(read)?.len();
    let mut header = vec![0; header_bytes(dimensions.len() as u64) as usize];
    if length < header.len() as u64 {
        let problem = FileProblem::NoHeader { length, header: header.len() as u64 };
        return Err(damaged(dataset, path, problem));
    }
    file.read_exact(&mut header).map_err(read)?;
    check(&header, length, magic, dimensions).map_err(|problem| damaged(dataset, path, problem))?;
    Ok(file)
}

fn check(header: &[u8], length: u64, magic: u32, dimensions: &[(&'static str, u32)]) -> Result<(), FileProblem> {
    let (words, _) = header.as_chunks::<4>();
    let mut words = words.iter().map(|&word| u32::from_be_bytes(word));
    match words.next() {
        Some(found) if found != magic => return Err(FileProblem::Magic { found, expected: magic }),
        _ => {}
    }
    for (&(what, expected), found) in dimensions.iter().zip(words) {
        if found != expected {
            return Err(FileProblem::Dimension { what, found, expected });
        }
    }
    let samples: u64 = dimensions.iter().map(|&(_, size)| u64::from(size)).product();
    let expected = header.len() as u64 + samples;
    match length {
        _ if length < expected => Err(FileProblem::Truncated { length, expected }),
        _ if length > expected => Err(FileProblem::TrailingBytes { length, expected }),
        _ => Ok(()),
    }
}

fn damaged(dataset: &str, path: &Path, problem: FileProblem) -> DatasetError {
    DatasetError::Damaged { dataset: dataset.to_owned(), path: path.to_owned(), problem }
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

    fn problem(content: &[u8]) -> FileProblem {
        match images(content).unwrap_err() {
            DatasetError::Damaged { problem, .. } => problem,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_sample_is_read_from_its_place() {
        let images = images(&idx(&[IMAGES, 2, 1, 3], &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!(images.read(&[1, 0], 3).unwrap(), [4, 5, 6, 1, 2, 3]);
        assert!(matches!(images.read(&[2], 3), Err(DatasetError::NoSample { sample: 2, samples: 2, .. })));
    }

    #[test]
    fn a_truncated_file_is_refused_with_its_length() {
        assert_eq!(problem(&idx(&[IMAGES, 2, 1, 3], &[0; 5])), FileProblem::Truncated { length: 21, expected: 22 });
        assert_eq!(problem(&idx(&[IMAGES, 2], &[])), FileProblem::NoHeader { length: 8, header: 16 });
        assert_eq!(problem(&[]), FileProblem::NoHeader { length: 0, header: 16 });
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(problem(&idx(&[IMAGES, 2, 1, 3], &[0; 7])), FileProblem::TrailingBytes { length: 23, expected: 22 });
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let found = idx(&[LABELS, 2, 1, 3], &[0; 6]);
        assert_eq!(problem(&found), FileProblem::Magic { found: LABELS, expected: IMAGES });
        let found = idx(&[IMAGES, 3, 1, 3], &[0; 9]);
        assert_eq!(problem(&found), FileProblem::Dimension { what: "samples", found: 3, expected: 2 });
        let found = idx(&[IMAGES, 2, 1, u32::MAX], &[0; 6]);
        assert_eq!(problem(&found), FileProblem::Dimension { what: "columns", found: u32::MAX, expected: 3 });
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
