//! One peer, driven by hand: what it does with each thing that can happen.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod fixed_membership;

use std::time::Duration;

use ed25519_dalek::SigningKey;
use peerless_protocol::{
    Config, Contribution, Crowd, DatasetSpec, Digest, Effect, EvaluationSpec, Event, Heartbeat, Input, LearningRate,
    Member, Membership, Message, Node, PayloadRef, PayloadShape, PeerId, RefusalKind, RoundPlan, RunSpec, SPEC_VERSION,
    SUSPECT_AFTER, SignedContribution, StateMeta, StateRef, StopReason, Tally, Time, UnitSet, UnitTime,
    expected_samples,
};

const PAYLOAD_BYTES: u64 = 800;

fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "m".into(),
        dataset: DatasetSpec { name: "d".into(), digest: Digest([0; 32]), train_samples: 640, test_samples: 50 },
        seed: 1,
        units_per_round: 4,
        samples_per_unit: 8,
        rounds: 100,
        optimizer: "sgd".parse().unwrap(),
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 50, samples_per_unit: 25 },
        early_stopping: None,
        until_correct: None,
    }
}

fn key(peer: u8) -> SigningKey {
    SigningKey::from_bytes(&[peer; 32])
}

fn id(peer: u8) -> PeerId {
    PeerId(key(peer).verifying_key().to_bytes())
}

fn state(round: u64) -> StateRef {
    StateRef { round, digest: Digest::of(&round.to_le_bytes()) }
}

fn meta(state: StateRef) -> StateMeta {
    StateMeta { state, bytes: 1000, finished: false }
}

fn units(units: &[u32]) -> UnitSet {
    units.iter().copied().collect()
}

fn payload(tag: &str) -> PayloadRef {
    PayloadRef { digest: Digest::of(tag.as_bytes()), bytes: PAYLOAD_BYTES }
}

/// What a peer says that is at `state`.
fn heartbeat(state: StateRef) -> Heartbeat {
    Heartbeat { state, state_bytes: 1000, functions: 1, unit_time: UnitTime::default(), finished: false }
}

/// A peer (number 0) at state 10 with the peers 1..=others connected and heard.
struct Bench {
    node: Node,
    now: Time,
}

impl Bench {
    fn new(others: u8) -> (Self, Vec<Effect>) {
        Self::with(others, Membership::Open)
    }

    /// Of a fixed membership, with sums that are formed shard by shard as in an all-reduce.
    fn fixed(others: u8) -> (Self, Vec<Effect>) {
        Self::with(others, Membership::Fixed)
    }

    fn with(others: u8, membership: Membership) -> (Self, Vec<Effect>) {
        let (mut bench, mut effects) = Self::with_missing(others, membership);
        if others > 0 {
            effects.extend(bench.feed(Input::Connected(Member { peer: id(others), addresses: Vec::new() })));
            effects.extend(bench.heartbeat(others, state(10)));
        }
        (bench, effects)
    }

    /// The last of the others is still to come.
    fn with_missing(others: u8, membership: Membership) -> (Self, Vec<Effect>) {
        let crowd = match membership {
            Membership::Open => Crowd::default(),
            Membership::Fixed => Crowd { sharded_from: 2, ..Crowd::default() },
        };
        let config = Config {
            spec: spec(),
            key: key(0),
            functions: 1,
            payload: PayloadShape::new(98, 16),
            max_state_bytes: 10_000,
            expected_peers: usize::from(others),
            gather_at_most: if membership == Membership::Fixed { Duration::MAX } else { Duration::from_secs(5) },
            membership,
            crowd,
        };
        let mut bench = Self { node: Node::new(config, meta(state(10)), Vec::new(), Time(0)), now: Time(0) };
        let mut effects = bench.feed(Input::Tick);
        for peer in 1..others {
            effects.extend(bench.feed(Input::Connected(Member { peer: id(peer), addresses: Vec::new() })));
            effects.extend(bench.heartbeat(peer, state(10)));
        }
        (bench, effects)
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.now = self.now + Duration::from_micros(10);
        self.node.handle(self.now, input)
    }

    fn message(&mut self, from: u8, message: Message) -> Vec<Effect> {
        self.feed(Input::Message { from: id(from), message })
    }

