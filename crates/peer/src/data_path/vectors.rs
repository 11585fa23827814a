//! The vectors that functions compute with, opened and hashed once per state.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use peerless_protocol::Digest;
use tokio::sync::OnceCell;

use super::{DataPathError, Vector};

/// Vectors kept open: that of the round, and of the one before for units that are not given up yet.
const KEPT: usize = 2;

const READ_BYTES: usize = 1 << 20;

/// Where a vector is. States are named after their content, so the same place has the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VectorPlace {
    pub path: PathBuf,
    pub offset: u64,
    pub elements: u64,
}

type Slot = Arc<OnceCell<Vector>>;

/// Recently used vectors. Several units of a round ask for the same one at the same time: one of them
/// reads it, the others wait.
#[derive(Debug, Default)]
pub(super) struct Vectors(Mutex<VecDeque<(VectorPlace, Slot)>>);

impl Vectors {
    pub async fn get(&self, place: VectorPlace) -> Result<Vector, DataPathError> {
        let slot = self.slot(&place);
        slot.get_or_try_init(|| open(place)).await.cloned()
    }

    fn slot(&self, place: &VectorPlace) -> Slot {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = kept.iter().find(|(known, _)| known == place) {
            return Arc::clone(slot);
        }
        kept.truncate(KEPT - 1);
        let slot = Slot::default();
        kept.push_front((place.clone(), Arc::clone(&slot)));
        slot
    }
}

async fn open(place: VectorPlace) -> Result<Vector, DataPathError> {
    let path = place.path.clone();
    let failed = |source| DataPathError::File { action: "read parameters", path, source };
    // A pass over the model: too long for the thread of the event loop.
    let opened = tokio::task::spawn_blocking(move || hash(&place)).await;
    opened.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}

fn hash(VectorPlace { path, offset, elements }: &VectorPlace) -> io::Result<Vector> {
    let file = File::open(path)?;
    let digest = digest_of(&file, *offset, *elements, path)?;
    Ok(Vector { file: Arc::new(file), offset: *offset, elements: *elements, digest })
}

fn digest_of(file: &File, offset: u64, elements: u64, path: &Path) -> io::Result<Digest> {
    let too_large =
        || io::Error::new(io::ErrorKind::InvalidInput, format!("{elements} elements in {}", path.display()));
    let end = elements.checked_mul(4).and_then(|bytes| offset.checked_add(bytes)).ok_or_else(too_large)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut position = offset;
    while position < end {
        let length = usize::try_from(end - position).unwrap_or(READ_BYTES).min(READ_BYTES);
        file.read_exact_at(&mut buffer[..length], position)?;
        hasher.update(&buffer[..length]);
        position += length as u64;
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path, name: &str) -> VectorPlace {
        VectorPlace { path: folder.join(name), offset: 3, elements: 2 }
    }

    #[tokio::test]
    async fn a_vector_is_read_once_and_hashed_without_what_is_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "state");
        std::fs::write(&place.path, b"xxx12345678yyy").unwrap();
        let vectors = Vectors::default();
        let vector = vectors.get(place.clone()).await.unwrap();
        assert_eq!(vector.digest, Digest::of(b"12345678"));
        std::fs::remove_file(&place.path).unwrap();
        let again = vectors.get(place).await.unwrap();
        assert!(Arc::ptr_eq(&vector.file, &again.file), "it was opened twice");
    }

    #[tokio::test]
    async fn a_vector_that_was_not_there_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path(), "state");
        let vectors = Vectors::default();
        assert!(!vectors.get(place.clone()).await.unwrap_err().retryable());
        std::fs::write(&place.path, b"xxx1234567").unwrap();
        assert!(vectors.get(place.clone()).await.is_err(), "a vector that ends early was taken");
        std::fs::write(&place.path, b"xxx12345678").unwrap();
        assert!(vectors.get(place).await.is_ok());
    }

    #[tokio::test]
    async fn only_the_newest_vectors_stay_open() {
        let folder = tempfile::tempdir().unwrap();
        let vectors = Vectors::default();
        let names = ["0", "1", "2"];
        for name in names {
            std::fs::write(place(folder.path(), name).path, b"xxx12345678").unwrap();
            vectors.get(place(folder.path(), name)).await.unwrap();
        }
        let kept: Vec<_> = vectors.0.lock().unwrap().iter().map(|(place, _)| place.path.clone()).collect();
        assert_eq!(kept, [folder.path().join("2"), folder.path().join("1")]);
    }
}
