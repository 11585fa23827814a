//! Exact sums as objects: peers give them to each other through a bucket.

use std::sync::Arc;

use bytes::Bytes;
use peerless_functions::BoxFuture;
use peerless_protocol::{Digest, PayloadRef, PeerId, RunId};
use tokio::time::timeout;

use super::CLOSING_LIMIT;
use super::config::BucketConfig;
use super::error::BucketError;
use super::objects::Objects;
use crate::engine::exchange::{Kept, SharedSums};

/// The sums of all peers of a run. Each writes below its own id, and reads below those of others.
pub(crate) struct SumsBucket {
    objects: Arc<Objects>,
    /// What the keys of all peers' sums begin with.
    folder: String,
    me: PeerId,
}

impl SumsBucket {
    /// Connects, removes what a process of this peer that was killed has left, and tries whether objects can be
    /// written, read and removed.
    pub async fn open(config: &BucketConfig, run: &RunId, me: PeerId) -> Result<Self, BucketError> {
        // The provider for all TLS of this process. One that is set already is as good.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let folder = format!("{}/{run}/sums", config.prefix);
        let objects = Objects::new(config.connect()?, config.to_string(), format!("{folder}/{me}"), config.patience);
        objects.prove().await?;
        let left = objects.sweep().await?;
        objects.try_out().await?;
        tracing::info!(bucket = %config, left, "sums are exchanged through a bucket");
        Ok(Self { objects, folder, me })
    }

    fn key(&self, author: &PeerId, digest: &Digest) -> String {
        format!("{}/{author}/{digest}", self.folder)
    }
}

impl SharedSums for SumsBucket {
    fn put(&self, digest: Digest, bytes: Bytes) -> BoxFuture<'_, Result<Kept, String>> {
        Box::pin(async move {
            let object = self.objects.object(&self.key(&self.me, &digest));
            object.put_bytes(bytes).await.map_err(|error| error.to_string())?;
            Ok(Box::new(object) as Kept)
        })
    }

    fn get(&self, author: PeerId, payload: PayloadRef) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let object = self.objects.lasting_object(&self.key(&author, &payload.digest));
            object.get_exactly(payload.bytes).await.map_err(|error| error.to_string())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let left = match timeout(CLOSING_LIMIT, self.objects.sweep()).await {
                Ok(Ok(_)) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("it took longer than {CLOSING_LIMIT:?}"),
            };
            tracing::warn!(reason = left, "sums of this peer may be left in the bucket");
        })
    }
}
