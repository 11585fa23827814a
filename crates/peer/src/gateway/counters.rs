//! What the gateway did, in totals.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;

use crate::data_path::DataPathSnapshot;

#[derive(Debug, Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    refused: Mutex<BTreeMap<u16, u64>>,
}

impl Counters {
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn refused(&self, status: StatusCode) {
        // Only statuses of this gateway come here, so the map is small.
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
    }

    pub fn snapshot(&self) -> DataPathSnapshot {
        DataPathSnapshot {
            requests: self.requests.load(Ordering::Relaxed),
            bytes_in: self.received.load(Ordering::Relaxed),
            bytes_out: self.sent.load(Ordering::Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
