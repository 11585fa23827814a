//! Measures a few units with the function program, and what a peer does with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use peerless_functions::{Call, FunctionPlatform, Invocation, InvocationRecord, Meter, ProcessConfig, ProcessPool};
use peerless_protocol::function::{FUNCTION_PROTOCOL, Output, Place, Task, TensorRef, Work};
use peerless_protocol::{Digest, Layout, RoundPlan, RunSpec, Tally, UnitKind, UnitSet};
use peerless_store::{Cover, Payload, PayloadFormat, RoundSums, RoundTotals, State, TensorStore, apply};
use tokio::task::JoinSet;

use crate::commands::bench::percentile;
use crate::functions::FunctionArgs;
use crate::model::{Measured, UnitTime};

/// Where states and gradients are put meanwhile, if there is room in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Measures so many units of each kind of a run on this machine, which should do nothing else.
pub(crate) fn measure(spec: &RunSpec, units: u32) -> anyhow::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(Session::measure(spec, units))
}

/// Kinds of units, and a round that has them.
const KINDS: [UnitKind; 2] = [UnitKind::Gradient, UnitKind::Evaluation];

struct Session {
    spec: RunSpec,
    config: ProcessConfig,
    folder: tempfile::TempDir,
    memory_bytes: u64,
}

/// Where a run starts, and how long functions took for it.
struct Start {
    layout: Layout,
    parameters: TensorRef,
    start_us: f64,
    initialise_us: f64,
}

/// A gradient that a function has left.
struct Gradient {
    unit: u32,
    path: PathBuf,
    digest: Digest,
    tally: Tally,
}

impl Session {
    async fn measure(spec: &RunSpec, units: u32) -> anyhow::Result<Measured> {
        let place = if Path::new(SHARED_MEMORY).is_dir() { PathBuf::from(SHARED_MEMORY) } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("peerless-plan-").tempdir_in(place);
        let folder = folder.context("cannot make a temporary directory")?;
        let mut config = FunctionArgs::default().pool()?;
        config.allow(folder.path(), folder.path(), folder.path());
        let mut session = Self { spec: spec.clone(), config, folder, memory_bytes: 0 };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = session.pool(1)?;
        let start = session.start(&pool).await?;
        let call_us = session.calls(&pool, units).await?;
        let mut alone = Vec::new();
        for kind in KINDS {
            alone.push(session.units(&pool, &start.parameters, kind, units).await?);
        }
        let gradients = session.round(&pool, &start.parameters).await?;
        pool.shutdown().await;
        let pool = session.pool(cores)?;
        let mut busy = Vec::new();
        for kind in KINDS {
            busy.push(session.units_at_once(&pool, &start.parameters, kind, units, cores).await?);
        }
        pool.shutdown().await;
        let time = |kind: usize| UnitTime {
            alone_us: percentile(&alone[kind], 50),
            alone_p10_us: percentile(&alone[kind], 10),
            alone_p90_us: percentile(&alone[kind], 90),
            busy_us: percentile(&busy[kind], 50),
        };
        let peer = session.peer(&start, &gradients, units)?;
        Ok(Measured {
            cores: u32::try_from(cores)?,
            units,
            gradient: time(0),
            evaluation: time(1),
            call_us,
            start_us: start.start_us,
            initialise_us: start.initialise_us,
            memory_bytes: session.memory_bytes,
            elements: start.layout.elements(),
            ..peer
        })
    }

    fn pool(&self, concurrency: usize) -> anyhow::Result<Arc<ProcessPool>> {
        Ok(Arc::new(ProcessPool::new(ProcessConfig { concurrency, ..self.config.clone() })?))
    }

    fn task(&self, work: Work) -> Task {
        Task { version: FUNCTION_PROTOCOL, invocation: 1, run: self.spec.id(), spec: self.spec.clone(), work }
    }

