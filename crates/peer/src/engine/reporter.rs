//! Writes the status file beside the work: only the newest status is written, so that a slow disk
//! delays what people see and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::options::PeerError;
use crate::status::PeerStatus;

/// Changes the status from wherever something changes.
#[derive(Clone)]
pub(super) struct Reporter(Arc<watch::Sender<PeerStatus>>);

/// The task that writes.
pub(super) struct Writer(JoinHandle<()>);

impl Reporter {
    /// Writes `status` and from now on every newer one.
    pub fn start(directory: PathBuf, status: PeerStatus) -> Result<(Self, Writer), PeerError> {
        status.write(&directory)?;
        let (sender, mut receiver) = watch::channel(status);
        let task = tokio::spawn(async move {
            while receiver.changed().await.is_ok() {
                let status = receiver.borrow_and_update().clone();
                let directory = directory.clone();
                let written = tokio::task::spawn_blocking(move || status.write(&directory)).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(%error, "the status is not up to date");
                }
            }
        });
        Ok((Self(Arc::new(sender)), Writer(task)))
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut PeerStatus)) {
        self.0.send_modify(change);
    }

    /// Changes the status without writing it; the next [`update`](Self::update) does.
    pub fn update_later(&self, change: impl FnOnce(&mut PeerStatus)) {
        self.0.send_if_modified(|status| {
            change(status);
            false
        });
    }

    /// The newest status.
    pub fn status(&self) -> PeerStatus {
        self.0.borrow().clone()
    }
}

impl Writer {
    /// Waits until the last status is written, once every [`Reporter`] is gone.
    pub async fn finish(self) {
        // The task writes what it has not yet seen before it notices that nobody can change it.
        let _ = self.0.await;
    }
}
