//! Sends the traces of a run to a collector: those that are there, or all until the run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use peerless_peer::run_directory::{RunDirectory, RunDirectoryError};
use thiserror::Error;
use tokio::time::Instant;

use crate::collector::{Collector, ExportError, Taken};
use crate::life::Ended;
use crate::reader::RunTraces;

/// Most spans in a request: the specification's number for batches, some hundred kilobytes.
const BATCH: usize = 512;
/// How often is looked for what is new.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pauses after failures: each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long is sent what is left once it is time to stop.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long a run without a living peer may stand still before it counts as over: peers are started again.
const STANDSTILL: Duration = Duration::from_secs(10);

/// An export that did not come to its end.
#[derive(Debug, Error)]
pub enum TracesError {
    /// The collector.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The run's directory.
    #[error(transparent)]
    Run(#[from] RunDirectoryError),
    /// Spans that it refused for good.
    #[error("the collector at {collector} refused {spans} spans")]
    Refused {
        /// How many.
        spans: u64,
        /// Where it is.
        collector: String,
    },
    /// Spans that it did not take in the time that there was.
    #[error("the collector at {collector} has not taken all spans")]
    Unfinished {
        /// Where it is.
        collector: String,
    },
    /// Peers whose records could not be read.
    #[error("not everything could be read: {0}")]
    Unreadable(String),
}

/// What happens meanwhile that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The collector takes nothing; it is tried again.
    Failing(ExportError),
    /// It takes spans again.
    Recovered,
    /// It will never take some spans: they are given up.
    GivenUp(ExportError),
    /// It refused spans of a request that it took.
    Rejected(String),
    /// Something cannot be read.
    Unreadable(String),
}

/// What was exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Spans that the collector took.
    pub spans: u64,
    /// Spans that it refused.
    pub rejected: u64,
}

/// What the peers of a run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Some live, or none has been started yet.
    Going,
    /// None lives, and none has the final state.
    Still,
    /// None lives, and some have the final state.
    Finished,
}

/// Sends the traces of a run to a collector.
pub struct Exporter<F> {
    traces: RunTraces,
    collector: Collector,
    notify: F,
    exported: Exported,
    given_up: u64,
    failing: bool,
    /// What could not be read the last time, by peer.
    unreadable: BTreeMap<String, String>,
    /// What was said already.
    said: BTreeSet<String>,
}

impl<F: FnMut(Notice)> Exporter<F> {
    /// Of a run, to a collector; `notify` hears what happens meanwhile.
    pub fn new(run: RunDirectory, collector: Collector, notify: F) -> Self {
        Self {
            traces: RunTraces::new(run),
            collector,
            notify,
            exported: Exported::default(),
            given_up: 0,
            failing: false,
            unreadable: BTreeMap::new(),
            said: BTreeSet::new(),
        }
    }

    /// Sends what is there, up to the first failure.
    ///
    /// # Errors
    /// [`TracesError`].
    pub async fn export(mut self) -> Result<Exported, TracesError> {
        self.pass(false).await?;
        self.conclude()
    }

