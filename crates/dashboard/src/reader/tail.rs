//! Reads on in the ledger of one peer from where it came to the last time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use peerless_peer::bill::{BillError, Session, Sessions};
use peerless_store::{EventRecord, InvocationRecord, Ledger, LedgerError, RoundRecord, ledger_path};
use thiserror::Error;

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
    /// Whether there is more to be read at once.
    pub more: bool,
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
    next_round: u64,
    /// When the newest round that was read was applied.
    newest_at_us: u64,
    event: u64,
    invocation: u64,
}

impl LedgerTail {
    /// What is new in the ledger of the peer with this directory, at most `limit` records of a kind; nothing where there
    /// is no ledger.
    ///
    /// # Errors
    /// [`TailError`]; reading then begins anew the next time.
    pub fn read(&mut self, peer_directory: &Path, limit: u32) -> Result<News, TailError> {
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
        let mut news = open.read(limit)?;
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
            newest_at_us: 0,
            event: 0,
            invocation: 0,
        })
    }

    /// In short statements, each of which sees what is there at its time: a long transaction would keep the writer from
    /// recycling its log.
    fn read(&mut self, limit: u32) -> Result<News, TailError> {
        let (event, invocation) = self.ledger.newest_rows()?;
        let mut news = News { anew: event < self.event || invocation < self.invocation, ..News::default() };
        if news.anew {
            (self.next_round, self.newest_at_us, self.event, self.invocation) = (0, 0, 0, 0);
        }
        // After the newest row is known: a session is there before its invocations.
        news.sessions = Sessions::read(&self.ledger)?;
        let invocations = limit.min(u32::try_from(invocation - self.invocation).unwrap_or(u32::MAX));
        let from = self.invocation;
        self.ledger.visit_invocations_after(from, invocations, |row, record| {
            self.invocation = row;
            news.invocations.push(record);
        })?;
        let known = self.next_round;
        for (row, event) in self.ledger.events_after(self.event, limit)? {
            self.event = row;
            // It was replaced in its table.
            if let (Some(round), "round-redone") = (event.round, event.kind.as_str()) {
                self.next_round = self.next_round.min(round);
            }
            news.events.push(event);
        }
        news.rounds = self.ledger.rounds(self.next_round, limit)?;
        let full = |records: usize| records >= limit as usize;
        news.more = full(news.rounds.len()) || full(news.invocations.len()) || full(news.events.len());
        self.next_round = news.rounds.last().map_or(known, |round| round.round.saturating_add(1));
        // Of rounds before, only those that were applied since.
        let before = self.newest_at_us;
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

/// Lives of a peer's process: begin and last sign, in microseconds since the Unix epoch.
pub fn lives(sessions: &Sessions) -> Vec<(u64, u64)> {
    sessions.all().iter().map(|session: &Session| (session.started_at_us, session.last_at_us)).collect()
}
