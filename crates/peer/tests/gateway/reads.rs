//! Parameters and ranges of the dataset.

use std::io::{Read, Write};
use std::net::TcpStream;

use peerless_protocol::Digest;

use crate::bench::{Bench, bearer, bytes, dataset, target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_reads_exactly_the_vector_even_after_the_state_is_pruned() {
    let bench = Bench::start().await;
    let vector = bytes(4 * 300_001);
    let granted = bench.offer(bench.unit(&vector, "a")).await;
    let places = granted.grant.places().parameters.clone().unwrap();
    assert_eq!((places.offset, places.elements, places.digest), (0, 300_001, Some(Digest::of(&vector))));
    let answer = bench.get(&granted.parameters(), None);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.body == vector, "other bytes came");
    assert_eq!(bench.gateway_bytes_out(), vector.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_download_goes_on_where_it_was() {
    let bench = Bench::start().await;
    let vector = bytes(4 << 20);
    let granted = bench.offer(bench.unit(&vector, "a")).await;
    let remote = granted.parameters();
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n", target(&remote), bearer(&remote));
    stream.write_all(head.as_bytes()).unwrap();
    let mut beginning = vec![0; 1 << 20];
    stream.read_exact(&mut beginning).unwrap();
    drop(stream);
    let head_bytes = beginning.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut received = beginning.split_off(head_bytes);
    let answer = bench.get(&remote, Some(&format!("bytes={}-{}", received.len(), vector.len() - 1)));
    assert_eq!(answer.status, 206);
    let expected = format!("bytes {}-{}/{}", received.len(), vector.len() - 1, vector.len());
    assert_eq!(answer.header("content-range"), Some(&*expected));
    received.extend(answer.body);
    assert!(received == vector, "the two parts are not the whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_ends_with_its_grant() {
    let bench = Bench::start().await;
    // More than the kernel's buffers on loopback take.
    let vector = bytes(64 << 20);
    let granted = bench.offer(bench.unit(&vector, "a")).await;
    let remote = granted.parameters();
    let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
    let head = format!("GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n", target(&remote), bearer(&remote));
    stream.write_all(head.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    drop(granted);
    let mut received = Vec::new();
    // A reset is as good as an end.
    let _ = stream.read_to_end(&mut received);
    assert!(received.len() < vector.len() - 1000, "all of it came after the attempt was over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_samples_of_a_unit_move() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let file = dataset();
    let one = bench.get(&granted.dataset(), Some("bytes=784-1567"));
    assert_eq!((one.status, one.header("content-range")), (206, Some("bytes 784-1567/100000")));
    assert!(one.body == file[784..1568]);

    let starts = [70_000, 16, 42_000];
    let ranges: Vec<String> = starts.iter().map(|start| format!("{start}-{}", start + 783)).collect();
    let many = bench.get(&granted.dataset(), Some(&format!("bytes={}", ranges.join(","))));
    assert_eq!(many.status, 206);
    let boundary = many.header("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (index, start) in starts.into_iter().enumerate() {
        let line_end = if index == 0 { "" } else { "\r\n" };
        let head = format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/100000\r\n\r\n",
            start + 783
        );
        expected.extend(head.into_bytes());
        expected.extend(&file[start..start + 784]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    assert_eq!(String::from_utf8_lossy(&many.body), String::from_utf8_lossy(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_that_cannot_be_served_are_refused() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let get = |range: &str| bench.get(&granted.dataset(), Some(range));
    for range in ["bytes=100000-", "bytes=-0", "bytes=0-99999,0-0"] {
        let answer = get(range);
        assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */100000")), "{range}");
    }
    let ranges =
        |count: usize| format!("bytes={}", (0..count).map(|i| format!("{i}-{i}")).collect::<Vec<_>>().join(","));
    assert_eq!(get(&ranges(128)).status, 206);
    assert_eq!(get(&ranges(129)).status, 416);
    for range in ["bytes=", "bytes=2-1", "bytes=x-y", "nonsense"] {
        assert_eq!(get(range).status, 400, "{range}");
    }
    let whole = bench.get(&granted.dataset(), None);
    assert_eq!(whole.status, 400, "a whole dataset was served");
    assert_eq!(get("samples=0-1").status, 400, "a whole dataset was served for a range of unknown unit");
    let (target, bearer) = (target(&granted.dataset()).to_owned(), bearer(&granted.dataset()));
    let twice = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n"
    );
    assert_eq!(bench.raw(twice.as_bytes()).status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_nothing_but_the_named_files() {
    let bench = Bench::start().await;
    std::fs::write(bench.folder.path().join("secret"), "s").unwrap();
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let remote = granted.dataset();
    let folder = target(&remote).rsplit_once('/').unwrap().0.to_owned();
    let get = |name: &str| bench.get_target(&format!("{folder}/{name}"), &remote).status;
    assert_eq!(get("secret"), 404);
    let absolute = bench.folder.path().join("secret").display().to_string();
    for name in
        ["../secret", "..", "%2e%2e/secret", "%2e%2e%2fsecret", "..%2fsecret", &absolute, "a%00", ".secret", "./secret"]
    {
        assert_eq!(get(name), 400, "{name}");
    }
    assert_eq!(get(&"x".repeat(300)), 400);
    assert_eq!(get("a\0b"), 400);
    assert_eq!(get("a\\b"), 400);
    for target in [
        "/",
        "/v1/tasks/0/parameters/",
        "//v1/tasks/1/parameters",
        "/v1/tasks/x/parameters",
        "/v1/tasks/1/parameters?a=b",
    ] {
        assert_eq!(bench.get_target(target, &remote).status, 400, "{target}");
    }
    assert_eq!(bench.get_target("/v1/tasks", &remote).status, 404);
    assert_eq!(bench.get_target("/metrics", &remote).status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_not_allowed() {
    let bench = Bench::start().await;
    let granted = bench.offer(bench.unit(&bytes(8), "a")).await;
    let (read, write) = (granted.parameters(), granted.destination());
    for (method, remote, allowed) in [
        ("POST", &read, "GET"),
        ("PUT", &read, "GET"),
        ("DELETE", &read, "GET"),
        ("HEAD", &read, "GET"),
        ("GET", &write, "PUT"),
        ("POST", &write, "PUT"),
        ("PATCH", &write, "PUT"),
        ("BREW", &write, "PUT"),
    ] {
        let (target, bearer) = (target(remote), bearer(remote));
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: 0\r\n\r\n");
        let mut stream = TcpStream::connect(bench.gateway.local_address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(answer.contains(&format!("allow: {allowed}\r\n")), "{method}: {answer}");
    }
}

impl Bench {
    fn gateway_bytes_out(&self) -> u64 {
        use peerless_peer::data_path::DataPath;
        self.gateway.snapshot().bytes_out
    }
}
