//! Calls of functions of this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use peerless_functions::{Call, FunctionPlatform, Invocation, InvocationRecord, Meter, ProcessConfig, ProcessPool};
use peerless_protocol::function::{FUNCTION_PROTOCOL, Output, Place, Task, TensorRef, Work};
use peerless_protocol::{RunSpec, UnitKind};
use peerless_training::datasets;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{FunctionsArgs, Times};
use crate::functions::FunctionArgs;
use crate::spec::SpecArgs;

/// Calls from the peer's side, from the call to its report.
#[derive(Debug, Serialize)]
pub(super) struct Calls {
    pub warm: Times,
    pub cold: Times,
    pub cold_at_once: Times,
    pub first_gradient: Times,
    pub warm_gradient: Times,
    /// Largest resident set of a function that has computed one gradient, in bytes.
    pub gradient_memory_bytes: u64,
}

pub(super) async fn measure(args: &FunctionsArgs) -> anyhow::Result<Calls> {
    let spec = SpecArgs::default().spec(datasets::dataset("mnist")?.spec())?;
    let folder = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut config = FunctionArgs::isolated(args.isolation.clone()).pool()?;
    config.allow(folder.path(), folder.path(), folder.path());
    let bench = Bench { spec, config };
    let mut warm = Vec::new();
    let pool = bench.pool(1)?;
    call(&pool, bench.task(Work::Ping)).await?;
    for _ in 0..args.calls {
        warm.push(timed(&pool, bench.task(Work::Ping)).await?.0);
    }
    let parameters = bench.parameters(&pool, &folder.path().join("parameters")).await?;
    pool.shutdown().await;

    let gradient = || bench.gradient(&parameters, &folder.path().join("gradient"));
    let (mut cold, mut cold_at_once, mut first_gradient, mut warm_gradient) = (vec![], vec![], vec![], vec![]);
    let mut gradient_memory_bytes = 0;
    for _ in 0..args.repetitions {
        let pool = bench.pool(1)?;
        cold.push(timed(&pool, bench.task(Work::Ping)).await?.0);
        pool.shutdown().await;
        cold_at_once.push(bench.at_once(args.at_once.into()).await?);
        let pool = bench.pool(1)?;
        let (us, invocation) = timed(&pool, gradient()).await?;
        first_gradient.push(us);
        gradient_memory_bytes = gradient_memory_bytes.max(invocation.metering.peak_memory_bytes);
        warm_gradient.push(timed(&pool, gradient()).await?.0);
        pool.shutdown().await;
    }
    Ok(Calls {
        warm: Times::of(&warm),
        cold: Times::of(&cold),
        cold_at_once: Times::of(&cold_at_once),
        first_gradient: Times::of(&first_gradient),
        warm_gradient: Times::of(&warm_gradient),
        gradient_memory_bytes,
    })
}

struct Bench {
    spec: RunSpec,
    config: ProcessConfig,
}

impl Bench {
    fn pool(&self, concurrency: usize) -> anyhow::Result<Arc<ProcessPool>> {
        Ok(Arc::new(ProcessPool::new(ProcessConfig { concurrency, ..self.config.clone() })?))
    }

    fn task(&self, work: Work) -> Task {
        Task { version: FUNCTION_PROTOCOL, invocation: 1, run: self.spec.id(), spec: self.spec.clone(), work }
    }

    /// Has a function make the initial parameters.
    async fn parameters(&self, pool: &ProcessPool, path: &Path) -> anyhow::Result<TensorRef> {
        let place = Place::Path(path.to_path_buf());
        let initialise = Work::Initialise { output: place.clone() };
        let Output::Initialised { layout, digest, .. } = call(pool, self.task(initialise)).await?.output else {
            bail!("the function answered something else")
        };
        Ok(TensorRef { place, offset: 0, elements: layout.elements(), digest: Some(digest) })
    }

    fn gradient(&self, parameters: &TensorRef, output: &Path) -> Task {
        self.task(Work::Unit {
            round: 0,
            unit: 0,
            unit_kind: UnitKind::Gradient,
            parameters: parameters.clone(),
            output: Place::Path(output.to_path_buf()),
            dataset: BTreeMap::new(),
        })
    }

    /// The time until so many functions, called at once, have all answered, in microseconds.
    async fn at_once(&self, functions: usize) -> anyhow::Result<f64> {
        let pool = self.pool(functions)?;
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for _ in 0..functions {
            let (pool, task) = (Arc::clone(&pool), self.task(Work::Ping));
            calls.spawn(async move { call(&pool, task).await.map(drop) });
        }
        while let Some(called) = calls.join_next().await {
            called??;
        }
        let elapsed = start.elapsed();
        pool.shutdown().await;
        Ok(elapsed.as_secs_f64() * 1e6)
    }
}

async fn timed(pool: &Arc<ProcessPool>, task: Task) -> anyhow::Result<(f64, Invocation)> {
    let pool = Arc::clone(pool);
    // On a thread of the runtime, as in a peer: from outside, each wake-up would cost a hop.
    let called = tokio::spawn(async move {
        let start = Instant::now();
        let invocation = call(&pool, task).await?;
        Ok::<_, anyhow::Error>((start.elapsed().as_secs_f64() * 1e6, invocation))
    });
    called.await?
}

async fn call(pool: &ProcessPool, task: Task) -> anyhow::Result<Invocation> {
    let meter: Arc<dyn Meter> = Arc::new(|_: InvocationRecord| ());
    Ok(pool.invoke(Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter }).await?)
}
