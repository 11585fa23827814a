//! The safetensors header of a state: which tensor lies where.
//!
//! The crate's own writer is not used because it flushes nothing and makes a temporary file of its own.
//! The tensors of a state lie in memory as they lie in the file, so writing one is a header and then
//! the vectors as they are.

use std::collections::HashMap;
use std::io::Read;

use peerless_protocol::{Layout, Role};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// Longest header that is read; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors of a file: the model's, and so many optimizer slots for each parameter.
pub(crate) struct Tensors<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) slots: usize,
}

impl Tensors<'_> {
    /// Names, shapes and places in the order of places. The layout has been checked, so nothing overflows.
    fn infos(&self) -> Vec<(String, TensorInfo)> {
        let model = self.layout.entries.iter().map(|entry| (entry, entry.name.clone(), 0));
        let slots = (0..self.slots).flat_map(|slot| {
            let start = self.layout.elements() + slot as u64 * self.layout.parameters();
            let parameters = self.layout.entries.iter().filter(|entry| entry.role == Role::Parameter);
            parameters.map(move |entry| (entry, format!("optimizer.slot{slot}.{}", entry.name), start))
        });
        let infos = model.chain(slots).map(|(entry, name, start)| {
            let first = 4 * (start + entry.offset) as usize;
            let info = TensorInfo {
                dtype: Dtype::F32,
                shape: entry.shape.iter().map(|&side| side as usize).collect(),
                data_offsets: (first, first + 4 * entry.elements() as usize),
            };
            (name, info)
        });
        infos.collect()
    }

    fn bytes(&self) -> u64 {
        4 * (self.layout.elements() + self.slots as u64 * self.layout.parameters())
    }
}

/// Length and JSON of the header, padded with spaces to 8 bytes as the format asks for.
pub(crate) fn encode(metadata: Vec<(&'static str, String)>, tensors: &Tensors<'_>) -> Result<Vec<u8>, String> {
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    let header = Metadata::new(Some(metadata), tensors.infos()).map_err(|error| error.to_string())?;
    let mut json = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut start = (json.len() as u64).to_le_bytes().to_vec();
    start.append(&mut json);
    Ok(start)
}

/// A header as read.
pub(crate) struct Found {
    header: Metadata,
    tensor_bytes: u64,
}

/// Reads the header of a file of `size` bytes; the next byte read is the first tensor's.
pub(crate) fn decode(file: &mut impl Read, size: u64) -> Result<Found, String> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|error| error.to_string())?;
    let length = u64::from_le_bytes(length);
    let tensor_bytes = size.checked_sub(8).and_then(|rest| rest.checked_sub(length));
    let Some(tensor_bytes) = tensor_bytes.filter(|_| length <= MAX_HEADER_BYTES) else {
        return Err(format!("its header claims {length} bytes of a file of {size}"));
    };
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(|error| error.to_string())?;
    let header = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    Ok(Found { header, tensor_bytes })
}

impl Found {
    /// A text of the metadata.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Checks that the file has these tensors at their places and nothing else.
    pub(crate) fn expect(&self, tensors: &Tensors<'_>) -> Result<(), String> {
        if self.tensor_bytes != tensors.bytes() {
            let (found, expected) = (self.tensor_bytes, tensors.bytes());
            return Err(format!("its tensors have {found} bytes instead of {expected}"));
        }
        let infos = tensors.infos();
        if self.header.offset_keys().len() != infos.len() {
            return Err("it has other tensors than its layout".into());
        }
        for (name, info) in infos {
            let found = self.header.info(&name);
            let same = found.is_some_and(|found| {
                (found.dtype, &found.shape, found.data_offsets) == (info.dtype, &info.shape, info.data_offsets)
            });
            if !same {
                return Err(format!("tensor {name:?} is not where its layout puts it"));
            }
        }
        Ok(())
    }
}
