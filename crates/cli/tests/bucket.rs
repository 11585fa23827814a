//! Training with functions that get at tensors through a bucket on a real S3-compatible server (SeaweedFS):
//! whatever happens to the server, the final state is the same, bit for bit. Without the server the tests say that
//! they are skipped.
#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod common;
#[path = "../../peer/tests/bucket/weed.rs"]
mod weed;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::servers::{Server, TOKEN, train_with};
use common::{Workplace, same_state, undisturbed};
use peerless_store::{Ledger, ledger_path};
use weed::{BUCKET, KEY, READER, SECRET, Weed};

/// A training with the servers and the bucket.
fn command(place: &Workplace, servers: &[&Server], weed: &Weed, more: &[&str]) -> Command {
    let (bucket, endpoint) = (format!("s3://{BUCKET}/runs"), weed.endpoint());
    let flags = ["--bucket", &bucket, "--bucket-endpoint", &endpoint];
    let mut command = train_with(place, servers, &[&flags[..], more].concat());
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "us-east-1");
    command
}

/// Looks for secrets in all that a run has written down.
fn tells_no_secret(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            tells_no_secret(&entry.path());
            continue;
        }
        let content = fs::read(entry.path()).unwrap_or_default();
        for secret in [SECRET, TOKEN, "X-Amz-Signature"] {
            let told = content.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
            assert!(!told, "{secret} is in {}", entry.path().display());
        }
    }
}

#[test]
fn functions_that_use_a_bucket_give_the_state_of_local_ones() {
    const RUN: [&str; 2] = ["--rounds", "60"];
    let place = Workplace::for_training();
    let Some(weed) = Weed::start() else { return };
    let servers = [Server::roomy(&place), Server::roomy(&place)];
    let prices = ["--bucket-price", "s3", "--peers", "3"];
    let mut command = command(&place, &[&servers[0], &servers[1]], &weed, &[&RUN[..], &prices].concat());
    command.env("RUST_LOG", "debug");
    let training = place.start(command);
    place.wait_for_steps("run", 3, 5);
    for pid in place.processes() {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(SECRET), "a process list shows the key");
    }
    let summary = same_state(training, &RUN);
    assert!(summary["functions"]["invocations"].as_u64() >= Some(60 * 4), "{summary:#}");
    let left = weed.objects();
    assert!(left.keys().all(|key| key.starts_with("runs/datasets/")), "something was left: {left:?}");
    for peer in ["1", "2", "3"] {
        let moved = place.status("run", peer).unwrap()["functions"]["data_path"].clone();
        assert!(moved["requests"].as_u64() > Some(0) && moved["refused"] == serde_json::json!({}), "{moved}");
    }
    let bill = place.run(&["cost", "run", "--json"]).json();
    assert_ne!(bill["total"]["transfer_usd"], "0.000000000000", "{bill:#}");
    tells_no_secret(place.path());
    for server in &servers {
        assert!(!server.process.stderr().contains("error"), "{}", server.process.stderr());
    }
}

#[test]
fn functions_without_the_dataset_read_their_samples_from_the_bucket() {
    const RUN: [&str; 2] = ["--rounds", "12"];
    let place = Workplace::for_training();
    let Some(weed) = Weed::start() else { return };
    let server = Server::without_dataset(&place);
    let flags = ["--peers", "2", "--bucket-price", "s3"];
    same_state(place.start(command(&place, &[&server], &weed, &[&RUN[..], &flags].concat())), &RUN);
    // 48 units of 64 images, almost none of which are neighbours, and as many labels at once; and some evaluations.
    let bill = place.run(&["cost", "run", "--json"]).json();
    let dollars: f64 = bill["total"]["transfer_usd"].as_str().unwrap().parse().unwrap();
    let reads = 48.0 * 62.0 * 0.0004 / 1000.0;
    assert!(dollars > reads && dollars < 2.0 * reads, "{bill:#}");
}

#[test]
fn a_store_that_is_down_for_ten_seconds_costs_time_only() {
    const RUN: [&str; 2] = ["--rounds", "200"];
    let place = Workplace::for_training();
    let Some(mut weed) = Weed::start() else { return };
    let server = Server::roomy(&place);
    let training = place.start(command(&place, &[&server], &weed, &[&RUN[..], &["--peers", "3"]].concat()));
    place.wait_for_steps("run", 3, 20);
    weed.kill();
    let before = place.steps("run", "1");
    thread::sleep(Duration::from_secs(10));
    assert!(place.steps("run", "1") > before, "the run stood still");
    weed.launch();
    let summary = same_state(training, &RUN);
    assert!(summary["functions"]["retried"].as_u64() > Some(0), "{summary:#}");
    let logs = ["1", "2", "3"].map(|peer| fs::read_to_string(place.path().join(format!("run/peers/{peer}/peer.log"))));
    let logs = logs.map(Result::unwrap).concat();
    assert!(logs.contains("going on with functions of this machine") && logs.contains("s3://models/runs"), "{logs}");
    let bill = place.run(&["cost", "run", "--json"]).json();
    let platforms = bill["by_platform"].as_array().unwrap();
    for platform in ["http", "process"] {
        let line = platforms.iter().find(|line| line["platform"] == platform);
        assert!(line.is_some_and(|line| line["invocations"].as_u64() > Some(0)), "{platform} is not in {bill:#}");
    }
    tells_no_secret(place.path());
}

