//! All combinations of architecture, model, peers, local steps and failure rate.

use peerless_functions::prices::Tariff;
use peerless_protocol::RoundPlan;
use serde::Serialize;

use super::inputs::{Inputs, ModelInput};
use crate::model::{
    ARCHITECTURES, Architecture, Cluster, Constants, Failures, Job, Machine, Measured, Outcome, UnitTime, outcome,
};

/// What is combined with what.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) models: Vec<String>,
    pub(crate) peers: Vec<u32>,
    /// Optimizer steps that a unit takes before it communicates.
    pub(crate) local_steps: Vec<u32>,
    /// Failures of each machine in an hour.
    pub(crate) rates: Vec<f64>,
    pub(crate) units_per_round: u32,
    pub(crate) epochs: u32,
    /// How many times as quick units are as they were measured.
    pub(crate) speed: f64,
    pub(crate) machine: Machine,
    /// Least memory of a function, in MB.
    pub(crate) memory_mb: u32,
    pub(crate) constants: Constants,
    pub(crate) failures: Failures,
    pub(crate) tariff: Tariff,
}

/// One combination.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) model: String,
    pub(crate) local_steps: u32,
    pub(crate) peers: u32,
    pub(crate) rate: f64,
    pub(crate) architecture: Architecture,
    pub(crate) outcome: Outcome,
    /// Of the run without failures.
    pub(crate) epoch_us: f64,
    pub(crate) epoch_usd: f64,
}

/// A combination that is not looked at, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) model: String,
    pub(crate) local_steps: u32,
    pub(crate) peers: u32,
    pub(crate) architecture: Architecture,
    pub(crate) reason: String,
}

/// Everything that is asked for. Models must be among the inputs.
pub(crate) fn sweep(inputs: &Inputs, setup: &Setup) -> (Vec<Point>, Vec<LeftOut>) {
    let (mut points, mut left_out) = (Vec::new(), Vec::new());
    for (name, input) in setup.models.iter().filter_map(|name| inputs.models.get_key_value(name)) {
        for &steps in &setup.local_steps {
            let measured = unit_of(&input.measured, steps, setup.speed);
            let job = job(input, setup, steps);
            for (&peers, architecture) in setup.peers.iter().flat_map(|it| ARCHITECTURES.map(|one| (it, one))) {
                let cluster = Cluster {
                    job: &job,
                    measured: &measured,
                    constants: &setup.constants,
                    machine: setup.machine,
                    memory_mb: setup.memory_mb,
                    workers: peers,
                };
                let run = |rate| outcome(&cluster, architecture, &setup.failures, rate, &setup.tariff);
                let undisturbed = match run(0.0) {
                    Ok(undisturbed) => undisturbed,
                    Err(error) => {
                        let (model, reason) = (name.clone(), error.to_string());
                        left_out.push(LeftOut { model, local_steps: steps, peers, architecture, reason });
                        continue;
                    }
                };
                let epochs = f64::from(setup.epochs);
                let epoch_us = (undisturbed.total_us - undisturbed.usual.start_us) / epochs;
                let epoch_usd = undisturbed.usd() * epoch_us / undisturbed.total_us;
                points.extend(setup.rates.iter().filter_map(|&rate| {
                    let (model, outcome) = (name.clone(), run(rate).ok()?);
                    Some(Point { model, local_steps: steps, peers, rate, architecture, outcome, epoch_us, epoch_usd })
                }));
            }
        }
    }
    left_out.sort_by_key(|it: &LeftOut| {
        (setup.models.iter().position(|name| *name == it.model), it.architecture, it.local_steps)
    });
    (points, left_out)
}

/// All rounds of so many epochs, without evaluations.
fn job(input: &ModelInput, setup: &Setup, steps: u32) -> Job {
    let of_round = u64::from(setup.units_per_round) * u64::from(input.samples_per_unit) * u64::from(steps);
    let samples = u64::from(input.train_samples) * u64::from(setup.epochs);
    let plan = RoundPlan { gradient_units: setup.units_per_round, evaluation_units: 0 };
    Job { rounds: vec![(plan, samples.div_ceil(of_round.max(1)).max(1))], elements: input.measured.elements }
}

/// A unit of so many local steps computes so many times as long, and communicates once.
fn unit_of(measured: &Measured, steps: u32, speed: f64) -> Measured {
    let factor = f64::from(steps) / speed;
    let gradient = UnitTime {
        alone_us: factor * measured.gradient.alone_us,
        busy_us: factor * measured.gradient.busy_us,
        ..measured.gradient
    };
    Measured { gradient, ..*measured }
}
