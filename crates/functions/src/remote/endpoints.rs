//! Which of several servers gets the next call.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a server that failed is left alone at first; twice as long after each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest time that a server is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Servers that can do the same.
#[derive(Debug)]
pub(crate) struct Endpoints {
    servers: Mutex<Vec<Server>>,
}

#[derive(Debug, Default)]
struct Server {
    /// When each call at work began, by its turn.
    calls: BTreeMap<u64, Instant>,
    /// When it was taken last, in calls of all servers.
    taken: u64,
    /// Failures since it last answered.
    failures: u32,
    paused_until: Option<Instant>,
}

impl Endpoints {
    pub(crate) fn new(count: usize) -> Self {
        Self { servers: Mutex::new((0..count).map(|_| Server::default()).collect()) }
    }

    /// Takes the server with the fewest calls at work, of several the one that was not taken for the longest
    /// time: peers that share servers would otherwise all go to the first, and go there again when it is busy.
    /// Paused ones only when all are, the one first whose pause ends first: better to ask it than to fail
    /// unasked.
    pub(crate) fn take(&self, now: Instant) -> Lease<'_> {
        self.take_lowest(now, |server| (server.calls.len(), server.taken))
    }

    /// Takes a server for a call that another one takes too long for: the server whose oldest call is the youngest, as
    /// the one that hangs has old ones.
    pub(crate) fn take_for_hedge(&self, now: Instant) -> Lease<'_> {
        let oldest = |server: &Server| server.calls.values().min().map(|began| now.duration_since(*began));
        self.take_lowest(now, |server| (oldest(server), server.calls.len(), server.taken))
    }

    fn take_lowest<R: Ord>(&self, now: Instant, rank: impl Fn(&Server) -> R) -> Lease<'_> {
        let mut servers = self.lock();
        let paused = |server: &Server| server.paused_until.filter(|until| *until > now);
        let lowest = |&index: &usize| (paused(&servers[index]), rank(&servers[index]));
        let index = (0..servers.len()).min_by_key(lowest).unwrap_or(0);
        let turn = servers.iter().map(|server| server.taken).max().unwrap_or_default() + 1;
        let mut suspect = false;
        if let Some(server) = servers.get_mut(index) {
            server.calls.insert(turn, now);
            server.taken = turn;
            suspect = server.failures > 0;
        }
        Lease { endpoints: self, index, turn, suspect }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that was taken for one call.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    endpoints: &'a Endpoints,
    /// Which one.
    pub(crate) index: usize,
    turn: u64,
    /// Whether it failed the last time, so that its health is worth a question.
    pub(crate) suspect: bool,
}

impl Lease<'_> {
    /// It answered, whatever it said.
    pub(crate) fn answered(&self) {
        self.change(|server| {
            server.failures = 0;
            server.paused_until = None;
        });
    }

    /// It could not be reached, or asked to be left alone for `pause`.
    pub(crate) fn failed(&self, now: Instant, pause: Option<Duration>) {
        self.change(|server| {
            let longer = FIRST_PAUSE.saturating_mul(1 << server.failures.min(16)).min(LONGEST_PAUSE);
            server.failures = server.failures.saturating_add(1);
            server.paused_until = Some(now + pause.unwrap_or(longer).min(LONGEST_PAUSE));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Server)) {
        if let Some(server) = self.endpoints.lock().get_mut(self.index) {
            change(server);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.change(|server| {
            server.calls.remove(&self.turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spread_and_who_fails_is_left_alone_for_longer_and_longer() {
        let endpoints = Endpoints::new(3);
        let now = Instant::now();
        let leases = [endpoints.take(now), endpoints.take(now), endpoints.take(now)];
        assert_eq!(leases.each_ref().map(|lease| lease.index), [0, 1, 2]);
        leases[0].failed(now, None);
        drop(leases);
        assert_eq!(endpoints.take(now).index, 1);
        let later = now + FIRST_PAUSE;
        let again = endpoints.take(later);
        assert_eq!((again.index, again.suspect), (0, true));
        again.failed(later, None);
        drop(again);
        assert_eq!(endpoints.take(later + FIRST_PAUSE).index, 2);
        drop(endpoints.take(later + FIRST_PAUSE));
        assert_eq!(endpoints.take(later + 2 * FIRST_PAUSE).index, 0);
    }

    #[test]
    fn whoever_was_busy_is_not_asked_again_at_once() {
        let endpoints = Endpoints::new(2);
        let now = Instant::now();
        let first = endpoints.take(now);
        first.failed(now, Some(Duration::ZERO));
        let index = first.index;
        drop(first);
        assert_ne!(endpoints.take(now).index, index);
    }

    #[test]
    fn a_hedge_goes_where_no_call_takes_long() {
        let endpoints = Endpoints::new(2);
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (hangs, quick) = (endpoints.take(now), endpoints.take(now));
        drop(quick);
        let busy = [endpoints.take(later), endpoints.take_for_hedge(later), endpoints.take_for_hedge(later)];
        assert_eq!((hangs.index, busy.each_ref().map(|lease| lease.index)), (0, [1, 1, 1]));
        assert_eq!(endpoints.take(later).index, 0);
        drop(busy);
        assert_eq!(endpoints.take_for_hedge(later).index, 1);
    }

    #[test]
    fn when_all_are_paused_the_one_that_is_due_first_is_asked() {
        let endpoints = Endpoints::new(2);
        let now = Instant::now();
        let (first, second) = (endpoints.take(now), endpoints.take(now));
        first.failed(now, Some(Duration::from_secs(9)));
        second.failed(now, Some(Duration::from_secs(3)));
        drop((first, second));
        assert_eq!(endpoints.take(now).index, 1);
        endpoints.take(now).answered();
        assert!(!endpoints.take(now).suspect);
    }
}
