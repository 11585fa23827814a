//! What failures of machines cost in expectation.

use clap::Args;

use super::constants::{Constant, Origin, constant, not_negative, positive};

const HOUR_US: f64 = 3.6e9;

/// What follows when one machine is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Recovery {
    /// The others go on: the run is longer by so many microseconds.
    GoOn(f64),
    /// All go back to the last checkpoint. It takes so many microseconds until work begins again.
    Restart(f64),
}

/// Machines (or functions that live as long as the run) whose loss has the same consequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hazard {
    /// How many there are on average; functions that come and go count for the part of the time that they are there.
    pub(crate) machines: f64,
    pub(crate) recovery: Recovery,
}

/// What a run becomes with failures, as factors of the run without them. Infinite where it would not end in any time that
/// a number can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Expected {
    /// Of the time of all rounds.
    pub(crate) time: f64,
    /// Of the work of all rounds: what is computed again is paid again.
    pub(crate) work: f64,
}

/// Work between two checkpoints, and what one costs, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Checkpoints {
    pub(crate) interval_us: f64,
    pub(crate) cost_us: f64,
}

impl Checkpoints {
    /// As seldom as is best at this failure rate: √(2δ / Λ) for checkpoints that cost δ (J. W. Young, CACM 17 (1974)), in
    /// whole rounds.
    pub(crate) fn best(per_hour: f64, hazards: &[Hazard], cost_us: f64, round_us: f64, rounds: u64) -> Self {
        let rate: f64 = hazards.iter().map(|hazard| hazard.restarts_per_us(per_hour)).sum();
        // Without failures that is once, at the end.
        let between = ((2.0 * cost_us / rate).sqrt() / round_us).round().max(1.0).min(rounds as f64);
        Self { interval_us: between * round_us, cost_us }
    }
}

impl Hazard {
    fn restarts_per_us(&self, per_hour: f64) -> f64 {
        match self.recovery {
            Recovery::GoOn(_) => 0.0,
            Recovery::Restart(_) => per_hour * self.machines / HOUR_US,
        }
    }
}

/// Expected factors at a failure rate per machine and hour.
///
/// Losses that send everybody back: Daly's time to solution with exponentially distributed failures, also during
/// recovery, e^(ΛR) (e^(Λ(τ+δ)) - 1) / (Λτ) with Λ the rate of all such machines, R the time until work begins again, τ the
/// interval between checkpoints and δ what one costs (J. T. Daly, FGCS 22 (2006)); to first order every failure costs
/// R + τ/2. Losses that the others survive add their time, as they overlap rather than compound: 1 + Σ Λᵢ sᵢ.
pub(crate) fn expected(per_hour: f64, checkpoints: Checkpoints, hazards: &[Hazard]) -> Expected {
    let mut factors = Expected { time: 1.0, work: 1.0 };
    let (mut rate, mut lost) = (0.0, 0.0);
    for hazard in hazards {
        rate += hazard.restarts_per_us(per_hour);
        match hazard.recovery {
            Recovery::GoOn(us) => factors.time += per_hour * hazard.machines / HOUR_US * us,
            Recovery::Restart(us) => lost += hazard.restarts_per_us(per_hour) * us,
        }
    }
    let Checkpoints { interval_us, cost_us } = checkpoints;
    let again = rate * interval_us;
    if again > 0.0 {
        factors.work = again.exp_m1() / again;
        factors.time *= (rate * (interval_us + cost_us)).exp_m1() / again * lost.exp();
    }
    factors
}

/// Microseconds that one failure costs on average, to first order; nothing where nothing can fail.
pub(crate) fn loss(interval_us: f64, hazards: &[Hazard]) -> f64 {
    let machines: f64 = hazards.iter().map(|hazard| hazard.machines).sum();
    let of = |hazard: &Hazard| match hazard.recovery {
        Recovery::GoOn(us) => us,
        Recovery::Restart(us) => us + interval_us / 2.0,
    };
    let all: f64 = hazards.iter().map(|hazard| hazard.machines * of(hazard)).sum();
    if machines > 0.0 { all / machines } else { 0.0 }
}

/// Constants of failures and recovery. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Failures {
    pub(crate) boot: Constant,
    pub(crate) suspicion: Constant,
    /// Rounds between checkpoints; else what is best.
    pub(crate) checkpoint_rounds: Option<Constant>,
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            boot: constant(
                "--boot-s",
                30.0,
                "s",
                Origin::Assumed,
                "noticing a loss and booting a VM, as --boot-s of train",
            ),
            suspicion: constant(
                "--suspicion",
                1.0,
                "s",
                Origin::Measured,
                "silence after which peers and servers go on without a machine; docs/fault-tolerance.md",
            ),
            checkpoint_rounds: None,
        }
    }
}

impl Failures {
    /// All of them.
    pub(crate) fn list(&self) -> Vec<Constant> {
        [self.boot, self.suspicion].into_iter().chain(self.checkpoint_rounds).collect()
    }
}

