//! The transition from one state to the next: a pure function of the spec and of a round's totals.
//!
//! A round that starts from state r carries, besides gradients, the evaluation of state r if the spec
//! has one due there. The evaluation comes first:
//!
//! 1. The evaluation is recorded as that of round r and given to the
//!    [`Decisions`](peerless_aggregation::Decisions).
//! 2. If it ends the run (enough correct samples, or the early-stopping rule), the round's gradients
//!    are discarded: the parameters stay those that were evaluated, only the round number advances.
//!    If both end it at once, the reason given is the accuracy.
//! 3. Otherwise the mean gradient is formed from the exact sum, clipped by its global norm if the spec
//!    says so, and the optimizer steps at the learning rate of step number `steps`, with the decisions
//!    after 1. Buffers become the mean of what the units report.
//! 4. Round `spec.rounds` has no gradients. It evaluates the final state and finishes the run.

use peerless_aggregation::{ConfigError, FixedPoint, StepError, SumError, Verdict, clip_by_global_norm};
use peerless_protocol::{Evaluation, FinishReason, RoundPlan, RunSpec, StateHeader, Tally};
use thiserror::Error;

use crate::state::{State, StateError};

/// Elements that are brought through mean and optimizer together, so that the mean gradient stays in
/// the cache. The result does not depend on it: neither step lets elements influence each other.
const CHUNK: usize = 16 << 10;

