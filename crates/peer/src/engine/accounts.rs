//! What the peer has spent, and whether its budget lets it go on.
//!
//! Two rules keep a peer within its budget, with no word from anybody else. At the boundary of a round it
//! goes on only if its budget also pays for the dearest of the last rounds. Within a round, what is under
//! way counts by the clock, so that a round which becomes dearer than all before ends it in time. Both
//! leave room for what still costs after the decision: stopping the functions, saying goodbye, the last
//! checkpoint. What a platform bills although nobody wants it any more (a call of AWS Lambda runs to its
//! end) is reckoned with as the dearest call so far; it is the one thing that can be dearer than that.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerless_functions::prices::{Money, Price, Tariff, Usage};
use peerless_functions::{AttemptId, InvocationRecord, Meter};
use peerless_store::{EventRecord, Ledger, ledger_path};
use serde_json::{Value, json};

use crate::bill::{Sessions, exchange_cost};
use crate::options::PeerError;
use crate::status::BillStatus;

/// Time that the machine may cost after the decision to leave.
const CLOSING: Duration = Duration::from_secs(2);
/// Time that all functions may cost after the decision to leave, where the machine is not busier than that.
const REACTION: Duration = Duration::from_millis(250);
/// How many times the longest gap between two looks stopping the functions may take: the decision, its way
/// through the event loop, the signal and the function's death each wait for a core as a look does.
const GAPS: u32 = 8;
/// Rounds and calls that the next ones are expected to be like.
const REMEMBERED: usize = 64;
/// Time between two looks at what is under way.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Kind of the ledger's event for a budget that is used up.
const USED_UP: &str = "budget-used-up";