/// Constants of failures in the place of the built-in ones.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Failures")]
pub(crate) struct FailureArgs {
    /// From a machine's loss until another VM has booted, in seconds [default: 30]
    #[arg(long, value_name = "S", value_parser = not_negative)]
    boot_s: Option<f64>,
    /// Silence after which the others go on without a machine, in seconds [default: 1]
    #[arg(long, value_name = "S", value_parser = not_negative)]
    suspicion: Option<f64>,
    /// Rounds between checkpoints [default: what is best by Young's formula]
    #[arg(long, value_name = "N", value_parser = positive)]
    checkpoint_rounds: Option<f64>,
}

impl FailureArgs {
    /// The constants with those that were given.
    pub(crate) fn constants(&self) -> Failures {
        let mut failures = Failures::default();
        let given = [(&mut failures.boot, self.boot_s), (&mut failures.suspicion, self.suspicion)];
        for (constant, value) in given {
            if let Some(value) = value {
                *constant = constant.given(value);
            }
        }
        failures.checkpoint_rounds = self
            .checkpoint_rounds
            .map(|rounds| constant("--checkpoint-rounds", rounds, "rounds", Origin::Given, "command line"));
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTARTS: Hazard = Hazard { machines: 4.0, recovery: Recovery::Restart(30e6) };
    const GOES_ON: Hazard = Hazard { machines: 4.0, recovery: Recovery::GoOn(2e6) };

    /// A minute of work between two that cost nothing.
    const FREE: Checkpoints = Checkpoints { interval_us: 60e6, cost_us: 0.0 };

    #[test]
    fn without_failures_nothing_is_lost() {
        assert_eq!(expected(0.0, FREE, &[RESTARTS, GOES_ON]), Expected { time: 1.0, work: 1.0 });
        assert_eq!(expected(1.0, FREE, &[]), Expected { time: 1.0, work: 1.0 });
    }

    #[test]
    fn factors_are_those_of_the_formulas() {
        // Four machines, one failure an hour each: one every 900 s. R = 30 s, τ = 60 s.
        let found = expected(1.0, FREE, &[RESTARTS]);
        let work = (60.0_f64 / 900.0).exp_m1() * 900.0 / 60.0;
        assert!((found.work - work).abs() < 1e-12);
        assert!((found.time - work * (30.0_f64 / 900.0).exp()).abs() < 1e-12);
        // To first order 60 s are lost with each: 1 + 60 / 900.
        assert!((found.time - (1.0 + 60.0 / 900.0)).abs() < 4e-3, "{found:?}");
        assert_eq!(loss(60e6, &[RESTARTS]), 60e6);
        // A checkpoint costs 6 s of each 60 s besides.
        let dear = expected(1.0, Checkpoints { cost_us: 6e6, ..FREE }, &[RESTARTS]);
        let time = (66.0_f64 / 900.0).exp_m1() * 900.0 / 60.0 * (30.0_f64 / 900.0).exp();
        assert!((dear.time - time).abs() < 1e-12 && dear.work == found.work, "{dear:?}");
        // 2 s every 900 s.
        let found = expected(1.0, FREE, &[GOES_ON]);
        assert!((found.time - (1.0 + 2.0 / 900.0)).abs() < 1e-12 && found.work == 1.0, "{found:?}");
        assert_eq!(loss(60e6, &[RESTARTS, GOES_ON]), 31e6);
    }

    #[test]
    fn checkpoints_are_as_far_apart_as_young_says_and_not_closer_than_a_round() {
        // √(2 · 0.5 s · 900 s) = 30 s.
        let interval = |per_hour, round_us| Checkpoints::best(per_hour, &[RESTARTS], 0.5e6, round_us, 100).interval_us;
        assert_eq!([interval(1.0, 1e6), interval(1.0, 40e6)], [30e6, 40e6]);
        // At the end of the run, where nothing fails.
        assert_eq!(interval(0.0, 1e6), 100e6);
        // No other interval is better by more than a hundredth.
        let time = |interval_us| expected(1.0, Checkpoints { interval_us, cost_us: 0.5e6 }, &[RESTARTS]).time;
        let best = (1..100).map(|seconds| time(1e6 * f64::from(seconds))).fold(f64::INFINITY, f64::min);
        assert!(time(30e6) < 1.01 * best);
    }

    #[test]
    fn more_failures_longer_intervals_and_slower_recovery_never_make_a_run_shorter() {
        let rates = [0.0, 1e-4, 0.01, 0.1, 1.0, 10.0, 1e3, 1e6, 1e12];
        let every = |interval_us| Checkpoints { interval_us, cost_us: 0.0 };
        for interval in [0.0, 1e3, 1e6, 1e9] {
            for hazards in [vec![RESTARTS], vec![GOES_ON], vec![RESTARTS, GOES_ON]] {
                let factors: Vec<f64> =
                    rates.iter().map(|rate| expected(*rate, every(interval), &hazards).time).collect();
                assert!(factors.is_sorted() && factors.iter().all(|factor| *factor >= 1.0), "{factors:?}");
            }
        }
        for rate in rates {
            let time = |interval, restart| {
                let hazard = Hazard { machines: 2.0, recovery: Recovery::Restart(restart) };
                expected(rate, every(interval), &[hazard]).time
            };
            assert!(time(2e6, 1e6) >= time(1e6, 1e6) && time(1e6, 2e6) >= time(1e6, 1e6), "{rate} per hour");
        }
    }
}
