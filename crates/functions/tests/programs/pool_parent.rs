//! A peer for tests: keeps functions warm and busy until it is killed.
//!
//! Arguments: the function program, the folder for `PEERLESS_SCRIPT_DIR`, and the launcher if functions are to be
//! isolated; these do not end by themselves. Prints the process ids
//! of its functions as one line.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program; its panics are test failures")]

#[path = "../support/task.rs"]
mod task;

use std::env;
use std::future::pending;
use std::sync::Arc;

use peerless_functions::{
    Call, FunctionPlatform, InvocationRecord, Isolation, IsolationLevel, Meter, ProcessConfig, ProcessPool,
};

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let mut config = ProcessConfig {
        env: vec![("PEERLESS_SCRIPT_DIR".into(), arguments[1].clone())],
        concurrency: 3,
        ..ProcessConfig::new(&arguments[0])
    };
    if let Some(launcher) = arguments.get(2) {
        config.env.push(("PEERLESS_SCRIPT_DEAF".into(), "1".into()));
        config.isolation = Some(Box::new(Isolation {
            launcher: (launcher.into(), Vec::new()),
            level: IsolationLevel::Full,
            required: false,
            read: Vec::new(),
            write: vec![arguments[1].clone().into()],
            cpu_by_memory: false,
        }));
    }
    let pool = ProcessPool::new(config);
    let pool = Arc::new(pool.unwrap());
    let models = ["sleep", "sleep", "ping"];
    for (invocation, model) in models.into_iter().enumerate() {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move {
            let task = task::task(model, invocation as u64);
            let meter: Arc<dyn Meter> = Arc::new(|_: InvocationRecord| ());
            let call = Call { task: &task, attempt: 1, hedge: false, deadline: None, meter: &meter };
            pool.invoke(call).await
        });
    }
    loop {
        let snapshot = pool.snapshot();
        if (snapshot.warm, snapshot.busy) == (1, 2) {
            let pids: Vec<String> = snapshot.functions.iter().map(|function| function.pid.to_string()).collect();
            println!("{}", pids.join(" "));
            return pending().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
