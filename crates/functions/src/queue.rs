//! Who may be at work: so many calls at a time, the others wait in the order in which they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::InvokeError;

/// A bounded queue in front of a bounded number of slots.
#[derive(Debug)]
pub(crate) struct Queue {
    /// One permit per call at work; its queue is first in, first out.
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    limit: usize,
}

impl Queue {
    /// A queue with `slots` slots, in which at most `limit` calls wait.
    pub(crate) fn new(slots: usize, limit: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots)), waiting: AtomicUsize::new(0), limit }
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a slot, which is free again when the permit is dropped.
    pub(crate) async fn enter(&self, deadline: Option<Instant>) -> Result<OwnedSemaphorePermit, InvokeError> {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(InvokeError::DeadlinePassed);
        }
        let slots = Arc::clone(&self.slots);
        if let Ok(permit) = Arc::clone(&slots).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting, self.limit)?;
        let permit = match deadline {
            None => slots.acquire_owned().await,
            Some(deadline) => {
                timeout_at(deadline, slots.acquire_owned()).await.map_err(|_| InvokeError::DeadlinePassed)?
            }
        };
        permit.map_err(|_closed| InvokeError::ShutDown)
    }

    /// Sends those who wait away, and whoever comes later.
    pub(crate) fn close(&self) {
        self.slots.close();
    }
}

/// A place in the queue, given back when the wait ends, however it ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, InvokeError> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(InvokeError::QueueFull { limit });
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
