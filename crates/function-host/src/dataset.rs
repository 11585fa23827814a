//! A dataset that the function's machine does not have: of its files, the samples of a unit are read from
//! where the task says.

use std::collections::BTreeMap;
use std::ops::Range;

use peerless_protocol::function::{Failure, FailureKind, Remote};
use peerless_training::datasets::{ByteRanges, DatasetError};

use crate::remote::Client;

/// The files as one task names them: its rights to them end with it.
#[derive(Debug)]
pub(crate) struct RemoteFiles {
    client: Client,
    files: BTreeMap<String, Remote>,
}

impl RemoteFiles {
    pub(crate) fn new(client: Client, files: BTreeMap<String, Remote>) -> Self {
        Self { client, files }
    }
}

impl ByteRanges for RemoteFiles {
    fn read(&mut self, file: &str, length: u64, offsets: &[u64], bytes: &mut [u8]) -> Result<(), DatasetError> {
        let failed = |Failure { kind, message }| DatasetError::Elsewhere {
            file: file.to_owned(),
            reason: message,
            retryable: kind == FailureKind::Environment,
        };
        let remote = self.files.get(file).ok_or_else(|| {
            let reason = "it is not on this machine, and the task does not say where else".to_owned();
            DatasetError::Elsewhere { file: file.to_owned(), reason, retryable: false }
        })?;
        let size = (bytes.len() / offsets.len().max(1)) as u64;
        self.client.read_ranges(remote, length, &joined(offsets, size), bytes).map_err(failed)
    }
}

/// Ranges of pieces of `size` bytes, neighbours as one.
fn joined(offsets: &[u64], size: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(offsets.len());
    for &offset in offsets {
        match ranges.last_mut() {
            Some(last) if last.end == offset => last.end = offset + size,
            _ => ranges.push(offset..offset + size),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_the_order_is_kept() {
        assert_eq!(joined(&[16, 26, 36, 6, 56], 10), [16..46, 6..16, 56..66]);
        assert_eq!(joined(&[], 10), []);
    }

    #[test]
    fn a_file_that_the_task_does_not_name_is_not_retried() {
        let mut files = RemoteFiles::new(Client::new(), BTreeMap::new());
        let error = files.read("labels", 10, &[0], &mut [0]).unwrap_err();
        assert!(matches!(error, DatasetError::Elsewhere { retryable: false, .. }), "{error}");
    }
}