/// The books of one peer.
pub(super) struct Accounts {
    tariff: Tariff,
    budget: Option<Money>,
    /// Names of the platforms, and most functions at work on all of them.
    platforms: (Vec<&'static str>, usize),
    began: Instant,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// Attempts that ended and are not written down.
    records: Vec<InvocationRecord>,
    /// Attempts at work.
    at_work: BTreeMap<AttemptId, Instant>,
    functions: Money,
    /// What machines cost in earlier sessions.
    earlier_machines: Money,
    /// What the exchange of sums through a bucket cost.
    exchange: Money,
    /// Costs of the last calls.
    calls: VecDeque<Money>,
    /// Whether the platform bills on its own account.
    bills_itself: bool,
    /// Costs of the last rounds.
    rounds: VecDeque<Money>,
    /// What had been spent at the beginning of the round.
    at_boundary: Option<Money>,
    used_up: bool,
    looked: Option<Instant>,
    /// Longest time between two looks.
    longest_gap: Duration,
}

impl Accounts {
    /// The books of a peer, with what the ledger in its directory says about earlier sessions.
    pub fn open(
        directory: &Path,
        tariff: Tariff,
        budget: Option<Money>,
        platforms: (Vec<&'static str>, usize),
    ) -> Result<Self, PeerError> {
        let ledger = Ledger::open(&ledger_path(directory))?;
        let sessions = Sessions::read(&ledger)?;
        let mut books = Books { earlier_machines: sessions.machine_time(), ..Books::default() };
        ledger.visit_invocations(|record| {
            let cost = sessions.charge(&record).total();
            books.functions += cost;
            if record.round.is_some() {
                remember(&mut books.calls, cost);
            }
        })?;
        books.exchange = sessions.exchanged(&ledger)?.iter().map(|exchanged| exchanged.cost).sum();
        let stopped_before = ledger.events_of(USED_UP, 1)?.pop().and_then(|event| stopped_at(&event));
        let spent = books.functions + books.earlier_machines + books.exchange;
        books.used_up = budget.is_some_and(|budget| budget <= spent || stopped_before >= Some(budget));
        Ok(Self { tariff, budget, platforms, began: Instant::now(), books: Mutex::new(books) })
    }

    /// The prices.
    pub fn tariff(&self) -> &Tariff {
        &self.tariff
    }

    /// The records of the attempts that ended since the last call.
    pub fn take_records(&self) -> Vec<InvocationRecord> {
        std::mem::take(&mut self.books().records)
    }

    /// Whether the peer has to leave.
    pub fn is_used_up(&self) -> bool {
        self.books().used_up
    }

    /// What a peer asked of the bucket by which sums go from peer to peer.
    pub fn exchanged(&self, event: &EventRecord) {
        self.books().exchange += exchange_cost(&self.tariff, event);
    }

    /// Looks at what is under way; whether the peer has to leave.
    pub fn look(&self) -> bool {
        let Some(budget) = self.budget else { return false };
        let mut books = self.books();
        if let Some(last) = books.looked.replace(Instant::now()) {
            books.longest_gap = books.longest_gap.max(last.elapsed());
        }
        books.used_up |= self.committed(&books) > budget;
        books.used_up
    }

    /// Ends when the peer has to leave.
    pub async fn until_used_up(&self) {
        while !self.look() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A round begins, of which about so many units fall to this peer.
    pub fn begin_round(&self, units: u32) {
        let mut books = self.books();
        let spent = self.spent(&books);
        if let Some(before) = books.at_boundary.replace(spent) {
            remember(&mut books.rounds, spent.saturating_sub(before));
        }
        let dearest = |costs: &VecDeque<Money>| costs.iter().max().copied().unwrap_or_default();
        let next = dearest(&books.rounds).max(dearest(&books.calls).times(units.into()));
        books.used_up |= self.budget.is_some_and(|budget| self.committed(&books) + next > budget);
    }

    /// What people are told; `None` where nothing costs anything.
    pub fn status(&self) -> Option<BillStatus> {
        let books = self.books();
        let peer_usd = books.exchange + books.earlier_machines + self.tariff.machine_time(self.age_us());
        let spent_usd = books.functions + peer_usd;
        let priced = self.platforms.0.iter().any(|platform| self.tariff.charges(platform)) || spent_usd > Money::ZERO;
        priced.then(|| BillStatus {
            functions_usd: books.functions,
            peer_usd,
            spent_usd,
            budget_usd: self.budget,
            used_up: books.used_up,
        })
    }

    /// The ledger's event for the end of the budget.
    pub fn used_up_event(&self, round: u64, at_us: u64) -> EventRecord {
        let detail = json!({ "budget_usd": self.budget, "spent_usd": self.spent(&self.books()) }).to_string();
        EventRecord { at_us, round: Some(round), kind: USED_UP.into(), detail }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age_us(&self) -> u64 {
        micros(self.began.elapsed())
    }

    fn spent(&self, books: &Books) -> Money {
        books.functions + books.exchange + books.earlier_machines + self.tariff.machine_time(self.age_us())
    }

    /// What has been spent, and what will be if the peer leaves now.
    fn committed(&self, books: &Books) -> Money {
        let dearest = books.calls.iter().max().copied().unwrap_or_default();
        let reaction = REACTION.max(books.longest_gap * GAPS);
        let call = |since: &Instant| match books.bills_itself {
            true => dearest,
            false => self.as_if(since.elapsed() + reaction),
        };
        let at_work: Money = books.at_work.values().map(call).sum();
        // Those that begin before the decision is known.
        let beginning = self.as_if(reaction).times(self.platforms.1.saturating_sub(books.at_work.len()) as u64);
        self.spent(books) + at_work + beginning + self.tariff.machine_time(micros(CLOSING))
    }

    /// A call that has taken so long, on the dearest platform.
    fn as_if(&self, time: Duration) -> Money {
        let usage = Usage { duration_us: micros(time), ..Usage::default() };
        let charges = self.platforms.0.iter().map(|platform| self.tariff.charge(platform, &usage).total());
        charges.max().unwrap_or_default()
    }
}

impl Meter for Accounts {
    fn record(&self, record: InvocationRecord) {
        let cost = self.tariff.charge(record.platform, &record.usage()).total();
        let mut books = self.books();
        books.at_work.remove(&record.id);
        books.functions += cost;
        remember(&mut books.calls, cost);
        books.bills_itself |= record.metering.billing.memory_mb > 0;
        books.records.push(record);
    }

    fn began(&self, attempt: AttemptId) {
        self.books().at_work.insert(attempt, Instant::now());
    }
}

fn remember(costs: &mut VecDeque<Money>, cost: Money) {
    if costs.len() >= REMEMBERED {
        costs.pop_front();
    }
    costs.push_back(cost);
}

/// The budget that was used up.
fn stopped_at(event: &EventRecord) -> Option<Money> {
    let detail: Value = serde_json::from_str(&event.detail).ok()?;
    detail["budget_usd"].as_str()?.parse::<Price>().ok().map(Money::from)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use peerless_functions::prices::PriceTable;
    use peerless_functions::{Metering, Outcome, WorkLabel};
    use tempfile::TempDir;

    use super::*;

    /// A GB for a dollar a second, and nothing else costs anything.
    fn accounts(directory: &TempDir, budget: &str) -> Accounts {
        let entry =
            "usd_per_gb_second = \"1\"\nusd_per_million_requests = \"0\"\ndate = \"2026-01-01\"\nsource = \"s\"";
        let table = PriceTable::parse(&format!("version = 1\n[function.test]\n{entry}"), "test").unwrap();
        let platforms = [("process".to_owned(), table.rate("test", Some(1024)).unwrap())].into();
        let budget = Money::from(budget.parse::<Price>().unwrap());
        Accounts::open(directory.path(), Tariff { platforms, ..Tariff::default() }, Some(budget), (vec!["process"], 2))
            .unwrap()
    }

    fn id(invocation: u64) -> AttemptId {
        AttemptId { invocation, attempt: 1, hedge: false }
    }

    fn record(invocation: u64, duration_us: u64) -> InvocationRecord {
        InvocationRecord {
            id: id(invocation),
            work: WorkLabel::Unit { round: 1, unit: 0 },
            platform: "process",
            outcome: Outcome::Succeeded,
            metering: Metering { duration_us, ..Metering::default() },
        }
    }

    #[test]
    fn the_next_round_must_be_paid_for_before_it_begins() {
        let directory = TempDir::new().unwrap();
        // Two calls of a second each round, and half a second in reserve for two functions: the fifth dollar
        // pays for the reserve of the second round.
        let accounts = accounts(&directory, "4.6");
        for (round, used_up) in [(0, false), (1, false), (2, true)] {
            accounts.begin_round(2);
            assert_eq!(accounts.is_used_up(), used_up, "round {round}");
            (0..2).for_each(|call| accounts.record(record(10 * round + call, 1_000_000)));
        }
    }

    #[test]
    fn more_units_than_before_are_expected_to_cost_more() {
        let directory = TempDir::new().unwrap();
        let accounts = accounts(&directory, "10");
        accounts.begin_round(1);
        accounts.record(record(1, 1_000_000));
        accounts.begin_round(8);
        assert!(!accounts.is_used_up());
        accounts.begin_round(9);
        assert!(accounts.is_used_up());
    }

    #[test]
    fn a_call_at_work_counts_by_the_clock_and_what_it_cost_in_the_end_counts_after_it() {
        let directory = TempDir::new().unwrap();
        let accounts = accounts(&directory, "0.6");
        accounts.began(id(1));
        assert!(!accounts.look());
        std::thread::sleep(Duration::from_millis(150));
        assert!(accounts.look(), "0.15 s, and twice 0.25 s in reserve");
        assert_eq!(accounts.status().unwrap().spent_usd, Money::ZERO);
        accounts.record(record(1, 200_500));
        assert_eq!(accounts.status().unwrap().spent_usd, Money::from("0.201".parse::<Price>().unwrap()));
        assert_eq!(accounts.take_records().len(), 1);
    }

    #[test]
    fn a_budget_that_was_used_up_is_used_up_the_next_time_unless_it_is_larger() {
        let directory = TempDir::new().unwrap();
        let mut ledger = Ledger::open(&ledger_path(directory.path())).unwrap();
        let event = accounts(&directory, "5").used_up_event(3, 7);
        ledger.record(&peerless_store::Batch { events: vec![event], ..Default::default() }).unwrap();
        assert!(accounts(&directory, "4").is_used_up());
        assert!(accounts(&directory, "5").is_used_up());
        assert!(!accounts(&directory, "6").is_used_up());
    }
}
