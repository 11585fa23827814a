//! Signatures that were checked already.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use peerless_protocol::{Digest, SignedContribution, Verify};

/// Answers that are remembered; more than the contributions of a few rounds of many peers.
const REMEMBERED: usize = 16_384;

/// Checks each signature once, however many peers ask. Checking is a pure function of the bytes, so
/// that the answer is the same; and it takes most of the time of a simulation otherwise.
pub(crate) fn remembering() -> Verify {
    let known = Mutex::new(BTreeMap::new());
    Arc::new(move |signed| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > REMEMBERED {
            known.clear();
        }
        known.entry(fingerprint(signed)).or_insert_with(|| signed.verify()).clone()
    })
}

fn fingerprint(signed: &SignedContribution) -> Digest {
    let mut bytes = signed.contribution.signed_bytes();
    bytes.extend(signed.signature());
    Digest::of(&bytes)
}
