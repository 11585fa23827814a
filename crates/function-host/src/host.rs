//! The work of one task.

use std::any::Any;
use std::env;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use peerless_protocol::function::{
    FUNCTION_PROTOCOL, Failure, FailureKind, Output, Place, Report, Task, TensorRef, Work,
};
use peerless_protocol::{EpochOrder, RoundPlan, RunSpec, UnitKind, evaluation_samples, unit_seed};
use peerless_training::datasets::{Dataset, DatasetError, dataset, default_dir};
use peerless_training::{Engine, Model, Models, Trainer, TrainingError};

use crate::dataset::RemoteFiles;
use crate::failure::{failure, training_failure};
use crate::place::Places;

/// How a function works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that holds one folder per dataset.
    pub data_dir: PathBuf,
    /// Folder for vectors that came over the network, made when the first one comes; `None` keeps them in memory alone.
    pub cache_dir: Option<PathBuf>,
    /// Threads that compute. More functions use cores better than more threads: set one, unless
    /// there are fewer units than cores.
    pub threads: usize,
    /// The models that it can compute.
    pub models: Models,
    /// What it computes them with.
    pub engine: Engine,
}

impl Options {
    fn model(&self, spec: &RunSpec) -> Result<Model, TrainingError> {
        Ok(self.models.of(spec)?.on(self.engine)?)
    }
}

impl Default for Options {
    /// The default data folder, a folder of this user's among the temporary files, and as many threads as `RAYON_NUM_THREADS` says, else one;
    /// the default engine.
    fn default() -> Self {
        let threads = env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
        // A process without this file is on another system than Linux, and keeps vectors in memory.
        let user = fs::metadata("/proc/self").map(|process| process.uid());
        let cache_dir = user.map(|user| env::temp_dir().join(format!("peerless-vectors-{user}"))).ok();
        let threads = threads.filter(|&threads| threads > 0).unwrap_or(1);
        Self { data_dir: default_dir(), cache_dir, threads, models: Models::default(), engine: Engine::default() }
    }
}

/// A function without a front door: takes tasks, gives reports.
#[derive(Debug)]
pub struct Host {
    options: Options,
    cold: bool,
    places: Places,
    trainer: Option<Trainer>,
    order: Option<WarmOrder>,
}

/// The order of an epoch and what it was made from.
#[derive(Debug)]
struct WarmOrder {
    seed: u64,
    samples: u32,
    order: EpochOrder,
}

impl Host {
    /// A cold function: everything is loaded when a task first needs it.
    pub fn new(options: Options) -> Self {
        let places = Places::new(options.cache_dir.clone());
        Self { options, cold: true, places, trainer: None, order: None }
    }

    /// Does a task. Never panics: a panic of the tensor library (its assertions, a failed
    /// allocation of a size it can report) is a failure of class `Environment`, which is retried a
    /// few times, and what was warm is dropped because it may be half changed. Letting the process
    /// die would tell the peer less and cost a cold start.
    pub fn handle(&mut self, task: &Task) -> Report {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.outcome(task))).unwrap_or_else(|panic| {
            *self = Self { cold: self.cold, ..Self::new(self.options.clone()) };
            Err(failure(FailureKind::Environment, format!("the computation panicked: {}", panic_message(&*panic))))
        });
        if let Err(failure) = &outcome {
            tracing::warn!(invocation = task.invocation, kind = ?failure.kind, message = failure.message, "task failed");
        }
        let cold = std::mem::take(&mut self.cold);
        let reads = self.places.reads();
        Report { cold, reads, ..report(task.invocation, outcome, start) }
    }

    fn outcome(&mut self, task: &Task) -> Result<Output, Failure> {
        if task.version != FUNCTION_PROTOCOL {
            return Err(unsupported_version(task.version));
        }
        match &task.work {
            Work::Ping => Ok(Output::Pong),
            Work::Initialise { output } => initialise(&self.options, &task.spec, &mut self.places, output),
            Work::Unit { round, unit, unit_kind, parameters, output, dataset } => {
                check(&task.spec, *round, *unit, *unit_kind)?;
                let files =
                    (!dataset.is_empty()).then(|| RemoteFiles::new(self.places.client().clone(), dataset.clone()));
                let trainer = warm_trainer(&mut self.trainer, &self.options, &task.spec, files)?;
                match unit_kind {
                    UnitKind::Gradient => {
                        let samples =
                            warm_order(&mut self.order, &task.spec, *round).samples(&task.spec, *round, *unit);
                        let seed = unit_seed(&task.spec, *round, *unit);
                        gradient(trainer, samples, seed, &mut self.places, parameters, output)
                    }
                    UnitKind::Evaluation => {
                        let index = *unit - RoundPlan::new(&task.spec, *round).gradient_units;
                        evaluation(trainer, evaluation_samples(&task.spec, index), &mut self.places, parameters)
                    }
                }
            }
        }
    }
}

