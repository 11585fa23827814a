//! What the records of a peer's ledger cost, by the tariffs that were in force.

use peerless_functions::prices::{Charge, Money, Tariff, Usage};
use peerless_store::{EventRecord, InvocationRecord, Ledger, LedgerError};
use thiserror::Error;

/// Kind of the ledger's event with what a peer asked of the bucket by which sums go from peer to peer.
pub(crate) const EXCHANGE: &str = "exchange";

/// What the exchange of a round's sums through a bucket cost a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchanged {
    /// The round under way.
    pub round: u64,
    /// When it was written down, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The price of the requests.
    pub cost: Money,
}

/// What the requests of an exchange cost; nothing for other events.
pub(crate) fn exchange_cost(tariff: &Tariff, event: &EventRecord) -> Money {
    let detail: serde_json::Value = serde_json::from_str(&event.detail).unwrap_or_default();
    let requests = |name: &str| detail[name].as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let usage = Usage { bucket_puts: requests("puts"), bucket_gets: requests("gets"), ..Usage::default() };
    tariff.charge("", &usage).transfer
}

/// A ledger that cannot be priced.
#[derive(Debug, Error)]
pub enum BillError {
    /// It cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The tariff of a session is none.
    #[error("the tariff of session {number} is damaged: {reason}")]
    Tariff {
        /// The session.
        number: u64,
        /// What is wrong.
        reason: serde_json::Error,
    },
}

/// One life of the peer's process, with the prices that applied to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// When it began, in microseconds since the Unix epoch.
    pub started_at_us: u64,
    /// When it wrote something last.
    pub last_at_us: u64,
    /// The prices.
    pub tariff: Tariff,
}

impl Session {
    /// How long it has lasted as far as it is known, in microseconds.
    pub fn length_us(&self) -> u64 {
        self.last_at_us.saturating_sub(self.started_at_us)
    }
}

/// The sessions of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    sessions: Vec<Session>,
    /// For what was recorded before ledgers kept sessions.
    before: Tariff,
}

impl Sessions {
    /// Those of a ledger.
    ///
    /// # Errors
    /// [`BillError`].
    pub fn read(ledger: &Ledger) -> Result<Self, BillError> {
        let session = |record: peerless_store::SessionRecord| {
            let peerless_store::SessionRecord { number, started_at_us, last_at_us, tariff } = record;
            let tariff = serde_json::from_str(&tariff).map_err(|reason| BillError::Tariff { number, reason })?;
            Ok(Session { number, started_at_us, last_at_us, tariff })
        };
        let sessions = ledger.sessions()?.into_iter().map(session).collect::<Result<_, BillError>>()?;
        Ok(Self { sessions, before: Tariff::default() })
    }

    /// The sessions, by number.
    pub fn all(&self) -> &[Session] {
        &self.sessions
    }

    /// Changes all tariffs, also that of what was recorded before ledgers kept sessions.
    pub fn amend(&mut self, mut change: impl FnMut(&mut Tariff)) {
        self.sessions.iter_mut().for_each(|session| change(&mut session.tariff));
        change(&mut self.before);
    }

    /// The prices that applied to an invocation.
    pub fn tariff(&self, invocation: &InvocationRecord) -> &Tariff {
        let session = invocation.session.and_then(|number| {
            let index = self.sessions.binary_search_by_key(&number, |session| session.number).ok()?;
            self.sessions.get(index)
        });
        session.map_or(&self.before, |session| &session.tariff)
    }

    /// What an invocation costs.
    pub fn charge(&self, invocation: &InvocationRecord) -> Charge {
        self.tariff(invocation).charge(&invocation.platform, &usage(invocation))
    }

    /// What the exchange of sums through a bucket has cost, in the order of time.
    ///
    /// # Errors
    /// [`BillError::Ledger`].
    pub fn exchanged(&self, ledger: &Ledger) -> Result<Vec<Exchanged>, BillError> {
        let mut events = ledger.events_of(EXCHANGE, u32::MAX)?;
        events.sort_by_key(|event| event.at_us);
        Ok(events.iter().filter_map(|event| self.exchange(event)).collect())
    }

    /// What an event says that the exchange of sums through a bucket has cost; `None` of other events.
    pub fn exchange(&self, event: &EventRecord) -> Option<Exchanged> {
        let session = self.sessions.iter().rfind(|session| session.started_at_us <= event.at_us);
        let tariff = session.map_or(&self.before, |session| &session.tariff);
        (event.kind == EXCHANGE).then(|| Exchanged {
            round: event.round.unwrap_or_default(),
            at_us: event.at_us,
            cost: exchange_cost(tariff, event),
        })
    }

    /// What the peer's machine costs, over all sessions.
    pub fn machine_time(&self) -> Money {
        self.sessions.iter().map(|session| session.tariff.machine_time(session.length_us())).sum()
    }
}

fn usage(record: &InvocationRecord) -> Usage {
    let billing = record.billing;
    Usage {
        memory_mb: billing.memory_mb,
        billed_ms: billing.billed_ms,
        requests: billing.requests,
        duration_us: record.duration_us,
        tensor_bytes_out: billing.tensor_bytes_out,
        bucket_puts: billing.bucket_puts,
        bucket_gets: billing.bucket_gets,
    }
}
