//! Gradients that functions write to the peer's database themselves, past its gateway.

use std::path::PathBuf;
use std::sync::Arc;

use peerless_functions::BoxFuture;
use peerless_protocol::Digest;
use peerless_protocol::function::{Place, Remote};
use peerless_store::{RedisOutput, RedisOutputs};

use super::{BucketRequests, DataPath, DataPathError, DataPathSnapshot, Grant, Offer, OutputFile, OutputSize, Places};

/// Another way, but for gradients: these go to a key of the database. While that does not answer they go the other
/// way, too.
pub(crate) struct IntoDatabase {
    other: Arc<dyn DataPath>,
    outputs: Arc<RedisOutputs>,
}

impl IntoDatabase {
    pub(crate) fn new(other: Arc<dyn DataPath>, outputs: Arc<RedisOutputs>) -> Self {
        Self { other, outputs }
    }

    async fn offer_key(&self, mut offer: Offer) -> Result<Box<dyn Grant>, DataPathError> {
        let Some(OutputFile { path, size: OutputSize::Exactly(bytes) }) = offer.output.clone() else {
            return self.other.offer(offer).await;
        };
        let outputs = Arc::clone(&self.outputs);
        let Some(output) = blocking(move || Ok(outputs.offer())).await? else {
            return self.other.offer(offer).await;
        };
        offer.output = None;
        let other = self.other.offer(offer).await?;
        let remote = Remote { url: output.url.clone(), token: None };
        let places = Places { output: Place::Remote(remote), ..other.places().clone() };
        Ok(Box::new(DatabaseGrant { places, other, outputs: Arc::clone(&self.outputs), output, path, bytes }))
    }
}

impl DataPath for IntoDatabase {
    fn offer(&self, offer: Offer) -> BoxFuture<'_, Result<Box<dyn Grant>, DataPathError>> {
        Box::pin(self.offer_key(offer))
    }

    fn snapshot(&self) -> DataPathSnapshot {
        self.other.snapshot()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.other.close()
    }
}

struct DatabaseGrant {
    places: Places,
    /// The right to the inputs.
    other: Box<dyn Grant>,
    outputs: Arc<RedisOutputs>,
    output: RedisOutput,
    path: PathBuf,
    bytes: u64,
}

impl Grant for DatabaseGrant {
    fn places(&self) -> &Places {
        &self.places
    }

    fn collect(&mut self, digest: Digest) -> BoxFuture<'_, Result<(), DataPathError>> {
        let (outputs, output) = (Arc::clone(&self.outputs), self.output.clone());
        let (path, bytes) = (self.path.clone(), self.bytes);
        Box::pin(blocking(move || outputs.collect(&output, &path, bytes, digest).map_err(DataPathError::Database)))
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), DataPathError>> {
        self.other.check()
    }

    fn bucket_requests(&self) -> BucketRequests {
        self.other.bucket_requests()
    }
}

/// Waits for the database on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataPathError> + Send + 'static,
) -> Result<T, DataPathError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(DataPathError::Thread))
}
