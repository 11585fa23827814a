//! Where a round's time goes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use peerless_protocol::{Digest, Time};
use peerless_store::RoundTimes;

/// The protocol's clock: it begins with the process and never goes back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment at which the protocol's time is `time`.
    pub fn instant(&self, time: Time) -> Instant {
        self.0 + Duration::from_micros(time.0)
    }
}

/// Measures the round under way.
#[derive(Debug)]
pub(super) struct RoundClock {
    began: Instant,
    computed: Option<Instant>,
    summing: Duration,
    announced: HashMap<Digest, Instant>,
    transfer: Duration,
    pub units: u32,
    pub backups: u32,
}

impl RoundClock {
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            computed: None,
            summing: Duration::ZERO,
            announced: HashMap::new(),
            transfer: Duration::ZERO,
            units: 0,
            backups: 0,
        }
    }

    pub fn unit_computed(&mut self) {
        self.computed = Some(Instant::now());
        self.units += 1;
    }

    pub fn summed(&mut self, took: Duration) {
        self.summing += took;
    }

    pub fn payload_announced(&mut self, digest: Digest) {
        self.announced.entry(digest).or_insert_with(Instant::now);
    }

    /// The longest transfer counts, as transfers overlap.
    pub fn payload_arrived(&mut self, digest: &Digest) {
        if let Some(announced) = self.announced.remove(digest) {
            self.transfer = self.transfer.max(announced.elapsed());
        }
    }

    /// The parts of the round, which is over now. What is in none of them was spent waiting.
    pub fn times(&self, total: Duration, update: Duration, digest: Duration) -> RoundTimes {
        let all = self.began.elapsed();
        let compute = self.computed.map_or(Duration::ZERO, |at| at - self.began);
        let sum = self.summing + total;
        let known = compute + sum + self.transfer + update + digest;
        let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        RoundTimes {
            compute_us: us(compute),
            sum_us: us(sum),
            transfer_us: us(self.transfer),
            update_us: us(update),
            digest_us: us(digest),
            wait_us: us(all.saturating_sub(known)),
        }
    }
}
