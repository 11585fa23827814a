//! Snapshots for whoever wants them, and only then: at most two a second, however many want them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::reader::RunReader;
use crate::snapshot::Snapshot;

/// Least time between two snapshots.
pub const EVERY: Duration = Duration::from_millis(500);

/// A snapshot and when it was taken.
type Taken = Option<(Instant, Arc<Snapshot>)>;

/// Where snapshots come from. Whoever is slow gets the newest one, and none in between.
#[derive(Debug, Clone)]
pub struct Feed {
    newest: watch::Receiver<Taken>,
    wanted: Arc<Notify>,
}

impl Feed {
    /// A feed of this run. Its task ends with the last copy of the feed.
    pub fn start(reader: RunReader) -> Self {
        let (sender, newest) = watch::channel(None);
        let wanted = Arc::new(Notify::new());
        tokio::spawn(supply(reader, sender, Arc::clone(&wanted)));
        Self { newest, wanted }
    }

    /// The next snapshot; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.wanted.notify_one();
        self.newest.changed().await.ok()?;
        self.newest.borrow_and_update().as_ref().map(|(_, snapshot)| Arc::clone(snapshot))
    }

    /// A snapshot that nobody had begun to take yet; `None` when there are no more.
    pub async fn taken_from_now_on(&mut self) -> Option<Arc<Snapshot>> {
        let now = Instant::now();
        loop {
            let snapshot = self.next().await?;
            let taken = self.newest.borrow().as_ref().map(|(taken, _)| *taken);
            if taken >= Some(now) {
                return Some(snapshot);
            }
        }
    }

    /// A snapshot that is fresh enough; `None` when there are no more.
    pub async fn fresh(&mut self) -> Option<Arc<Snapshot>> {
        let known = self.newest.borrow_and_update().clone();
        match known.filter(|(taken, _)| taken.elapsed() < EVERY) {
            Some((_, snapshot)) => Some(snapshot),
            None => self.next().await,
        }
    }
}

/// Takes a snapshot when one is wanted, on a thread that may wait for the disk.
async fn supply(mut reader: RunReader, sender: watch::Sender<Taken>, wanted: Arc<Notify>) {
    loop {
        tokio::select! {
            () = wanted.notified() => {}
            () = sender.closed() => return,
        }
        let began = Instant::now();
        let read = tokio::task::spawn_blocking(move || {
            let snapshot = reader.read();
            (reader, snapshot)
        });
        // It fails only when the runtime ends.
        let Ok((again, snapshot)) = read.await else { return };
        reader = again;
        sender.send_replace(Some((began, Arc::new(snapshot))));
        // A large run takes long to read: then it is read half of the time at most.
        let took = began.elapsed();
        tokio::time::sleep(EVERY.saturating_sub(took).max(took)).await;
    }
}
