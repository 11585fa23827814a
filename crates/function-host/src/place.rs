//! Flat vectors wherever a task says they are.

use std::path::PathBuf;

use bytemuck::{cast_slice, cast_slice_mut};
use peerless_protocol::Digest;
use peerless_protocol::function::{Failure, FailureKind, Place, Remote, TensorRef};

use crate::cache::Cache;
use crate::failure::failure;
use crate::remote::Client;
use crate::tensor_file;

/// Reads and writes vectors, and keeps the last one that came over the network: several units of a
/// round are computed from it.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Made when the first task needs it.
    client: Option<Client>,
    #[cfg(feature = "redis")]
    database: crate::redis::Database,
    kept: Option<(Digest, Vec<f32>)>,
    /// Where to open the cache when the first vector comes over the network.
    cache_dir: Option<PathBuf>,
    cache: Option<Cache>,
}

impl Places {
    /// With a folder to keep vectors in.
    pub(crate) fn new(cache_dir: Option<PathBuf>) -> Self {
        Self { cache_dir, ..Self::default() }
    }

    /// Reads a tensor, which must have `elements` elements, and hands it to `use_it`.
    pub(crate) fn with<T>(
        &mut self,
        tensor: &TensorRef,
        elements: u64,
        use_it: impl FnOnce(&[f32]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match &tensor.place {
            Place::Path(path) => use_it(&tensor_file::read(path, tensor.offset, checked(tensor, elements)?)?),
            Place::Remote(remote) => {
                let kept = self.kept.take().filter(|(digest, _)| Some(*digest) == tensor.digest);
                let kept = match kept {
                    Some(kept) => kept,
                    None => self.fetch(tensor, remote, checked(tensor, elements)?)?,
                };
                use_it(&self.kept.insert(kept).1)
            }
        }
    }

    fn fetch(&mut self, tensor: &TensorRef, remote: &Remote, elements: u64) -> Result<(Digest, Vec<f32>), Failure> {
        let address = remote.address();
        let Some(expected) = tensor.digest else {
            return Err(failure(FailureKind::Unsupported, format!("parameters at {address} have no digest")));
        };
        let mut values = vec![0_f32; elements as usize];
        if let Some(folder) = self.cache_dir.take() {
            self.cache = Cache::open(&folder);
        }
        let client = self.client.get_or_insert_with(Client::new);
        let download = |values: &mut [f32]| {
            let bytes: &mut [u8] = cast_slice_mut(values);
            client.read(remote, tensor.offset, bytes)?;
            let found = Digest::of(bytes);
            if found == expected {
                return Ok(());
            }
            // Damaged on the way, most likely.
            let what = format!("parameters at {address} have digest {found} instead of {expected}");
            Err(failure(FailureKind::Environment, what))
        };
        match &self.cache {
            Some(cache) => cache.get(expected, &mut values, download)?,
            None => download(&mut values)?,
        }
        if cfg!(target_endian = "big") {
            values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
        }
        Ok((expected, values))
    }

    /// Writes a flat vector so that nobody sees half of it, and returns the digest of its bytes.
    pub(crate) fn write(&mut self, place: &Place, values: &[f32]) -> Result<Digest, Failure> {
        match place {
            Place::Path(path) => tensor_file::write(path, values),
            Place::Remote(remote) => {
                let bytes: Vec<u8> = if cfg!(target_endian = "big") {
                    values.iter().flat_map(|value| value.to_le_bytes()).collect()
                } else {
                    cast_slice(values).to_vec()
                };
                self.put(remote, &bytes)?;
                Ok(Digest(*blake3::hash(&bytes).as_bytes()))
            }
        }
    }

    fn put(&mut self, remote: &Remote, bytes: &[u8]) -> Result<(), Failure> {
        #[cfg(feature = "redis")]
        if crate::redis::is_key(remote) {
            return self.database.write(remote, bytes);
        }
        self.client().write(remote, bytes)
    }

    /// Requests to read from the network since this was asked last; `None` if there cannot have been one.
    pub(crate) fn reads(&self) -> Option<u32> {
        self.client.as_ref().map(Client::take_reads)
    }

    /// The client, whose copies share connections.
    pub(crate) fn client(&mut self) -> &Client {
        self.client.get_or_insert_with(Client::new)
    }
}

/// The number of elements, which is that of the model.
fn checked(tensor: &TensorRef, elements: u64) -> Result<u64, Failure> {
    if tensor.elements == elements {
        return Ok(elements);
    }
    let (place, given) = (&tensor.place, tensor.elements);
    let what = format!("parameters {place} have {given} elements, but the model has {elements}");
    Err(failure(FailureKind::Input, what))
}
