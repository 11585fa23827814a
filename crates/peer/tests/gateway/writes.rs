//! Outputs: whole or not at all, and once.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use peerless_peer::data_path::{DataPath, DataPathError, Offer, OutputFile, OutputSize};

use crate::bench::{Bench, bytes, put_head, raw, read_answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_is_in_its_place_once_it_is_collected() {
    let bench = Bench::start().await;
    let gradient = bytes(4 * 100_000);
    for chunked in [false, true] {
        let mut granted = bench.offer(bench.unit(&gradient, "a")).await;
        let remote = granted.destination();
        let answer = if chunked { bench.put_chunked(&remote, &gradient) } else { bench.put(&remote, &gradient) };
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert!(!granted.output.exists(), "it is there although nobody has said that it is right");
        granted.collect().await.unwrap();
        assert!(fs::read(&granted.output).unwrap() == gradient, "other bytes arrived");
        drop(granted.grant);
        assert_eq!(bench.leftovers(), ["a"], "the grant took the output with it");
        fs::remove_file(granted.output).unwrap();
    }
    assert_eq!(bench.gateway.snapshot().bytes_in, 2 * gradient.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_was_not_written_cannot_be_collected() {
    let bench = Bench::start().await;
    let mut granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    assert!(matches!(granted.collect().await, Err(DataPathError::NotWritten)));
    assert_eq!(bench.put(&granted.destination(), b"1234567").status, 400);
    assert!(matches!(granted.collect().await, Err(DataPathError::NotWritten)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_of_another_length_are_refused_and_can_be_sent_again() {
    let bench = Bench::start().await;
    let mut granted = bench.offer(bench.unit(&bytes(8000), "a")).await;
    let remote = granted.destination();
    assert_eq!(bench.put(&remote, &bytes(8001)).status, 413);
    assert_eq!(bench.put_chunked(&remote, &bytes(8001)).status, 413);
    assert_eq!(bench.put_chunked(&remote, &bytes(10 << 20)).status, 413);
    assert_eq!(bench.put(&remote, &bytes(7999)).status, 400);
    assert_eq!(bench.put_chunked(&remote, &bytes(7999)).status, 400);
    assert_eq!(bench.put(&remote, b"").status, 400);
    bench.nothing_is_left().await;
    let refused = bench.gateway.snapshot().refused;
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), [(400, 3), (413, 3)]);
    assert_eq!(bench.put(&remote, &bytes(8000)).status, 204);
    granted.collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_not_read() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    // The answer comes although the body never does.
    let answer = bench.raw(&put_head(&granted.destination(), 1 << 40));
    assert_eq!(answer.status, 413);
    assert_eq!(bench.gateway.snapshot().bytes_in, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_sends_only_what_is_wanted() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let asking = |length| {
        let head = String::from_utf8(put_head(&granted.destination(), length)).unwrap();
        head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
    };
    assert_eq!(bench.raw(asking(9).as_bytes()).status, 413);
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    stream.write_all(asking(8).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 100);
    stream.write_all(b"12345678").unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_unknown_length_is_bounded() {
    let bench = Bench::start().await;
    let output = OutputFile { path: bench.output("initial"), size: OutputSize::AtMost(1000) };
    let mut granted = bench.offer(Offer { parameters: None, output: Some(output), ..bench.unit(b"", "") }).await;
    let remote = granted.destination();
    assert_eq!(bench.put(&remote, &bytes(1001)).status, 413);
    assert_eq!(bench.put_chunked(&remote, &bytes(1001)).status, 413);
    assert_eq!(bench.put_chunked(&remote, &bytes(600)).status, 204);
    granted.collect().await.unwrap();
    assert!(fs::read(&granted.output).unwrap() == bytes(600));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_upload_leaves_nothing_and_can_be_repeated() {
    let bench = Bench::start().await;
    let gradient = bytes(4 << 20);
    let mut granted = bench.offer(bench.unit(&gradient, "a")).await;
    let remote = granted.destination();
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    stream.write_all(&put_head(&remote, gradient.len())).unwrap();
    stream.write_all(&gradient[..1 << 20]).unwrap();
    bench.eventually("the upload begins", || !bench.leftovers().is_empty()).await;
    drop(stream);
    bench.nothing_is_left().await;
    assert_eq!(bench.put(&remote, &gradient).status, 204);
    granted.collect().await.unwrap();
    assert!(fs::read(&granted.output).unwrap() == gradient);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_ends_early_is_refused() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    stream.write_all(&[&put_head(&granted.destination(), 8)[..], b"1234"].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_answer(&mut stream).is_none_or(|answer| answer.status == 400));
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_wins() {
    let bench = Bench::start().await;
    let mut granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let remote = granted.destination();
    let mut first = TcpStream::connect(bench.gateway.local_address()).unwrap();
    first.write_all(&put_head(&remote, 8)).unwrap();
    first.write_all(b"1234").unwrap();
    bench.eventually("the first upload begins", || !bench.leftovers().is_empty()).await;
    assert_eq!(bench.put(&remote, b"abcdefgh").status, 409);
    first.write_all(b"5678").unwrap();
    assert_eq!(read_answer(&mut first).unwrap().status, 204);
    assert_eq!(bench.put(&remote, b"abcdefgh").status, 403);
    granted.collect().await.unwrap();
    assert_eq!(fs::read(&granted.output).unwrap(), b"12345678");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_outlives_its_attempt_changes_nothing() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    stream.write_all(&put_head(&granted.destination(), 8)).unwrap();
    stream.write_all(b"1234").unwrap();
    bench.eventually("the upload begins", || !bench.leftovers().is_empty()).await;
    drop(granted);
    // The end of the body is not waited for.
    assert_eq!(read_answer(&mut stream).unwrap().status, 403);
    bench.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_output_goes_with_a_grant_that_nobody_collects() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    assert_eq!(bench.put(&granted.destination(), b"12345678").status, 204);
    assert_eq!(bench.leftovers().len(), 1);
    drop(granted);
    assert!(bench.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_stands_still_is_given_up() {
    let bench = Bench::with(|config| config.limits.stall = Duration::from_millis(50)).await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let request = [&put_head(&granted.destination(), 8)[..], b"1234"].concat();
    assert_eq!(raw(bench.gateway.local_address(), &request).status, 408);
    bench.nothing_is_left().await;
    assert_eq!(bench.put(&granted.destination(), b"12345678").status, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_and_encoded_outputs_are_refused() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let head = String::from_utf8(put_head(&granted.destination(), 8)).unwrap();
    for (header, status) in [("Content-Range: bytes 0-7/16", 400), ("Content-Encoding: gzip", 415)] {
        let request = head.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n12345678"));
        assert_eq!(bench.raw(request.as_bytes()).status, status, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_units_at_a_time_get_in_nobodys_way() {
    let bench = Bench::start().await;
    let vector = bytes(4 * 50_000);
    let mut units = Vec::new();
    for unit in 0..20_u8 {
        let granted = bench.offer(bench.unit(&vector, &format!("u{unit}"))).await;
        let (parameters, destination) = (granted.parameters(), granted.destination());
        let agent = bench.agent.clone();
        let gradient: Vec<u8> = vector.iter().map(|byte| byte ^ unit).collect();
        let work = tokio::task::spawn_blocking(move || {
            use crate::bench::bearer;
            let read = agent.get(&parameters.url).header("Authorization", bearer(&parameters)).call().unwrap();
            let read = read.into_body().read_to_vec().unwrap();
            let gradient: Vec<u8> = read.iter().map(|byte| byte ^ unit).collect();
            let put = agent.put(&destination.url).header("Authorization", bearer(&destination));
            put.send(&gradient[..]).unwrap().status().as_u16()
        });
        units.push((granted, gradient, work));
    }
    for (mut granted, gradient, work) in units {
        assert_eq!(work.await.unwrap(), 204);
        granted.collect().await.unwrap();
        assert!(fs::read(&granted.output).unwrap() == gradient, "units were mixed up");
    }
    assert!(bench.gateway.snapshot().refused.is_empty());
}