fn gradient(
    trainer: &mut Trainer,
    samples: &[u32],
    seed: u64,
    places: &mut Places,
    parameters: &TensorRef,
    output: &Place,
) -> Result<Output, Failure> {
    let result = places.with(parameters, trainer.model().layout().elements(), |values| {
        trainer.gradient(values, samples, seed).map_err(|error| training_failure(&error))
    })?;
    let digest = places.write(output, &result.gradient)?;
    Ok(Output::Unit { tally: result.tally, digest: Some(digest) })
}

fn evaluation(
    trainer: &mut Trainer,
    samples: Range<u32>,
    places: &mut Places,
    parameters: &TensorRef,
) -> Result<Output, Failure> {
    let tally = places.with(parameters, trainer.model().layout().elements(), |values| {
        trainer.evaluate(values, samples).map_err(|error| training_failure(&error))
    })?;
    Ok(Output::Unit { tally, digest: None })
}

/// A report, with the time since `start`.
pub(crate) fn report(invocation: u64, outcome: Result<Output, Failure>, start: Instant) -> Report {
    let duration_us = start.elapsed().as_micros() as u64;
    Report { invocation, outcome, duration_us, peak_memory_bytes: peak_memory(), cold: false, reads: None }
}

pub(crate) fn unsupported_version(found: u16) -> Failure {
    let what = format!("task of function protocol {found}, this function speaks {FUNCTION_PROTOCOL}");
    failure(FailureKind::Unsupported, what)
}

fn initialise(options: &Options, spec: &RunSpec, places: &mut Places, output: &Place) -> Result<Output, Failure> {
    let build = || {
        let mut model = options.model(spec)?;
        let fingerprint = model.fingerprint()?;
        let values = model.initial_values(spec.seed)?;
        Ok((model.layout().clone(), values, fingerprint))
    };
    let (layout, values, fingerprint) = build().map_err(|error: TrainingError| training_failure(&error))?;
    let digest = places.write(output, &values)?;
    Ok(Output::Initialised { layout, digest, fingerprint })
}

/// Whether the round has the unit, in a spec that can be computed with.
fn check(spec: &RunSpec, round: u64, unit: u32, unit_kind: UnitKind) -> Result<(), Failure> {
    spec.validate().map_err(|error| failure(FailureKind::Unsupported, error))?;
    let plan = RoundPlan::new(spec, round);
    if unit < plan.total() && plan.kind(unit) == unit_kind {
        return Ok(());
    }
    Err(failure(FailureKind::Unsupported, format!("round {round} has no {unit_kind:?} unit {unit}")))
}

/// The trainer of the run's model and dataset; `files` is where the task has the latter, if it says so.
fn warm_trainer<'a>(
    warm: &'a mut Option<Trainer>,
    options: &Options,
    spec: &RunSpec,
    files: Option<RemoteFiles>,
) -> Result<&'a mut Trainer, Failure> {
    let fits = |trainer: &Trainer| {
        trainer.model().info().name == spec.model && trainer.dataset().info().name == spec.dataset.name
    };
    let trainer = match (warm.take().filter(fits), files) {
        (Some(mut trainer), Some(files)) => {
            trainer.dataset_mut().read_by(Box::new(files));
            trainer
        }
        (Some(trainer), None) => trainer,
        (None, files) => cold_trainer(options, spec, files).map_err(|error| training_failure(&error))?,
    };
    let trainer = warm.insert(trainer);
    check_dataset(spec, trainer)?;
    Ok(trainer)
}

fn cold_trainer(options: &Options, spec: &RunSpec, files: Option<RemoteFiles>) -> Result<Trainer, TrainingError> {
    // An unknown dataset is reported as such even where there is no data at all.
    let model = options.model(spec)?;
    let name = dataset(&spec.dataset.name)?.name;
    // Files of this machine are preferred: nothing has to be moved.
    let dataset = match (Dataset::open(name, &options.data_dir), files) {
        (Err(DatasetError::Missing { .. }), Some(files)) => Dataset::elsewhere(name, Box::new(files)),
        (opened, _) => opened,
    };
    Trainer::new(model, dataset?)
}

/// Whether the run was made for the dataset that this program knows under the name.
fn check_dataset(spec: &RunSpec, trainer: &Trainer) -> Result<(), Failure> {
    let known = trainer.dataset().info().spec();
    if spec.dataset == known {
        return Ok(());
    }
    let (asked, name) = (&spec.dataset, &known.name);
    let what = format!(
        "the run is for {name} with digest {} and {} + {} samples, this function knows it with digest {} and {} + {}",
        asked.digest, asked.train_samples, asked.test_samples, known.digest, known.train_samples, known.test_samples,
    );
    Err(failure(FailureKind::Unsupported, what))
}

fn warm_order<'a>(warm: &'a mut Option<WarmOrder>, spec: &RunSpec, round: u64) -> &'a EpochOrder {
    let epoch = EpochOrder::epoch_of(spec, round);
    let fits = |warm: &WarmOrder| {
        (warm.seed, warm.samples, warm.order.epoch()) == (spec.seed, spec.dataset.train_samples, epoch)
    };
    let order = warm.take().filter(fits).unwrap_or_else(|| WarmOrder {
        seed: spec.seed,
        samples: spec.dataset.train_samples,
        order: EpochOrder::new(spec, epoch),
    });
    &warm.insert(order).order
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Largest resident set so far, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
