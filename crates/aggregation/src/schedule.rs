//! The learning rate of a round.

use serde::{Deserialize, Serialize};

use crate::{ConfigError, Decisions, decisions::valid_patience};

/// The learning rate as a function of the round and of the run's [`Decisions`].
///
/// It is `base` times the warm-up factor times the schedule's factor, computed in `f64` and rounded
/// to `f32` once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    /// The rate after warm-up and before the schedule lowers it; above 0.
    pub base: f32,
    /// Rounds of linear warm-up (Goyal et al., arXiv 1706.02677, section 2.2): round r < w trains at
    /// `(r + 1) / w` of the rate. 0 turns it off.
    pub warm_up_rounds: u64,
    /// How the rate falls.
    pub schedule: Schedule,
}

/// How the learning rate falls during a run. Rounds count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It does not.
    Constant,
    /// Times `factor` after every `every_rounds` rounds, counted from round 0.
    Step {
        /// Rounds between two drops, at least 1.
        every_rounds: u64,
        /// In `(0, 1]`.
        factor: f64,
    },
    /// Half a cosine (Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts) from the
    /// end of warm-up to round `total_rounds`, and constant after it.
    Cosine {
        /// The round at which the minimum is reached; above the warm-up rounds.
        total_rounds: u64,
        /// What remains of the rate there, in `[0, 1]`.
        minimum_fraction: f64,
    },
    /// Times `factor` whenever `patience` evaluations in a row brought no improvement. The counters
    /// are in [`Decisions`].
    ReduceOnPlateau {
        /// In `(0, 1)`.
        factor: f64,
        /// Evaluations without improvement after which the rate drops, at least 1. (PyTorch's
        /// `ReduceLROnPlateau` waits for one more.)
        patience: u32,
        /// How much lower than the best so far a mean loss must be to count as an improvement.
        min_delta: f64,
        /// The rate never falls below this fraction, in `[0, 1]`.
        minimum_fraction: f64,
    },
}

impl LearningRate {
    /// `rate` in every round.
    pub fn constant(rate: f32) -> Self {
        Self { base: rate, warm_up_rounds: 0, schedule: Schedule::Constant }
    }

    /// The rate at which `round` (counted from 0) trains. `decisions` are those of the state that the
    /// round starts from.
    pub fn rate(&self, round: u64, decisions: &Decisions) -> f32 {
        let warm_up = if round < self.warm_up_rounds { (round + 1) as f64 / self.warm_up_rounds as f64 } else { 1.0 };
        (f64::from(self.base) * warm_up * self.schedule_factor(round, decisions)) as f32
    }

    fn schedule_factor(&self, round: u64, decisions: &Decisions) -> f64 {
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Step { every_rounds, factor } => libm::pow(factor, (round / every_rounds.max(1)) as f64),
            Schedule::Cosine { total_rounds, minimum_fraction } => {
                let length = total_rounds.saturating_sub(self.warm_up_rounds).max(1);
                let done = round.saturating_sub(self.warm_up_rounds).min(length);
                let angle = std::f64::consts::PI * (done as f64 / length as f64);
                minimum_fraction + (1.0 - minimum_fraction) * 0.5 * (1.0 + libm::cos(angle))
            }
            Schedule::ReduceOnPlateau { .. } => decisions.learning_rate_factor,
        }
    }

    /// Checks every hyperparameter against its range.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] names the first hyperparameter that is outside.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            self.base.is_finite() && self.base > 0.0,
            "learning rate",
            f64::from(self.base),
            "finite and above 0",
        )?;
        match self.schedule {
            Schedule::Constant => Ok(()),
            Schedule::Step { every_rounds, factor } => {
                ConfigError::unless(every_rounds > 0, "every_rounds", every_rounds as f64, "at least 1")?;
                ConfigError::unless(factor > 0.0 && factor <= 1.0, "factor", factor, "above 0 and at most 1")
            }
            Schedule::Cosine { total_rounds, minimum_fraction } => {
                ConfigError::unless(
                    total_rounds > self.warm_up_rounds,
                    "total_rounds",
                    total_rounds as f64,
                    "more than the warm-up rounds",
                )?;
                valid_minimum_fraction(minimum_fraction)
            }
            Schedule::ReduceOnPlateau { factor, patience, min_delta, minimum_fraction } => {
                ConfigError::unless(factor > 0.0 && factor < 1.0, "factor", factor, "between 0 and 1")?;
                valid_patience(patience, min_delta)?;
                valid_minimum_fraction(minimum_fraction)
            }
        }
    }
}

fn valid_minimum_fraction(value: f64) -> Result<(), ConfigError> {
    ConfigError::unless((0.0..=1.0).contains(&value), "minimum_fraction", value, "in [0, 1]")
}
