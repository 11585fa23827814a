//! What the tests of platforms share.

pub mod contract;
pub mod task;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerless_functions::{InvocationRecord, Meter};

/// Keeps every record.
#[derive(Default)]
pub struct Records(Mutex<Vec<InvocationRecord>>);

impl Records {
    pub fn meter(self: &Arc<Self>) -> Arc<dyn Meter> {
        let records = Arc::clone(self);
        Arc::new(move |record| records.0.lock().unwrap().push(record))
    }

    pub fn all(&self) -> Vec<InvocationRecord> {
        self.0.lock().unwrap().clone()
    }
}

/// Waits for something that another process does; panics when it does not happen.
pub async fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < Duration::from_secs(30), "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for a file that the scripted function makes.
pub async fn appears(path: &Path) {
    eventually(&format!("{} appears", path.display()), || path.exists()).await;
}
