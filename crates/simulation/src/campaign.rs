//! Many seeds of one scenario.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use peerless_protocol::{RunSpec, Time};

use crate::faults::Fault;
use crate::invariants::{Invariant, Violation};
use crate::metrics::Metrics;
use crate::model::Reference;
use crate::scenario::{Plan, Scenario};
use crate::world::{Outcome, Setup, World};

/// Serial runs that are kept for the next seeds with the same spec.
const KEPT_REFERENCES: usize = 512;

/// Many seeds of one scenario.
#[derive(Clone)]
pub struct Campaign {
    /// The scenario.
    pub scenario: Scenario,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
}

/// A seed that violated an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was violated.
    pub violation: Violation,
}

/// What became of the seeds.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Fewest and most peers at the start.
    pub peers: Option<(usize, usize)>,
    /// Length of a payload in bytes.
    pub payload_bytes: u64,
    /// The sums and extremes of all seeds.
    pub metrics: Metrics,
    /// Peers that gave up because a unit failed wherever they knew; they were started again.
    pub stopped: u64,
    /// Seeds with a violation, in ascending order.
    pub failures: Vec<Failure>,
}

/// The run of one seed.
pub struct SeedRun {
    /// Peers at the start.
    pub peers: usize,
    /// Peers that came later.
    pub joiners: usize,
    /// Length of a payload in bytes.
    pub payload_bytes: u64,
    /// What happened.
    pub outcome: Outcome,
}

/// Runs one seed. `adjust` may change the setup: record a log, put a mistake in.
pub fn run_seed(scenario: &Scenario, seed: u64, adjust: impl FnOnce(&mut Setup)) -> SeedRun {
    run_planned(scenario.plan(seed), seed, &mut References::default(), adjust)
}

fn run_planned(plan: Plan, seed: u64, references: &mut References, adjust: impl FnOnce(&mut Setup)) -> SeedRun {
    let Plan { mut setup, spec, elements, faults } = plan;
    adjust(&mut setup);
    let (peers, joiners) = (setup.peers, setup.joiners);
    let reference = match references.of(spec, elements) {
        Ok(reference) => reference,
        Err(what) => return SeedRun { peers, joiners, payload_bytes: 0, outcome: nothing(what) },
    };
    let payload_bytes = reference.payload_bytes();
    let play = AssertUnwindSafe(|| play(setup, reference, faults, seed));
    // A panic of the protocol is a violation of this seed, and no reason not to try the others.
    let outcome = catch_unwind(play);
    let panicked = |_| nothing("the protocol or the simulator panicked; its message is on stderr".into());
    SeedRun { peers, joiners, payload_bytes, outcome: outcome.unwrap_or_else(panicked) }
}

fn play(setup: Setup, reference: Arc<Reference>, faults: Vec<(Time, Fault)>, seed: u64) -> Outcome {
    let mut world = World::new(setup, reference, seed);
    faults.into_iter().for_each(|(at, fault)| world.schedule(at, fault));
    world.run()
}

/// The outcome of a seed that was not run to an end.
fn nothing(what: String) -> Outcome {
    let violation = Violation { invariant: Invariant::NoPanic, at: Time(0), peer: None, what };
    Outcome {
        finished: BTreeMap::new(),
        stopped: BTreeMap::new(),
        ended: Time(0),
        violation: Some(violation),
        metrics: Metrics::default(),
        log: Vec::new(),
    }
}

/// Serial runs by spec.
#[derive(Default)]
struct References {
    known: BTreeMap<(Vec<u8>, usize), Arc<Reference>>,
}

impl References {
    fn of(&mut self, spec: RunSpec, elements: usize) -> Result<Arc<Reference>, String> {
        let key = (spec.encode(), elements);
        if self.known.len() >= KEPT_REFERENCES {
            self.known.pop_first();
        }
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let reference = Arc::new(Reference::new(spec, elements)?);
        self.known.insert(key, reference.clone());
        Ok(reference)
    }
}

impl Campaign {
    /// Runs all seeds. `progress` is called after each with what there is so far, by one thread at a time.
    pub fn run(&self, progress: impl Fn(&Report) + Sync) -> Report {
        let next = AtomicU64::new(0);
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&next, &report, &progress));
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.failures.sort_by_key(|failure| failure.seed);
        report
    }

    fn work(&self, next: &AtomicU64, report: &Mutex<Report>, progress: &impl Fn(&Report)) {
        let mut references = References::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.seeds {
                return;
            }
            let seed = self.first_seed.wrapping_add(index);
            let run = run_planned(self.scenario.plan(seed), seed, &mut references, |_| {});
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(seed, run);
            progress(&report);
        }
    }
}

impl Report {
    fn add(&mut self, seed: u64, run: SeedRun) {
        self.seeds += 1;
        let (fewest, most) = self.peers.unwrap_or((run.peers, run.peers));
        self.peers = Some((fewest.min(run.peers), most.max(run.peers)));
        self.payload_bytes = run.payload_bytes;
        self.stopped += run.outcome.stopped.len() as u64;
        self.metrics.merge(&run.outcome.metrics);
        if let Some(violation) = run.outcome.violation {
            self.failures.push(Failure { seed, violation });
        }
    }
}
