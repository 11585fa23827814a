//! The overhead of an invocation without compute: a warm round trip, and cold starts, with and without isolation.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails may panic")]

#[path = "../tests/support/task.rs"]
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use peerless_functions::{
    BoxFuture, Call, FunctionPlatform, InvocationRecord, Isolation, IsolationLevel, Meter, ProcessConfig, ProcessPool,
};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const FUNCTION: &str = env!("CARGO_BIN_EXE_scripted-function");
const LAUNCHER: &str = env!("CARGO_BIN_EXE_function-launcher");

/// How the functions of a pool are started.
#[derive(Debug, Clone, Copy)]
enum Start {
    Direct,
    /// By a launcher that has little else in it.
    Isolated,
    /// With cgroups for memory and CPU, too.
    Limited,
}

fn pool(concurrency: usize, start: Start) -> Arc<ProcessPool> {
    let isolation = Isolation {
        launcher: (LAUNCHER.into(), Vec::new()),
        level: IsolationLevel::Full,
        required: false,
        read: Vec::new(),
        write: vec![std::env::temp_dir()],
        cpu_by_memory: true,
    };
    Arc::new(
        ProcessPool::new(ProcessConfig {
            concurrency,
            isolation: (!matches!(start, Start::Direct)).then(|| Box::new(isolation)),
            memory_limit_bytes: matches!(start, Start::Limited).then_some(1769 << 20),
            ..ProcessConfig::new(FUNCTION)
        })
        .unwrap(),
    )
}

async fn ping(pool: &ProcessPool) {
    let task = task::task("ping", 1);
    let meter: Arc<dyn Meter> = Arc::new(|_: InvocationRecord| ());
    pool.invoke(Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter }).await.unwrap();
}

async fn warm(start: Start, iterations: u64) -> Duration {
    let pool = pool(1, start);
    ping(&pool).await;
    let begin = Instant::now();
    for _ in 0..iterations {
        ping(&pool).await;
    }
    let elapsed = begin.elapsed();
    pool.shutdown().await;
    elapsed
}

/// Time until `width` functions, started at once, have all answered.
async fn cold(start: Start, width: usize, iterations: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    for _ in 0..iterations {
        let pool = pool(width, start);
        let begin = Instant::now();
        let mut pings = JoinSet::new();
        for _ in 0..width {
            let pool = Arc::clone(&pool);
            pings.spawn(async move { ping(&pool).await });
        }
        pings.join_all().await;
        elapsed += begin.elapsed();
        pool.shutdown().await;
    }
    elapsed
}

fn invocation(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    // Spawned and not blocked on, as a peer's event loop is: a thread outside the runtime costs a hop.
    let on_runtime = |future| runtime.block_on(runtime.spawn(future)).unwrap();
    const STARTS: [Start; 3] = [Start::Direct, Start::Isolated, Start::Limited];
    let mut group = criterion.benchmark_group("warm ping");
    for start in STARTS {
        group.bench_function(format!("{start:?}"), |bencher| {
            bencher.iter_custom(|n| on_runtime(Box::pin(warm(start, n)) as BoxFuture<'static, Duration>));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("cold start");
    group.sample_size(20);
    for (start, width) in STARTS.into_iter().flat_map(|start| [(start, 1), (start, 64)]) {
        group.bench_function(format!("{start:?}, {width} at once"), |bencher| {
            bencher.iter_custom(|n| on_runtime(Box::pin(cold(start, width, n)) as BoxFuture<'static, Duration>));
        });
    }
}

criterion_group!(benches, invocation);
criterion_main!(benches);
