//! A dataset that the function's machine does not have: of its files, the samples of a unit are read from
//! where the task says.

use std::collections::BTreeMap;
use std::ops::Range;

use peerless_protocol::function::{Failure, FailureKind, Remote};
use peerless_training::datasets::{ByteRanges, DatasetError};

use crate::remote::Client;

/// Bytes between two pieces that are rather read than asked around, where every range is a request: a request to a
/// bucket takes, and costs, as much as some hundred kB do.
const GAP: u64 = 64 << 10;

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
        let size = bytes.len() / offsets.len().max(1);
        // A gateway takes many ranges in one request.
        let gap = if remote.token.is_some() { 0 } else { GAP };
        let (ranges, places) = joined(offsets, size as u64, gap);
        let mut read = vec![0; ranges.iter().map(|range| (range.end - range.start) as usize).sum()];
        self.client.read_ranges(remote, length, &ranges, &mut read).map_err(failed)?;
        for (piece, place) in bytes.chunks_exact_mut(size.max(1)).zip(places) {
            piece.copy_from_slice(&read[place..place + size]);
        }
        Ok(())
    }
}

/// Ascending ranges that have all pieces of `size` bytes, those with at most `gap` bytes in between as one, and where
/// each piece is in what they hold together.
fn joined(offsets: &[u64], size: u64, gap: u64) -> (Vec<Range<u64>>, Vec<usize>) {
    let mut order: Vec<usize> = (0..offsets.len()).collect();
    order.sort_unstable_by_key(|&piece| offsets[piece]);
    let (mut ranges, mut places) = (Vec::<Range<u64>>::with_capacity(offsets.len()), vec![0; offsets.len()]);
    let mut held = 0;
    for piece in order {
        let (start, end) = (offsets[piece], offsets[piece] + size);
        match ranges.last_mut().filter(|last| start <= last.end + gap) {
            Some(last) => {
                held += end.saturating_sub(last.end);
                last.end = last.end.max(end);
            }
            None => {
                held += size;
                ranges.push(start..end);
            }
        }
        places[piece] = (held - size) as usize;
    }
    (ranges, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_every_piece_is_found_in_it() {
        assert_eq!(joined(&[26, 16, 36, 56, 16], 10, 0), (vec![16..46, 56..66], vec![10, 0, 20, 30, 0]));
        assert_eq!(joined(&[26, 16, 36, 56, 16], 10, 9).0, [16..46, 56..66]);
        let (ranges, places) = joined(&[26, 16, 36, 56, 16, 99], 10, 10);
        assert_eq!(
            (ranges.as_slice(), places.as_slice()),
            ([16..66, 99..109].as_slice(), [10, 0, 20, 40, 0, 50].as_slice())
        );
        assert_eq!(joined(&[], 10, 0), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_the_task_does_not_name_is_not_retried() {
        let mut files = RemoteFiles::new(Client::new(), BTreeMap::new());
        let error = files.read("labels", 10, &[0], &mut [0]).unwrap_err();
        assert!(matches!(error, DatasetError::Elsewhere { retryable: false, .. }), "{error}");
    }
}
