//! The model held against examples that were worked out by hand.

use peerless_functions::prices::PriceTable;
use peerless_protocol::RoundPlan;

use super::constants::Constants;
use super::job::Job;
use super::measured::{Measured, UnitTime};
use super::money::{Costs, Prices};
use super::rounds::{Configuration, Place, Prediction, predict};

/// Ten rounds of 4 gradients of 1 MB each.
fn job() -> Job {
    Job { rounds: vec![(RoundPlan { gradient_units: 4, evaluation_units: 0 }, 10)], elements: 250_000 }
}

fn measured() -> Measured {
    Measured {
        cores: 2,
        gradient: UnitTime { alone_us: 100_000.0, busy_us: 120_000.0, ..UnitTime::default() },
        evaluation: UnitTime { alone_us: 40_000.0, busy_us: 40_000.0, ..UnitTime::default() },
        call_us: 1000.0,
        start_us: 5000.0,
        initialise_us: 50_000.0,
        add_us: 1000.0,
        merge_us: 2000.0,
        update_us: 5000.0,
        ..Measured::default()
    }
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

fn at(place: Place, peers: u32, functions: u32, memory_mb: u32) -> (Configuration, Prediction) {
    let configuration = Configuration { peers, functions, memory_mb };
    (configuration, predict(&job(), &measured(), &constants(), place, configuration))
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6 * expected, "{found} is not {expected}");
}

#[test]
fn two_peers_on_lambda_take_and_cost_what_the_formulas_say() {
    let (configuration, prediction) = at(Place::Lambda, 2, 1, 1769);
    // A vector takes 20 ms + 1 MB / 100 MB/s = 30 ms. A peer's function reads one, and computes, writes and is
    // called twice: 30 + 2 (100 + 30 + 10). State and last gradient are 8 ms each on the peer's link.
    close(prediction.compute_us, 310_000.0 + 16_000.0);
    // 2,000,016 bytes at 125 MB/s, and 1 ms.
    close(prediction.exchange_us, 17_000.128);
    // 2 gradients, 1 foreign sum, the update, 4 ms besides.
    close(prediction.peer_us, 2000.0 + 2000.0 + 5000.0 + 4000.0);
    close(prediction.round_us, 356_000.128);
    // Initial parameters 50 + 30, the call 10, the start 1,000.
    close(prediction.total_us(), 10.0 * 356_000.128 + 1_090_000.0);
    // In each round 2 units of 160 ms and 2 of 130 ms; twice 80 ms for the start, two cold functions.
    close(prediction.function_us(), 10.0 * 580_000.0 + 160_000.0 + 2_000_000.0);
    assert_eq!(prediction.invocations(), 42);

    let table = PriceTable::built_in().unwrap();
    let tariff =
        peerless_functions::prices::Tariff { machine: Some(table.machine("t2.large").unwrap()), ..Default::default() };
    let prices = Prices { tariff, functions: vec![table.rate("lambda-x86", None).unwrap()] };
    let tariff = prices.tariff(prices.functions.first(), Place::Lambda, 1769);
    let costs = Costs::of(&tariff, &job(), Place::Lambda, configuration, &prediction);
    // 1,769 MB · 7,960 ms / 1,024,000 = 13.7512109375 GB-s at $0.0000166667.
    assert_eq!(costs.compute.decimal(12), "0.000229187307");
    assert_eq!(costs.requests.decimal(12), "0.000008400000");
    // Twice 4.650001 s at $0.0928 an hour.
    assert_eq!(costs.peers.decimal(12), "0.000239733385");
    assert_eq!(costs.total(), costs.compute + costs.requests + costs.peers);
}

#[test]
fn memory_buys_time_up_to_one_core_and_nothing_beyond() {
    let round = |memory| at(Place::Lambda, 1, 1, memory).1.round_us;
    close(round(512) - round(1769), 4.0 * (1769.0 / 512.0 - 1.0) * 100_000.0);
    assert_eq!(round(3008), round(1769));
}

#[test]
fn units_are_computed_in_waves() {
    let compute = |functions| at(Place::Lambda, 1, functions, 1769).1.compute_us;
    // The link carries the last gradients of all functions.
    let link = |functions: f64| 8000.0 + 8000.0 * functions;
    for (functions, waves) in [(1, 4.0), (2, 2.0), (3, 2.0), (4, 1.0), (9, 1.0)] {
        let working = f64::from(functions.min(4));
        close(compute(functions), 30_000.0 + waves * 140_000.0 + link(working));
    }
}

#[test]
fn from_eight_peers_on_shards_travel_and_not_whole_sums() {
    let exchange = |peers| at(Place::Lambda, peers, 1, 1769).1.exchange_us;
    close(exchange(7), 6.0 * 2_000_016.0 / 125.0 + 1000.0);
    close(exchange(8), 1.75 * 2_000_016.0 / 125.0 + 2000.0);
    assert_eq!(exchange(1), 0.0);
}

#[test]
fn on_this_machine_all_work_is_spread_over_its_cores() {
    // Both cores busy: 4 units of 121 ms, twice 13 ms of the peers, and 2 payloads at 2.8 s/GB.
    let (_, two) = at(Place::Local, 2, 1, 0);
    close(two.round_us, (4.0 * 121_000.0 + 2.0 * 13_000.0 + 2.0 * 2000.016 * 2.8) / 2.0);
    close(two.round_us, two.compute_us + two.exchange_us + two.peer_us);
    // One function leaves a core idle, and is not slowed down.
    let (_, one) = at(Place::Local, 1, 1, 0);
    close(one.round_us, 4.0 * 101_000.0 + 4.0 * 1000.0 + 5000.0 + 4000.0);
    // Four functions on two cores: each is there twice as long.
    let (_, four) = at(Place::Local, 1, 4, 0);
    close(four.compute_us, 2.0 * 121_000.0);
    close(four.function_us(), 10.0 * 4.0 * 242_000.0 + 55_000.0);
}
