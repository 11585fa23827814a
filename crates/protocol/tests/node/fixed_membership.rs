//! A peer of a fixed membership: what it leaves out, and when it stops.

use super::*;

fn stopped_for(effects: &[Effect]) -> Option<StopReason> {
    effects.iter().find_map(|effect| if let Effect::Stop(reason) = effect { Some(reason.clone()) } else { None })
}

#[test]
fn a_fixed_membership_begins_when_it_is_complete_and_not_before() {
    let (mut bench, effects) = Bench::with_missing(3, Membership::Fixed);
    assert!(computes(&effects).is_empty() && computes(&bench.wait(Duration::from_secs(600))).is_empty());
    let mut effects = bench.feed(Input::Connected(Member { peer: id(3), addresses: Vec::new() }));
    effects.extend(bench.heartbeat(3, state(10)));
    assert!(!computes(&effects).is_empty());
}

#[test]
fn a_fixed_membership_stops_with_whom_it_has_lost() {
    let (mut bench, _) = Bench::fixed(3);
    let effects = bench.feed(Input::Disconnected(id(2)));
    assert_eq!(stopped_for(&effects), Some(StopReason::WorkerLost(id(2))));
    assert!(computes(&effects).is_empty(), "nobody takes over what the lost one owed");
    assert_eq!(bench.node.deadline(), None);
}

#[test]
fn a_fixed_membership_waits_for_the_silent_and_computes_nothing_in_their_place() {
    let (mut bench, start) = Bench::fixed(3);
    let own = computes(&start);
    assert_eq!(own.len(), 1);
    bench.compute_all(&start);
    let effects = bench.wait(Duration::from_secs(600));
    assert!(computes(&effects).is_empty(), "own units {own:?}, then {:?}", computes(&effects));
    let suspicion = |effect: &Effect| matches!(effect, Effect::Record(Event::PeerSuspected(_) | Event::Backup { .. }));
    assert!(!effects.iter().any(suspicion));
    assert_eq!(stopped_for(&effects), None);
}

#[test]
fn a_unit_that_fails_stops_a_fixed_membership() {
    let (mut bench, start) = Bench::fixed(1);
    let unit = computes(&start).iter().next().unwrap();
    let effects = bench.feed(Input::UnitFailed { from: state(10), unit, cause: "broken".into() });
    let cause = "broken".to_owned();
    assert_eq!(stopped_for(&effects), Some(StopReason::UnitFailedEverywhere { round: 10, unit, cause }));
}
