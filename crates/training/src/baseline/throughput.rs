//! Samples per second of a plain loop.
//!
//! It is written as one would write it with the tensor library alone, with its loss and its tensors
//! for parameters and momentum, and shares only the network and the dataset with the rest.

use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

use crate::datasets::{Dataset, Split};
use crate::{LeNet5, Network, TrainingError};

/// A loop to be measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlainLoop {
    /// Samples per forward and backward pass.
    pub batch: usize,
    /// Passes whose gradients are averaged for one optimizer step.
    pub passes_per_step: usize,
    /// Optimizer steps that are timed.
    pub steps: usize,
    /// Threads that the tensor library may use.
    pub threads: usize,
    /// Step size.
    pub learning_rate: f32,
    /// Momentum of the optimizer (Polyak's, as in PyTorch).
    pub momentum: f32,
}

/// What a loop reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Samples trained on.
    pub samples: u64,
    /// Time for them.
    pub elapsed: Duration,
    /// Mean loss of the last batch, to see that it learns.
    pub last_loss: f32,
}

impl Throughput {
    /// Samples per second.
    pub fn samples_per_second(&self) -> f64 {
        self.samples as f64 / self.elapsed.as_secs_f64()
    }
}

/// Trains LeNet-5 with the training samples in their stored order, after one step that is not timed.
///
/// # Errors
/// [`TrainingError::Dataset`], or [`TrainingError::Tensor`] when no threads can be started.
pub fn plain_loop(dataset: &mut Dataset, plan: PlainLoop) -> Result<Throughput, TrainingError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(plan.threads).build();
    let pool = pool.map_err(|error| TrainingError::Tensor(error.to_string()))?;
    pool.install(|| run(dataset, plan))
}

fn run(dataset: &mut Dataset, plan: PlainLoop) -> Result<Throughput, TrainingError> {
    let device = Device::flex().autodiff();
    let mut training = Training {
        loss: CrossEntropyLossConfig::new().init(&device),
        network: LeNet5::new(&device),
        velocities: Vec::new(),
        next_sample: 0,
        device,
    };
    training.step(dataset, &plan)?;
    let start = Instant::now();
    let mut last_loss = f32::NAN;
    for _ in 0..plan.steps {
        last_loss = training.step(dataset, &plan)?;
    }
    let samples = (plan.batch * plan.passes_per_step * plan.steps) as u64;
    Ok(Throughput { samples, elapsed: start.elapsed(), last_loss })
}

struct Training {
    device: Device,
    network: LeNet5,
    loss: CrossEntropyLoss,
    velocities: Vec<Tensor<1>>,
    next_sample: u32,
}

impl Training {
    fn step(&mut self, dataset: &mut Dataset, plan: &PlainLoop) -> Result<f32, TrainingError> {
        let mut passes = Vec::with_capacity(plan.passes_per_step);
        let mut loss = f32::NAN;
        for _ in 0..plan.passes_per_step {
            let (images, labels) = self.batch(dataset, plan.batch)?;
            let mean = self.loss.forward(self.network.forward(images), labels);
            passes.push(mean.backward());
            loss = mean.into_scalar();
        }
        let mut update = Momentum { plan, passes, velocities: std::mem::take(&mut self.velocities), next: 0 };
        self.network = self.network.clone().map(&mut update);
        self.velocities = update.velocities;
        Ok(loss)
    }

    fn batch(&mut self, dataset: &mut Dataset, size: usize) -> Result<(Tensor<4>, Tensor<1, Int>), TrainingError> {
        let (known, [channels, height, width]) = (dataset.info().train_samples, dataset.info().shape);
        let samples: Vec<u32> = (0..size as u32).map(|offset| (self.next_sample + offset) % known).collect();
        self.next_sample = (self.next_sample + size as u32) % known;
        let (images, labels) = dataset.read(Split::Train, &samples)?;
        let labels: Vec<i32> = labels.into_iter().map(i32::from).collect();
        let images = TensorData::new(images, [size, channels, height, width]);
        Ok((Tensor::from_data(images, &self.device), Tensor::from_data(TensorData::new(labels, [size]), &self.device)))
    }
}

/// v <- momentum v + mean gradient; p <- p - rate v.
struct Momentum<'a> {
    plan: &'a PlainLoop,
    passes: Vec<Gradients>,
    velocities: Vec<Tensor<1>>,
    next: usize,
}

impl ModuleMapper for Momentum<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        let gradients = self.passes.iter_mut().filter_map(|pass| value.grad_remove(pass));
        let Some(sum) = gradients.reduce(|sum, gradient| sum + gradient) else {
            return param;
        };
        let mut velocity = (sum / self.plan.passes_per_step as f32).flatten::<1>(0, D - 1);
        if let Some(previous) = self.velocities.get(self.next) {
            velocity = velocity + previous.clone() * self.plan.momentum;
            self.velocities[self.next] = velocity.clone();
        } else {
            self.velocities.push(velocity.clone());
        }
        self.next += 1;
        let step = velocity.reshape(value.shape()) * self.plan.learning_rate;
        param.map(|value| Tensor::from_inner(value.inner() - step).require_grad())
    }
}
