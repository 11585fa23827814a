//! The vectors that functions compute with, as objects: each is written once, whoever asks first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerless_protocol::Digest;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::objects::{Content, Object, Objects};
use crate::data_path::{DataPathError, Vector};

/// Vectors that stay in the bucket: that of the round, and of the one before for units that are not given up yet.
/// Grants keep theirs for as long as they live.
const KEPT: usize = 2;

/// A vector in the bucket. Its object is removed with the last grant that needs it, once newer ones have come.
pub(super) struct Uploaded {
    pub object: Arc<Object>,
    outcome: watch::Receiver<Option<Result<u32, Arc<DataPathError>>>>,
    upload: AbortHandle,
}

impl Uploaded {
    /// Waits until it is there. Requests that it took.
    async fn done(&self) -> Result<u32, DataPathError> {
        let mut outcome = self.outcome.clone();
        let done = outcome.wait_for(Option::is_some).await;
        match done.ok().and_then(|outcome| outcome.clone()) {
            Some(Ok(requests)) => Ok(requests),
            Some(Err(error)) => Err(DataPathError::Shared(error)),
            None => Err(DataPathError::Closed),
        }
    }
}

/// Recently used vectors.
pub(super) struct States {
    objects: Arc<Objects>,
    kept: Mutex<VecDeque<(Digest, Arc<Uploaded>)>>,
}

impl States {
    pub fn new(objects: Arc<Objects>) -> Self {
        Self { objects, kept: Mutex::default() }
    }

    /// The vector in the bucket, and the number of writes if it was not there before.
    pub async fn get(&self, vector: &Vector) -> Result<(Arc<Uploaded>, u32), DataPathError> {
        let (uploaded, is_new) = self.find_or_begin(vector)?;
        match uploaded.done().await {
            Ok(requests) => Ok((uploaded, if is_new { requests } else { 0 })),
            Err(error) => {
                // The next one who asks begins anew.
                self.forget(&uploaded);
                Err(error)
            }
        }
    }

    /// Has it written anew for whoever asks next: what is in the bucket may be gone or damaged.
    pub fn forget(&self, uploaded: &Arc<Uploaded>) {
        self.kept().retain(|(_, kept)| !Arc::ptr_eq(kept, uploaded));
    }

    /// Ends what is under way, and keeps nothing any more.
    pub fn close(&self) {
        self.kept().drain(..).for_each(|(_, uploaded)| uploaded.upload.abort());
    }

    fn find_or_begin(&self, vector: &Vector) -> Result<(Arc<Uploaded>, bool), DataPathError> {
        let mut kept = self.kept();
        if let Some((_, uploaded)) = kept.iter().find(|(digest, _)| *digest == vector.digest) {
            return Ok((Arc::clone(uploaded), false));
        }
        let uploaded = Arc::new(self.begin(vector.clone())?);
        kept.truncate(KEPT - 1);
        kept.push_front((vector.digest, Arc::clone(&uploaded)));
        Ok((uploaded, true))
    }

    /// On a task of its own: whoever asked first may go away, and the others still want it.
    fn begin(&self, vector: Vector) -> Result<Uploaded, DataPathError> {
        // Under a new key each time, so that removing an old object can never hit the new one.
        let object = Arc::new(self.objects.new_object("states")?);
        let (tell, outcome) = watch::channel(None);
        let target = Arc::clone(&object);
        let Vector { file, offset, elements, .. } = vector;
        let content = Content { file, offset, bytes: elements.saturating_mul(4), name: "the parameters".into() };
        let upload = tokio::spawn(async move {
            let result = target.put(&content).await.map_err(Arc::new);
            tell.send_replace(Some(result));
        });
        Ok(Uploaded { object, outcome, upload: upload.abort_handle() })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Digest, Arc<Uploaded>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
