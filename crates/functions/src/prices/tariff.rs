//! Which prices apply to a peer, and what its work costs by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::money::{Money, Price};
use super::table::{BucketPrice, EgressPrice, FunctionPrice, MachinePrice, PriceTable};

/// A price with the name that it has in its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named<P> {
    /// The name.
    pub name: String,
    /// The price.
    pub price: P,
}

/// What the invocations on one platform cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformRate {
    /// Name of the price.
    pub name: String,
    /// Memory to charge for, in MB, instead of what the platform says. A platform that bills nothing
    /// itself is charged as if its functions had run elsewhere with this much.
    pub memory_mb: Option<u32>,
    /// The price.
    pub price: FunctionPrice,
}

/// A price that no table has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no {kind} price {name:?}; there are: {known}")]
pub struct UnknownPrice {
    /// What it would be the price of.
    pub kind: &'static str,
    /// The name.
    pub name: String,
    /// The names that there are.
    pub known: String,
}

/// The prices that apply to a peer. What has none costs nothing: the functions that run as processes
/// of the peer's own machine, as long as nobody says otherwise.
///
/// The ledger keeps the tariff of each session as JSON, with rates, dates and sources, so that a bill
/// does not change when prices do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// By name of the platform.
    #[serde(default)]
    pub platforms: BTreeMap<String, PlatformRate>,
    /// Of the machine that the peer runs on.
    #[serde(default)]
    pub machine: Option<Named<MachinePrice>>,
    /// Of the bucket that tensors travel through.
    #[serde(default)]
    pub bucket: Option<Named<BucketPrice>>,
    /// Of what functions send to the peer.
    #[serde(default)]
    pub egress: Option<Named<EgressPrice>>,
}

/// What one attempt used, as far as it can cost money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that the function is configured with, in MB; 0 where nobody bills.
    pub memory_mb: u32,
    /// Time that the platform bills, in milliseconds.
    pub billed_ms: u64,
    /// Requests that the platform bills.
    pub requests: u32,
    /// Time from call to end, in microseconds; counts where nobody bills. 0 for an attempt that did not leave
    /// the queue.
    pub duration_us: u64,
    /// Bytes of tensors that the function sent.
    pub tensor_bytes_out: u64,
    /// Objects written to a bucket.
    pub bucket_puts: u32,
    /// Objects read from a bucket.
    pub bucket_gets: u32,
}

/// What something costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charge {
    /// Memory charged for times time charged for, in MB times milliseconds.
    pub mb_ms: u128,
    /// For memory and time.
    pub compute: Money,
    /// For requests to the platform.
    pub requests: Money,
    /// For requests to a bucket and bytes sent.
    pub transfer: Money,
    /// Attempts of which the platform did not say how long it bills them: what was measured here counts instead.
    pub estimated: u64,
}

impl Charge {
    /// All of it.
    pub fn total(&self) -> Money {
        self.compute + self.requests + self.transfer
    }
}

impl std::ops::AddAssign for Charge {
    fn add_assign(&mut self, other: Self) {
        self.mb_ms = self.mb_ms.saturating_add(other.mb_ms);
        self.compute += other.compute;
        self.requests += other.requests;
        self.transfer += other.transfer;
        self.estimated = self.estimated.saturating_add(other.estimated);
    }
}

impl Tariff {
    /// What an attempt on a platform costs. Billed time and requests are charged as the platform said;
    /// where it said nothing and the rate names a memory, the time from call to end is rounded up to
    /// a millisecond, the start of a cold function included, and counts with one request, as on
    /// Lambda. So does the time of a request that is billed without a word on its length: an answer without the
    /// line that says it, or a call that nobody waited for any longer. An attempt that did not leave the queue
    /// costs nothing.
    pub fn charge(&self, platform: &str, usage: &Usage) -> Charge {
        let mut charge = Charge { transfer: self.transfer(usage), ..Charge::default() };
        let Some(rate) = self.platforms.get(platform) else { return charge };
        // A platform that bills names the memory, also of a request that was turned away and is not billed.
        let billed = usage.billed_ms > 0 || usage.memory_mb > 0;
        let measured_ms = usage.duration_us.div_ceil(1000);
        charge.estimated = u64::from(!billed && usage.requests > 0);
        let (memory_mb, ms, requests) = match rate.memory_mb {
            memory if charge.estimated > 0 => (memory.unwrap_or_default(), measured_ms, usage.requests),
            memory if billed => (memory.unwrap_or(usage.memory_mb), usage.billed_ms, usage.requests),
            Some(memory) if usage.duration_us > 0 => (memory, measured_ms, 1),
            _ => return charge,
        };
        charge.mb_ms = u128::from(memory_mb) * u128::from(ms);
        charge.compute = rate.price.usd_per_gb_second.of_memory(memory_mb, ms);
        charge.requests = rate.price.usd_per_million_requests.of_million(requests.into());
        charge
    }

