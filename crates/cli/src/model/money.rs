//! What a prediction costs by the price table.

use peerless_functions::prices::{Money, PlatformRate, Tariff, Usage};
use serde::Serialize;

use super::job::Job;
use super::rounds::{Calls, Configuration, Place, Prediction};

/// What a configuration costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Costs {
    /// For time and memory of functions.
    #[serde(rename = "compute_usd")]
    pub(crate) compute: Money,
    /// For calls of functions.
    #[serde(rename = "requests_usd")]
    pub(crate) requests: Money,
    /// For a bucket and for bytes that leave a cloud.
    #[serde(rename = "transfer_usd")]
    pub(crate) transfer: Money,
    /// For the machines of peers.
    #[serde(rename = "peers_usd")]
    pub(crate) peers: Money,
}

impl Costs {
    /// For functions, with what they move.
    pub(crate) fn functions(&self) -> Money {
        self.compute + self.requests + self.transfer
    }

    pub(crate) fn total(&self) -> Money {
        self.functions() + self.peers
    }
}

/// Prices that a plan is made with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prices {
    /// Of machine, bucket and traffic; those of functions are in `functions`.
    pub(crate) tariff: Tariff,
    /// Each makes points of its own; none where functions cost nothing.
    pub(crate) functions: Vec<PlatformRate>,
}

impl Prices {
    /// What applies to functions with one of the prices, which is that of a memory size on this machine.
    pub(crate) fn tariff(&self, functions: Option<&PlatformRate>, place: Place, memory_mb: u32) -> Tariff {
        let mut tariff = self.tariff.clone();
        if let Some(rate) = functions {
            let memory_mb = (place == Place::Local).then_some(memory_mb);
            tariff.platforms.insert(place.platform().to_owned(), PlatformRate { memory_mb, ..rate.clone() });
        }
        tariff
    }
}

impl Place {
    /// The platform's name in ledgers.
    pub(crate) fn platform(self) -> &'static str {
        match self {
            Self::Local => "process",
            Self::Lambda => "lambda",
        }
    }
}

impl Costs {
    /// What a prediction costs by a tariff.
    pub(crate) fn of(
        tariff: &Tariff,
        job: &Job,
        place: Place,
        configuration: Configuration,
        prediction: &Prediction,
    ) -> Self {
        let mut costs = Self::of_calls(tariff, job, place, configuration, &prediction.calls);
        let us = prediction.total_us().round() as u64;
        costs.peers = tariff.machine_time(us).times(configuration.peers.into());
        if place == Place::Lambda {
            // Each peer writes each state into the bucket once.
            let rounds: u64 = job.rounds.iter().map(|(_, times)| times).sum();
            costs.transfer += of_bucket(tariff, rounds * u64::from(configuration.peers), 0);
        }
        costs
    }

    /// What calls of functions cost by a tariff.
    pub(super) fn of_calls(
        tariff: &Tariff,
        job: &Job,
        place: Place,
        configuration: Configuration,
        calls: &[Calls],
    ) -> Self {
        let mut costs = Self::default();
        for calls in calls {
            let charge = tariff.charge(place.platform(), &usage(calls, job, place, configuration));
            costs.compute += charge.compute.times(calls.count);
            costs.requests += charge.requests.times(calls.count);
            costs.transfer += charge.transfer.times(calls.count);
        }
        costs
    }
}

/// What so many objects written to a bucket and read from it cost.
pub(super) fn of_bucket(tariff: &Tariff, puts: u64, gets: u64) -> Money {
    let price =
        |bucket_puts, bucket_gets| tariff.charge("", &Usage { bucket_puts, bucket_gets, ..Usage::default() }).transfer;
    price(1, 0).times(puts) + price(0, 1).times(gets)
}

/// One of the calls, as the ledger would have it.
fn usage(calls: &Calls, job: &Job, place: Place, configuration: Configuration) -> Usage {
    let ms = (calls.us / 1000.0).ceil() as u64;
    match place {
        Place::Local => Usage { duration_us: calls.us.round() as u64, ..Usage::default() },
        Place::Lambda => Usage {
            memory_mb: configuration.memory_mb,
            billed_ms: ms,
            requests: calls.requests.into(),
            tensor_bytes_out: if calls.writes { job.vector_bytes() } else { 0 },
            // The function writes, and reads a state; the peer reads what was written.
            bucket_puts: calls.writes.into(),
            bucket_gets: u32::from(calls.requests) + u32::from(calls.writes),
            ..Usage::default()
        },
    }
}
