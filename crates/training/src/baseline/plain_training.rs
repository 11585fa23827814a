//! Training of any model on the work of a run, by one process.

use std::ops::Range;

use peerless_protocol::Tally;

use crate::{Trainer, TrainingError};

/// One unit of a step: which samples, and the seed of its dropout and augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainUnit<'a> {
    /// Indices into the training set.
    pub samples: &'a [u32],
    /// As [`Trainer::gradient`] takes it.
    pub seed: u64,
}

/// A training whose units are computed one after the other, their gradients averaged and the parameters moved in
/// floating point: no exact sums, no functions, no peers, and an optimizer of three lines. A run learns as this does,
/// but for the rounding of the last digits.
#[derive(Debug)]
pub struct PlainTraining {
    trainer: Trainer,
    values: Vec<f32>,
    velocity: Vec<f32>,
    momentum: f32,
    nesterov: bool,
}

impl PlainTraining {
    /// Begins with the model's initial values for `seed`; `momentum` is Polyak's, as in PyTorch, `nesterov` looks ahead along
    /// the velocity.
    ///
    /// # Errors
    /// As [`Model::initial_values`](crate::Model::initial_values).
    pub fn new(trainer: Trainer, seed: u64, momentum: f32, nesterov: bool) -> Result<Self, TrainingError> {
        let values = trainer.model().initial_values(seed)?;
        let velocity = vec![0.0; trainer.model().layout().parameters() as usize];
        Ok(Self { trainer, values, velocity, momentum, nesterov })
    }

    /// Takes one step along the mean gradient of some units of equal size, and returns their mean loss. Buffers become the mean of
    /// what the units make of them.
    ///
    /// # Errors
    /// As [`Trainer::gradient`]; [`TrainingError::NoSamples`] without units.
    pub fn step(&mut self, units: &[PlainUnit<'_>], learning_rate: f32) -> Result<f64, TrainingError> {
        if units.is_empty() {
            return Err(TrainingError::NoSamples);
        }
        let share = 1.0 / units.len() as f32;
        let mut mean = vec![0.0; self.values.len()];
        let mut loss = 0.0;
        for unit in units {
            let computed = self.trainer.gradient(&self.values, unit.samples, unit.seed)?;
            loss += computed.tally.mean_loss() / units.len() as f64;
            mean.iter_mut().zip(&computed.gradient).for_each(|(mean, value)| *mean += share * value);
        }
        let (parameters, buffers) = self.values.split_at_mut(self.velocity.len());
        let (gradient, new_buffers) = mean.split_at(parameters.len());
        for ((value, velocity), gradient) in parameters.iter_mut().zip(&mut self.velocity).zip(gradient) {
            *velocity = self.momentum * *velocity + gradient;
            let step = if self.nesterov { gradient + self.momentum * *velocity } else { *velocity };
            *value -= learning_rate * step;
        }
        buffers.copy_from_slice(new_buffers);
        Ok(loss)
    }

    /// The totals over a range of test samples.
    ///
    /// # Errors
    /// As [`Trainer::evaluate`].
    pub fn evaluate(&mut self, samples: Range<u32>) -> Result<Tally, TrainingError> {
        self.trainer.evaluate(&self.values, samples)
    }
}
