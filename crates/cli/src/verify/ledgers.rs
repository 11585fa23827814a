//! What ledgers alone can tell: signatures, covers, chains, agreement.

use std::collections::{BTreeMap, BTreeSet};

use peerless_protocol::{Digest, RoundPlan, UnitSet};
use peerless_store::{
    ContributionRecord, Ledger, LedgerError, RoundRecord, StateOrigin, StoreError, ledger_path, read_spec,
};

use super::findings::{Check, Finding, Findings};
use super::sample::{Chosen, Sample};
use super::{Evidence, Peer, Recorded};

/// Rounds that are read at a time.
const PAGE: u32 = 512;

/// Most events of one kind that are looked at.
const MAX_EVENTS: u32 = 10_000;

/// Opens the ledgers that can be read.
pub(super) fn open_all(evidence: &Evidence, findings: &mut Findings) -> Vec<Recorded> {
    let mut recorded = Vec::new();
    for (index, peer) in evidence.peers.iter().enumerate() {
        if !is_of_the_run(evidence, peer, findings) {
            continue;
        }
        findings.checked(Check::Ledger, 1);
        match open(index, peer) {
            Ok(opened) => recorded.push(opened),
            Err(error) => findings.add(unreadable(peer, &error)),
        }
    }
    recorded
}

fn is_of_the_run(evidence: &Evidence, peer: &Peer, findings: &mut Findings) -> bool {
    let found = read_spec(&peer.directory);
    if matches!(found, Err(StoreError::NotAStore { .. })) && !ledger_path(&peer.directory).exists() {
        findings.note("peers that never began", || format!("peer {}", peer.name));
        return false;
    }
    findings.checked(Check::Spec, 1);
    let wrong = match found {
        Ok(spec) if spec.id() == evidence.run => return true,
        Ok(spec) => format!("the directory is that of run {}", spec.id()),
        Err(error) => error.to_string(),
    };
    findings.add(at(Check::Spec, peer, None, wrong));
    false
}

fn open(index: usize, peer: &Peer) -> Result<Recorded, LedgerError> {
    let ledger = Ledger::open_read_only(&ledger_path(&peer.directory))?;
    ledger.hold()?;
    let mut lost: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
    for event in ledger.events_of("divergence", MAX_EVENTS)? {
        if let Some((round, own)) = lost_state(&event.detail) {
            lost.entry(round).or_default().push(own);
        }
    }
    let mut fingerprints: BTreeSet<Digest> = peer.fingerprint.into_iter().collect();
    for event in ledger.events_of("numerics", MAX_EVENTS)? {
        fingerprints.extend(digest_in(&event.detail, "fingerprint"));
    }
    let keeps_all_signatures = ledger.keeps_all_signatures()?;
    let fingerprints = fingerprints.into_iter().collect();
    Ok(Recorded { peer: index, ledger, states: BTreeMap::new(), lost, fingerprints, keeps_all_signatures })
}

fn unreadable(peer: &Peer, error: &LedgerError) -> Finding {
    at(Check::Ledger, peer, None, error.to_string())
}

/// The round and the own digest of a divergence that the peer lost.
fn lost_state(detail: &str) -> Option<(u64, Digest)> {
    let own = digest_in(detail, "own")?;
    let value: serde_json::Value = serde_json::from_str(detail).ok()?;
    (digest_in(detail, "winner")? != own).then_some((value.get("round")?.as_u64()?, own))
}

fn digest_in(detail: &str, field: &str) -> Option<Digest> {
    let value: serde_json::Value = serde_json::from_str(detail).ok()?;
    value.get(field)?.as_str()?.parse().ok()
}

fn at(check: Check, peer: &Peer, round: Option<u64>, what: String) -> Finding {
    Finding { check, found_at: Some(peer.name.clone()), round, author: None, what }
}

/// Checks one ledger by itself; whether it could be read to its end.
pub(super) fn check(
    evidence: &Evidence,
    recorded: &mut Recorded,
    sample: Option<&Sample>,
    chosen: &mut Chosen,
    findings: &mut Findings,
) -> bool {
    let peer = &evidence.peers[recorded.peer];
    let checked = read_states(recorded).and_then(|()| {
        let mut pass = Pass { evidence, peer, recorded, sample, chosen, findings, rounds: BTreeSet::new() };
        pass.rounds()?;
        pass.origins();
        Ok(())
    });
    if let Err(error) = &checked {
        findings.add(unreadable(peer, error));
    }
    checked.is_ok()
}

