//! Flat vectors in files: raw little-endian f32.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;

use peerless_protocol::Digest;
use peerless_protocol::function::{Failure, FailureKind};

use crate::failure::{failure, io_kind};

/// Bytes that are converted together: large enough for few system calls, small enough for the cache.
const CHUNK: usize = 64 * 1024;

/// Reads `elements` elements from byte `offset` on. A plain read and not a mapping: a file that shrinks
/// meanwhile gives an error instead of killing the process with SIGBUS.
pub(crate) fn read(path: &Path, offset: u64, elements: u64) -> Result<Vec<f32>, Failure> {
    let name = path.display();
    let failed = |error: io::Error| failure(io_kind(&error), format!("cannot read parameters {name}: {error}"));
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let end = elements.checked_mul(4).and_then(|bytes| bytes.checked_add(offset));
    if end.is_none_or(|end| end > length) {
        let what = format!(
            "parameters {name} are truncated: {elements} elements from byte {offset} on, but the file has {length} bytes"
        );
        return Err(failure(FailureKind::Input, what));
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    read_elements(file, elements as usize).map_err(failed)
}

fn read_elements(mut source: impl Read, elements: usize) -> io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(elements);
    let mut buffer = vec![0; CHUNK.min(elements * 4)];
    while values.len() < elements {
        let bytes = buffer.len().min((elements - values.len()) * 4);
        source.read_exact(&mut buffer[..bytes])?;
        let (words, _) = buffer[..bytes].as_chunks::<4>();
        values.extend(words.iter().map(|&word| f32::from_le_bytes(word)));
    }
    Ok(values)
}

/// Writes a flat vector so that it appears under its name only when it is complete, and returns the
/// digest of its bytes. Not flushed to the disk: what a function wrote is worth nothing after a crash
/// of the machine.
pub(crate) fn write(path: &Path, values: &[f32]) -> Result<Digest, Failure> {
    let partial = partial(path);
    let written = write_elements(&partial, values).and_then(|digest| fs::rename(&partial, path).map(|()| digest));
    written.map_err(|error| {
        // What could not be created cannot be removed either.
        let _ = fs::remove_file(&partial);
        failure(FailureKind::Environment, format!("cannot write {}: {error}", path.display()))
    })
}

/// The name has the process in it: a retry may start while the attempt before it is still being killed.
fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{}.partial", process::id()));
    name.into()
}

fn write_elements(path: &Path, values: &[f32]) -> io::Result<Digest> {
    let mut file = File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut words = vec![0_u32; (CHUNK / 4).min(values.len())];
    for values in values.chunks(CHUNK / 4) {
        let words = &mut words[..values.len()];
        words.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_bits().to_le());
        let bytes = bytemuck::cast_slice(words);
        hasher.update(bytes);
        file.write_all(bytes)?;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_from_any_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let values: Vec<f32> = (0..40_000).map(|value| value as f32 * 0.5).collect();
        let digest = write(&path, &values).unwrap();
        assert_eq!(digest, Digest::of(&fs::read(&path).unwrap()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        for first in [0, 1, 39_999] {
            let elements = (values.len() - first) as u64;
            assert_eq!(read(&path, first as u64 * 4, elements).unwrap(), values[first..]);
        }
    }

    #[test]
    fn a_tensor_that_ends_behind_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        write(&path, &[1.0; 10]).unwrap();
        for offset in [4, 40, u64::MAX - 8, u64::MAX] {
            let error = read(&path, offset, 10).unwrap_err();
            assert_eq!(error.kind, FailureKind::Input);
            assert!(error.message.contains("truncated"), "{}", error.message);
        }
    }
}