    async fn start(&mut self, pool: &Arc<ProcessPool>) -> anyhow::Result<Start> {
        let (_, start_us) = self.call(pool, self.task(Work::Ping)).await?;
        let place = Place::Path(self.folder.path().join("parameters"));
        let (invocation, initialise_us) =
            self.call(pool, self.task(Work::Initialise { output: place.clone() })).await?;
        let Output::Initialised { layout, digest, .. } = invocation.output else {
            bail!("the function answered something else")
        };
        let parameters = TensorRef { place, offset: 0, elements: layout.elements(), digest: Some(digest) };
        Ok(Start { layout, parameters, start_us, initialise_us })
    }

    /// A warm call without work.
    async fn calls(&mut self, pool: &Arc<ProcessPool>, times: u32) -> anyhow::Result<f64> {
        let mut us = Vec::new();
        for _ in 0..times.max(10) {
            us.push(self.call(pool, self.task(Work::Ping)).await?.1);
        }
        Ok(percentile(&us, 50))
    }

    fn unit(&self, parameters: &TensorRef, kind: UnitKind, number: u32, output: &str) -> Task {
        let rounds = self.spec.rounds;
        let (round, unit) = match kind {
            // Other samples each time, as in a run; within the first epoch, whose order is made once.
            UnitKind::Gradient => {
                let round = u64::from(number / self.spec.units_per_round) % self.spec.rounds_per_epoch().max(1);
                (round.min(rounds.saturating_sub(1)), number % self.spec.units_per_round)
            }
            UnitKind::Evaluation => (rounds, number % self.spec.evaluation_units()),
        };
        self.task(Work::Unit {
            round,
            unit,
            unit_kind: kind,
            parameters: parameters.clone(),
            output: Place::Path(self.folder.path().join(output)),
            dataset: BTreeMap::new(),
        })
    }

    /// Times of units in one warm function, as it reports them.
    async fn units(
        &mut self,
        pool: &Arc<ProcessPool>,
        parameters: &TensorRef,
        kind: UnitKind,
        times: u32,
    ) -> anyhow::Result<Vec<f64>> {
        let mut us = Vec::new();
        for number in 0..=times {
            let (invocation, _) = self.call(pool, self.unit(parameters, kind, number, "output")).await?;
            us.push(invocation.metering.compute_us as f64);
        }
        // The first one opens the dataset.
        us.remove(0);
        Ok(us)
    }

    /// The same with one function at work on each core.
    async fn units_at_once(
        &self,
        pool: &Arc<ProcessPool>,
        parameters: &TensorRef,
        kind: UnitKind,
        times: u32,
        cores: usize,
    ) -> anyhow::Result<Vec<f64>> {
        let mut working = JoinSet::new();
        for core in 0..u32::try_from(cores)? {
            let tasks: Vec<Task> = (0..=times)
                .map(|number| self.unit(parameters, kind, core * (times + 1) + number, &format!("output-{core}")))
                .collect();
            let pool = Arc::clone(pool);
            working.spawn(async move {
                let mut us = Vec::new();
                for task in tasks {
                    us.push(call(&pool, task).await?.metering.compute_us as f64);
                }
                Ok::<_, anyhow::Error>(us.split_off(1))
            });
        }
        let mut us = Vec::new();
        while let Some(times) = working.join_next().await {
            us.extend(times??);
        }
        Ok(us)
    }

    /// All gradients of the first round.
    async fn round(&mut self, pool: &Arc<ProcessPool>, parameters: &TensorRef) -> anyhow::Result<Vec<Gradient>> {
        let mut gradients = Vec::new();
        for unit in 0..self.spec.units_per_round {
            let name = format!("gradient-{unit}");
            let (invocation, _) = self.call(pool, self.unit(parameters, UnitKind::Gradient, unit, &name)).await?;
            let Output::Unit { tally, digest: Some(digest) } = invocation.output else {
                bail!("the function answered something else")
            };
            gradients.push(Gradient { unit, path: self.folder.path().join(name), digest, tally });
        }
        Ok(gradients)
    }