fn read_states(recorded: &mut Recorded) -> Result<(), LedgerError> {
    let mut first = 0;
    loop {
        let page = recorded.ledger.state_records(first, PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        first = last.reference.round.saturating_add(1);
        let states = page
            .iter()
            .map(|state| (state.reference.round, (state.reference.digest, state.origin == StateOrigin::Applied)));
        recorded.states.extend(states);
    }
}

/// One pass over the rounds of a ledger.
struct Pass<'a> {
    evidence: &'a Evidence,
    peer: &'a Peer,
    recorded: &'a Recorded,
    sample: Option<&'a Sample>,
    chosen: &'a mut Chosen,
    findings: &'a mut Findings,
    rounds: BTreeSet<u64>,
}

impl Pass<'_> {
    fn rounds(&mut self) -> Result<(), LedgerError> {
        let mut first = 0;
        loop {
            let rounds = self.recorded.ledger.rounds(first, PAGE)?;
            // After the last round there may still be contributions to rounds that are not there.
            let end = rounds.last().map_or(u64::MAX, |last| last.round + 1);
            let mut contributions: BTreeMap<u64, Vec<ContributionRecord>> = BTreeMap::new();
            for contribution in self.recorded.ledger.contributions(first, end)? {
                contributions.entry(contribution.round).or_default().push(contribution);
            }
            for round in &rounds {
                self.round(round, &contributions.remove(&round.round).unwrap_or_default());
            }
            for round in contributions.into_keys() {
                self.add(Check::Coverage, Some(round), "contributions to a round that is not recorded".to_owned());
            }
            if rounds.is_empty() {
                return Ok(());
            }
            first = end;
        }
    }

    fn round(&mut self, record: &RoundRecord, contributions: &[ContributionRecord]) {
        self.rounds.insert(record.round);
        for contribution in contributions {
            self.signature(contribution);
            if let Some(sample) = self.sample {
                sample.consider(contribution, self.chosen);
            }
        }
        self.coverage(record.round, contributions.iter().filter(|contribution| contribution.accepted));
        self.next_state(record);
    }

    fn signature(&mut self, contribution: &ContributionRecord) {
        let Some(signed) = contribution.signed(self.evidence.run) else {
            if self.recorded.keeps_all_signatures {
                self.blame(contribution, "a contribution without a signature".to_owned());
            } else {
                let round = contribution.round;
                self.findings.note("contributions that were recorded without signature by an earlier version", || {
                    format!("round {round} in the ledger of peer {}", self.peer.name)
                });
            }
            return;
        };
        self.findings.checked(Check::Signature, 1);
        let checked = signed.verify().and_then(|()| {
            signed.contribution.check(&self.evidence.spec, self.evidence.run, &self.evidence.format.shape())
        });
        if let Err(error) = checked {
            self.blame(contribution, format!("{error} (units {})", ranges(&contribution.units)));
            return;
        }
        let from = signed.contribution.from;
        let known = self.recorded.states.get(&from.round).is_some_and(|(digest, _)| *digest == from.digest);
        if contribution.accepted && !known && !self.has_lost(from.round, from.digest) {
            let what = format!("a contribution computed from state {}, which this peer did not hold", from.digest);
            let author = Some(self.evidence.author(contribution.peer));
            self.findings.add(Finding { author, ..at(Check::Chain, self.peer, Some(from.round), what) });
        }
    }

    fn blame(&mut self, contribution: &ContributionRecord, what: String) {
        let author = Some(self.evidence.author(contribution.peer));
        self.findings.add(Finding { author, ..at(Check::Signature, self.peer, Some(contribution.round), what) });
    }

    fn coverage<'c>(&mut self, round: u64, cover: impl Iterator<Item = &'c ContributionRecord>) {
        self.findings.checked(Check::Coverage, 1);
        let plan = RoundPlan::new(&self.evidence.spec, round);
        let mut parts: BTreeMap<Option<u32>, Vec<&UnitSet>> = BTreeMap::new();
        for contribution in cover {
            let shard = contribution.proof.as_ref().and_then(|proof| proof.shard);
            parts.entry(shard).or_default().push(&contribution.units);
        }
        if parts.keys().all(Option::is_none) {
            self.units_once(round, &plan, "", parts.get(&None).map_or(&[], Vec::as_slice));
            return;
        }
        // Each shard of the sum has a cover of its own.
        for shard in 0..plan.shards(&self.evidence.format.shape()) {
            let what = format!(" in shard {shard}");
            self.units_once(round, &plan, &what, parts.get(&Some(shard)).map_or(&[], Vec::as_slice));
        }
        if parts.contains_key(&None) {
            self.add(Check::Coverage, Some(round), "sums of the whole vector among those of shards".to_owned());
        }
    }

    fn units_once(&mut self, round: u64, plan: &RoundPlan, place: &str, parts: &[&UnitSet]) {
        let (mut held, mut twice) = (UnitSet::new(), UnitSet::new());
        for units in parts {
            twice = twice.union(&held.difference(&held.difference(units)));
            held = held.union(units);
        }
        let wrong = [
            ("missing", plan.all().difference(&held)),
            ("there more than once", twice),
            ("not of the round", held.difference(&plan.all())),
        ];
        for (what, units) in wrong.iter().filter(|(_, units)| !units.is_empty()) {
            self.add(Check::Coverage, Some(round), format!("units {} are {what}{place}", ranges(units)));
        }
    }

    fn next_state(&mut self, record: &RoundRecord) {
        self.findings.checked(Check::Chain, 1);
        let next = record.round + 1;
        let found = self.recorded.states.get(&next);
        if found.is_some_and(|(digest, _)| *digest == record.state_digest) {
            return;
        }
        if self.has_lost(next, record.state_digest) {
            self.divergence(next);
            return;
        }
        let held = found.map_or_else(|| "none".to_owned(), |(digest, _)| digest.to_string());
        let what = format!("its result was state {}, but the peer then held {held}", record.state_digest);
        self.add(Check::Chain, Some(record.round), what);
    }

    /// Every state that a round here made must have that round's record.
    fn origins(&mut self) {
        let made = self.recorded.states.iter().filter(|(_, (_, applied))| *applied);
        let lost: Vec<u64> =
            made.filter_map(|(round, _)| round.checked_sub(1)).filter(|round| !self.rounds.contains(round)).collect();
        for round in lost {
            self.add(Check::Chain, Some(round), "the round that made the next state is not recorded".to_owned());
        }
    }

    fn has_lost(&self, round: u64, digest: Digest) -> bool {
        has_lost(self.recorded, round, digest)
    }

    fn divergence(&mut self, round: u64) {
        note_divergence(self.findings, self.peer, round);
    }

    fn add(&mut self, check: Check, round: Option<u64>, what: String) {
        self.findings.add(at(check, self.peer, round, what));
    }
}

