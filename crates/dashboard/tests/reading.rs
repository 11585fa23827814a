//! What is read from a run directory, little by little.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fs;

use peerless_dashboard::{PeerCondition, RunCondition, RunReader, Tone};
use peerless_store::Batch;
use serde_json::json;
use support::{BEGIN, Place, event, id, round, three_peers};

#[test]
fn a_dead_peer_and_what_the_others_did_are_told() {
    let mut place = Place::new();
    three_peers(&mut place);
    let snapshot = RunReader::new(place.run()).read();
    assert_eq!(snapshot.condition, RunCondition::Training);
    let conditions: Vec<_> = snapshot.peers.iter().map(|peer| peer.condition).collect();
    assert_eq!(conditions, [PeerCondition::Training, PeerCondition::Dead, PeerCondition::Training]);
    assert_eq!((snapshot.loss.len(), snapshot.accuracy.len()), (20, 4));
    assert_eq!((snapshot.functions.busy, snapshot.functions.idle, snapshot.functions.invocations), (2, 2, 50));
    let [story] = snapshot.stories.as_slice() else { panic!("{:?}", snapshot.stories) };
    assert_eq!((story.title.as_str(), story.tone, story.round), ("Peer 2 was lost", Tone::Trouble, Some(10)));
    for words in
        ["Peers 1 and 3 noticed within 4 ms", "longest time without a finished round was 100 ms", "has not come back"]
    {
        assert!(story.text.contains(words), "{words}: {}", story.text);
    }
}

#[test]
fn a_peer_that_comes_back_is_a_recovery() {
    let mut place = Place::new();
    let pids = three_peers(&mut place);
    let back = event(3_510, 20, "peer-connected", json!({ "peer": id("2") }));
    place.ledger("1").record(&Batch { events: vec![back], ..Batch::default() }).unwrap();
    let mut ledger = place.ledger("2");
    ledger.begin_session(BEGIN + 3_200_000, "{}").unwrap();
    let behind = event(3_600, 10, "catch-up", json!({ "from": 10, "to": 20, "digest": "00" }));
    ledger.record(&Batch { events: vec![behind], alive: Some((2, BEGIN + 3_700_000)), ..Batch::default() }).unwrap();
    let pid = place.process();
    place.status("2", pid, 10, |_| {});
    let mut reader = RunReader::new(place.run());
    let snapshot = reader.read();
    assert_eq!(snapshot.peers[1].condition, PeerCondition::CatchingUp, "10 rounds behind");
    let [story] = snapshot.stories.as_slice() else { panic!("{:?}", snapshot.stories) };
    assert_eq!(story.tone, Tone::Recovered);
    for words in ["started again after 2.2 s", "back after 2.5 s and took state 20 from others"] {
        assert!(story.text.contains(words), "{words}: {}", story.text);
    }
    // The others go on, and one says nothing any more.
    place.status("1", pids[0], 90, |_| {});
    place.status("3", pids[2], 40, |status| status["updated_unix_us"] = json!(1));
    assert_eq!(reader.read().peers[2].condition, PeerCondition::Silent);
}

#[test]
fn reading_on_comes_to_the_same_as_reading_all() {
    let mut place = Place::new();
    let pid = place.process();
    place.status("1", pid, 1, |_| {});
    let mut ledger = place.ledger("1");
    ledger.begin_session(BEGIN, "{}").unwrap();
    let mut reader = RunReader::new(place.run());
    for number in 0..30 {
        ledger.record(&round(number, 100 * number)).unwrap();
        if number % 3 == 0 {
            reader.read();
        }
    }
    // Rounds 20 and 21 are done again, as after a crash; 22 to 29 are as before.
    for number in [20, 21] {
        ledger.record(&round(number, 5_000 + number)).unwrap();
        reader.read();
    }
    let (on, all) = (reader.read(), RunReader::new(place.run()).read());
    assert_eq!(on.functions.invocations, 32);
    assert_eq!((on.functions.repeated, on.lost_work.rounds_redone), (2, 2));
    assert_eq!((on.loss, on.functions.wasted_s, on.lost_work), (all.loss, all.functions.wasted_s, all.lost_work));
    assert_eq!(on.peers[0].rounds_applied, 32, "two were done twice");
    assert_eq!(on.stories, all.stories);
    assert!(on.stories.iter().any(|story| story.text.contains("Rounds 20 to 21 were done again")), "{:?}", on.stories);
}

#[test]
fn another_ledger_in_the_same_place_is_read_from_its_beginning() {
    let mut place = Place::new();
    three_peers(&mut place);
    let mut reader = RunReader::new(place.run());
    assert_eq!(reader.read().functions.invocations, 50);
    let directory = place.peer_directory("3");
    for file in fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
        if file.to_string_lossy().contains("ledger.sqlite") {
            fs::remove_file(file).unwrap();
        }
    }
    let mut ledger = place.ledger("3");
    ledger.record(&round(0, 1)).unwrap();
    let snapshot = reader.read();
    assert_eq!(snapshot.functions.invocations, 31, "{:?}", snapshot.problems);
    assert_eq!(snapshot.peers[2].rounds_applied, 1);
}

#[test]
fn a_directory_that_is_not_there_yet_is_read_once_it_is() {
    let place = Place::new();
    let later = place.directory.path().join("later");
    let mut reader = RunReader::new(later.clone());
    let nothing = reader.read();
    assert_eq!(nothing.condition, RunCondition::Unreadable);
    assert!(nothing.problems[0].contains("no run.json"), "{:?}", nothing.problems);
    fs::rename(place.run(), later).unwrap();
    let snapshot = reader.read();
    assert_eq!((snapshot.condition, snapshot.run.unwrap().model.as_str()), (RunCondition::Starting, "lenet5"));
}

#[test]
fn the_end_of_a_run_is_no_failure() {
    let mut place = Place::new();
    let pids = [place.process(), place.process()];
    for (name, pid) in ["1", "2"].into_iter().zip(pids) {
        let mut ledger = place.ledger(name);
        ledger.begin_session(BEGIN, "{}").unwrap();
        let mut batch = round(99, 1_000);
        let other = if name == "1" { "2" } else { "1" };
        batch.events = vec![event(1_005, 99, "peer-lost", json!({ "peer": id(other) }))];
        ledger.record(&batch).unwrap();
        place.status(name, pid, 100, |status| {
            status["phase"] = json!("finished");
            status["finish_reason"] = json!("rounds");
            status["finished_unix_us"] = json!(BEGIN + 1_001_000);
        });
        place.kill(pid);
    }
    let snapshot = RunReader::new(place.run()).read();
    assert_eq!((snapshot.condition, snapshot.progress.held_by), (RunCondition::Finished, 2));
    assert_eq!(snapshot.stories, []);
}