    fn heartbeat(&mut self, from: u8, state: StateRef) -> Vec<Effect> {
        self.message(from, Message::Heartbeat(heartbeat(state)))
    }

    /// Waits, with the ticks that the node asks for.
    fn wait(&mut self, duration: Duration) -> Vec<Effect> {
        let until = self.now + duration;
        let mut effects = Vec::new();
        while let Some(at) = self.node.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            effects.extend(self.node.handle(self.now, Input::Tick));
        }
        self.now = until;
        effects
    }

    /// Waits while `peer` goes on to say that it has `state`.
    fn wait_with(&mut self, peer: u8, state: StateRef, duration: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..duration.as_millis() / 100 {
            effects.extend(self.wait(Duration::from_millis(100)));
            effects.extend(self.heartbeat(peer, state));
        }
        effects
    }

    /// Lets every unit that the node wants computed be computed and summed.
    fn compute_all(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut todo = effects.to_vec();
        while !todo.is_empty() {
            let inputs: Vec<Input> = todo.iter().filter_map(result_of).collect();
            todo = inputs.into_iter().flat_map(|input| self.feed(input)).collect();
            all.extend(todo.clone());
        }
        all
    }
}

fn result_of(effect: &Effect) -> Option<Input> {
    match effect {
        Effect::Compute { from, unit, .. } => {
            let (training, evaluation) =
                expected_samples(&spec(), &RoundPlan::new(&spec(), from.round), &units(&[*unit]));
            let tally = Tally { samples: training + evaluation, correct: 1, loss_sum: 5 };
            Some(Input::UnitComputed { from: *from, unit: *unit, tally })
        }
        Effect::Sum { from, units } => {
            Some(Input::Summed { from: *from, units: units.clone(), payload: payload(&format!("{units:?}")) })
        }
        _ => None,
    }
}

fn contribution(peer: u8, from: StateRef, members: &[u32]) -> Contribution {
    let units = units(members);
    Contribution {
        run: spec().id(),
        peer: id(peer),
        from,
        shard: None,
        training: Tally { samples: 8 * members.len() as u64, correct: 1, loss_sum: 5 },
        evaluation: Tally::default(),
        elapsed_us: 1000,
        payload: Some(payload(&format!("{peer} {units:?}"))),
        units,
    }
}

fn signed(peer: u8, contribution: Contribution) -> Message {
    Message::Contribution(Box::new(SignedContribution::sign(contribution, &key(peer))))
}

fn computes(effects: &[Effect]) -> UnitSet {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Compute { unit, .. } = effect { Some(*unit) } else { None })
        .collect()
}

fn refusals(effects: &[Effect]) -> Vec<String> {
    let reason = |effect: &Effect| match effect {
        Effect::Record(Event::Refused { reason, .. }) => Some(reason.clone()),
        _ => None,
    };
    effects.iter().filter_map(reason).collect()
}

fn applied_cover(effects: &[Effect]) -> Option<Vec<UnitSet>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Apply { cover, .. } => Some(cover.iter().map(|signed| signed.contribution.units.clone()).collect()),
        _ => None,
    })
}

fn fetches(effects: &[Effect]) -> Vec<(StateRef, Vec<PeerId>)> {
    let fetch = |effect: &Effect| match effect {
        Effect::FetchState { state, donors, .. } => Some((*state, donors.clone())),
        _ => None,
    };
    effects.iter().filter_map(fetch).collect()
}

/// The units that `peer` does not get from the node's own assignment.
fn others_units(effects: &[Effect]) -> Vec<u32> {
    RoundPlan::new(&spec(), 10).all().difference(&computes(effects)).iter().collect()
}

#[test]
fn a_lone_peer_computes_every_unit_and_applies_its_own_sum() {
    let (mut bench, effects) = Bench::new(0);
    assert_eq!(computes(&effects), units(&[0, 1, 2, 3]));
    assert_eq!(applied_cover(&bench.compute_all(&effects)), Some(vec![units(&[0, 1, 2, 3])]));
}

#[test]
fn a_computed_share_is_announced_and_pushed_to_every_peer() {
    let (mut bench, effects) = Bench::new(3);
    assert_eq!(computes(&effects).len(), 1);
    let effects = bench.compute_all(&effects);
    for peer in 1..=3 {
        let announced =
            |e: &Effect| matches!(e, Effect::Send { to, message: Message::Contribution(_) } if *to == id(peer));
        let pushed = |e: &Effect| matches!(e, Effect::PushPayload { to, .. } if *to == id(peer));
        assert!(effects.iter().any(announced) && effects.iter().any(pushed), "peer {peer} got nothing");
    }
}

