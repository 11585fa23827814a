//! What was checked and what was found.

use std::collections::BTreeMap;

use peerless_protocol::PeerId;
use serde::Serialize;

/// Findings of one check that are shown; the others are only counted.
const MAX_SHOWN: u64 = 20;

/// What is checked. The names are part of the JSON output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Check {
    /// A peer's spec is the one whose digest is the run's id.
    Spec,
    /// A peer's ledger can be read.
    Ledger,
    /// A recorded contribution carries its author's signature.
    Signature,
    /// The cover of an applied round holds every unit exactly once.
    Coverage,
    /// Each state follows from the one before by a recorded round.
    Chain,
    /// Peers recorded the same digest for the same state.
    Agreement,
    /// A state or checkpoint on disk has the recorded digest.
    File,
    /// A contribution is what this machine computes.
    Recomputation,
}

impl Check {
    /// What a checked thing is called.
    pub(crate) fn subject(self) -> &'static str {
        match self {
            Self::Spec => "specs",
            Self::Ledger => "ledgers",
            Self::Signature => "signatures",
            Self::Coverage => "covers",
            Self::Chain => "state digests in a chain",
            Self::Agreement => "states compared between peers",
            Self::File => "states and checkpoints on disk",
            Self::Recomputation => "contributions recomputed",
        }
    }
}

/// A peer by key and, where it ran on this machine, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Author {
    /// Its key.
    pub(crate) peer: PeerId,
    /// Its name in the run directory.
    pub(crate) name: Option<String>,
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "peer {name} ({})", self.peer),
            None => write!(f, "peer {}", self.peer),
        }
    }
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check that failed.
    pub(crate) check: Check,
    /// Name of the peer in whose directory it was found; `None` for a comparison of several.
    pub(crate) found_at: Option<String>,
    /// The round, if it is about one.
    pub(crate) round: Option<u64>,
    /// Whose contribution it is about.
    pub(crate) author: Option<Author>,
    /// What is wrong.
    pub(crate) what: String,
}

/// Numbers of one check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    /// Things checked.
    pub(crate) checked: u64,
    /// Findings among them.
    pub(crate) wrong: u64,
}

/// Everything found, bounded.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    counts: BTreeMap<Check, Count>,
    shown: Vec<Finding>,
    notes: BTreeMap<&'static str, Note>,
}

/// Something to know that is not wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    /// How often.
    pub(crate) times: u64,
    /// The first time, for people.
    pub(crate) first: String,
}

impl Findings {
    /// Counts things that were checked.
    pub(crate) fn checked(&mut self, check: Check, number: u64) {
        self.counts.entry(check).or_default().checked += number;
    }

    /// Takes a finding.
    pub(crate) fn add(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.check).or_default();
        count.wrong += 1;
        if count.wrong <= MAX_SHOWN {
            self.shown.push(finding);
        }
    }

    /// Takes a note.
    pub(crate) fn note(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        self.notes.entry(kind).or_insert_with(|| Note { times: 0, first: what() }).times += 1;
    }

    /// Numbers by check.
    pub(crate) fn counts(&self) -> &BTreeMap<Check, Count> {
        &self.counts
    }

    /// The findings that are shown.
    pub(crate) fn shown(&self) -> &[Finding] {
        &self.shown
    }

    /// All findings.
    pub(crate) fn wrong(&self) -> u64 {
        self.counts.values().map(|count| count.wrong).sum()
    }

    /// Notes by kind.
    pub(crate) fn notes(&self) -> &BTreeMap<&'static str, Note> {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_bound_are_counted_and_do_not_hide_others() {
        let mut findings = Findings::default();
        let finding = |check| Finding { check, found_at: None, round: None, author: None, what: "wrong".to_owned() };
        (0..1000).for_each(|_| findings.add(finding(Check::Signature)));
        findings.add(finding(Check::Coverage));
        assert_eq!((findings.wrong(), findings.shown().len() as u64), (1001, MAX_SHOWN + 1));
        assert_eq!(findings.shown().last().unwrap().check, Check::Coverage);
    }
}
