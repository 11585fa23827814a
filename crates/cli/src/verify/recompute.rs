//! Comparing contributions with what this machine computes.

use std::collections::BTreeSet;

use peerless_protocol::{Digest, PeerId, StateRef, UnitSet};
use peerless_store::{ContributionRecord, State};
use serde::Serialize;

use super::files::Available;
use super::findings::{Check, Finding, Findings};
use super::ledgers::ranges;
use super::sample::{Chosen, Sample};
use super::units::{Start, Sum, Units};
use super::{Evidence, Recorded};
use crate::output::{label, say};

/// What became of the contributions that were chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Recomputed {
    /// Those chosen.
    pub(crate) chosen: u64,
    /// Those that came out bit for bit.
    pub(crate) equal: u64,
    /// Those that came out otherwise.
    pub(crate) different: u64,
    /// Those of authors with other numerics that came out otherwise, which proves nothing.
    pub(crate) not_comparable: u64,
    /// Those whose starting state could not be had.
    pub(crate) out_of_reach: u64,
    /// Rounds that were replayed to get at starting states.
    pub(crate) replayed_rounds: u64,
    /// Numerics of this machine.
    pub(crate) fingerprint: Digest,
    /// Why some were out of reach.
    pub(crate) limit: Option<String>,
}

/// Recomputes what was chosen.
pub(super) fn recompute(
    evidence: &Evidence,
    recorded: &[Recorded],
    available: Available,
    chosen: Chosen,
    sample: &Sample,
    findings: &mut Findings,
) -> anyhow::Result<Recomputed> {
    crate::data::verify_for(&evidence.spec)?;
    let (units, start) = Units::prepare(&evidence.spec)?;
    let counts = Recomputed {
        chosen: chosen.values().map(|contributions| contributions.len() as u64).sum(),
        equal: 0,
        different: 0,
        not_comparable: 0,
        out_of_reach: 0,
        replayed_rounds: 0,
        fingerprint: start.fingerprint,
        limit: None,
    };
    let compared = BTreeSet::new();
    let mut auditor = Auditor { evidence, recorded, available, units, cursor: None, compared, findings, counts };
    auditor.take_initial(start);
    for (from, contributions) in &chosen {
        let reached = auditor.reach(*from, sample.replay)?;
        for contribution in contributions {
            match reached {
                true => auditor.compare(contribution)?,
                false => auditor.counts.out_of_reach += 1,
            }
        }
    }
    Ok(auditor.counts)
}

struct Auditor<'a> {
    evidence: &'a Evidence,
    recorded: &'a [Recorded],
    available: Available,
    units: Units,
    cursor: Option<Cursor>,
    compared: BTreeSet<Key>,
    findings: &'a mut Findings,
    counts: Recomputed,
}

/// What tells contributions apart.
type Key = (u64, PeerId, UnitSet, Option<u32>, Option<Digest>);

fn key(contribution: &ContributionRecord) -> Key {
    let shard = contribution.proof.as_ref().and_then(|proof| proof.shard);
    (contribution.round, contribution.peer, contribution.units.clone(), shard, contribution.digest)
}

/// A state of the run that is in memory.
struct Cursor {
    reference: StateRef,
    state: State,
    /// Whether units of its round are being computed.
    begun: bool,
}