#[test]
fn a_round_is_applied_only_when_every_payload_is_held() {
    let (mut bench, start) = Bench::new(1);
    let theirs = contribution(1, state(10), &others_units(&start));
    let held = theirs.payload.unwrap();
    let effects = bench.compute_all(&start);
    assert_eq!(applied_cover(&effects), None);
    assert_eq!(applied_cover(&bench.message(1, signed(1, theirs))), None);
    assert!(applied_cover(&bench.feed(Input::PayloadHeld(held))).is_some());
}

#[test]
fn a_payload_that_does_not_come_is_asked_for() {
    let (mut bench, start) = Bench::new(1);
    bench.message(1, signed(1, contribution(1, state(10), &others_units(&start))));
    let effects = bench.wait(Duration::from_secs(1));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::FetchPayload { from, .. } if *from == id(1))));
}

#[test]
fn a_payload_may_come_before_its_announcement() {
    let (mut bench, start) = Bench::new(1);
    let theirs = contribution(1, state(10), &others_units(&start));
    bench.compute_all(&start);
    bench.feed(Input::PayloadHeld(theirs.payload.unwrap()));
    assert!(applied_cover(&bench.message(1, signed(1, theirs))).is_some());
}

#[test]
fn invalid_contributions_are_refused_with_the_reason() {
    let (mut bench, _) = Bench::new(2);
    let good = contribution(1, state(10), &[0]);
    let cases: Vec<(&str, Message)> = vec![
        ("signature", signed(2, good.clone())),
        ("another peer", signed(2, contribution(2, state(10), &[0]))),
        ("not this run", signed(1, Contribution { run: peerless_protocol::RunId([9; 32]), ..good.clone() })),
        ("units", signed(1, Contribution { units: units(&[77]), ..good.clone() })),
        ("units", signed(1, Contribution { units: UnitSet::new(), ..good.clone() })),
        ("payload", signed(1, Contribution { payload: None, ..good.clone() })),
        (
            "payload",
            signed(1, Contribution { payload: Some(PayloadRef { bytes: 1, ..good.payload.unwrap() }), ..good.clone() }),
        ),
        ("samples", signed(1, Contribution { training: Tally { samples: 9, ..good.training }, ..good.clone() })),
    ];
    for (expected, message) in cases {
        let reasons = refusals(&bench.message(1, message));
        assert!(reasons.len() == 1 && reasons[0].contains(expected), "{expected}: {reasons:?}");
    }
    assert!(refusals(&bench.message(1, signed(1, good))).is_empty());
}

#[test]
fn contributions_to_other_rounds_or_states_never_reach_a_cover() {
    let (mut bench, start) = Bench::new(1);
    let missing = others_units(&start);
    bench.compute_all(&start);
    let other_state = StateRef { round: 10, digest: Digest::of(b"elsewhere") };
    for from in [state(9), state(12), other_state] {
        let theirs = contribution(1, from, &missing);
        let held = bench.feed(Input::PayloadHeld(theirs.payload.unwrap()));
        let effects = bench.message(1, signed(1, theirs));
        assert_eq!((applied_cover(&held), applied_cover(&effects)), (None, None), "{from:?}");
    }
}

#[test]
fn a_contribution_to_the_next_round_is_kept_until_then() {
    let (mut bench, start) = Bench::new(1);
    let missing = others_units(&start);
    bench.compute_all(&start);
    let now = contribution(1, state(10), &missing);
    let next = contribution(1, state(11), &[0, 1, 2, 3]);
    bench.message(1, signed(1, next.clone()));
    bench.feed(Input::PayloadHeld(next.payload.unwrap()));
    bench.feed(Input::PayloadHeld(now.payload.unwrap()));
    assert!(applied_cover(&bench.message(1, signed(1, now))).is_some());
    let effects = bench.feed(Input::Applied { from: state(10), meta: meta(state(11)) });
    assert_eq!(applied_cover(&effects), Some(vec![units(&[0, 1, 2, 3])]));
}

