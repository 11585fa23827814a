//! The run spec: everything that decides which model a run trains.

use std::fmt;

use peerless_aggregation::{ConfigError, EarlyStopping, LearningRate, Optimizer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{Digest, RunId};

/// Version of the encoding of [`RunSpec`]; a spec of another version is refused.
pub const SPEC_VERSION: u16 = 1;

/// Most gradient or evaluation units a round may have; bounds every unit set on the wire.
pub const MAX_UNITS: u32 = 16_384;

/// Longest model or dataset name, in bytes.
const MAX_NAME: usize = 64;

/// Largest encoded spec, in bytes; bounds what a joiner accepts from the peer that invited it.
pub const MAX_SPEC_BYTES: usize = 16 * 1024;

/// A dataset by name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSpec {
    /// Name as in `peerless data list`, such as `mnist`.
    pub name: String,
    /// Digest of the decoded files: peers with other bytes refuse to take part.
    pub digest: Digest,
    /// Samples to train on.
    pub train_samples: u32,
    /// Samples to evaluate on.
    pub test_samples: u32,
}

/// When and in which portions the model is evaluated on the whole test set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationSpec {
    /// State r is evaluated when r is a positive multiple of this many rounds; the final state always is.
    pub every_rounds: u64,
    /// Test samples per evaluation unit. Chosen so that an evaluation unit costs about as much as a
    /// gradient unit, since units are dealt out by count.
    pub samples_per_unit: u32,
}

/// Everything that the final state depends on. Two peers with equal specs train the same model;
/// what only changes speed (peers, functions, platforms, time-outs) is not in here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// [`SPEC_VERSION`] of the program that wrote the spec.
    pub version: u16,
    /// Name as in `peerless models`, such as `lenet5`.
    pub model: String,
    /// What the model is trained and evaluated on.
    pub dataset: DatasetSpec,
    /// Seeds initial parameters, the order of samples and every unit's own randomness.
    pub seed: u64,
    /// Gradient units per round: the global batch is this times `samples_per_unit`.
    pub units_per_round: u32,
    /// Training samples per gradient unit.
    pub samples_per_unit: u32,
    /// Rounds after which the run is finished.
    pub rounds: u64,
    /// How the mean gradient changes the parameters.
    pub optimizer: Optimizer,
    /// Step size over the rounds.
    pub learning_rate: LearningRate,
    /// Largest global L2 norm of the mean gradient; a longer gradient is scaled down to it.
    pub clip_norm: Option<f32>,
    /// Fraction bits of the fixed-point grid on which gradients are summed.
    pub fraction_bits: u32,
    /// When the test set is evaluated.
    pub evaluation: EvaluationSpec,
    /// Stop when the loss on the test set no longer falls.
    pub early_stopping: Option<EarlyStopping>,
    /// Stop as soon as an evaluation counts at least this many correct test samples. A count and
    /// not a fraction, so that every peer decides alike.
    pub until_correct: Option<u64>,
}

/// A spec that cannot be run.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SpecError {
    /// The bytes are not an encoded spec.
    #[error("the run spec cannot be decoded: {0}")]
    Malformed(String),
    /// Written by another version of the program.
    #[error(
        "the run spec has version {found}, this program reads version {SPEC_VERSION}; use the version of peerless that started the run"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// A number out of its range.
    #[error("{field} is {value}, but must be {expected}")]
    OutOfRange {
        /// The field's name.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// The optimizer, schedule or early stopping is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl RunSpec {
    /// The run's id: the digest of the encoded spec.
    pub fn id(&self) -> RunId {
        RunId(Digest::of(&self.encode()).0)
    }

    /// Canonical bytes (postcard).
    pub fn encode(&self) -> Vec<u8> {
        // Postcard fails only on types it cannot represent (maps of unknown length), and the spec has none.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Decodes and validates a spec from bytes of any origin.
    pub fn decode(bytes: &[u8]) -> Result<Self, SpecError> {
        let malformed = |what: &dyn fmt::Display| SpecError::Malformed(what.to_string());
        if bytes.len() > MAX_SPEC_BYTES {
            return Err(malformed(&format!("{} bytes, at most {MAX_SPEC_BYTES} are allowed", bytes.len())));
        }
        let (found, _) = postcard::take_from_bytes::<u16>(bytes).map_err(|e| malformed(&e))?;
        if found != SPEC_VERSION {
            return Err(SpecError::Version { found });
        }
        let spec: Self = postcard::from_bytes(bytes).map_err(|e| malformed(&e))?;
        spec.validate()?;
        Ok(spec)
    }

    /// Checks every field; a spec that passes can be run without arithmetic overflow.
    pub fn validate(&self) -> Result<(), SpecError> {
        for (field, name) in [("model", &self.model), ("dataset.name", &self.dataset.name)] {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            ensure(
                field,
                name,
                plain && (1..=MAX_NAME).contains(&name.len()),
                "1 to 64 letters, digits, '-', '_' or '.'",
            )?;
        }
        let dataset = &self.dataset;
        in_range("units_per_round", self.units_per_round, 1, MAX_UNITS)?;
        in_range("samples_per_unit", self.samples_per_unit, 1, dataset.train_samples)?;
        in_range("units_per_round x samples_per_unit", self.samples_per_round(), 1, u64::from(dataset.train_samples))?;
        in_range("rounds", self.rounds, 1, u64::from(u32::MAX))?;
        in_range("evaluation.every_rounds", self.evaluation.every_rounds, 1, u64::MAX)?;
        in_range("evaluation.samples_per_unit", self.evaluation.samples_per_unit, 1, dataset.test_samples)?;
        in_range("the number of evaluation units", self.evaluation_units(), 1, MAX_UNITS)?;
        in_range("fraction_bits", self.fraction_bits, 8, 44)?;
        if let Some(norm) = self.clip_norm {
            ensure("clip_norm", &norm.to_string(), norm.is_finite() && norm > 0.0, "a positive number")?;
        }
        if let Some(correct) = self.until_correct {
            in_range("until_correct", correct, 1, u64::from(dataset.test_samples))?;
        }
        self.optimizer.validate()?;
        self.learning_rate.validate()?;
        self.early_stopping.as_ref().map_or(Ok(()), EarlyStopping::validate)?;
        Ok(())
    }

    /// Training samples per round (the global batch).
    pub fn samples_per_round(&self) -> u64 {
        u64::from(self.units_per_round) * u64::from(self.samples_per_unit)
    }

    /// Rounds per pass over the training set; the samples left over by the last incomplete batch of
    /// an epoch are skipped, and differ from epoch to epoch.
    pub fn rounds_per_epoch(&self) -> u64 {
        u64::from(self.dataset.train_samples) / self.samples_per_round()
    }

    /// Units that one evaluation of the whole test set takes.
    pub fn evaluation_units(&self) -> u32 {
        self.dataset.test_samples.div_ceil(self.evaluation.samples_per_unit)
    }
}

fn in_range<T: PartialOrd + fmt::Display>(field: &'static str, value: T, low: T, high: T) -> Result<(), SpecError> {
    let inside = low <= value && value <= high;
    ensure(field, &value.to_string(), inside, &format!("between {low} and {high}"))
}

fn ensure(field: &'static str, value: &str, valid: bool, expected: &str) -> Result<(), SpecError> {
    if valid {
        return Ok(());
    }
    Err(SpecError::OutOfRange { field, value: value.into(), expected: expected.into() })
}
