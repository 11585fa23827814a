//! Contributions: signed announcements of exact sums.

use std::time::Duration;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Digest, PeerId, RunId};
use crate::shard::PayloadShape;
use crate::spec::RunSpec;
use crate::state::{StateRef, Tally};
use crate::units::{RoundPlan, UnitKind, UnitSet, evaluation_samples};

/// Separates these signatures from any other use of the peer's key.
const SIGNATURE_CONTEXT: &[u8] = b"peerless contribution v2";

/// Longest computing time that a contribution of another peer is believed to have taken; bounds what a
/// lying member can do to deadlines.
const MAX_ELAPSED: Duration = Duration::from_secs(600);

/// An exact sum by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PayloadRef {
    /// BLAKE3 of the encoded sum.
    pub digest: Digest,
    /// Length of the encoded sum in bytes.
    pub bytes: u64,
}

/// "The exact sum of `units` of the round that starts from state `from` is `payload`", or a shard of
/// that sum. Whoever says so has computed the units, or has added up what others computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// The run.
    pub run: RunId,
    /// Who says so.
    pub peer: PeerId,
    /// The state that the units were computed from.
    pub from: StateRef,
    /// The units, at least one.
    pub units: UnitSet,
    /// The part of the flat vector that the sum is about; `None` for all of it.
    pub shard: Option<u32>,
    /// Totals over the samples of the gradient units.
    pub training: Tally,
    /// Totals over the samples of the evaluation units.
    pub evaluation: Tally,
    /// What the units took at the author, from the start of the first to their sum, in microseconds.
    /// Others learn their deadlines from it: a time that does not contain their own waiting. Zero if the
    /// author has only added up.
    pub elapsed_us: u64,
    /// The sum of the gradients, or a shard of it; present exactly if there is a gradient unit.
    pub payload: Option<PayloadRef>,
}

/// A contribution with its author's Ed25519 signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedContribution {
    /// What is announced.
    pub contribution: Contribution,
    signature: (Digest, Digest),
}

/// A contribution that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContributionError {
    /// Of another run.
    #[error("contribution to run {0}, which is not this run")]
    OtherRun(RunId),
    /// Sent by a peer that is not the author.
    #[error("contribution of peer {0} sent by another peer")]
    NotTheSender(PeerId),
    /// The signature does not match author and content.
    #[error("contribution with an invalid signature")]
    Signature,
    /// Units that the round does not have, or none.
    #[error("contribution names units that the round does not have, or none")]
    Units,
    /// A gradient without units or the other way round, or a wrong size.
    #[error("contribution whose payload does not fit its units")]
    Payload,
    /// A part of the flat vector that the round does not have.
    #[error("contribution to shard {0}, which the round does not have")]
    Shard(u32),
    /// Another number of samples than the units have.
    #[error("contribution counts {found} samples, its units have {expected}")]
    Samples {
        /// Samples that the contribution claims.
        found: u64,
        /// Samples that its units consist of.
        expected: u64,
    },
}

impl SignedContribution {
    /// Signs a contribution.
    pub fn sign(contribution: Contribution, key: &SigningKey) -> Self {
        let bytes = key.sign(&contribution.signed_bytes()).to_bytes();
        Self::from_parts(contribution, bytes)
    }

    /// A contribution and its signature as they were kept somewhere; nothing is checked.
    pub fn from_parts(contribution: Contribution, signature: [u8; 64]) -> Self {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        first.copy_from_slice(&signature[..32]);
        second.copy_from_slice(&signature[32..]);
        Self { contribution, signature: (Digest(first), Digest(second)) }
    }

    /// The 64 bytes of the signature.
    pub fn signature(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.signature.0.0);
        bytes[32..].copy_from_slice(&self.signature.1.0);
        bytes
    }

    /// Checks the signature against the author's key.
    pub fn verify(&self) -> Result<(), ContributionError> {
        let key =
            VerifyingKey::from_bytes(self.contribution.peer.as_bytes()).map_err(|_| ContributionError::Signature)?;
        let signature = Signature::from_bytes(&self.signature());
        key.verify_strict(&self.contribution.signed_bytes(), &signature).map_err(|_| ContributionError::Signature)
    }
}

impl Contribution {
    /// The bytes that the author's signature is over.
    pub fn signed_bytes(&self) -> Vec<u8> {
        // Postcard cannot fail on this type: it has no map and no sequence of unknown length.
        postcard::to_extend(self, SIGNATURE_CONTEXT.to_vec()).unwrap_or_default()
    }

    /// What its units took to compute, as far as its author is believed; `None` if it has only added up.
    pub fn computing_time(&self) -> Option<Duration> {
        (self.elapsed_us > 0).then(|| Duration::from_micros(self.elapsed_us).min(MAX_ELAPSED))
    }

    /// Checks everything that can be checked without the payload's bytes.
    pub fn check(&self, spec: &RunSpec, run: RunId, shape: &PayloadShape) -> Result<(), ContributionError> {
        if self.run != run {
            return Err(ContributionError::OtherRun(self.run));
        }
        let plan = RoundPlan::new(spec, self.from.round);
        if self.units.is_empty() || !self.units.is_valid(plan.total()) {
            return Err(ContributionError::Units);
        }
        let shards = plan.shards(shape);
        if let Some(shard) = self.shard.filter(|&shard| shard >= shards) {
            return Err(ContributionError::Shard(shard));
        }
        let has_gradient = self.units.iter().any(|unit| plan.kind(unit) == UnitKind::Gradient);
        if self.payload.map(|payload| payload.bytes) != has_gradient.then(|| shape.bytes(self.shard)) {
            return Err(ContributionError::Payload);
        }
        let (training, evaluation) = expected_samples(spec, &plan, &self.units);
        for (found, expected) in [(self.training.samples, training), (self.evaluation.samples, evaluation)] {
            if found != expected {
                return Err(ContributionError::Samples { found, expected });
            }
        }
        Ok(())
    }
}

/// Training and test samples that `units` consist of.
pub fn expected_samples(spec: &RunSpec, plan: &RoundPlan, units: &UnitSet) -> (u64, u64) {
    units.iter().fold((0, 0), |(training, evaluation), unit| match plan.kind(unit) {
        UnitKind::Gradient => (training + u64::from(spec.samples_per_unit), evaluation),
        UnitKind::Evaluation => {
            let samples = evaluation_samples(spec, unit - plan.gradient_units).len() as u64;
            (training, evaluation + samples)
        }
    })
}