#[test]
fn overlapping_sums_are_untangled_by_asking_for_a_part() {
    let (mut bench, start) = Bench::new(3);
    bench.compute_all(&start);
    let rest = others_units(&start);
    assert_eq!(rest.len(), 3, "four peers share four units as one each");
    // Both hold rest[1], so no choice of whole sums is a cover.
    let mut effects = Vec::new();
    for (peer, members) in [(1, &rest[..2]), (2, &rest[1..])] {
        let theirs = contribution(peer, state(10), members);
        bench.feed(Input::PayloadHeld(theirs.payload.unwrap()));
        effects = bench.message(peer, signed(peer, theirs));
    }
    assert_eq!(applied_cover(&effects), None);
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Send { to, message: Message::UnitsWanted { units, .. } } => Some((*to, units.clone())),
        _ => None,
    });
    let (to, wanted) = asked.expect("nobody was asked for a part");
    let peer = if to == id(1) { 1 } else { 2 };
    let part = contribution(peer, state(10), &wanted.iter().collect::<Vec<_>>());
    bench.feed(Input::PayloadHeld(part.payload.unwrap()));
    assert!(applied_cover(&bench.message(peer, signed(peer, part))).is_some());
}

#[test]
fn a_part_that_is_asked_for_is_summed_and_sent_to_the_asker_alone() {
    let (mut bench, start) = Bench::new(1);
    let mine: Vec<u32> = computes(&start).iter().collect();
    bench.compute_all(&start);
    let wanted = Message::UnitsWanted { from: state(10), units: units(&mine[..1]), shard: None };
    let asked = bench.message(1, wanted);
    let effects = bench.compute_all(&asked);
    let all: Vec<Effect> = asked.into_iter().chain(effects).collect();
    let sent = all.iter().find_map(|effect| match effect {
        Effect::Send { to, message: Message::Contribution(signed) } => Some((*to, signed.contribution.units.clone())),
        _ => None,
    });
    assert_eq!(sent, Some((id(1), units(&mine[..1]))));
}

#[test]
fn the_units_of_a_lost_peer_are_computed_at_once() {
    let (mut bench, start) = Bench::new(1);
    let effects = bench.feed(Input::Disconnected(id(1)));
    assert_eq!(computes(&effects), others_units(&start).into_iter().collect());
}

#[test]
fn a_silent_peer_is_suspected_and_its_units_are_computed() {
    let (mut bench, start) = Bench::new(1);
    let effects = bench.wait(SUSPECT_AFTER + Duration::from_millis(200));
    assert!(effects.contains(&Effect::Record(Event::PeerSuspected(id(1)))));
    assert_eq!(computes(&effects), others_units(&start).into_iter().collect());
    assert!(!bench.node.view().contains_key(&id(1)));
    let effects = bench.heartbeat(1, state(10));
    assert!(effects.contains(&Effect::Record(Event::PeerHeard(id(1)))));
    assert!(bench.node.view().contains_key(&id(1)));
}

#[test]
fn a_silent_peer_is_suspected_although_rounds_are_too_short_for_periodic_heartbeats() {
    let (mut bench, mut effects) = Bench::new(1);
    let (silent_since, mut rounds, mut suspected) = (bench.now, 0, false);
    while bench.now.since(silent_since) < SUSPECT_AFTER + Duration::from_millis(200) {
        let done = bench.compute_all(&effects);
        let applied = [effects, done].concat().iter().any(|effect| matches!(effect, Effect::Apply { .. }));
        effects = bench.wait(Duration::from_millis(5));
        let from = bench.node.state().state;
        if applied {
            rounds += 1;
            effects.extend(bench.feed(Input::Applied { from, meta: meta(state(from.round + 1)) }));
        }
        suspected |= effects.contains(&Effect::Record(Event::PeerSuspected(id(1))));
    }
    assert!(rounds > 12, "{rounds} rounds are longer than a heartbeat each");
    assert!(suspected);
}

#[test]
fn two_rounds_behind_is_caught_up_at_once_and_one_round_after_a_moment() {
    let (mut bench, _) = Bench::new(1);
    assert!(fetches(&bench.heartbeat(1, state(11))).is_empty());
    assert_eq!(fetches(&bench.wait(Duration::from_millis(500))), vec![(state(11), vec![id(1)])]);
    let (mut bench, _) = Bench::new(1);
    assert_eq!(fetches(&bench.heartbeat(1, state(12))), vec![(state(12), vec![id(1)])]);
}

