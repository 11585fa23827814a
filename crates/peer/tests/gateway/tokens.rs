//! Who is let in.

use std::time::Duration;

use peerless_peer::data_path::{DataPath, Offer};
use peerless_protocol::function::Remote;
use tokio::time::Instant;

use crate::bench::{Bench, Granted, bytes, target};

fn with_token(remote: &Remote, token: Option<String>) -> Vec<u8> {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET {} HTTP/1.1\r\nHost: x\r\n{authorization}\r\n", target(remote)).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_malformed_and_forged_tokens_are_not_authorised() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let remote = granted.parameters();
    let token = remote.token.clone().unwrap();
    let mut forged = token.clone().into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    for wrong in [
        None,
        Some(""),
        Some("x"),
        Some(&forged[..]),
        Some(&token[1..]),
        Some(&format!("{token}x")),
        Some(&"x".repeat(5000)),
    ] {
        let answer = bench.raw(&with_token(&remote, wrong.map(str::to_owned)));
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{wrong:?}");
    }
    let basic = format!("GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\r\n", target(&remote));
    assert_eq!(bench.raw(basic.as_bytes()).status, 401);
    assert_eq!(bench.raw(&with_token(&remote, Some(token))).status, 200);
    assert_eq!(bench.gateway.snapshot().refused[&401], 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_one_unit_opens_nothing_of_another() {
    let bench = Bench::start().await;
    let one = bench.offer(bench.unit(b"11111111", "one")).await;
    let mut two = bench.offer(bench.unit(b"22222222", "two")).await;
    let stolen = |remote: Remote| Remote { token: one.parameters().token, ..remote };
    assert_eq!(bench.get(&stolen(two.parameters()), None).status, 403);
    assert_eq!(bench.get(&stolen(two.dataset()), Some("bytes=0-1")).status, 403);
    assert_eq!(bench.put(&stolen(two.destination()), b"33333333").status, 403);
    // A task that never was.
    let nobodys = Remote { url: two.parameters().url.replace("/tasks/2/", "/tasks/77/"), ..one.parameters() };
    assert_eq!(bench.get(&nobodys, None).status, 403);
    assert_eq!(bench.put(&two.destination(), b"22222222").status, 204);
    two.collect().await.unwrap();
    assert_eq!(std::fs::read(&two.output).unwrap(), b"22222222");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_cannot_be_replayed() {
    let bench = Bench::start().await;
    let mut granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let remote = granted.destination();
    assert_eq!(bench.put(&remote, b"12345678").status, 204);
    assert_eq!(bench.put(&remote, b"12345678").status, 403);
    granted.collect().await.unwrap();
    assert_eq!(bench.put(&remote, b"abcdefgh").status, 403);
    assert_eq!(bench.get(&granted.parameters(), None).status, 200, "reading is not used up");
    assert_eq!(std::fs::read(&granted.output).unwrap(), b"12345678");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_ends_with_the_grant() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let (parameters, dataset, destination) = (granted.parameters(), granted.dataset(), granted.destination());
    assert_eq!(bench.get(&parameters, None).status, 200);
    drop(granted);
    assert_eq!(bench.get(&parameters, None).status, 403);
    assert_eq!(bench.get(&dataset, Some("bytes=0-1")).status, 403);
    assert_eq!(bench.put(&destination, b"12345678").status, 403);
    assert!(bench.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_ends_with_the_time() {
    let bench = Bench::start().await;
    let lived: Granted = bench.offer(Offer { expires: Instant::now(), ..bench.unit(b"12345678", "a") }).await;
    assert_eq!(bench.get(&lived.parameters(), None).status, 403);
    assert_eq!(bench.put(&lived.destination(), b"12345678").status, 403);
    let expires = Instant::now() + Duration::from_millis(100);
    let living = bench.offer(Offer { expires, ..bench.unit(b"12345678", "b") }).await;
    let mut stream = std::net::TcpStream::connect(bench.gateway.local_address()).unwrap();
    std::io::Write::write_all(&mut stream, &crate::bench::put_head(&living.destination(), 8)).unwrap();
    // The body never comes; the token's end is what ends it, long before the time-out for bodies.
    assert_eq!(crate::bench::read_answer(&mut stream).unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_has_only_the_rights_that_it_needs() {
    let bench = Bench::start().await;
    let evaluation = bench.offer(Offer { output: None, dataset: false, ..bench.unit(b"12345678", "a") }).await;
    assert_eq!(bench.put(&evaluation.destination(), b"12345678").status, 403);
    assert!(evaluation.grant.places().dataset.is_empty());
    let parameters = evaluation.parameters();
    let dataset = Remote {
        url: parameters.url.replace("/parameters", &format!("/dataset/{}", crate::bench::FILE)),
        ..parameters
    };
    assert_eq!(bench.get(&dataset, Some("bytes=0-1")).status, 403);
    let initialise = bench.offer(Offer { parameters: None, ..bench.unit(b"12345678", "b") }).await;
    let destination = initialise.destination();
    let parameters = Remote { url: destination.url.replace("/output", "/parameters"), ..destination };
    assert_eq!(bench.get(&parameters, None).status, 403);
}