    /// What a peer does with a round's gradients and the sum of another peer; several times.
    fn peer(&self, start: &Start, gradients: &[Gradient], times: u32) -> anyhow::Result<Measured> {
        let format = PayloadFormat::new(&self.spec, &start.layout)?;
        let folder = self.folder.path().join("peer");
        let (mut tensors, _) = TensorStore::open(&folder, &self.spec, 2)?;
        let bytes = std::fs::read(self.folder.path().join("parameters")).context("cannot read the parameters")?;
        let vector: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        let plan = RoundPlan::new(&self.spec, 0);
        let training = gradients.iter().try_fold(Tally::default(), |total, each| total.checked_add(each.tally));
        let training = training.context("the sum of the losses does not fit")?;
        let (mut adding, mut merging, mut updating) = (Vec::new(), Vec::new(), Vec::new());
        let mut scratch = Vec::new();
        for _ in 0..times.clamp(3, 20) {
            let mut sums = RoundSums::new(format, u64::MAX);
            sums.begin(&plan)?;
            for gradient in gradients {
                // A sum keeps its gradients' files for itself, and removes them.
                let copy = folder.join(format!("unit-{}", gradient.unit));
                std::fs::copy(&gradient.path, &copy).context("cannot copy a gradient")?;
                adding.push(timed(|| sums.add_unit(gradient.unit, &copy, gradient.digest))?.1);
            }
            let units: UnitSet = gradients.iter().map(|gradient| gradient.unit).collect();
            let mut state = State::initial(&self.spec, start.layout.clone(), vector.clone())?;
            let (own, own_us) = timed(|| sums.sum_of(&units))?;
            let (digest, payload) = own.context("the round has no gradients")?;
            let mut other = RoundSums::new(format, u64::MAX);
            other.begin(&plan)?;
            let merge = || -> anyhow::Result<()> {
                other.hold(digest, Payload::decode(payload.as_bytes(), &format, digest)?)?;
                Ok(other.accumulate(&units, digest)?)
            };
            merging.push(timed(merge)?.1);
            let update = || -> anyhow::Result<()> {
                let cover = Cover::Parts(vec![(units.clone(), digest)]);
                let gradient_sum = other.total(&cover)?;
                let gradient_units = plan.gradient_units;
                let totals = RoundTotals { gradient_sum, gradient_units, training, evaluation: None };
                apply(&self.spec, &mut state, &totals, &mut scratch)?;
                tensors.put_state(&state)?;
                Ok(())
            };
            updating.push(own_us + timed(update)?.1);
        }
        Ok(Measured {
            add_us: percentile(&adding, 50),
            merge_us: percentile(&merging, 50),
            update_us: percentile(&updating, 50),
            ..Measured::default()
        })
    }

    /// One call, and how long it took from here.
    async fn call(&mut self, pool: &Arc<ProcessPool>, task: Task) -> anyhow::Result<(Invocation, f64)> {
        let pool = Arc::clone(pool);
        // On a thread of the runtime, as in a peer: from outside, each wake-up would cost a hop.
        let called = tokio::spawn(async move {
            let start = Instant::now();
            let invocation = call(&pool, task).await?;
            Ok::<_, anyhow::Error>((invocation, start.elapsed().as_secs_f64() * 1e6))
        });
        let (invocation, us) = called.await??;
        self.memory_bytes = self.memory_bytes.max(invocation.metering.peak_memory_bytes);
        Ok((invocation, us))
    }
}

async fn call(pool: &ProcessPool, task: Task) -> anyhow::Result<Invocation> {
    let meter: Arc<dyn Meter> = Arc::new(|_: InvocationRecord| ());
    Ok(pool.invoke(Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter }).await?)
}

fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(T, f64), E> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed().as_secs_f64() * 1e6))
}