#[test]
fn a_state_that_nobody_has_any_more_is_asked_for_in_its_newer_version() {
    let (mut bench, _) = Bench::new(1);
    bench.heartbeat(1, state(12));
    bench.heartbeat(1, state(15));
    assert!(fetches(&bench.feed(Input::StateUnavailable(state(12)))).is_empty());
    // Its units may be backed up in the meantime; after a while it is believed again.
    let effects = bench.wait_with(1, state(15), Duration::from_millis(1500));
    assert_eq!(fetches(&effects).first(), Some(&(state(15), vec![id(1)])));
    let effects = bench.feed(Input::StateFetched(meta(state(15))));
    assert!(effects.contains(&Effect::BeginRound { from: state(15) }));
}

#[test]
fn a_state_is_waited_for_no_longer_when_all_its_donors_are_silent() {
    let (mut bench, _) = Bench::new(2);
    assert_eq!(fetches(&bench.heartbeat(1, state(12))), vec![(state(12), vec![id(1)])]);
    // Only peer 2 is heard from here on: the download from peer 1 may take any time.
    bench.wait_with(2, state(10), SUSPECT_AFTER + Duration::from_millis(300));
    assert_eq!(fetches(&bench.heartbeat(2, state(13))), vec![(state(13), vec![id(2)])]);
}

#[test]
fn no_backups_are_computed_while_somebody_is_ahead() {
    let (mut bench, _) = Bench::new(1);
    bench.heartbeat(1, state(11));
    assert!(computes(&bench.wait(Duration::from_millis(900))).is_empty());
}

#[test]
fn the_state_held_by_most_peers_wins_a_divergence() {
    let (mut bench, _) = Bench::new(2);
    let other = StateRef { round: 10, digest: Digest::of(b"other") };
    bench.heartbeat(1, other);
    let effects = bench.heartbeat(2, other);
    let divergence =
        |e: &Effect| matches!(e, Effect::Record(Event::Divergence { winner, .. }) if *winner == other.digest);
    assert!(effects.iter().any(divergence), "{effects:?}");
    assert_eq!(fetches(&effects).first().map(|(state, _)| *state), Some(other));
    let effects = bench.feed(Input::StateFetched(meta(other)));
    assert!(effects.contains(&Effect::BeginRound { from: other }), "{effects:?}");
}

#[test]
fn the_smaller_digest_wins_a_tie() {
    for digest in [Digest([0; 32]), Digest([255; 32])] {
        let (mut bench, _) = Bench::new(1);
        let effects = bench.heartbeat(1, StateRef { round: 10, digest });
        assert_eq!(!fetches(&effects).is_empty(), digest < state(10).digest);
    }
}

#[test]
fn a_unit_that_fails_here_is_announced_and_passed_on() {
    let (mut bench, start) = Bench::new(1);
    let unit = computes(&start).iter().next().unwrap();
    let effects = bench.feed(Input::UnitFailed { from: state(10), unit, cause: "é".repeat(2000) });
    let announced = effects.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::UnitFailed { cause, .. }, .. } => Some(cause.len()),
        _ => None,
    });
    assert_eq!(announced, Some(1024), "the cause is cut to what others accept");
    let effects = bench.message(1, Message::UnitFailed { from: state(10), unit, cause: "disk".into() });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Stop(_))), "{effects:?}");
    assert_eq!(bench.node.deadline(), None);
}

#[test]
fn unknown_members_are_dialled_once() {
    let (mut bench, _) = Bench::new(1);
    let member = Member { peer: id(9), addresses: vec!["127.0.0.1:9".parse().unwrap()] };
    let list = Message::Members(vec![member.clone(), Member { peer: id(0), addresses: member.addresses.clone() }]);
    assert_eq!(bench.message(1, list.clone()), vec![Effect::Connect(member)]);
    assert!(bench.message(1, list).is_empty());
}

#[test]
fn a_joiner_is_told_the_spec() {
    let (mut bench, _) = Bench::new(1);
    let effects = bench.message(1, Message::SpecWanted);
    assert_eq!(effects, vec![Effect::Send { to: id(1), message: Message::Spec(spec().encode()) }]);
}

