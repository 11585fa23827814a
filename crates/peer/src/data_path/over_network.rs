//! A platform whose functions share no disk with this peer, used as if they did.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peerless_functions::{BoxFuture, Call, FunctionPlatform, Invocation, InvokeError, Meter, PlatformSnapshot};
use peerless_protocol::function::{FailureKind, Output, Place, Task, TensorRef, Work};
use peerless_protocol::{Digest, UnitKind};
use tokio::time::Instant;

use super::metered::{Metered, Moves};
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

    /// The task as the function is to get it, with the grant behind it and what it moves.
    async fn offer(&self, call: &Call<'_>) -> Result<(Task, Option<(Box<dyn Grant>, Moves)>), DataPathError> {
        let mut task = call.task.clone();
        let Some(needs) = self.needs(&task.work).await? else { return Ok((task, None)) };
        let latest = Instant::now() + self.lifetime;
        let expires = call.deadline.map_or(latest, |deadline| deadline.min(latest));
        let Needs { parameters, output, dataset } = needs;
        let offer = Offer { parameters, output, dataset, expires };
        let moves = Moves::of(&offer);
        let grant = self.data_path.offer(offer).await?;
        put_places(&mut task.work, grant.places());
        let moves = moves.granted(grant.as_ref());
        Ok((task, Some((grant, moves))))
    }

    /// An attempt with tensors.
    async fn invoke_granted(
        &self,
        call: Call<'_>,
        mut grant: Box<dyn Grant>,
        moves: Moves,
    ) -> Result<Invocation, InvokeError> {
        let secrets = grant.places().secrets();
        let given_up = GivenUp::default();
        let meter: Arc<dyn Meter> = Arc::new(Metered {
            meter: Arc::clone(call.meter),
            secrets: secrets.clone(),
            moves,
            given_up: Arc::clone(&given_up.0),
        });
        let result = self.platform.invoke(Call { meter: &meter, ..call }).await;
        given_up.defuse();
        match result {
            Ok(invocation) => {
                if let Some(digest) = written(&invocation.output) {
                    grant.collect(digest).await?;
                }
                Ok(invocation)
            }
            Err(mut error) => {
                if may_lack_tensors(&error) {
                    grant.check().await?;
                }
                error.redact(&secrets);
                Err(error)
            }
        }
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

/// Says that the caller went away in the middle of an attempt: dropped with it, before the grant is.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    fn defuse(mut self) {
        self.0 = Arc::default();
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
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
            let (task, granted) = self.offer(&call).await?;
            let call = Call { task: &task, ..call };
            match granted {
                Some((grant, moves)) => self.invoke_granted(call, grant, moves).await,
                None => self.platform.invoke(call).await,
            }
        })
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.platform.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.platform.shutdown().await;
            self.data_path.close().await;
        })
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

/// Whether a function may have failed for want of its tensors. Their store knows better why than the function.
fn may_lack_tensors(error: &InvokeError) -> bool {
    let InvokeError::Reported(failure) = error else { return false };
    matches!(failure.kind, FailureKind::Environment | FailureKind::Input)
}
