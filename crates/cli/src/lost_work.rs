//! What failures cost a run besides money: rounds and samples done again, and time without progress. The same figures
//! for every topology, from the ledgers alone; docs/topologies.md has the definitions.

use peerless_peer::history::RoundHistory;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::waste::Fate;
use peerless_protocol::{RoundPlan, RunSpec, expected_samples};
use peerless_store::{Ledger, LedgerError, ledger_path};
use serde::Serialize;

use crate::cost::Reading;
use crate::output::thousands;

/// Work of a run that was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct LostWork {
    /// Rounds that were applied again.
    pub(crate) rounds_redone: u64,
    /// Samples of units that were computed more than once, or whose result nobody waited for any more.
    pub(crate) samples_recomputed: u64,
    /// Time in which the run got no further, in seconds.
    pub(crate) stalled_s: f64,
}

impl LostWork {
    /// For people, in one line.
    pub(crate) fn text(&self) -> String {
        let Self { rounds_redone, samples_recomputed, stalled_s } = self;
        format!(
            "{} rounds done again, {} samples computed again, {stalled_s:.1} s without progress",
            thousands(*rounds_redone),
            thousands(*samples_recomputed)
        )
    }

    /// What the ledgers of a run's peers say; stalls only of the time from `since_us` on, in microseconds since the Unix
    /// epoch.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub(crate) fn of(run: &RunDirectory, reading: &Reading, since_us: u64) -> Result<Self, LedgerError> {
        let mut history = RoundHistory::default();
        for (number, (_, directory)) in run.peers().unwrap_or_default().into_iter().enumerate() {
            let path = ledger_path(&directory);
            if path.exists() {
                let ledger = Ledger::open_read_only(&path)?;
                history.add(number, &ledger.round_ends()?, &ledger.rounds_redone()?);
            }
        }
        Ok(Self {
            rounds_redone: history.redone(),
            samples_recomputed: samples_recomputed(run.spec(), reading),
            stalled_s: history.stalled_us(since_us) as f64 / 1e6,
        })
    }
}

fn samples_recomputed(spec: &RunSpec, reading: &Reading) -> u64 {
    let useless = reading.items.iter().filter(|item| matches!(item.fate, Fate::Repeated | Fate::Discarded));
    let samples = |(round, unit): (u64, u32)| {
        let (training, evaluation) =
            expected_samples(spec, &RoundPlan::new(spec, round), &[unit].into_iter().collect());
        training + evaluation
    };
    useless.filter_map(|item| item.unit).map(samples).sum()
}