/// Totals that do not belong to the round. The state is unchanged.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The run is over.
    #[error("the run finished before round {round} ({reason:?})")]
    Finished {
        /// The round of the state.
        round: u64,
        /// Why it is over.
        reason: FinishReason,
    },
    /// A total is missing, or there although the round has no such units.
    #[error("round {round} {}, but {what} {}", 
        if *expected { "has such units" } else { "has no such units" },
        if *expected { "is missing" } else { "was given" })]
    Presence {
        /// The round.
        round: u64,
        /// Gradient sum or evaluation.
        what: &'static str,
        /// Whether the round has such units.
        expected: bool,
    },
    /// A total counts more or less than the round's units contain.
    #[error("{what} of round {round} counts {found}, but must count {expected}")]
    Count {
        /// The round.
        round: u64,
        /// What is counted.
        what: &'static str,
        /// The count found.
        found: u64,
        /// The count of the round's units.
        expected: u64,
    },
    /// The state is inconsistent.
    #[error(transparent)]
    State(#[from] StateError),
    /// The spec's grid does not exist.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gradient sum is not as long as the model.
    #[error(transparent)]
    Sum(#[from] SumError),
    /// The optimizer does not fit the state.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// What all units of a round come to.
#[derive(Debug, Clone, Copy)]
pub struct RoundTotals<'a> {
    /// Exact sum of the gradients of all gradient units, as long as the flat vector, in steps of the
    /// run's grid; `None` for a round without gradient units.
    pub gradient_sum: Option<&'a [i64]>,
    /// Units in the sum.
    pub gradient_units: u32,
    /// Totals over the training samples.
    pub training: Tally,
    /// Totals over the test samples, if the round evaluates.
    pub evaluation: Option<Tally>,
}

/// Turns state r into state r+1 in place. `scratch` holds the mean gradient for the time of the call;
/// keep it from round to round to save the allocation.
///
/// # Errors
/// [`ApplyError`] if the totals are not those of a whole round that starts from this state; the state
/// is then unchanged.
pub fn apply(
    spec: &RunSpec,
    state: &mut State,
    totals: &RoundTotals<'_>,
    scratch: &mut Vec<f32>,
) -> Result<(), ApplyError> {
    let plan = RoundPlan::new(spec, state.header.round);
    check(spec, state, &plan, totals)?;
    let mut header = state.header.clone();
    let evaluation_ends_run = totals.evaluation.and_then(|tally| observe(spec, &mut header, tally));
    let last = plan.gradient_units == 0;
    header.finished = evaluation_ends_run.or(last.then_some(FinishReason::Rounds));
    if plan.gradient_units > 0 {
        header.training = totals.training;
    }
    if let (Some(sum), None) = (totals.gradient_sum, header.finished) {
        let learning_rate = spec.learning_rate.rate(header.steps, &header.decisions);
        step(spec, state, sum, totals.gradient_units, learning_rate, scratch)?;
        header.steps += 1;
    }
    header.round += 1;
    state.header = header;
    Ok(())
}

/// Records the evaluation and says whether it ends the run.
fn observe(spec: &RunSpec, header: &mut StateHeader, tally: Tally) -> Option<FinishReason> {
    header.evaluation = Some(Evaluation { round: header.round, tally });
    let verdict =
        header.decisions.observe(tally.loss_sum, tally.samples, &spec.learning_rate, spec.early_stopping.as_ref());
    if spec.until_correct.is_some_and(|correct| tally.correct >= correct) {
        return Some(FinishReason::Accuracy);
    }
    match verdict {
        Verdict::StopEarly => Some(FinishReason::EarlyStopping),
        Verdict::Continue => None,
    }
}

/// Mean, clipping and optimizer on the parameters, mean on the buffers.
fn step(
    spec: &RunSpec,
    state: &mut State,
    sum: &[i64],
    units: u32,
    learning_rate: f32,
    scratch: &mut Vec<f32>,
) -> Result<(), ApplyError> {
    let grid = FixedPoint::new(spec.fraction_bits)?;
    let divisor = u64::from(units);
    let parameter_count = state.header.layout.parameters() as usize;
    let (parameters, buffers) = state.vector.split_at_mut(parameter_count);
    let (parameter_sum, buffer_sum) = sum.split_at(parameter_count);
    // The norm is one over all parameters, so clipping needs the whole mean gradient at once.
    let chunk = if spec.clip_norm.is_some() { parameter_count } else { CHUNK.min(parameter_count) };
    scratch.resize(chunk, 0.0);
    let mut start = 0;
    while start < parameter_count {
        let end = parameter_count.min(start + chunk);
        let gradient = &mut scratch[..end - start];
        grid.mean(&parameter_sum[start..end], divisor, gradient)?;
        if let Some(norm) = spec.clip_norm {
            clip_by_global_norm(gradient, f64::from(norm));
        }
        let mut slots: Vec<&mut [f32]> = state.slots.iter_mut().map(|slot| &mut slot[start..end]).collect();
        let parameters = &mut parameters[start..end];
        spec.optimizer.step(state.header.steps, learning_rate, parameters, &mut slots, gradient)?;
        start = end;
    }
    grid.mean(buffer_sum, divisor, buffers)?;
    Ok(())
}

/// Everything that could fail, before anything is changed.
fn check(spec: &RunSpec, state: &State, plan: &RoundPlan, totals: &RoundTotals<'_>) -> Result<(), ApplyError> {
    let round = state.header.round;
    if let Some(reason) = state.header.finished {
        return Err(ApplyError::Finished { round, reason });
    }
    state.check_lengths(spec)?;
    FixedPoint::new(spec.fraction_bits)?;
    let presence = |what, found: bool, expected: bool| {
        let error = ApplyError::Presence { round, what, expected };
        if found == expected { Ok(()) } else { Err(error) }
    };
    presence("a gradient sum", totals.gradient_sum.is_some(), plan.gradient_units > 0)?;
    presence("an evaluation", totals.evaluation.is_some(), plan.evaluation_units > 0)?;
    let count = |what, found: u64, expected: u64| {
        let error = ApplyError::Count { round, what, found, expected };
        if found == expected { Ok(()) } else { Err(error) }
    };
    let units = u64::from(plan.gradient_units);
    count("the gradient sum", totals.gradient_units.into(), units)?;
    count("training", totals.training.samples, units * u64::from(spec.samples_per_unit))?;
    if let Some(sum) = totals.gradient_sum {
        count("the gradient sum's length", sum.len() as u64, state.vector.len() as u64)?;
    }
    if let Some(tally) = totals.evaluation {
        count("the evaluation", tally.samples, spec.dataset.test_samples.into())?;
    }
    Ok(())
}
