//! What must be equal on all peers besides the tensors themselves.

use peerless_aggregation::{Decisions, FixedPoint};
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RunId};

/// Whether the optimizer changes a tensor of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Changed by the optimizer.
    Parameter,
    /// Not optimised; replaced by the mean of what the units report (batch-norm statistics).
    Buffer,
}

/// One tensor of the model inside the flat vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutEntry {
    /// Dotted path as in the model's code, such as `conv1.weight`.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<u32>,
    /// Index of the first element in the flat vector.
    pub offset: u64,
    /// Parameter or buffer.
    pub role: Role,
}

impl LayoutEntry {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1_u64, |product, &side| product.saturating_mul(u64::from(side)))
    }
}

/// Where each tensor of the model lies in the one flat f32 vector. All parameters come first, all
/// buffers after them, without gaps, so that the optimizer works on one slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The tensors in order of their offsets.
    pub entries: Vec<LayoutEntry>,
}

impl Layout {
    /// Elements of the flat vector.
    pub fn elements(&self) -> u64 {
        self.entries.iter().map(LayoutEntry::elements).fold(0, u64::saturating_add)
    }

    /// Elements that the optimizer changes; they come first in the flat vector.
    pub fn parameters(&self) -> u64 {
        let parameters = self.entries.iter().filter(|entry| entry.role == Role::Parameter);
        parameters.map(LayoutEntry::elements).fold(0, u64::saturating_add)
    }

    /// Whether offsets are without gaps or overlaps and parameters precede buffers.
    pub fn is_valid(&self) -> bool {
        let mut next = 0_u64;
        let mut role = Role::Parameter;
        self.entries.iter().all(|entry| {
            let follows = entry.offset == next && !(role == Role::Buffer && entry.role == Role::Parameter);
            next = next.saturating_add(entry.elements());
            role = entry.role;
            follows
        })
    }
}

/// Exact sums over samples: integers, so that any grouping gives the same totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Samples seen.
    pub samples: u64,
    /// Samples whose predicted class was right.
    pub correct: u64,
    /// Sum of the samples' losses in steps of 2^-40 ([`FixedPoint::LOSS`], whatever grid gradients
    /// are on).
    pub loss_sum: i64,
}

impl Tally {
    /// The sum of both, or `None` when a total does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            samples: self.samples.checked_add(other.samples)?,
            correct: self.correct.checked_add(other.correct)?,
            loss_sum: self.loss_sum.checked_add(other.loss_sum)?,
        })
    }

    /// Mean loss per sample; NaN without samples. For people: decisions use the exact integers.
    pub fn mean_loss(&self) -> f64 {
        FixedPoint::LOSS.to_f64(self.loss_sum) / self.samples as f64
    }

    /// Fraction of samples predicted right; NaN without samples.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

/// The result of an evaluation of the whole test set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The state that was evaluated.
    pub round: u64,
    /// Totals over the test set.
    pub tally: Tally,
}

/// Why a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinishReason {
    /// All rounds of the spec are done.
    Rounds,
    /// An evaluation reached the accuracy asked for.
    Accuracy,
    /// The loss on the test set stopped falling.
    EarlyStopping,
}

/// The part of a state that is not tensors. Encoded in front of them and covered by the state digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateHeader {
    /// The run that the state belongs to.
    pub run: RunId,
    /// Protocol rounds applied: the state that round `round` starts from.
    pub round: u64,
    /// Optimizer steps applied.
    pub steps: u64,
    /// What schedules and early stopping must remember.
    pub decisions: Decisions,
    /// Totals over the training samples of the last round.
    pub training: Tally,
    /// The newest evaluation.
    pub evaluation: Option<Evaluation>,
    /// Set when the run is over; such a state has no next round.
    pub finished: Option<FinishReason>,
    /// Shapes and places of the model's tensors.
    pub layout: Layout,
}

/// A state by number and content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StateRef {
    /// Protocol rounds applied.
    pub round: u64,
    /// Digest of the state's canonical encoding.
    pub digest: Digest,
}
