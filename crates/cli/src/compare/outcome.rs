//! What came of one run, as it is kept beside the run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use peerless_protocol::{Digest, RunId};
use serde::{Deserialize, Serialize};

/// Version of the file; another one counts as no outcome.
const VERSION: u32 = 1;

/// What came of a run, and what it was a run of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) version: u32,
    /// What `train` was told.
    pub(crate) flags: Vec<String>,
    /// Digest of the program that ran.
    pub(crate) program: Digest,
    /// From start to end of the command, in seconds.
    pub(crate) wall_s: f64,
    /// What was measured, or why nothing was.
    pub(crate) result: Result<Measured, String>,
}

/// What was measured of a run that ended well. Times are seconds and begin with its first round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Digest of what was trained: equal jobs have equal ones.
    pub(crate) run_id: Option<RunId>,
    /// Of the final state.
    pub(crate) state_digest: Option<Digest>,
    pub(crate) rounds: u64,
    pub(crate) test_accuracy: Option<f64>,
    pub(crate) train_s: f64,
    /// Until an evaluation had the target accuracy.
    pub(crate) target_s: Option<f64>,
    pub(crate) samples_per_s: f64,
    pub(crate) rounds_redone: u64,
    pub(crate) stalled_s: f64,
    pub(crate) samples_recomputed: u64,
    pub(crate) invocations: u64,
    /// Dollars.
    pub(crate) functions_usd: f64,
    pub(crate) peers_usd: f64,
    pub(crate) wasted_usd: f64,
    /// Largest resident set of a peer's process and of a function's, in bytes.
    pub(crate) peer_memory: u64,
    pub(crate) function_memory: u64,
    /// What all peers sent to each other, in bytes.
    pub(crate) bytes_sent: u64,
    pub(crate) curves: Curves,
}

impl Measured {
    pub(crate) fn total_usd(&self) -> f64 {
        self.functions_usd + self.peers_usd
    }
}

/// What charts are drawn from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Curves {
    pub(crate) evaluations: Vec<Evaluated>,
    /// When which round was applied; it goes back where rounds are done again.
    pub(crate) progress: Vec<(f64, u64)>,
    /// Injected faults.
    pub(crate) faults: Vec<(f64, String)>,
    pub(crate) lives: Vec<Life>,
    pub(crate) split: RoundSplit,
}

/// An evaluation of the test set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Evaluated {
    pub(crate) at_s: f64,
    pub(crate) spent_usd: f64,
    pub(crate) accuracy: f64,
}

/// What a peer was, and from when to when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) peer: String,
    pub(crate) spans: Vec<LifeSpan>,
}

/// A time of a peer's life.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct LifeSpan {
    pub(crate) from_s: f64,
    pub(crate) to_s: f64,
    pub(crate) state: LifeState,
}

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LifeState {
    Alive,
    Dead,
    /// Its process or its functions are stopped.
    Stopped,
    /// It does rounds again.
    CatchingUp,
    Finished,
}

/// Where the time of a round goes, in milliseconds: means over all training rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundSplit {
    pub(crate) compute_ms: f64,
    pub(crate) sum_ms: f64,
    pub(crate) transfer_ms: f64,
    pub(crate) update_ms: f64,
    pub(crate) digest_ms: f64,
    pub(crate) wait_ms: f64,
}

impl Outcome {
    pub(crate) fn new(flags: &[String], program: Digest, wall_s: f64, result: Result<Measured, String>) -> Self {
        Self { version: VERSION, flags: flags.to_vec(), program, wall_s, result }
    }

    /// What came of an earlier run in this folder, if it ended well and was the same: the same flags and program.
    pub(crate) fn earlier(folder: &Path, flags: &[String], program: Digest) -> Option<Self> {
        // A file that cannot be read is none: the run is done again.
        let text = fs::read(path(folder)).ok()?;
        let outcome: Self = serde_json::from_slice(&text).ok()?;
        let same = outcome.version == VERSION && outcome.flags == flags && outcome.program == program;
        (same && outcome.result.is_ok()).then_some(outcome)
    }

    /// Keeps it, replacing what was there.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = path(folder);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("outcome.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_found_again_for_the_same_flags_and_program_only() {
        let folder = tempfile::tempdir().unwrap();
        let flags = vec!["--peers".to_owned(), "2".to_owned()];
        let (program, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let measured = Measured { train_s: 0.1 + 0.2, ..Measured::default() };
        let outcome = Outcome::new(&flags, program, 1.5, Ok(measured));
        outcome.write(folder.path()).unwrap();
        assert_eq!(Outcome::earlier(folder.path(), &flags, program), Some(outcome));
        assert_eq!(Outcome::earlier(folder.path(), &flags, other), None);
        assert_eq!(Outcome::earlier(folder.path(), &flags[..1], program), None);
        Outcome::new(&flags, program, 1.5, Err("it died".into())).write(folder.path()).unwrap();
        assert_eq!(Outcome::earlier(folder.path(), &flags, program), None, "failed runs are tried again");
        fs::write(path(folder.path()), "{").unwrap();
        assert_eq!(Outcome::earlier(folder.path(), &flags, program), None);
    }
}
