//! Reads on in the ledger of one peer from where it came to the last time: for whoever watches a run from outside.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use peerless_store::{EventRecord, InvocationRecord, Ledger, LedgerError, RoundRecord, ledger_path};
use thiserror::Error;

use crate::bill::{BillError, Sessions};

/// A ledger that cannot be read on.
#[derive(Debug, Error)]
pub enum TailError {
    /// The ledger, or a record in it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A price in it.
    #[error(transparent)]
    Bill(#[from] BillError),
}

/// Most records of each kind that are read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Rounds.
    pub rounds: u32,
    /// Invocations.
    pub invocations: u32,
    /// Events.
    pub events: u32,
}

impl Limits {
    /// As many of each kind.
    pub fn each(limit: u32) -> Self {
        Self { rounds: limit, invocations: limit, events: limit }
    }
}

/// What a ledger has that was not read before.
#[derive(Debug, Default)]
pub struct News {
    /// Whether what was read before counts no more, as the ledger is another one or could not be read.
    pub anew: bool,
    /// Rounds.
    pub rounds: Vec<RoundRecord>,
    /// Invocations.
    pub invocations: Vec<InvocationRecord>,
    /// Events.
    pub events: Vec<EventRecord>,
    /// All sessions, with the prices of the invocations.
    pub sessions: Sessions,
    /// Messages and blobs that were received and not used, in all.
    pub refused: u64,
    /// Whether there are more rounds to be read at once.
    pub more_rounds: bool,
    /// Whether there are more invocations.
    pub more_invocations: bool,
    /// Whether there are more events.
    pub more_events: bool,
}

impl News {
    /// Whether there is more to be read at once.
    pub fn more(&self) -> bool {
        self.more_rounds || self.more_invocations || self.more_events
    }
}

/// How far a ledger was read.
#[derive(Debug, Default)]
pub struct LedgerTail {
    open: Option<Open>,
    began: bool,
}

#[derive(Debug)]
struct Open {
    ledger: Ledger,
    /// Device and number of the file: a ledger may be replaced by another one.
    file: (u64, u64),
    /// The round to be read next.
    next_round: u64,
    /// The round behind the newest one that was read.
    front: u64,
    /// When the newest round that was read was applied.
    newest_at_us: u64,
    event: u64,
    invocation: u64,
}

impl LedgerTail {
    /// What is new in the ledger of the peer with this directory, at most so many records; nothing where there is no
    /// ledger.
    ///
    /// # Errors
    /// [`TailError`]; reading then begins anew the next time.
    pub fn read(&mut self, peer_directory: &Path, limits: Limits) -> Result<News, TailError> {
        let path = ledger_path(peer_directory);
        let Some(file) = identity(&path) else {
            self.open = None;
            return Ok(News { anew: std::mem::take(&mut self.began), ..News::default() });
        };
        let known = self.open.take().filter(|open| open.file == file);
        let anew = known.is_none() && std::mem::replace(&mut self.began, true);
        let mut open = match known {
            Some(open) => open,
            None => Open::new(path, file)?,
        };
        let mut news = open.read(limits)?;
        news.anew |= anew;
        self.open = Some(open);
        Ok(news)
    }
}

impl Open {
    fn new(path: PathBuf, file: (u64, u64)) -> Result<Self, LedgerError> {
        Ok(Self {
            ledger: Ledger::open_read_only(&path)?,
            file,
            next_round: 0,
            front: 0,
            newest_at_us: 0,
            event: 0,
            invocation: 0,
        })
    }

    /// In short statements, each of which sees what is there at its time: a long transaction would keep the writer from
    /// recycling its log.
    fn read(&mut self, limits: Limits) -> Result<News, TailError> {
        let (event, invocation) = self.ledger.newest_rows()?;
        let mut news = News { anew: event < self.event || invocation < self.invocation, ..News::default() };
        if news.anew {
            (self.next_round, self.front, self.newest_at_us) = (0, 0, 0);
            (self.event, self.invocation) = (0, 0);
        }
        // After the newest row is known: a session is there before its invocations.
        news.sessions = Sessions::read(&self.ledger)?;
        let invocations = limits.invocations.min(u32::try_from(invocation - self.invocation).unwrap_or(u32::MAX));
        let from = self.invocation;
        self.ledger.visit_invocations_after(from, invocations, |row, record| {
            self.invocation = row;
            news.invocations.push(record);
        })?;
        for (row, event) in self.ledger.events_after(self.event, limits.events)? {
            self.event = row;
            // It was replaced in its table.
            if let (Some(round), "round-redone") = (event.round, event.kind.as_str()) {
                self.next_round = self.next_round.min(round);
            }
            news.events.push(event);
        }
        news.rounds = self.ledger.rounds(self.next_round, limits.rounds)?;
        let full = |records: usize, limit: u32| records >= limit as usize;
        news.more_rounds = full(news.rounds.len(), limits.rounds);
        news.more_invocations = full(news.invocations.len(), limits.invocations);
        news.more_events = full(news.events.len(), limits.events);
        self.next_round = news.rounds.last().map_or(self.next_round, |round| round.round.saturating_add(1));
        // Of rounds that were read before, only those that were applied since.
        let (known, before) = (self.front, self.newest_at_us);
        self.front = known.max(self.next_round);
        news.rounds.retain(|round| round.round >= known || round.at_us > before);
        self.newest_at_us = news.rounds.iter().map(|round| round.at_us).fold(before, u64::max);
        news.refused = self.ledger.refused()?;
        Ok(news)
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