    /// What the peer's machine costs for so many microseconds.
    pub fn machine_time(&self, us: u64) -> Money {
        self.machine.as_ref().map(|machine| machine.price.usd_per_hour.of_microseconds(us)).unwrap_or_default()
    }

    /// Whether anything that a peer with functions on this platform does can cost money.
    pub fn charges(&self, platform: &str) -> bool {
        self.machine.is_some() || self.platforms.contains_key(platform)
    }

    /// Replaces the prices that this table has by the same name.
    pub fn reprice(&mut self, table: &PriceTable) {
        for rate in self.platforms.values_mut() {
            replace(&mut rate.price, table.function.get(&rate.name));
        }
        self.machine.iter_mut().for_each(|it| replace(&mut it.price, table.machine.get(&it.name)));
        self.bucket.iter_mut().for_each(|it| replace(&mut it.price, table.bucket.get(&it.name)));
        self.egress.iter_mut().for_each(|it| replace(&mut it.price, table.egress.get(&it.name)));
    }

    fn transfer(&self, usage: &Usage) -> Money {
        let bucket = self.bucket.as_ref().map(|Named { price, .. }| {
            price.usd_per_thousand_puts.of_thousand(usage.bucket_puts.into())
                + price.usd_per_thousand_gets.of_thousand(usage.bucket_gets.into())
        });
        let egress = self.egress.as_ref().map(|egress| egress.price.usd_per_gb.of_bytes(usage.tensor_bytes_out));
        bucket.unwrap_or_default() + egress.unwrap_or_default()
    }
}

fn replace<P: Clone>(price: &mut P, by: Option<&P>) {
    if let Some(by) = by {
        price.clone_from(by);
    }
}

impl PriceTable {
    /// The rate of a platform whose functions cost this price; see [`PlatformRate::memory_mb`].
    ///
    /// # Errors
    /// [`UnknownPrice`].
    pub fn rate(&self, name: &str, memory_mb: Option<u32>) -> Result<PlatformRate, UnknownPrice> {
        let Named { name, price } = named("function", &self.function, name)?;
        Ok(PlatformRate { name, memory_mb, price })
    }

    /// The price of a machine, by name or in plain dollars per hour.
    ///
    /// # Errors
    /// [`UnknownPrice`].
    pub fn machine(&self, text: &str) -> Result<Named<MachinePrice>, UnknownPrice> {
        let Ok(usd_per_hour) = text.parse::<Price>() else { return named("machine", &self.machine, text) };
        let price = MachinePrice { usd_per_hour, date: String::new(), source: "command line".into(), note: None };
        Ok(Named { name: text.to_owned(), price })
    }

    /// The price of a bucket.
    ///
    /// # Errors
    /// [`UnknownPrice`].
    pub fn bucket(&self, name: &str) -> Result<Named<BucketPrice>, UnknownPrice> {
        named("bucket", &self.bucket, name)
    }

    /// The price of traffic out of a cloud.
    ///
    /// # Errors
    /// [`UnknownPrice`].
    pub fn egress(&self, name: &str) -> Result<Named<EgressPrice>, UnknownPrice> {
        named("egress", &self.egress, name)
    }
}

fn named<P: Clone>(kind: &'static str, prices: &BTreeMap<String, P>, name: &str) -> Result<Named<P>, UnknownPrice> {
    match prices.get(name) {
        Some(price) => Ok(Named { name: name.to_owned(), price: price.clone() }),
        None => {
            let known = prices.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(UnknownPrice { kind, name: name.to_owned(), known })
        }
    }
}
