//! `peerless soak`: trains while random things are killed, stopped and restarted, and checks all along
//! that it leaves no trace in any state.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use peerless_peer::status::unix_us;
use peerless_protocol::{SPLIT_MIX_STEP, split_mix};
use peerless_store::{Ledger, ledger_path};
use serde::Serialize;

use crate::data;
use crate::failure::{Advise, code};
use crate::output::{self, label, say, thousands};
use crate::spec::SpecArgs;
use crate::train::agreement::Agreement;
use crate::train::fault::{Action, Fault};
use crate::train::fleet::Fleet;
use crate::train::peers::Peer;

/// Time between two faults: from an eighth of this to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(2000);
/// Time between two comparisons of ledgers while the run goes on.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// More rounds than any soak takes: the run ends when the time is over.
const ROUNDS: u64 = 10_000_000;
/// Rounds between evaluations, which are work of another kind.
const EVALUATE_EVERY: u64 = 200;
/// Longest wait for something that the peers are to do.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  peerless soak
  peerless soak --for 8h --peers 6
  peerless soak --for 2m --seed 17 --json

Afterwards one peer that nothing happens to trains the same rounds, which takes about as long again, and
the states of every round are compared. A difference ends it with exit code 6 and keeps the run.
The seed decides which faults there are and in which order; when exactly they strike depends on the machine.")]
pub(crate) struct SoakArgs {
    /// How long faults are injected, such as 90s, 10m or 8h
    #[arg(long = "for", value_name = "TIME", default_value = "1m")]
    time: Time,
    /// Peers of the run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
    peers: u16,
    /// Seed of the faults and of what is trained [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

/// A time with its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Time(Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |letter: char, seconds: u64| Some((text.strip_suffix(letter)?, seconds));
        let found = unit('s', 1).or(unit('m', 60)).or(unit('h', 3600));
        let seconds = found.and_then(|(number, seconds)| number.parse::<u64>().ok()?.checked_mul(seconds));
        let seconds = seconds.filter(|seconds| (1..=366 * 86_400).contains(seconds));
        seconds.map(|seconds| Self(Duration::from_secs(seconds))).ok_or("expected a time such as 90s, 10m or 8h".into())
    }
}

/// What was done and found.
#[derive(Debug, Serialize)]
struct Report {
    seed: u64,
    peers: u16,
    /// Time during which faults were injected.
    seconds: f64,
    /// The last round that was compared.
    rounds: u64,
    /// How often each thing was done.
    faults: BTreeMap<&'static str, u64>,
    /// States of one peer that were compared with another's, the undisturbed peer's included.
    states_compared: u64,
    /// Rounds whose state was compared with that of the undisturbed peer.
    undisturbed_rounds: u64,
    /// Gradient units that were computed, and how many of them more than once or for nothing.
    units: u64,
    units_again: u64,
    differences: Vec<String>,
}

pub(crate) fn run(args: &SoakArgs) -> anyhow::Result<()> {
    data::ensure("mnist")?;
    let seed = args.seed.unwrap_or_else(unix_us);
    say(&format!("soak for {} s with {} peers, --seed {seed}", args.time.0.as_secs(), args.peers));
    let spec = SpecArgs::long(ROUNDS, EVALUATE_EVERY).seeded(seed);
    let mut soak = Soak::start(&spec, args.peers.into(), seed)?;
    let (report, kept) = match soak.disturb(args.time.0).and_then(|()| soak.end(args, seed, &spec)) {
        Ok(report) if report.differences.is_empty() => (report, None),
        Ok(report) => (report, Some(soak.fleet.keep())),
        Err(error) => {
            let kept = soak.fleet.keep();
            return Err(error).hint(format!("--seed {seed}; the run is kept in {}", kept.display()));
        }
    };
    if args.json {
        output::json(&report)?
    } else {
        output::data(&report.text())?
    }
    let Some(kept) = kept else { return Ok(()) };
    label("hint", &format!("--seed {seed}; the run is kept in {}", kept.display()));
    Err(anyhow::anyhow!("{} states are not those of the undisturbed run", report.differences.len()))
        .code(code::DIVERGED)
}

struct Soak {
    fleet: Fleet,
    random: Random,
    faults: BTreeMap<&'static str, u64>,
    /// What was compared while the run went on.
    seen: Agreement,
    started: Instant,
}

impl Soak {
    fn start(spec: &SpecArgs, peers: usize, seed: u64) -> anyhow::Result<Self> {
        let mut fleet = Fleet::new(spec, peers)?;
        fleet.start()?;
        fleet.wait("all peers train", LIMIT, |fleet| fleet.all_at(1))?;
        let (faults, seen) = (BTreeMap::new(), Agreement::default());
        Ok(Self { fleet, random: Random(seed), faults, seen, started: Instant::now() })
    }