impl Auditor<'_> {
    /// The initial state needs no file, if this machine makes the same one.
    fn take_initial(&mut self, start: Start) {
        let reference = start.state.reference();
        if self.is_recorded(reference) {
            self.cursor = Some(Cursor { reference, state: start.state, begun: false });
        } else if self.recorded.iter().any(|ledger| ledger.states.contains_key(&0)) {
            self.limit(|| "this machine makes another initial state than the run began with".to_owned());
        }
    }

    /// Makes `from` the state that units are computed from; whether it could be had.
    fn reach(&mut self, from: StateRef, replay: bool) -> anyhow::Result<bool> {
        if self.cursor.as_ref().is_none_or(|cursor| cursor.reference != from) {
            self.load(from, replay)?;
        }
        while let Some(cursor) = self.cursor.as_ref().filter(|cursor| replay && cursor.reference.round < from.round) {
            if self.counts.replayed_rounds == 0 {
                say(&format!("replaying from round {}", cursor.reference.round));
            }
            self.step()?;
        }
        let reached = self.cursor.as_ref().is_some_and(|cursor| cursor.reference == from);
        if !reached {
            self.limit(|| format!("state {} is not on disk, and replay did not lead to it", from.round));
        }
        if reached {
            self.begin()?;
        }
        Ok(reached)
    }

    /// Goes to the nearest state on disk that is not behind the present one.
    fn load(&mut self, from: StateRef, replay: bool) -> anyhow::Result<()> {
        let behind = self.cursor.as_ref().map_or(0, |cursor| cursor.reference.round);
        let fits = |reference: &StateRef| match replay {
            true => reference.round < from.round && reference.round > behind || *reference == from,
            false => *reference == from,
        };
        let nearest = self.available.range(..=from).rev().find(|(reference, _)| fits(reference));
        let Some((_, source)) = nearest else { return Ok(()) };
        match source.read(&self.evidence.spec) {
            Ok(Some((reference, state))) => self.cursor = Some(Cursor { reference, state, begun: false }),
            Ok(None) => {}
            Err(error) => label("warning", &error),
        }
        Ok(())
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        if let Some(cursor) = self.cursor.as_mut().filter(|cursor| !cursor.begun) {
            self.units.begin(cursor.state.clone())?;
            cursor.begun = true;
        }
        Ok(())
    }

    /// Replays the round of the present state.
    fn step(&mut self) -> anyhow::Result<()> {
        self.begin()?;
        let Some(round) = self.cursor.as_ref().map(|cursor| cursor.reference.round) else { return Ok(()) };
        let state = self.units.next_state()?;
        self.counts.replayed_rounds += 1;
        let reference = state.reference();
        if self.is_recorded(reference) {
            self.cursor = Some(Cursor { reference, state, begun: false });
            return Ok(());
        }
        let before = self.cursor.take().map(|cursor| cursor.state);
        self.limit(|| format!("the units of round {round} do not lead to the state that the run went on from"));
        // Somebody contributed something else: looks at all contributions of that round.
        let Some(before) = before else { return Ok(()) };
        self.units.begin(before)?;
        for ledger in self.recorded {
            for contribution in ledger.ledger.contributions(round, round + 1)? {
                if !self.compared.contains(&key(&contribution)) {
                    self.counts.chosen += 1;
                    self.compare(&contribution)?;
                }
            }
        }
        Ok(())
    }

    fn compare(&mut self, contribution: &ContributionRecord) -> anyhow::Result<()> {
        self.compared.insert(key(contribution));
        let Some(proof) = &contribution.proof else {
            self.counts.out_of_reach += 1;
            return Ok(());
        };
        let computed = self.units.sum(&contribution.units, proof.shard)?;
        let claimed = Sum { payload: contribution.digest, training: proof.training, evaluation: proof.evaluation };
        self.findings.checked(Check::Recomputation, 1);
        if computed == claimed {
            self.counts.equal += 1;
            return Ok(());
        }
        let numerics = self.fingerprints(contribution);
        if numerics.is_some_and(|known| known.iter().any(|digest| *digest != self.counts.fingerprint)) {
            self.counts.not_comparable += 1;
            return Ok(());
        }
        let doubt = if numerics.is_none() { "; the numerics of its author are not known here" } else { "" };
        // What it added up is recorded, too, and checked with the signatures of those who computed it.
        let only_added =
            if proof.elapsed_us == 0 { "; its author may only have added up what others announced" } else { "" };
        let what =
            format!("units {}: {}{doubt}{only_added}", ranges(&contribution.units), difference(&claimed, &computed));
        self.counts.different += 1;
        let author = Some(self.evidence.author(contribution.peer));
        let round = Some(contribution.round);
        self.findings.add(Finding { check: Check::Recomputation, found_at: None, round, author, what });
        Ok(())
    }

    /// The numerics that the author's functions had; `None` if its ledger is not here.
    fn fingerprints(&self, contribution: &ContributionRecord) -> Option<&[Digest]> {
        let of_author = |ledger: &&Recorded| self.evidence.peers[ledger.peer].id == Some(contribution.peer);
        let ledger = self.recorded.iter().find(of_author)?;
        (!ledger.fingerprints.is_empty()).then_some(&ledger.fingerprints)
    }

    fn is_recorded(&self, reference: StateRef) -> bool {
        let holds = |ledger: &Recorded| ledger.states.get(&reference.round).map(|(digest, _)| *digest);
        self.recorded.iter().any(|ledger| holds(ledger) == Some(reference.digest))
    }

    fn limit(&mut self, why: impl FnOnce() -> String) {
        self.counts.limit.get_or_insert_with(why);
    }
}

fn difference(claimed: &Sum, computed: &Sum) -> String {
    let digest = |sum: &Sum| sum.payload.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
    if claimed.payload != computed.payload {
        return format!("announced the sum {}, computed here {}", digest(claimed), digest(computed));
    }
    let tally = |sum: &Sum| {
        let correct = sum.training.correct.saturating_add(sum.evaluation.correct);
        format!("{correct} right predictions and a loss of {} + {}", sum.training.loss_sum, sum.evaluation.loss_sum)
    };
    format!("announced {}, computed here {}", tally(claimed), tally(computed))
}
