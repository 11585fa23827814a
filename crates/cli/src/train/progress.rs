//! Progress on stderr: two lines that are redrawn in a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use peerless_functions::prices::Money;

use crate::output::{percent, say, thousands};

/// Time between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Redraws per second.
const REDRAWS: u8 = 10;
/// Time over which the speed is averaged.
const SPEED_WINDOW: Duration = Duration::from_secs(4);

/// What there is to see at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sight {
    /// Optimizer steps of the most advanced peer.
    pub(crate) round: u64,
    /// Its mean training loss in the newest round.
    pub(crate) loss: Option<f64>,
    /// Fraction of the test set predicted right.
    pub(crate) accuracy: Option<f64>,
    /// Peers whose processes live and are not stopped.
    pub(crate) peers_alive: usize,
    /// Peers of the run.
    pub(crate) peers: usize,
    /// Function processes that compute.
    pub(crate) functions_busy: usize,
    /// Function processes.
    pub(crate) functions: usize,
    /// What the run has cost so far, if anything costs anything.
    pub(crate) spent: Option<Money>,
    /// Most that it may cost.
    pub(crate) budget: Option<Money>,
}

/// Draws the progress of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    rounds: u64,
    samples_per_round: u64,
    history: VecDeque<(Instant, u64)>,
    last_line: Option<Instant>,
    drawn: Option<Sight>,
}

impl Progress {
    pub(crate) fn new(rounds: u64, samples_per_round: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(rounds));
        Self { bar, rounds, samples_per_round, history: VecDeque::new(), last_line: None, drawn: None }
    }

    /// Shows what there is to see.
    pub(crate) fn show(&mut self, sight: Sight) {
        let speed = self.speed(sight.round);
        match &self.bar {
            Some(bar) => {
                bar.set_position(sight.round);
                bar.set_prefix(self.left(sight.round, speed));
                bar.set_message(describe(&sight, speed));
            }
            None => self.plain(sight, speed),
        }
    }

    /// Says something between redraws.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the redrawn lines away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn plain(&mut self, sight: Sight, speed: Option<f64>) {
        let due = self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
        let under_way = (1..self.rounds).contains(&sight.round);
        if due && under_way && self.drawn != Some(sight) {
            say(&format!("round {}/{}  {}", sight.round, self.rounds, describe(&sight, speed)));
            self.last_line = Some(Instant::now());
            self.drawn = Some(sight);
        }
    }

    /// Time left at this speed. The library's own estimate takes the rounds of an earlier session for
    /// rounds of this one.
    fn left(&self, round: u64, speed: Option<f64>) -> String {
        let samples = self.rounds.saturating_sub(round) * self.samples_per_round;
        let left = speed.and_then(|speed| Duration::try_from_secs_f64(samples as f64 / speed).ok());
        left.map(|left| format!(", {:#} left", HumanDuration(left))).unwrap_or_default()
    }

    /// Samples per second over the last seconds.
    fn speed(&mut self, round: u64) -> Option<f64> {
        let now = Instant::now();
        if self.history.back().is_none_or(|&(_, last)| last < round) && round > 0 {
            self.history.push_back((now, round));
        }
        // The newest one that is old enough stays, as the beginning of the window.
        while self.history.get(1).is_some_and(|&(at, _)| now.duration_since(at) > SPEED_WINDOW) {
            self.history.pop_front();
        }
        let (&(start, first), &(_, last)) = (self.history.front()?, self.history.back()?);
        let seconds = now.duration_since(start).as_secs_f64();
        (last > first).then(|| (last - first) as f64 * self.samples_per_round as f64 / seconds)
    }
}

fn bar(rounds: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
    let bar = ProgressBar::with_draw_target(Some(rounds), target);
    let template = "round {pos}/{len} [{bar:32}] {percent} %  {elapsed} gone{prefix}\n{msg}";
    // The template is a constant; should it ever be wrong, the library's own bar is good enough.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn describe(sight: &Sight, speed: Option<f64>) -> String {
    let loss = sight.loss.map(|loss| format!("loss {loss:.4}"));
    let accuracy = sight.accuracy.map(|accuracy| format!("accuracy {}", percent(accuracy)));
    let speed = speed.map(|speed| format!("{} samples/s", thousands(speed as u64)));
    let peers = format!("peers {}/{}", sight.peers_alive, sight.peers);
    let functions = format!("functions {}/{} busy", sight.functions_busy, sight.functions);
    let cost = sight.spent.map(|spent| cost(spent, sight.budget));
    let parts = [loss, accuracy, speed, Some(peers), Some(functions), cost];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// What has been spent, to four digits behind the point.
pub(crate) fn cost(spent: Money, budget: Option<Money>) -> String {
    let budget = budget.map(|budget| format!(" of {budget:.4}")).unwrap_or_default();
    format!("cost {spent:.4}{budget}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_not_known_yet_is_left_out() {
        let sight = Sight { peers_alive: 3, peers: 4, ..Sight::default() };
        assert_eq!(describe(&sight, None), "peers 3/4  functions 0/0 busy");
        let sight = Sight { loss: Some(0.5), accuracy: Some(0.987), functions_busy: 2, functions: 4, ..sight };
        let text = describe(&sight, Some(11_234.5));
        assert_eq!(text, "loss 0.5000  accuracy 98.70 %  11,234 samples/s  peers 3/4  functions 2/4 busy");
        assert!(text.len() < 80);
        let dollars = |text: &str| Some(text.parse::<peerless_functions::prices::Price>().unwrap().into());
        let sight = Sight { spent: dollars("0.01234"), budget: dollars("0.5"), peers: 4, ..Sight::default() };
        assert_eq!(describe(&sight, None), "peers 0/4  functions 0/0 busy  cost $0.0123 of $0.5000");
    }
}