    /// Does one thing after the other until the time is over.
    fn disturb(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut check = Instant::now() + CHECK_EVERY;
        while Instant::now() < end {
            let pause = LONGEST_PAUSE / 8 * (1 + self.random.below(8));
            self.fleet.pass(pause.min(end.saturating_duration_since(Instant::now())))?;
            self.strike()?;
            if Instant::now() >= check {
                self.check()?;
                check = Instant::now() + CHECK_EVERY;
            }
        }
        Ok(())
    }

    fn strike(&mut self) -> anyhow::Result<()> {
        let choice = choose(&self.fleet.peers, &mut self.random);
        let actions = match choice {
            Choice::Blackout => {
                say(&format!("{} everything is killed and restarted", self.now()));
                (1..=self.fleet.peers.len()).map(|peer| Action::Restart { peer }).collect()
            }
            Choice::One(action) => vec![action],
        };
        *self.faults.entry(choice.name()).or_default() += 1;
        for action in actions {
            let fault = Fault { action, round: self.fleet.front() };
            let done = self.fleet.strike(action)?;
            say(&format!("{} {fault} ({})", self.now(), done.as_deref().unwrap_or("there was no process")));
        }
        Ok(())
    }

    fn now(&self) -> String {
        format!("{:7.1} s", self.started.elapsed().as_secs_f64())
    }

    /// Compares what the ledgers say so far.
    fn check(&mut self) -> anyhow::Result<()> {
        self.seen.compare_new(&self.fleet.run)?;
        self.settled()
    }

    fn settled(&self) -> anyhow::Result<()> {
        match self.seen.differences.first() {
            None => Ok(()),
            Some(difference) => Err(anyhow::anyhow!("peers have different states: {difference}")).code(code::DIVERGED),
        }
    }

    /// Brings everybody back, ends the run and trains the same rounds undisturbed.
    fn end(&mut self, args: &SoakArgs, seed: u64, spec: &SpecArgs) -> anyhow::Result<Report> {
        let seconds = self.started.elapsed().as_secs_f64();
        for index in 0..self.fleet.peers.len() {
            let (peer, number) = (&self.fleet.peers[index], index + 1);
            let action = match peer.stopped {
                true => Action::Continue { peer: number },
                false if !peer.lives() => Action::Restart { peer: number },
                false => continue,
            };
            self.fleet.strike(action)?;
        }
        let back = self.fleet.front() + 1;
        self.fleet.wait("everybody is back", LIMIT, |fleet| fleet.all_at(back))?;
        self.fleet.leave()?;
        let mut all = Agreement::default();
        all.compare(&self.fleet.run, 0, "peer ")?;
        let rounds = all.newest().unwrap_or_default();
        let (units, units_again) = all_units(&self.fleet)?;
        say(&format!("{} round {rounds}: comparing with a peer that nothing happens to", self.now()));
        let undisturbed_rounds = compare_with_undisturbed(spec, rounds, &mut all)?;
        ensure!(undisturbed_rounds > 0, "no round was compared with the undisturbed run");
        Ok(Report {
            seed,
            peers: args.peers,
            seconds,
            rounds,
            faults: std::mem::take(&mut self.faults),
            states_compared: all.compared,
            undisturbed_rounds,
            units,
            units_again,
            differences: all.differences,
        })
    }
}

/// Trains with one peer up to a round; how many rounds' states could be compared.
fn compare_with_undisturbed(spec: &SpecArgs, rounds: u64, all: &mut Agreement) -> anyhow::Result<u64> {
    let mut fleet = Fleet::new(spec, 1)?;
    fleet.start()?;
    let mut last = 0;
    while fleet.front() < rounds {
        // The limit is for one step, as the whole takes as long as it takes.
        let next = (last + 100).min(rounds);
        fleet.wait("the undisturbed peer trains", LIMIT, |fleet| fleet.front() >= next)?;
        last = fleet.front();
    }
    fleet.leave()?;
    let before = all.compared;
    all.compare(&fleet.run, 0, "the undisturbed peer ")?;
    Ok(all.compared - before)
}

