//! A whole run of an architecture, with failures.

use peerless_functions::prices::{Money, Tariff};

use super::architecture::{Architecture, Cluster, MAX_FUNCTION_S, Unfit, Usual, usual};
use super::failures::{Checkpoints, Failures, expected, loss};
use super::money::{Costs, of_bucket};
use super::rounds::{Calls, Configuration, Place};

const HOUR_US: f64 = 3.6e9;

/// What a run comes to. Times are in microseconds, money in dollars; infinite where a run would never end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) usual: Usual,
    /// Rounds of the run.
    pub(crate) rounds: u64,
    /// The whole run without failures.
    pub(crate) undisturbed_us: f64,
    /// What one failure costs on average, to first order; none where nothing fails.
    pub(crate) loss_us: Option<f64>,
    /// The whole run, expected.
    pub(crate) total_us: f64,
    /// For functions and the bucket.
    pub(crate) functions_usd: f64,
    /// For machines, all that there are from the start to the end.
    pub(crate) machines_usd: f64,
}

impl Outcome {
    pub(crate) fn usd(&self) -> f64 {
        self.functions_usd + self.machines_usd
    }
}

/// What all rounds of the job come to when each machine fails so often.
pub(crate) fn outcome(
    cluster: &Cluster,
    architecture: Architecture,
    failures: &Failures,
    per_hour: f64,
    tariff: &Tariff,
) -> Result<Outcome, Unfit> {
    let usual = usual(cluster, architecture, failures)?;
    let rounds: u64 = cluster.job.rounds.iter().map(|(_, times)| times).sum();
    let hazards = cluster.hazards(architecture, &usual, failures);
    let round_us = usual.round_us();
    let checkpoints = match failures.checkpoint_rounds {
        Some(every) => {
            Checkpoints { interval_us: every.value.min(rounds as f64) * round_us, cost_us: usual.checkpoint_us }
        }
        None => Checkpoints::best(per_hour, &hazards, usual.checkpoint_us, round_us, rounds),
    };
    let factors = expected(per_hour, checkpoints, &hazards);
    let total = |factor: f64| {
        let work = rounds as f64 * round_us * factor;
        usual.start_us + work + changes(&usual, work) * usual.change_us
    };
    let (undisturbed_us, total_us) = (total(1.0), total(factors.time));
    let functions_usd = if architecture.through_store() {
        cluster.held_functions(&usual, rounds, factors.work, total_us, tariff)
    } else {
        cluster.called_functions(&usual, rounds, factors.work, tariff)
    };
    let machine = tariff.machine.as_ref().map_or(0.0, |machine| usd(Money::from(machine.price.usd_per_hour)));
    let machines_usd = charged(f64::from(architecture.machines(cluster.workers)) * machine / HOUR_US, total_us);
    let loss_us = (per_hour > 0.0).then(|| loss(checkpoints.interval_us, &hazards));
    Ok(Outcome { usual, rounds, undisturbed_us, loss_us, total_us, functions_usd, machines_usd })
}

/// How often functions that reach their longest time are taken over from.
fn changes(usual: &Usual, work_us: f64) -> f64 {
    if usual.change_us > 0.0 { (work_us / (1e6 * MAX_FUNCTION_S - usual.change_us)).floor() } else { 0.0 }
}

impl Cluster<'_> {
    fn configuration(&self, usual: &Usual) -> Configuration {
        let functions = usual.functions / self.workers.max(1);
        Configuration { peers: self.workers, functions, memory_mb: usual.memory_mb }
    }

    /// Functions that are called for each unit: the calls of all rounds, those that are done again too, and each
    /// function's start.
    fn called_functions(&self, usual: &Usual, rounds: u64, work: f64, tariff: &Tariff) -> f64 {
        let mut calls: Vec<Calls> =
            usual.calls.iter().map(|each| Calls { count: each.count * rounds, ..*each }).collect();
        let per_round = Costs::of_calls(tariff, self.job, Place::Lambda, self.configuration(usual), &calls).functions()
            + of_bucket(tariff, usual.puts * rounds, usual.gets * rounds);
        calls.clear();
        let us = 1000.0 * self.constants.cold_start.value;
        calls.push(Calls { count: usual.functions.into(), us, writes: false, requests: false });
        let starts = Costs::of_calls(tariff, self.job, Place::Lambda, self.configuration(usual), &calls);
        charged(usd(per_round), work) + usd(starts.compute)
    }

    /// Functions that live as long as the run: all the time, from their start on.
    fn held_functions(&self, usual: &Usual, rounds: u64, work: f64, total_us: f64, tariff: &Tariff) -> f64 {
        let second = [Calls { count: self.workers.into(), us: 1e6, writes: false, requests: false }];
        let held = Costs::of_calls(tariff, self.job, Place::Lambda, self.configuration(usual), &second);
        let transfer = of_bucket(tariff, usual.puts * rounds, usual.gets * rounds);
        charged(usd(held.compute), total_us / 1e6) + charged(usd(transfer), work)
    }
}

