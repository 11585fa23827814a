//! What clients that mean no good can take.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use peerless_peer::data_path::DataPath;

use crate::bench::{Bench, bytes, is_closed, put_head, read_answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_never_end_are_given_up() {
    let bench = Bench::with(|config| config.limits.head = Duration::from_millis(100)).await;
    for beginning in ["", "GET", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        assert!(is_closed_after_answer(&mut stream), "{beginning:?}");
    }
}

/// hyper may say 408 before it closes.
fn is_closed_after_answer(stream: &mut TcpStream) -> bool {
    read_answer(stream).is_none_or(|answer| answer.status == 408 && is_closed(stream))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_bounded() {
    let bench = Bench::start().await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
    assert_eq!(bench.raw(long.as_bytes()).status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-A: b\r\n".repeat(100));
    assert_eq!(bench.raw(many.as_bytes()).status, 431);
    for garbage in ["\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0\r\n\r\n"]
    {
        assert_eq!(bench.raw(garbage.as_bytes()).status, 400, "{garbage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_beyond_the_limit_are_told_to_come_back() {
    let bench = Bench::with(|config| config.limits.transfers = 1).await;
    let one = bench.offer(bench.unit(b"12345678", "one")).await;
    let two = bench.offer(bench.unit(b"12345678", "two")).await;
    let mut busy = TcpStream::connect(bench.gateway.local_address()).unwrap();
    busy.write_all(&put_head(&one.destination(), 8)).unwrap();
    bench.eventually("the upload begins", || !bench.leftovers().is_empty()).await;
    let answer = bench.get(&two.parameters(), None);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    // Who is not let in is told so all the same.
    let nobody = peerless_protocol::function::Remote { token: Some("x".into()), ..two.parameters() };
    assert_eq!(bench.get(&nobody, None).status, 401);
    busy.write_all(b"12345678").unwrap();
    assert_eq!(read_answer(&mut busy).unwrap().status, 204);
    assert_eq!(bench.get(&two.parameters(), None).status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_told_to_come_back() {
    let bench = Bench::with(|config| config.limits.connections = 2).await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let address = bench.gateway.local_address();
    let mut idle: Vec<_> = (0..2).map(|_| TcpStream::connect(address).unwrap()).collect();
    // Those are answered, so they have been counted.
    for stream in &mut idle {
        let (target, bearer) =
            (crate::bench::target(&granted.parameters()).to_owned(), crate::bench::bearer(&granted.parameters()));
        stream
            .write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n").as_bytes())
            .unwrap();
        assert_eq!(read_answer(stream).unwrap().status, 200);
    }
    let answer = bench.get(&granted.parameters(), None);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    drop(idle);
    let recovered = || bench.get(&granted.parameters(), None).status == 200;
    bench.eventually("there is room again", recovered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_given_up() {
    let bench = Bench::with(|config| {
        config.limits.stall = Duration::from_millis(100);
        config.limits.transfers = 1;
    })
    .await;
    // More than the kernel's buffers on loopback take.
    let granted = bench.offer(bench.unit(&bytes(64 << 20), "a")).await;
    let remote = granted.parameters();
    let mut deaf = TcpStream::connect(bench.gateway.local_address()).unwrap();
    let (target, bearer) = (crate::bench::target(&remote).to_owned(), crate::bench::bearer(&remote));
    deaf.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n").as_bytes()).unwrap();
    bench.eventually("the transfer begins", || bench.gateway.snapshot().bytes_out > 0).await;
    bench.eventually("the transfer is given up", || bench.get(&remote, Some("bytes=0-0")).status == 206).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_refused_do_not_keep_a_connection() {
    let bench = Bench::start().await;
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    stream.write_all(b"GET /v1/tasks/1/parameters HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let answer = read_answer(&mut stream).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    assert!(is_closed(&mut stream));
}
