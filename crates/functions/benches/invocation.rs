//! The overhead of an invocation without compute: a warm round trip, and cold starts.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails may panic")]

#[path = "../tests/support/task.rs"]
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use peerless_functions::{Call, FunctionPlatform, InvocationRecord, Meter, ProcessConfig, ProcessPool};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const FUNCTION: &str = env!("CARGO_BIN_EXE_scripted-function");

fn pool(concurrency: usize) -> Arc<ProcessPool> {
    Arc::new(ProcessPool::new(ProcessConfig { concurrency, ..ProcessConfig::new(FUNCTION) }).unwrap())
}

async fn ping(pool: &ProcessPool) {
    let task = task::task("ping", 1);
    let meter: Arc<dyn Meter> = Arc::new(|_: InvocationRecord| ());
    pool.invoke(Call { task: &task, attempt: 1, deadline: None, meter: &meter }).await.unwrap();
}

async fn warm(iterations: u64) -> Duration {
    let pool = pool(1);
    ping(&pool).await;
    let start = Instant::now();
    for _ in 0..iterations {
        ping(&pool).await;
    }
    let elapsed = start.elapsed();
    pool.shutdown().await;
    elapsed
}

/// Time until `width` functions, started at once, have all answered.
async fn cold(width: usize, iterations: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    for _ in 0..iterations {
        let pool = pool(width);
        let start = Instant::now();
        let mut pings = JoinSet::new();
        for _ in 0..width {
            let pool = Arc::clone(&pool);
            pings.spawn(async move { ping(&pool).await });
        }
        pings.join_all().await;
        elapsed += start.elapsed();
        pool.shutdown().await;
    }
    elapsed
}

fn invocation(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    // Spawned and not blocked on, as a peer's event loop is: a thread outside the runtime costs a hop.
    let on_runtime = |future| runtime.block_on(runtime.spawn(future)).unwrap();
    criterion.bench_function("warm ping", |bencher| bencher.iter_custom(|n| on_runtime(Box::pin(warm(n)) as _)));
    let mut group = criterion.benchmark_group("cold start");
    group.sample_size(20);
    for width in [1, 64] {
        group.bench_function(format!("{width} at once"), |bencher| {
            bencher.iter_custom(|n| {
                on_runtime(Box::pin(cold(width, n)) as peerless_functions::BoxFuture<'static, Duration>)
            });
        });
    }
}

criterion_group!(benches, invocation);
criterion_main!(benches);
