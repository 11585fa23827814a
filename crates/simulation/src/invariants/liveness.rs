//! Training goes on while one peer lives, and every live peer gets to the end.
//!
//! Why: never computing a wrong state is easy for a protocol that does nothing. Two bounds in virtual
//! time: while nothing new goes wrong, some peer that is up has a new state within [`STALL`]; and after
//! the last fault everybody gets to the end within the patience of the scenario. Both are far above
//! what was observed, so that only waiting for something that never comes exceeds them.

use std::time::Duration;

use peerless_protocol::Time;

/// Longest time without a new state anywhere, while peers are up and nothing new goes wrong, unless a
/// scenario says otherwise. The longest things that must be waited for are the first deadline of a peer
/// that knows of no time yet (10 s), and then a function that never ends, on three attempts in a row.
pub(crate) const STALL: Duration = Duration::from_secs(16);

/// Who is how far, and since when nothing happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Liveness {
    best: u64,
    since: Time,
}

impl Liveness {
    /// Something went wrong or was mended, or a peer is at the end: the clock starts anew. `best` is the
    /// newest round among the peers that are up and not at the end.
    pub fn disturbed(&mut self, now: Time, best: u64) {
        (self.best, self.since) = (best, now);
    }

    /// A peer has the state of `round`.
    pub fn reached(&mut self, now: Time, round: u64) {
        if round > self.best {
            (self.best, self.since) = (round, now);
        }
    }

    /// Whether it takes too long; `busy` says whether a peer is up and not at the end.
    pub fn check(&self, now: Time, stall: Duration, busy: impl Fn() -> bool) -> Result<(), String> {
        let passed = now.since(self.since);
        if passed <= stall || !busy() {
            return Ok(());
        }
        Err(format!(
            "no peer got beyond round {} for {:.1} s, and no fault in between",
            self.best,
            passed.as_secs_f64()
        ))
    }
}
