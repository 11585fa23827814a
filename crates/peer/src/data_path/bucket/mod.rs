//! A bucket: functions read parameters from an S3-compatible store and write gradients there, with presigned URLs.
//! What it promises is in `docs/buckets.md`.
//!
//! The peer writes a state's vector once, whoever of its functions asks first. Every attempt gets a URL that reads
//! this one object, and one that writes an object with a key that nobody else has. What was written counts once
//! the peer has fetched it and found the digest of the report: so whatever else arrives there changes nothing.

mod config;
mod dataset;
mod error;
mod objects;
mod presign;
mod states;
mod sums;

use std::sync::Arc;
use std::time::Duration;

use object_store::signer::Method;
use peerless_functions::BoxFuture;
use peerless_protocol::function::{Place, TensorRef};
use peerless_protocol::{Digest, PeerId, RunId};
use tokio::time::timeout;

pub use config::{BucketConfig, Credentials};
use dataset::Dataset;
pub use error::BucketError;
use objects::{Object, Objects};
use states::{States, Uploaded};
pub(crate) use sums::SumsBucket;

use crate::data_path::{BucketRequests, DataPath, DataPathError, DataPathSnapshot, Grant, Offer, OutputFile, Places};

/// Longest time that removing the last objects may hold up the peer's end.
const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// One peer's part of a bucket.
pub struct Bucket {
    objects: Arc<Objects>,
    states: Arc<States>,
    dataset: Arc<Dataset>,
}

impl Bucket {
    /// Connects, removes what a process of this peer that was killed has left, and tries whether objects can be
    /// written, read and removed. Writes the dataset's files, unless they are there.
    ///
    /// # Errors
    /// [`BucketError`], which says what to do, or a file of the dataset that cannot be read.
    pub async fn open(config: &BucketConfig, run: &RunId, peer: &PeerId) -> Result<Self, DataPathError> {
        // The provider for all TLS of this process. One that is set already is as good.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let base = config.base(&run.to_string(), &peer.to_string());
        let objects = Objects::new(config.connect()?, config.to_string(), base, config.patience);
        objects.prove().await?;
        let left = objects.sweep().await?;
        objects.try_out().await?;
        tracing::info!(bucket = %config, left, "bucket for remote functions");
        let dataset = Dataset::open(config.dataset.clone(), config.datasets(), Arc::clone(&objects)).await?;
        let written = dataset.provide().await?;
        if written > 0 {
            tracing::info!(bucket = %config, files = written, "wrote the dataset for functions that have none");
        }
        let states = Arc::new(States::new(Arc::clone(&objects)));
        Ok(Self { objects, states, dataset: Arc::new(dataset) })
    }

    async fn offer_now(&self, offer: Offer) -> Result<BucketGrant, DataPathError> {
        let mut requests = BucketRequests::default();
        let (mut state, mut parameters) = (None, None);
        if let Some(vector) = offer.parameters {
            let (uploaded, puts) = self.states.get(&vector).await?;
            let remote = uploaded.object.presigned(Method::GET, offer.expires).await?;
            parameters = Some(TensorRef {
                place: Place::Remote(remote),
                offset: 0,
                elements: vector.elements,
                digest: Some(vector.digest),
            });
            requests = BucketRequests { prepared_puts: puts, gets: 1, ..requests };
            state = Some(uploaded);
        }
        // Nobody writes there: it only has to be no right to anything.
        let (mut output, mut place) = (None, Place::Path("/dev/null".into()));
        if let Some(file) = offer.output {
            let object = self.objects.new_object("outputs")?;
            place = Place::Remote(object.presigned(Method::PUT, offer.expires).await?);
            requests = BucketRequests { puts: 1, collect_gets: 1, ..requests };
            output = Some((object, file));
        }
        let (mut samples, mut files) = (None, Default::default());
        if offer.dataset {
            files = self.dataset.presigned(offer.expires).await?;
            samples = Some(Arc::clone(&self.dataset));
        }
        let places = Places { parameters, output: place, dataset: files };
        Ok(BucketGrant { places, states: Arc::clone(&self.states), state, samples, output, requests })
    }
}

impl DataPath for Bucket {
    fn offer(&self, offer: Offer) -> BoxFuture<'_, Result<Box<dyn Grant>, DataPathError>> {
        Box::pin(async move { Ok(Box::new(self.offer_now(offer).await?) as Box<dyn Grant>) })
    }

    fn snapshot(&self) -> DataPathSnapshot {
        self.objects.snapshot()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.states.close();
            let left = match timeout(CLOSING_LIMIT, self.objects.sweep()).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("it took longer than {CLOSING_LIMIT:?}"),
            };
            tracing::warn!(reason = left, "objects of this peer may be left in the bucket");
        })
    }
}

struct BucketGrant {
    places: Places,
    states: Arc<States>,
    state: Option<Arc<Uploaded>>,
    samples: Option<Arc<Dataset>>,
    output: Option<(Object, OutputFile)>,
    requests: BucketRequests,
}

impl Grant for BucketGrant {
    fn places(&self) -> &Places {
        &self.places
    }

    fn collect(&mut self, digest: Digest) -> BoxFuture<'_, Result<(), DataPathError>> {
        Box::pin(async move {
            let (object, output) = self.output.as_ref().ok_or(DataPathError::NotWritten)?;
            object.collect(output, digest).await
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), DataPathError>> {
        Box::pin(async move {
            if let Some(samples) = &self.samples {
                samples.provide().await?;
            }
            if let Some(state) = &self.state {
                self.states.forget(state);
                state.object.head().await?;
                return Ok(());
            }
            match &self.output {
                Some((object, _)) => match object.head().await {
                    Ok(_) | Err(BucketError::NoObject { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                },
                None => Ok(()),
            }
        })
    }

    fn bucket_requests(&self) -> BucketRequests {
        self.requests
    }
}
