//! What a presigned URL allows: one method on one object for a time.

use std::time::Duration;

use peerless_peer::data_path::{DataPath, Offer};
use tokio::time::Instant;

use crate::bench::{Bench, bytes, destination, parameters, shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_good_for_one_object_and_one_method() {
    let (Some(weed), Some(bench)) = (shared(), Bench::start().await) else { return };
    let state = bytes(4000, "state");
    let (one, other) = (bench.offer(&state, "one").await, bench.offer(&state, "other").await);
    let (read, write) = (parameters(one.as_ref()), destination(one.as_ref()));
    assert_ne!(write.address(), destination(other.as_ref()).address(), "attempts share a key");
    assert_eq!(bench.put(&read, b"12345678"), 403, "what may be read was written");
    assert_eq!(bench.put(&write, b"12345678"), 200);
    assert_eq!(bench.get(&write).0, 403, "what may be written was read");
    let query = |url: &str| url.split_once('?').unwrap().1.to_owned();
    // The rights of one object on the address of another, and of the bucket itself.
    let elsewhere = [
        (destination(other.as_ref()).address().to_owned(), query(&write.url)),
        (read.address().to_owned(), query(&write.url)),
        (format!("{}x", write.address()), query(&write.url)),
    ];
    for (address, query) in &elsewhere {
        assert_eq!(bench.put_url(&format!("{address}?{query}"), b"12345678"), 403, "{address}");
    }
    let bucket = read.address().split(&bench.base).next().unwrap().to_owned();
    for (address, query) in [(write.address(), query(&read.url)), (&bucket, query(&read.url))] {
        assert_eq!(bench.get_url(&format!("{address}?{query}")).0, 403, "{address}");
    }
    assert_eq!(bench.get_url(read.address()).0, 403, "without a signature");
    assert_eq!(weed.objects()[&format!("{}{}", bench.base, bench.keys(weed)[0])], 8, "another object was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_or_expired_url_is_refused() {
    let Some(bench) = Bench::start().await else { return };
    let short = Offer { expires: Instant::now() + Duration::from_secs(1), ..bench.unit(&bytes(400, "state"), "one") };
    let grant = bench.bucket.offer(short).await.unwrap();
    let read = parameters(grant.as_ref()).url;
    assert!(read.contains("X-Amz-Expires=1&"), "{}", read.split('?').next().unwrap());
    let longer = read.replace("X-Amz-Expires=1&", "X-Amz-Expires=9999&");
    assert_eq!(bench.get_url(&longer).0, 403, "its life was made longer");
    let (signed, signature) = read.split_once("X-Amz-Signature=").unwrap();
    let forged: String = signature.chars().rev().collect();
    assert_eq!(bench.get_url(&format!("{signed}X-Amz-Signature={forged}")).0, 403);
    // The clock of S3 has seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(bench.get_url(&read).0, 403, "it is good for ever");
    assert_eq!(bench.put(&destination(grant.as_ref()), b"12345678"), 403);
}
