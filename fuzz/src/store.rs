//! Targets of the store: states and payloads from other peers, checkpoints from a disk.

use std::fs;

use peerless_protocol::Digest;
use peerless_store::{Checkpoint, Model, Payload, PayloadFormat, State};

use crate::fixtures;

/// A state from another peer: one that is accepted has exactly these bytes as its encoding.
pub fn state(bytes: &[u8]) {
    let spec = fixtures::spec();
    if let Ok(state) = State::decode(bytes, &spec) {
        assert_eq!(state.encode(), bytes, "the encoding is not canonical");
        assert_eq!(state.digest(), Digest::of(bytes));
    }
}

/// A payload from another peer.
pub fn payload(bytes: &[u8]) {
    let format = PayloadFormat::new(&fixtures::spec(), &fixtures::layout()).expect("the fixture is valid");
    let digest = Digest::of(bytes);
    let copied = Payload::decode(bytes, &format, digest);
    if let Ok(payload) = &copied {
        assert_eq!((payload.as_bytes(), payload.digest()), (bytes, digest));
        assert_eq!(payload.sums().len(), format.elements());
    }
    let mut buffer = format.buffer();
    if buffer.bytes_mut().len() == bytes.len() {
        buffer.bytes_mut().copy_from_slice(bytes);
        assert_eq!(buffer.finish(&format, digest), copied);
    }
}

/// A checkpoint or an export on a disk.
pub fn checkpoint(bytes: &[u8]) {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("round-0000000001.safetensors");
        fs::write(&path, bytes).expect("memory has room");
        if let Ok(checkpoint) = Checkpoint::read(&path) {
            assert_eq!(checkpoint.state.reference(), checkpoint.reference);
            assert!(checkpoint.state.check_lengths(&checkpoint.spec).is_ok());
        }
        if let Ok(model) = Model::read(&path) {
            assert_eq!(model.vector.len() as u64, model.header.layout.elements());
        }
    });
}
