//! Decisions that depend on evaluations: the best loss, plateaus and early stopping.

use serde::{Deserialize, Serialize};

use crate::{ConfigError, FixedPoint, LearningRate, Schedule};

/// The largest `min_delta`: far above any sensible one, and small enough that comparisons stay exact.
const MAX_MIN_DELTA: f64 = 1e6;

/// An exact mean loss: a sum over samples that was never divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Sum of the losses of all samples, in steps of [`FixedPoint::LOSS`].
    pub loss_sum: i64,
    /// Number of samples, at least 1.
    pub samples: u64,
}

impl Evaluation {
    /// The mean loss per sample, for people to read; decisions never use it.
    pub fn mean_loss(&self) -> f64 {
        FixedPoint::LOSS.to_f64(self.loss_sum) / self.samples as f64
    }

    /// Whether this mean loss is lower than that of `best` by more than `min_delta`.
    ///
    /// Compares `sum / n < best_sum / best_n - delta` multiplied by both sample counts, in 128-bit
    /// integers, so that nothing is rounded but `min_delta`, once, to the grid. Exact up to 2^32
    /// samples; beyond, products saturate instead of wrapping.
    fn improves_on(&self, best: &Self, min_delta: f64) -> bool {
        let delta = (min_delta * FixedPoint::LOSS.steps_per_one()).round_ties_even() as i128;
        let (n, best_n) = (i128::from(self.samples), i128::from(best.samples));
        let left = i128::from(self.loss_sum).saturating_mul(best_n);
        let right = i128::from(best.loss_sum).saturating_sub(delta.saturating_mul(best_n)).saturating_mul(n);
        left < right
    }
}

/// When to end a run whose evaluation loss no longer falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Evaluations in a row without improvement after which the run stops, at least 1.
    pub patience: u32,
    /// How much lower than the best so far a mean loss must be to count as an improvement.
    pub min_delta: f64,
}

impl EarlyStopping {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] names the first field that is outside.
    pub fn validate(&self) -> Result<(), ConfigError> {
        valid_patience(self.patience, self.min_delta)
    }
}

/// What a peer does after an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the next round.
    Continue,
    /// End the run: its early-stopping rule is met.
    StopEarly,
}

/// How long one rule has waited for an improvement by its own `min_delta`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// The evaluation that must be improved on; `None` before the first.
    pub reference: Option<Evaluation>,
    /// Evaluations since then without an improvement.
    pub waited: u32,
}

impl Patience {
    /// Takes in an evaluation and says whether it improved on the reference.
    fn observe(&mut self, evaluation: Evaluation, min_delta: f64) -> bool {
        let improved = self.reference.is_none_or(|reference| evaluation.improves_on(&reference, min_delta));
        if improved {
            self.reference = Some(evaluation);
            self.waited = 0;
        } else {
            self.waited = self.waited.saturating_add(1);
        }
        improved
    }
}

/// Everything that decisions remember from earlier evaluations. A part of the replicated state: it is
/// stored and digested with the parameters.
///
/// The plateau and the early-stopping rule each have a reference of their own, because an improvement
/// can be enough for one `min_delta` and not for the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// Evaluations observed so far.
    pub evaluations: u64,
    /// The lowest mean loss so far; `None` before the first evaluation.
    pub best: Option<Evaluation>,
    /// Evaluations since `best`.
    pub evaluations_since_best: u32,
    /// Progress of [`Schedule::ReduceOnPlateau`].
    pub plateau: Patience,
    /// The factor that plateaus have brought the learning rate to; 1 at the start.
    pub learning_rate_factor: f64,
    /// Progress of [`EarlyStopping`].
    pub early_stopping: Patience,
    /// Whether the run was stopped early; stays so.
    pub stopped: bool,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            evaluations: 0,
            best: None,
            evaluations_since_best: 0,
            plateau: Patience::default(),
            learning_rate_factor: 1.0,
            early_stopping: Patience::default(),
            stopped: false,
        }
    }
}

impl Decisions {
    /// Takes in the evaluation of one state and decides.
    ///
    /// `loss_sum` is the exact sum of the losses of all `samples` in steps of [`FixedPoint::LOSS`].
    /// An evaluation of no samples says nothing and changes nothing.
    pub fn observe(
        &mut self,
        loss_sum: i64,
        samples: u64,
        learning_rate: &LearningRate,
        early_stopping: Option<&EarlyStopping>,
    ) -> Verdict {
        if samples > 0 {
            let evaluation = Evaluation { loss_sum, samples };
            self.observe_best(evaluation);
            self.observe_plateau(evaluation, learning_rate);
            self.observe_early_stopping(evaluation, early_stopping);
        }
        self.verdict()
    }

    /// What the last observation decided.
    pub fn verdict(&self) -> Verdict {
        if self.stopped { Verdict::StopEarly } else { Verdict::Continue }
    }

    fn observe_best(&mut self, evaluation: Evaluation) {
        self.evaluations = self.evaluations.saturating_add(1);
        if self.best.is_none_or(|best| evaluation.improves_on(&best, 0.0)) {
            self.best = Some(evaluation);
            self.evaluations_since_best = 0;
        } else {
            self.evaluations_since_best = self.evaluations_since_best.saturating_add(1);
        }
    }

    fn observe_plateau(&mut self, evaluation: Evaluation, learning_rate: &LearningRate) {
        if let Schedule::ReduceOnPlateau { factor, patience, min_delta, minimum_fraction } = learning_rate.schedule {
            let improved = self.plateau.observe(evaluation, min_delta);
            if !improved && self.plateau.waited >= patience {
                self.learning_rate_factor = (self.learning_rate_factor * factor).max(minimum_fraction);
                self.plateau.waited = 0;
            }
        }
    }

    fn observe_early_stopping(&mut self, evaluation: Evaluation, rule: Option<&EarlyStopping>) {
        if let Some(rule) = rule {
            let improved = self.early_stopping.observe(evaluation, rule.min_delta);
            self.stopped |= !improved && self.early_stopping.waited >= rule.patience;
        }
    }
}

/// Checks the two fields that every rule with patience has.
pub(crate) fn valid_patience(patience: u32, min_delta: f64) -> Result<(), ConfigError> {
    ConfigError::unless(patience > 0, "patience", f64::from(patience), "at least 1 evaluation")?;
    ConfigError::unless((0.0..=MAX_MIN_DELTA).contains(&min_delta), "min_delta", min_delta, "in [0, 1e6]")
}
