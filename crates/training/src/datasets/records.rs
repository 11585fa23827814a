//! Files of records, the format of CIFAR-10's binary version: a label of one byte and the pixels behind it, channel
//! after channel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ByteRanges, DatasetError, FileDefinition, FileProblem};

/// Where the samples of one part of a dataset are: the same number in each of its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records {
    pub dataset: &'static str,
    pub files: &'static [FileDefinition],
    pub samples: u32,
    /// Bytes of a sample's pixels.
    pub size: usize,
    pub classes: usize,
}

impl Records {
    /// Pixels and labels of these samples. Each file is asked once, for what it has of them.
    pub(super) fn read(
        &self,
        ranges: &mut dyn ByteRanges,
        samples: &[u32],
    ) -> Result<(Vec<u8>, Vec<u8>), DatasetError> {
        let (size, record) = (self.size, self.size + 1);
        let per_file = self.samples.div_ceil(self.files.len().max(1) as u32).max(1);
        let (mut pixels, mut labels) = (vec![0; samples.len() * size], vec![0; samples.len()]);
        self.check(samples)?;
        for (number, file) in (0..).zip(self.files) {
            let places: Vec<usize> = (0..samples.len()).filter(|&place| samples[place] / per_file == number).collect();
            if places.is_empty() {
                continue;
            }
            let offset = |&place: &usize| u64::from(samples[place] % per_file) * record as u64;
            let offsets: Vec<u64> = places.iter().map(offset).collect();
            let mut records = vec![0; places.len() * record];
            ranges.read(file.name, file.bytes, &offsets, &mut records)?;
            for (place, record) in places.into_iter().zip(records.chunks_exact(record)) {
                labels[place] = record[0];
                pixels[place * size..][..size].copy_from_slice(&record[1..]);
                self.check_label(file, samples[place], record[0])?;
            }
        }
        Ok((pixels, labels))
    }

    fn check(&self, samples: &[u32]) -> Result<(), DatasetError> {
        let Some(&sample) = samples.iter().find(|&&sample| sample >= self.samples) else { return Ok(()) };
        let path = PathBuf::from(self.files.last().map_or(self.dataset, |file| file.name));
        Err(DatasetError::NoSample { path, sample, samples: self.samples })
    }

    fn check_label(&self, file: &FileDefinition, sample: u32, label: u8) -> Result<(), DatasetError> {
        if usize::from(label) < self.classes {
            return Ok(());
        }
        let problem = FileProblem::Label { sample, label, classes: self.classes };
        Err(damaged(self.dataset, Path::new(file.name), problem))
    }
}

/// Files of this machine.
#[derive(Debug)]
pub(super) struct LocalFiles {
    files: Vec<(&'static str, PathBuf, File)>,
}

impl LocalFiles {
    /// Opens files in `folder` and checks their lengths.
    pub(super) fn open(
        dataset: &'static str,
        folder: &Path,
        files: &'static [FileDefinition],
    ) -> Result<Self, DatasetError> {
        let open = |file: &'static FileDefinition| {
            let path = folder.join(file.name);
            let opened = File::open(&path).map_err(|error| DatasetError::opening(dataset, &path, error))?;
            let length = opened.metadata().map_err(|error| DatasetError::io("read", &path, error))?.len();
            match (length, file.bytes) {
                (length, expected) if length < expected => {
                    Err(damaged(dataset, &path, FileProblem::Truncated { length, expected }))
                }
                (length, expected) if length > expected => {
                    Err(damaged(dataset, &path, FileProblem::TrailingBytes { length, expected }))
                }
                _ => Ok((file.name, path, opened)),
            }
        };
        Ok(Self { files: files.iter().map(open).collect::<Result<_, _>>()? })
    }
}

impl ByteRanges for LocalFiles {
    fn read(&mut self, name: &str, _length: u64, offsets: &[u64], bytes: &mut [u8]) -> Result<(), DatasetError> {
        let Some((_, path, file)) = self.files.iter().find(|(known, ..)| *known == name) else {
            let reason = "the dataset has no such file".to_owned();
            return Err(DatasetError::Elsewhere { file: name.to_owned(), reason, retryable: false });
        };
        let size = bytes.len() / offsets.len().max(1);
        for (&offset, piece) in offsets.iter().zip(bytes.chunks_exact_mut(size.max(1))) {
            file.read_exact_at(piece, offset).map_err(|error| DatasetError::io("read", path, error))?;
        }
        Ok(())
    }
}

fn damaged(dataset: &str, path: &Path, problem: FileProblem) -> DatasetError {
    DatasetError::Damaged { dataset: dataset.to_owned(), path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Two files of two samples with three pixels each.
    static FILES: [FileDefinition; 2] = [
        FileDefinition { name: "a", alias: "a", bytes: 8, sha256: "" },
        FileDefinition { name: "b", alias: "b", bytes: 8, sha256: "" },
    ];
    const RECORDS: Records = Records { dataset: "tiny", files: &FILES, samples: 4, size: 3, classes: 2 };

    fn folder(a: &[u8], b: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), a).unwrap();
        fs::write(folder.path().join("b"), b).unwrap();
        folder
    }

    #[test]
    fn samples_come_in_the_order_asked_for_from_whichever_file_has_them() {
        let folder = folder(&[1, 10, 11, 12, 0, 20, 21, 22], &[0, 30, 31, 32, 1, 40, 41, 42]);
        let mut files = LocalFiles::open("tiny", folder.path(), &FILES).unwrap();
        let (pixels, labels) = RECORDS.read(&mut files, &[3, 0, 2, 0]).unwrap();
        assert_eq!(pixels, [40, 41, 42, 10, 11, 12, 30, 31, 32, 10, 11, 12]);
        assert_eq!(labels, [1, 1, 0, 1]);
        assert!(matches!(RECORDS.read(&mut files, &[4]), Err(DatasetError::NoSample { sample: 4, samples: 4, .. })));
    }

    #[test]
    fn files_of_another_length_are_refused_with_it() {
        let problem = |a: &[u8]| match LocalFiles::open("tiny", folder(a, &[0; 8]).path(), &FILES).unwrap_err() {
            DatasetError::Damaged { problem, .. } => problem,
            other => panic!("{other}"),
        };
        assert_eq!(problem(&[0; 7]), FileProblem::Truncated { length: 7, expected: 8 });
        assert_eq!(problem(&[0; 9]), FileProblem::TrailingBytes { length: 9, expected: 8 });
    }

    #[test]
    fn a_label_beyond_the_classes_is_refused() {
        let folder = folder(&[0; 8], &[0, 0, 0, 0, 2, 0, 0, 0]);
        let mut files = LocalFiles::open("tiny", folder.path(), &FILES).unwrap();
        let error = RECORDS.read(&mut files, &[1, 3]).unwrap_err();
        assert!(error.to_string().contains("the label of sample 3 is 2, but there are 2 classes"), "{error}");
    }
}