/// Whether the peer's events say that it gave up this state for another one.
pub(super) fn has_lost(recorded: &Recorded, round: u64, digest: Digest) -> bool {
    recorded.lost.get(&round).is_some_and(|lost| lost.contains(&digest))
}

fn note_divergence(findings: &mut Findings, peer: &Peer, round: u64) {
    findings.note("states that lost to another digest, as the rule for divergence says", || {
        format!("state {round} of peer {}", peer.name)
    });
}

/// Compares the states of all ledgers with each other.
pub(super) fn compare(evidence: &Evidence, recorded: &[Recorded], findings: &mut Findings) {
    let rounds: BTreeSet<u64> = recorded.iter().flat_map(|ledger| ledger.states.keys().copied()).collect();
    for round in rounds {
        let mut holders: BTreeMap<Digest, Vec<&Recorded>> = BTreeMap::new();
        let held = recorded.iter().filter_map(|ledger| Some((ledger, ledger.states.get(&round)?.0)));
        held.for_each(|(ledger, digest)| holders.entry(digest).or_default().push(ledger));
        if holders.values().map(Vec::len).sum::<usize>() > 1 {
            findings.checked(Check::Agreement, 1);
        }
        if holders.len() < 2 {
            continue;
        }
        for (digest, ledgers) in &mut holders {
            ledgers.retain(|ledger| {
                let lost = has_lost(ledger, round, *digest);
                if lost {
                    note_divergence(findings, &evidence.peers[ledger.peer], round);
                }
                !lost
            });
        }
        holders.retain(|_, ledgers| !ledgers.is_empty());
        if holders.len() > 1 {
            let side = |(digest, ledgers): (&Digest, &Vec<&Recorded>)| {
                let names: Vec<&str> = ledgers.iter().map(|ledger| evidence.peers[ledger.peer].name.as_str()).collect();
                format!("peers {} recorded {digest}", names.join(", "))
            };
            let what = holders.iter().map(side).collect::<Vec<_>>().join("; ");
            findings.add(Finding { check: Check::Agreement, found_at: None, round: Some(round), author: None, what });
        }
    }
}

/// States up to the newest one that no ledger knows: the peers that had them are on other machines.
pub(super) fn gaps(recorded: &[Recorded]) -> Vec<(u64, u64)> {
    let known: BTreeSet<u64> = recorded.iter().flat_map(|ledger| ledger.states.keys().copied()).collect();
    let mut next = 0;
    let mut gaps = Vec::new();
    for round in known {
        if round > next {
            gaps.push((next, round - 1));
        }
        next = round.saturating_add(1);
    }
    gaps
}

/// Units as people write them.
pub(super) fn ranges(units: &UnitSet) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for unit in units.iter() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == unit => *last = unit,
            _ => ranges.push((unit, unit)),
        }
    }
    let text = |&(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}
