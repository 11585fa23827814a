//! A platform whose functions share no disk with this peer, used as if they did.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{
    BoxFuture, Call, FunctionPlatform, Invocation, InvocationRecord, InvokeError, Meter, Outcome, PlatformSnapshot,
};
use peerless_protocol::function::{Output, Place, Task, TensorRef, Work};
use peerless_protocol::{Digest, UnitKind};
use tokio::time::Instant;

use super::vectors::{VectorPlace, Vectors};
use super::{DataPath, DataPathError, Grant, Offer, OutputFile, OutputSize, Places};

/// Most bytes of initial parameters: those of a model of 2^30 elements. What a function reports is
/// checked afterwards; this only keeps a stolen token from filling the memory.
const MAX_INITIAL_BYTES: u64 = 4 << 30;

/// Takes tasks that name files of this peer, and offers these to the functions of another platform
/// through a [`DataPath`], anew for each attempt.
pub struct OverNetwork {
    platform: Arc<dyn FunctionPlatform>,
    data_path: Arc<dyn DataPath>,
    lifetime: Duration,
    vectors: Vectors,
}

impl OverNetwork {
    /// `lifetime` is how long an attempt may use what it was offered, its time in the platform's queue
    /// included. It should be longer than the platform lets functions work; the grant ends with the
    /// attempt in any case.
    pub fn new(platform: Arc<dyn FunctionPlatform>, data_path: Arc<dyn DataPath>, lifetime: Duration) -> Self {
        Self { platform, data_path, lifetime, vectors: Vectors::default() }
    }

    /// The task as the function is to get it, and the grant behind it.
    async fn offer(&self, call: &Call<'_>) -> Result<(Task, Option<Box<dyn Grant>>), DataPathError> {
        let mut task = call.task.clone();
        let Some(needs) = self.needs(&task.work).await? else { return Ok((task, None)) };
        let latest = Instant::now() + self.lifetime;
        let expires = call.deadline.map_or(latest, |deadline| deadline.min(latest));
        let Needs { parameters, output, dataset } = needs;
        let grant = self.data_path.offer(Offer { parameters, output, dataset, expires }).await?;
        put_places(&mut task.work, grant.places());
        Ok((task, Some(grant)))
    }

    async fn needs(&self, work: &Work) -> Result<Option<Needs>, DataPathError> {
        Ok(match work {
            Work::Ping => None,
            Work::Initialise { output } => {
                let output = OutputFile { path: file(output)?, size: OutputSize::AtMost(MAX_INITIAL_BYTES) };
                Some(Needs { parameters: None, output: Some(output), dataset: false })
            }
            Work::Unit { unit_kind, parameters, output, .. } => {
                let &TensorRef { offset, elements, .. } = parameters;
                let vector = self.vectors.get(VectorPlace { path: file(&parameters.place)?, offset, elements }).await?;
                let output = match unit_kind {
                    UnitKind::Gradient => {
                        Some(OutputFile { path: file(output)?, size: OutputSize::Exactly(elements.saturating_mul(4)) })
                    }
                    UnitKind::Evaluation => None,
                };
                Some(Needs { parameters: Some(vector), output, dataset: true })
            }
        })
    }
}

/// What a kind of work needs.
struct Needs {
    parameters: Option<super::Vector>,
    output: Option<OutputFile>,
    dataset: bool,
}

fn file(place: &Place) -> Result<PathBuf, DataPathError> {
    match place {
        Place::Path(path) => Ok(path.clone()),
        Place::Remote(_) => Err(DataPathError::NotAFile(place.to_string())),
    }
}

fn put_places(work: &mut Work, places: &Places) {
    match work {
        Work::Ping => {}
        Work::Initialise { output } => *output = places.output.clone(),
        Work::Unit { parameters, output, dataset, .. } => {
            if let Some(offered) = &places.parameters {
                *parameters = offered.clone();
            }
            *output = places.output.clone();
            *dataset = places.dataset.clone();
        }
    }
}

impl FunctionPlatform for OverNetwork {
    fn name(&self) -> &'static str {
        self.platform.name()
    }

    fn concurrency(&self) -> usize {
        self.platform.concurrency()
    }

    fn shares_files(&self) -> bool {
        true
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        Box::pin(async move {
            let (task, mut grant) = self.offer(&call).await?;
            let secrets = grant.as_ref().map(|grant| grant.places().secrets()).unwrap_or_default();
            let meter: Arc<dyn Meter> = Arc::new(Discreet { meter: Arc::clone(call.meter), secrets: secrets.clone() });
            let invoked = self.platform.invoke(Call { task: &task, meter: &meter, ..call }).await;
            let invocation = invoked.map_err(|mut error| {
                error.redact(&secrets);
                error
            })?;
            if let (Some(grant), Some(digest)) = (&mut grant, written(&invocation.output)) {
                grant.collect(digest).await?;
            }
            Ok(invocation)
        })
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.platform.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.platform.shutdown()
    }
}

/// What a function says it has written.
fn written(output: &Output) -> Option<Digest> {
    match output {
        Output::Initialised { digest, .. } => Some(*digest),
        Output::Unit { digest, .. } => *digest,
        Output::Pong => None,
    }
}

/// Keeps the secrets of a task out of its record.
struct Discreet {
    meter: Arc<dyn Meter>,
    secrets: Vec<String>,
}

impl Meter for Discreet {
    fn record(&self, mut record: InvocationRecord) {
        if let Outcome::Failed(error) = &mut record.outcome {
            error.redact(&self.secrets);
        }
        self.meter.record(record);
    }
}
