//! Whatever is asked for, the answer is one of those that are documented.

use peerless_protocol::function::Remote;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::bench::{Bench, bearer, bytes, target};

fn targets(remote: &Remote) -> impl Strategy<Value = Vec<u8>> + use<> {
    let valid = target(remote).to_owned();
    let length = valid.len();
    let changed = (0..length, any::<u8>()).prop_map(move |(at, byte)| {
        let mut target = valid.clone().into_bytes();
        target[at] = byte;
        target
    });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "/v1/tasks/[0-9]{0,25}/(parameters|output|dataset/[!-~]{0,300})".prop_map(String::into_bytes),
        "[!-~]{0,100}".prop_map(String::into_bytes),
        changed,
    ]
}

fn ranges() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        "bytes=[0-9]{0,6}-[0-9]{0,6}(,[0-9]{0,25}-[0-9]{0,5}){0,3}".prop_map(String::into_bytes),
        "[ -~]{0,60}".prop_map(String::into_bytes),
    ]
}

fn is_documented(status: u16) -> bool {
    matches!(status, 200 | 206 | 400..=499)
}

fn request(target: &[u8], remote: &Remote, range: &[u8]) -> Vec<u8> {
    let bearer = bearer(remote);
    [
        b"GET ",
        target,
        b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: ",
        bearer.as_bytes(),
        b"\r\nRange: ",
        range,
        b"\r\n\r\n",
    ]
    .concat()
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_targets_are_answered() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let remote = granted.dataset();
    let checked = runner().run(&(targets(&remote), ranges()), |(target, range)| {
        let answer = bench.raw(&request(&target, &remote, &range));
        prop_assert!(is_documented(answer.status), "{} {}", answer.status, answer.text());
        Ok(())
    });
    checked.unwrap();
    assert_eq!(bench.get(&remote, Some("bytes=0-9")).status, 206, "the gateway has suffered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arbitrary_ranges_are_answered_with_what_they_name() {
    let bench = Bench::start().await;
    let vector = bytes(4000);
    let granted = bench.offer(bench.unit(&vector, "a")).await;
    let remote = granted.parameters();
    let checked = runner().run(&ranges(), |range| {
        let answer = bench.raw(&request(target(&remote).as_bytes(), &remote, &range));
        prop_assert!(is_documented(answer.status), "{} {}", answer.status, answer.text());
        match (answer.status, answer.header("content-range")) {
            (200, _) => prop_assert!(answer.body == vector),
            (206, Some(content_range)) => {
                let (range, total) = content_range.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
                let (first, last) = range.split_once('-').unwrap();
                prop_assert_eq!(total, "4000");
                prop_assert!(answer.body == vector[first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap()]);
            }
            (206, None) => prop_assert!(answer.header("content-type").unwrap().starts_with("multipart/byteranges")),
            _ => {}
        }
        Ok(())
    });
    checked.unwrap();
}
