//! A platform under virtual time, whose attempts take as long and end as the test says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerless_functions::{
    AttemptId, BoxFuture, Call, FunctionName, FunctionPlatform, Invocation, InvocationRecord, InvokeError, Metering,
    Outcome, PlatformSnapshot, WorkLabel,
};
use peerless_protocol::function::{Output, Place, Task, TensorRef, Work};
use peerless_protocol::{Digest, UnitKind};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::support::task::task;

/// How long an attempt takes once it has left the queue, and whether it succeeds.
pub type Script = dyn Fn(AttemptId) -> (Duration, bool) + Send + Sync;

pub struct Scripted {
    name: &'static str,
    concurrency: usize,
    script: Box<Script>,
    failure: InvokeError,
    slots: Arc<Semaphore>,
    busy: Arc<AtomicUsize>,
    queued: AtomicUsize,
    /// The files that attempts were to write to.
    pub outputs: Mutex<Vec<(AttemptId, PathBuf)>>,
}

impl Scripted {
    pub fn new(
        name: &'static str,
        concurrency: usize,
        script: impl Fn(AttemptId) -> (Duration, bool) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::failing_with(failure(), name, concurrency, script)
    }

    /// One whose attempts fail with this error.
    pub fn failing_with(
        failure: InvokeError,
        name: &'static str,
        concurrency: usize,
        script: impl Fn(AttemptId) -> (Duration, bool) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            failure,
            name,
            concurrency,
            script: Box::new(script),
            slots: Arc::new(Semaphore::new(concurrency)),
            busy: Arc::default(),
            queued: AtomicUsize::default(),
            outputs: Mutex::default(),
        })
    }

    async fn attempt(&self, call: Call<'_>) -> Result<Invocation, InvokeError> {
        let Work::Unit { output: Place::Path(path), unit_kind, .. } = &call.task.work else {
            panic!("{:?}", call.task)
        };
        let (id, work) = (AttemptId::from(&call), WorkLabel::from(&call.task.work));
        self.outputs.lock().unwrap().push((id, path.clone()));
        let digest = (*unit_kind == UnitKind::Gradient).then(|| Digest::of(b"gradient"));
        let (duration, succeeds) = (self.script)(id);
        if call.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(InvokeError::DeadlinePassed);
        }
        self.queued.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::clone(&self.slots).acquire_owned().await.unwrap();
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
        call.meter.began(id);
        let (reply, answer) = oneshot::channel();
        let (meter, busy, platform) = (Arc::clone(call.meter), Arc::clone(&self.busy), self.name);
        let result = if succeeds { Ok(()) } else { Err(self.failure.clone()) };
        tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            let outcome = match &result {
                Ok(()) if reply.is_closed() => Outcome::Discarded,
                Ok(()) => Outcome::Succeeded,
                Err(error) => Outcome::Failed(error.clone()),
            };
            meter.record(InvocationRecord { id, work, platform, outcome, metering: Metering::default() });
            busy.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
            let _caller_is_gone = reply.send(result);
        });
        answer.await.unwrap()?;
        let output = Output::Unit { tally: Default::default(), digest };
        Ok(Invocation { output, metering: Metering::default(), elsewhere: None })
    }
}

/// A unit that is to be written to this file.
pub fn unit(kind: UnitKind, invocation: u64, output: &Path) -> Task {
    let parameters = TensorRef { place: Place::Path("/state".into()), offset: 0, elements: 1, digest: None };
    let output = Place::Path(output.into());
    let (round, unit, dataset) = (invocation, 0, BTreeMap::new());
    let work = Work::Unit { round, unit, unit_kind: kind, parameters, output, dataset };
    Task { work, ..task("unit", invocation) }
}

/// How a scripted attempt fails.
pub fn failure() -> InvokeError {
    InvokeError::Crashed { function: FunctionName::Remote("scripted".into()), reason: "as asked".into() }
}

impl FunctionPlatform for Scripted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        Box::pin(self.attempt(call))
    }

    fn snapshot(&self) -> PlatformSnapshot {
        let (busy, queued) = (self.busy.load(Ordering::Relaxed), self.queued.load(Ordering::Relaxed));
        PlatformSnapshot { busy, queued, ..PlatformSnapshot::default() }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