#[test]
fn a_bucket_that_cannot_be_used_is_named_before_anything_is_computed() {
    let place = Workplace::new();
    let Some(weed) = Weed::start() else { return };
    let server = Server::roomy(&place);
    let run = ["--peers", "1", "--rounds", "2"];
    for (number, (key, secret, bucket, expected)) in [
        ("nobody", "guess", "s3://models", "InvalidAccessKeyId"),
        (KEY, "guess", "s3://models", "check credentials, region"),
        (READER.0, READER.1, "s3://models", "cannot write an object"),
        (KEY, SECRET, "s3://nowhere", "s3://nowhere/peerless"),
    ]
    .into_iter()
    .enumerate()
    {
        let (folder, endpoint) = (format!("run-{number}"), weed.endpoint());
        let all = ["train", "--run-dir", &folder, "--function-url", &server.url, "--bucket-endpoint", &endpoint];
        let mut command = place.command(&[&all[..], &run, &["--bucket", bucket]].concat());
        command.env("PEERLESS_FUNCTION_TOKEN", TOKEN);
        command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
        let ended = place.start(command).wait();
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains(expected), "{expected:?} is not in {}", ended.stderr);
        assert!(!ended.stderr.contains("guess") && !ended.stderr.contains(SECRET), "{}", ended.stderr);
    }
}

#[test]
fn a_bucket_and_a_gateway_are_one_too_many() {
    let place = Workplace::new();
    let gateway = ["train", "--bucket", "s3://models", "--gateway", "127.0.0.1:0"];
    place.run(&gateway).failed(2, &["--bucket", "--gateway"]);
    place.run(&["train", "--bucket", "models"]).failed(2, &["s3://NAME/PREFIX"]);
    place.run(&["train", "--bucket-region", "eu-central-1"]).failed(2, &["--bucket"]);
}

/// A training whose peers give their sums to each other through the bucket.
fn exchanging(place: &Workplace, weed: &Weed, more: &[&str]) -> Command {
    let (bucket, endpoint) = (format!("s3://{BUCKET}/runs"), weed.endpoint());
    let flags = ["train", "--json", "--run-dir", "run", "--exchange", &bucket, "--exchange-endpoint", &endpoint];
    let mut command = place.command(&[&flags[..], more].concat());
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "us-east-1");
    command
}

/// What the peers of the run asked of the bucket: writes and reads.
fn exchanged(place: &Workplace, peers: &[&str]) -> (u64, u64) {
    let mut sum = (0, 0);
    for peer in peers {
        let ledger = Ledger::open_read_only(&ledger_path(&place.path().join("run/peers").join(peer))).unwrap();
        for event in ledger.events_of("exchange", u32::MAX).unwrap() {
            let detail: serde_json::Value = serde_json::from_str(&event.detail).unwrap();
            sum.0 += detail["puts"].as_u64().unwrap();
            sum.1 += detail["gets"].as_u64().unwrap();
        }
    }
    sum
}

#[test]
fn peers_that_give_their_sums_to_each_other_through_a_bucket_train_the_same_state() {
    const RUN: [&str; 2] = ["--rounds", "40"];
    let place = Workplace::for_training();
    let Some(weed) = Weed::start() else { return };
    let more = ["--peers", "3", "--bucket-price", "s3", "--fault", "kill:2@20"];
    let summary = place.start(exchanging(&place, &weed, &[&RUN[..], &more].concat())).wait().json();
    assert_eq!(summary["state_digest"], undisturbed(&RUN), "{summary:#}");
    let (puts, gets) = exchanged(&place, &["1", "2", "3"]);
    // Until round 20 each of three peers writes one sum and reads two; whoever has no units in a round writes none.
    assert!(puts >= 40 && gets >= 80, "{puts} writes, {gets} reads");
    let bill = place.run(&["cost", "run", "--json"]).json();
    let dollars: f64 = bill["total"]["peer_usd"].as_str().unwrap().parse().unwrap();
    let expected = puts as f64 * 0.005 / 1000.0 + gets as f64 * 0.0004 / 1000.0;
    assert!((dollars / expected - 1.0).abs() < 1e-6, "{dollars}, not {expected}: {bill:#}");
    // Nobody has cleaned up after the one that was killed.
    let killed = summary["peers"][1]["id"].as_str().unwrap();
    let left = weed.objects();
    assert!(left.len() <= 8 && left.keys().all(|key| key.contains(killed)), "{left:?}");
    tells_no_secret(place.path());
}

#[test]
fn workers_of_an_all_reduce_scatter_and_reduce_through_a_bucket() {
    const RUN: [&str; 2] = ["--rounds", "20"];
    let place = Workplace::for_training();
    let Some(weed) = Weed::start() else { return };
    let more = ["--peers", "3", "--topology", "all-reduce"];
    same_state(place.start(exchanging(&place, &weed, &[&RUN[..], &more].concat())), &RUN);
    let (puts, gets) = exchanged(&place, &["1", "2", "3"]);
    // More than one sum each: shards go to their owners, and their totals to all.
    assert!(puts > 20 * 3 * 2 && gets > 20 * 3 * 2, "{puts} writes, {gets} reads");
    assert!(weed.objects().is_empty(), "{:?}", weed.objects());
}

#[test]
fn peers_whose_bucket_is_gone_give_their_sums_to_each_other_directly() {
    const RUN: [&str; 2] = ["--rounds", "60"];
    let place = Workplace::for_training();
    let Some(mut weed) = Weed::start() else { return };
    let training = place.start(exchanging(&place, &weed, &[&RUN[..], &["--peers", "2"]].concat()));
    place.wait_for_steps("run", 2, 10);
    weed.kill();
    same_state(training, &RUN);
    let log = fs::read_to_string(place.path().join("run/peers/1/peer.log")).unwrap();
    assert!(log.contains("a sum of this peer is not in the bucket"), "{log}");
}