/// Gradient units that the peers' ledgers know of, and how many of them were not needed.
fn all_units(fleet: &Fleet) -> anyhow::Result<(u64, u64)> {
    let mut attempts: BTreeMap<(u64, u32), u64> = BTreeMap::new();
    for (_, path) in fleet.run.peers()? {
        let ledger = Ledger::open_read_only(&ledger_path(&path))?;
        for attempt in ledger.gradient_attempts(0, u64::MAX)? {
            *attempts.entry((attempt.round, attempt.unit)).or_default() += 1;
        }
    }
    Ok((attempts.values().sum(), attempts.values().map(|count| count - 1).sum()))
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    One(Action),
    /// All peers are killed and started again.
    Blackout,
}

impl Choice {
    fn name(self) -> &'static str {
        match self {
            Self::Blackout => "everything-killed",
            Self::One(Action::Kill { .. } | Action::KillServer) => "kill",
            Self::One(Action::Stop { .. }) => "stop",
            Self::One(Action::Continue { .. }) => "cont",
            Self::One(Action::Slow { .. }) => "slow",
            Self::One(Action::Restart { .. }) => "restart",
            Self::One(Action::KillFunctions { .. }) => "kill-function",
        }
    }
}

/// Chooses something that can be done to the peers as they are. One peer is left to train.
fn choose(peers: &[Peer], random: &mut Random) -> Choice {
    let numbers = |wanted: &dyn Fn(&Peer) -> bool| -> Vec<usize> {
        peers.iter().enumerate().filter(|(_, peer)| wanted(peer)).map(|(index, _)| index + 1).collect()
    };
    let at_work = numbers(&|peer| peer.lives() && !peer.stopped && !peer.restart);
    let stopped = numbers(&|peer| peer.lives() && peer.stopped && !peer.restart);
    let dead = numbers(&|peer| !peer.lives());
    let spare = at_work.len() > 1;
    loop {
        let of = |peers: &[usize], random: &mut Random| random.choose(peers);
        let action = match random.below(20) {
            0 => return Choice::Blackout,
            1..=4 if spare => of(&at_work, random).map(|peer| Action::Kill { peer }),
            5..=7 if spare => of(&at_work, random).map(|peer| Action::Stop { peer }),
            8..=10 => of(&stopped, random).map(|peer| Action::Continue { peer }),
            11..=14 => of(&dead, random).map(|peer| Action::Restart { peer }),
            15 => of(&at_work, random).map(|peer| Action::Restart { peer }),
            // Not with one peer left: a unit that fails three times on every peer ends the run.
            16..=19 if spare => Some(Action::KillFunctions { count: 1 + random.below(2) as usize }),
            _ => None,
        };
        if let Some(action) = action {
            return Choice::One(action);
        }
    }
}

/// Numbers that a seed decides.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        let number = split_mix(self.0);
        self.0 = self.0.wrapping_add(SPLIT_MIX_STEP);
        number
    }

    /// A number below `limit`, which must be small against 2^64, as the remainder is taken.
    fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit.max(1))) as u32
    }

    fn choose(&mut self, from: &[usize]) -> Option<usize> {
        let index = self.below(from.len() as u32) as usize;
        from.get(index).copied()
    }
}

impl Report {
    fn text(&self) -> String {
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let all: u64 = self.faults.values().sum();
        let mut lines = vec![
            format!("seed       {}", self.seed),
            format!("time       {:.0} s of faults, {} peers", self.seconds, self.peers),
            format!("faults     {}: {}", thousands(all), faults.join(", ")),
            format!("rounds     {}", thousands(self.rounds)),
            format!("units      {} computed, {} of them again", thousands(self.units), thousands(self.units_again)),
            format!(
                "states     {} comparisons, {} of them with an undisturbed peer: {} differences",
                thousands(self.states_compared),
                thousands(self.undisturbed_rounds),
                self.differences.len()
            ),
        ];
        lines.extend(self.differences.iter().take(20).map(|difference| format!("           {difference}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("8h", 28_800)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_secs(seconds))));
        }
        for text in ["", "10", "m", "0s", "-1s", "1.5h", "9999999h", "99999999999999999999h"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_seed_decides_what_is_done_and_peers_that_are_all_dead_are_restarted() {
        let peers: Vec<Peer> = (1..=3).map(|number: u32| Peer::new(number.to_string(), PathBuf::new())).collect();
        let choices = |seed| {
            let mut random = Random(seed);
            (0..50).map(|_| choose(&peers, &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(choices(5), choices(5));
        assert_ne!(choices(5), choices(6));
        let possible = |choice: &Choice| matches!(choice.name(), "restart" | "everything-killed");
        assert!(choices(5).iter().all(possible), "{:?}", choices(5));
        assert!(choices(5).iter().any(|choice| matches!(choice, Choice::One(Action::Restart { peer: 3 }))));
    }
}
