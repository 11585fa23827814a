//! One state digest per round across all peers, and it is the one of the serial run.
//!
//! Why: it is what Peerless promises. Failures leave no trace in the model, two peers never hold
//! different models, and neither differs from a run in which nothing failed. It follows from fixed work,
//! exact sums and exact covers, and so it fails if any of them does.

use peerless_protocol::StateRef;

use crate::model::Reference;

/// Compares a state that a peer has come to hold with the serial run's.
pub(crate) fn check_state(reference: &Reference, state: StateRef) -> Result<(), String> {
    match reference.digest(state.round) {
        Some(serial) if serial == state.digest => Ok(()),
        Some(serial) => {
            let (found, expected) = (state.digest.short(), serial.short());
            Err(format!("the state of round {} is {found}, but {expected} in the serial run", state.round))
        }
        None => Err(format!("round {} is beyond the end of the run", state.round)),
    }
}