#[test]
fn a_heartbeat_of_a_round_that_the_run_does_not_have_is_refused() {
    let (mut bench, _) = Bench::new(1);
    let effects = bench.heartbeat(1, StateRef { round: u64::MAX, digest: Digest([1; 32]) });
    assert_eq!(refusals(&effects).len(), 1);
    assert!(fetches(&bench.wait(Duration::from_millis(500))).is_empty());
}

#[test]
fn a_peer_that_makes_more_contributions_than_there_are_units_is_refused() {
    let (mut bench, _) = Bench::new(1);
    let mut refused = 0;
    for round in 0..40_u64 {
        let theirs = Contribution { elapsed_us: round, ..contribution(1, state(10), &[0]) };
        refused += refusals(&bench.message(1, signed(1, theirs))).len();
    }
    assert_eq!(refused, 40 - 12, "four units and eight spare contributions are taken");
}

#[test]
fn leaving_says_good_bye_and_ends() {
    let (mut bench, _) = Bench::new(1);
    let effects = bench.feed(Input::Leave);
    assert_eq!(effects, vec![Effect::Send { to: id(1), message: Message::Leaving }, Effect::Exit]);
    assert!(bench.feed(Input::Tick).is_empty());
}

#[test]
fn the_final_state_is_served_until_the_others_have_it() {
    let (mut bench, _) = Bench::new(1);
    bench.heartbeat(1, state(12));
    let last = StateMeta { finished: true, ..meta(state(12)) };
    let effects = bench.feed(Input::StateFetched(last));
    assert!(effects.contains(&Effect::Finished(last)) && !effects.contains(&Effect::Exit));
    let finished = Heartbeat { finished: true, ..heartbeat(state(12)) };
    assert!(bench.message(1, Message::Heartbeat(finished)).contains(&Effect::Exit));
}

#[test]
fn claims_of_rounds_to_come_do_not_hide_a_divergence() {
    let (mut bench, _) = Bench::new(2);
    for round in 11..=18 {
        bench.heartbeat(1, StateRef { round, digest: Digest::of(b"a claim") });
    }
    let effects = bench.heartbeat(2, StateRef { round: 10, digest: Digest::of(b"another state") });
    let diverged = |effect: &Effect| matches!(effect, Effect::Record(Event::Divergence { round: 10, .. }));
    assert!(effects.iter().any(diverged), "{effects:?}");
}

#[test]
fn a_contribution_that_comes_again_is_counted_as_replayed() {
    let (mut bench, _) = Bench::new(1);
    let message = signed(1, contribution(1, state(10), &[0]));
    let replayed = |effects: &[Effect]| {
        let kind = |effect: &Effect| match effect {
            Effect::Record(Event::Refused { from, kind, .. }) => Some((*from, *kind)),
            _ => None,
        };
        effects.iter().filter_map(kind).collect::<Vec<_>>()
    };
    let first = bench.message(1, message.clone());
    assert_eq!(replayed(&first), []);
    let again = bench.message(1, message);
    assert_eq!(replayed(&again), [(id(1), RefusalKind::Replayed)]);
    let over = bench.message(1, signed(1, contribution(1, state(1), &[0])));
    assert_eq!(replayed(&over), [(id(1), RefusalKind::Replayed)]);
}

#[test]
fn overlapping_sums_of_a_peer_that_is_gone_are_completed_from_own_units() {
    // Alone at first, so that all units are its own.
    let (mut bench, start) = Bench::new(0);
    bench.feed(Input::Connected(Member { peer: id(1), addresses: Vec::new() }));
    bench.heartbeat(1, state(10));
    let announced = contribution(1, state(10), &[0, 1]);
    let held = announced.payload.unwrap();
    bench.message(1, signed(1, announced));
    bench.feed(Input::PayloadHeld(held));
    bench.feed(Input::Disconnected(id(1)));
    let failed = Input::UnitFailed { from: state(10), unit: 0, cause: "out of memory".into() };
    bench.feed(failed);
    let others: Vec<Effect> =
        start.into_iter().filter(|effect| !matches!(effect, Effect::Compute { unit: 0, .. })).collect();
    let cover = applied_cover(&bench.compute_all(&others)).expect("the round is applied");
    assert_eq!(cover.iter().map(UnitSet::len).sum::<u32>(), 4);
}