/// What costs nothing costs nothing for ever, too.
fn charged(price: f64, quantity: f64) -> f64 {
    if price > 0.0 { price * quantity } else { 0.0 }
}

/// An amount in dollars as a number.
pub(crate) fn usd(amount: Money) -> f64 {
    amount.decimal(12).parse().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use peerless_functions::prices::PriceTable;
    use peerless_protocol::RoundPlan;

    use super::super::architecture::{ARCHITECTURES, Machine};
    use super::super::constants::Constants;
    use super::super::job::Job;
    use super::super::measured::{Measured, UnitTime};
    use super::*;

    /// A hundred rounds of 8 gradients of 1 MB.
    fn job() -> Job {
        Job { rounds: vec![(RoundPlan { gradient_units: 8, evaluation_units: 0 }, 100)], elements: 250_000 }
    }

    /// A unit takes 100 ms alone and 120 ms on two busy cores.
    fn measured() -> Measured {
        let gradient = UnitTime { alone_us: 100_000.0, busy_us: 120_000.0, ..UnitTime::default() };
        let (add_us, merge_us, update_us) = (1000.0, 2000.0, 5000.0);
        Measured { cores: 2, gradient, add_us, merge_us, update_us, memory_bytes: 20 << 20, ..Measured::default() }
    }

    fn constants() -> Constants {
        let mut constants = Constants::default();
        constants.cold_start.value = 1000.0;
        constants.invoke.value = 10.0;
        constants.bandwidth.value = 100.0;
        constants.latency.value = 20.0;
        constants.peer_cpu.value = 4.0;
        constants
    }

    fn tariff() -> Tariff {
        let table = PriceTable::built_in().unwrap();
        let lambda = table.rate("lambda-x86", None).unwrap();
        Tariff {
            platforms: [("lambda".to_owned(), lambda)].into(),
            machine: Some(table.machine("0.36").unwrap()),
            bucket: Some(table.bucket("s3").unwrap()),
            egress: None,
        }
    }

    fn run(architecture: Architecture, workers: u32, per_hour: f64) -> Outcome {
        let (job, measured, constants) = (job(), measured(), constants());
        let machine = Machine { cores: 2, memory_mb: 8192 };
        let cluster =
            Cluster { job: &job, measured: &measured, constants: &constants, machine, memory_mb: 1769, workers };
        outcome(&cluster, architecture, &Failures::default(), per_hour, &tariff()).unwrap()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected.abs(), "{found} is not {expected}");
    }

    #[test]
    fn instances_in_a_ring_take_and_cost_what_a_hand_computes() {
        let run = run(Architecture::AllReduceInstances, 4, 0.0);
        // Two units at a time, on both cores.
        close(run.usual.compute_us, 120_000.0);
        // 6 steps of a quarter MB at 125 MB/s and 1 ms.
        close(run.usual.exchange_us, 6.0 * 3000.0);
        // Two gradients, the update, 4 ms besides.
        close(run.usual.peer_us, 2000.0 + 5000.0 + 4000.0);
        // 30 s of boot, and 2 MB at 125 MB/s.
        close(run.total_us, 30_016_000.0 + 100.0 * 149_000.0);
        close(run.machines_usd, 4.0 * 0.36 * 44.916 / 3600.0);
        assert_eq!(run.functions_usd, 0.0);
        assert_eq!(run.loss_us, None);
    }

    #[test]
    fn a_ring_that_loses_a_worker_restarts_from_a_checkpoint() {
        let run = run(Architecture::AllReduceInstances, 4, 1.0);
        // Four machines lose one every 900 s. A checkpoint of 2 MB takes 16 ms, and is best every √(2 · 0.016 · 900) =
        // 5.37 s, which are 36 rounds of 149 ms. Each failure: boot, state, half of that.
        close(run.loss_us.unwrap(), 30_016_000.0 + 18.0 * 149_000.0);
        let (tau, lost) = (36.0 * 0.149 / 900.0, 30.016 / 900.0);
        let factor = ((tau + 0.016 / 900.0_f64).exp_m1() / tau) * f64::exp(lost);
        close(run.total_us, 30_016_000.0 + 100.0 * 149_000.0 * factor);
    }

    #[test]
    fn a_server_takes_and_sends_everything_over_one_link_and_is_one_machine_more() {
        let run = run(Architecture::ParameterServerInstances, 4, 0.0);
        close(run.usual.compute_us, 120_000.0);
        // Four sums of 2,000,016 bytes in, four states of 2 MB out.
        close(run.usual.exchange_us, 8_000_064.0 / 125.0 + 1000.0 + 64_000.0 + 1000.0);
        close(run.usual.peer_us, 2000.0 + 8000.0 + 5000.0 + 4000.0);
        close(run.machines_usd, 5.0 * 0.36 * run.total_us / 3.6e9);
    }

    #[test]
    fn functions_of_peers_are_those_of_a_plan() {
        let found = run(Architecture::P2pFunctions, 2, 0.0);
        let (job, measured, constants) = (job(), measured(), constants());
        let configuration = Configuration { peers: 2, functions: 4, memory_mb: 1769 };
        let plan = super::super::rounds::predict(&job, &measured, &constants, Place::Lambda, configuration);
        close(found.usual.compute_us, plan.compute_us);
        close(found.usual.exchange_us, plan.exchange_us);
        close(found.usual.peer_us, plan.peer_us);
        let calls: Vec<Calls> = plan.calls.iter().filter(|calls| calls.requests && calls.count > 2).copied().collect();
        let costs = Costs::of_calls(&tariff(), &job, Place::Lambda, configuration, &calls);
        // Each peer writes each state once; eight functions start for a second each.
        let start = usd(tariff()
            .charge(
                "lambda",
                &peerless_functions::prices::Usage { memory_mb: 1769, billed_ms: 1000, ..Default::default() },
            )
            .compute);
        close(found.functions_usd, usd(costs.functions() + of_bucket(&tariff(), 200, 0)) + 8.0 * start);
    }

    #[test]
    fn functions_at_a_store_are_paid_all_the_time() {
        let run = run(Architecture::ScatterReduceStore, 4, 0.0);
        close(run.usual.compute_us, 200_000.0);
        // 10 transfers of a quarter MB at 100 MB/s and 20 ms.
        close(run.usual.exchange_us, 10.0 * 22_500.0);
        close(run.usual.peer_us, 2000.0 + 0.75 * 2000.0 + 5000.0);
        // A second's start, the state of two vectors.
        close(run.total_us, 1_060_000.0 + 100.0 * 433_500.0);
        let compute = 4.0 * run.total_us / 1e6 * 1769.0 / 1024.0 * 0.000_016_666_7;
        close(run.functions_usd, compute + 100.0 * (16.0 * 0.005 + 24.0 * 0.0004) / 1000.0);
        assert_eq!(run.machines_usd, 0.0);
    }

    #[test]
    fn more_failures_are_never_quicker_or_cheaper() {
        for architecture in ARCHITECTURES {
            for workers in [1, 2, 8] {
                let mut last = (0.0, 0.0);
                for rate in [0.0, 0.001, 0.1, 1.0, 10.0, 1e3, 1e6] {
                    let found = run(architecture, workers, rate);
                    let now = (found.total_us, found.usd());
                    assert!(
                        now.0 >= last.0 && now.1 >= last.1,
                        "{architecture:?} {workers} at {rate}: {now:?} {last:?}"
                    );
                    assert!(found.total_us >= found.undisturbed_us && !found.usd().is_nan());
                    last = now;
                }
            }
        }
    }

    #[test]
    fn a_lost_peer_costs_a_pause_and_a_lost_server_or_worker_of_a_ring_a_restart() {
        let loss = |architecture| run(architecture, 4, 0.1).loss_us.unwrap();
        let peers = loss(Architecture::P2pInstances);
        // Overdue after 340 ms; two units for three peers, one after the other; 30 s with 3 units instead of 2 a peer.
        assert!(peers > 340_000.0 && peers < 0.5 * loss(Architecture::AllReduceInstances), "{peers}");
        assert!(loss(Architecture::ParameterServerInstances) > peers);
        assert!(loss(Architecture::ParameterServerInstances) < loss(Architecture::AllReduceInstances));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let (job, constants) = (job(), constants());
        let refusal = |architecture, measured: Measured, workers, concurrency| {
            let mut constants = constants.clone();
            constants.concurrency.value = concurrency;
            let machine = Machine { cores: 2, memory_mb: 1024 };
            let cluster =
                Cluster { job: &job, measured: &measured, constants: &constants, machine, memory_mb: 512, workers };
            outcome(&cluster, architecture, &Failures::default(), 0.0, &tariff()).unwrap_err().to_string()
        };
        let large = Measured { memory_bytes: 11 << 30, ..measured() };
        let slow = Measured { gradient: UnitTime { alone_us: 1e9, busy_us: 1e9, ..UnitTime::default() }, ..measured() };
        let refusals = [
            (refusal(Architecture::P2pInstances, measured(), 9, 1e3), "8 units"),
            (refusal(Architecture::P2pInstances, large, 2, 1e3), "has 1024 MB"),
            (refusal(Architecture::P2pFunctions, large, 2, 1e3), "Lambda gives 10240 MB"),
            (refusal(Architecture::P2pFunctions, slow, 2, 1e3), "ends it after 900 s"),
            (refusal(Architecture::AllReduceStore, slow, 2, 1e3), "ends it after 900 s"),
            (refusal(Architecture::P2pFunctions, measured(), 4, 3.0), "4 functions at a time"),
        ];
        for (text, part) in refusals {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }
}