    /// Sends what is there and what comes until `stop` resolves or, if `ends_with_run`, the run is over; then what is left,
    /// for [`FLUSH_LIMIT`]. A collector that fails is tried again.
    ///
    /// # Errors
    /// [`TracesError`]: what was not delivered in the end.
    pub async fn follow(
        mut self,
        ends_with_run: bool,
        stop: impl Future<Output = ()>,
    ) -> Result<Exported, TracesError> {
        let mut stop = pin!(stop);
        let mut until: Option<Instant> = None;
        let mut still_since: Option<Instant> = None;
        loop {
            let last = until.is_some();
            let unfinished = TracesError::Unfinished { collector: self.collector.name().to_owned() };
            let seen = {
                // A pass is not broken off to begin the last one: what is under way would be sent twice.
                let mut pass = pin!(self.pass(true));
                loop {
                    tokio::select! {
                        seen = &mut pass => break seen?,
                        () = &mut stop, if until.is_none() => until = Some(Instant::now() + FLUSH_LIMIT),
                        () = passed(until) => return Err(unfinished),
                    }
                }
            };
            still_since = if seen == Seen::Still { still_since.or_else(|| Some(Instant::now())) } else { None };
            let over = seen == Seen::Finished || still_since.is_some_and(|since| since.elapsed() >= STANDSTILL);
            if last || (ends_with_run && over) {
                return self.conclude();
            }
            if until.is_none() {
                tokio::select! {
                    () = &mut stop => until = Some(Instant::now() + FLUSH_LIMIT),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        }
    }

    fn conclude(self) -> Result<Exported, TracesError> {
        let spans = self.given_up + self.exported.rejected;
        if spans > 0 {
            return Err(TracesError::Refused { spans, collector: self.collector.name().to_owned() });
        }
        match self.unreadable.into_values().next() {
            Some(problem) => Err(TracesError::Unreadable(problem)),
            None => Ok(self.exported),
        }
    }

    /// Sends everything that is new, peer by peer. Nothing is read while spans wait for the collector.
    async fn pass(&mut self, patient: bool) -> Result<Seen, TracesError> {
        self.unreadable.clear();
        let mut ends = Vec::new();
        for (name, directory) in self.traces.directories()? {
            ends.extend(self.export_peer(&name, &directory, patient).await?);
        }
        Ok(seen(&ends))
    }

    /// How the process of a peer has ended, if it has, once everything is read; nothing of a peer that has not begun, or
    /// cannot be read.
    async fn export_peer(
        &mut self,
        name: &str,
        directory: &Path,
        patient: bool,
    ) -> Result<Option<Option<Ended>>, TracesError> {
        loop {
            match self.traces.read(name, directory) {
                Ok(Some(read)) => {
                    self.send(read.spans, &read.resource, patient).await?;
                    if !read.more {
                        return Ok(Some(read.ended));
                    }
                }
                Ok(None) => return Ok(None),
                Err(problem) => {
                    self.cannot_read(name, problem);
                    return Ok(None);
                }
            }
        }
    }

    fn cannot_read(&mut self, peer: &str, problem: String) {
        if self.said.insert(problem.clone()) {
            (self.notify)(Notice::Unreadable(problem.clone()));
        }
        self.unreadable.insert(peer.to_owned(), problem);
    }

    async fn send(&mut self, spans: Vec<SpanData>, of: &Resource, patient: bool) -> Result<(), TracesError> {
        for batch in spans.chunks(BATCH) {
            let mut pause = FIRST_PAUSE;
            loop {
                match self.collector.export(of, batch.to_vec()).await {
                    Ok(taken) => break self.taken(batch.len(), taken),
                    Err(error) if !patient => return Err(error.into()),
                    Err(error) if error.is_final() => break self.give_up(batch.len(), error),
                    Err(error) => self.failing(error),
                }
                tokio::time::sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
        Ok(())
    }

    fn failing(&mut self, error: ExportError) {
        if !std::mem::replace(&mut self.failing, true) {
            (self.notify)(Notice::Failing(error));
        }
    }

    fn taken(&mut self, spans: usize, taken: Taken) {
        let rejected = taken.rejected.min(spans as u64);
        self.exported.spans += spans as u64 - rejected;
        self.exported.rejected += rejected;
        if std::mem::take(&mut self.failing) {
            (self.notify)(Notice::Recovered);
        }
        if (rejected > 0 || !taken.reason.is_empty()) && self.said.insert(taken.reason.clone()) {
            (self.notify)(Notice::Rejected(taken.reason));
        }
    }

    fn give_up(&mut self, spans: usize, error: ExportError) {
        self.given_up += spans as u64;
        if self.said.insert(error.to_string()) {
            (self.notify)(Notice::GivenUp(error));
        }
    }
}

/// Waits until then; for ever if there is no such time.
async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn seen(ends: &[Option<Ended>]) -> Seen {
    match ends.contains(&Some(Ended::Finished)) {
        _ if ends.is_empty() || ends.contains(&None) => Seen::Going,
        true => Seen::Finished,
        false => Seen::Still,
    }
}
