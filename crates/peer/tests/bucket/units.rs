//! Units that go through the bucket, and whatever functions do with it.

use std::fs;
use std::sync::Arc;

use peerless_peer::data_path::{BucketError, BucketRequests, DataPath, DataPathError, Offer};
use peerless_protocol::Digest;
use peerless_protocol::function::Place;

use crate::bench::{Bench, bytes, destination, parameters, shared};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_goes_through_the_bucket_and_leaves_nothing_there() {
    let (Some(weed), Some(bench)) = (shared(), Bench::start().await) else { return };
    let (state, gradient) = (bytes(40_000, "state"), bytes(40_000, "gradient"));
    let mut grant = bench.offer(&state, "gradient").await;
    assert!(bench.get(&parameters(grant.as_ref())) == (206, state.clone()));
    assert_eq!(grant.places().parameters.as_ref().unwrap().digest, Some(Digest::of(&state)));
    assert_eq!(bench.put(&destination(grant.as_ref()), &gradient), 200);
    assert_eq!(bench.files(), [""; 0], "it is there before it was reported");
    grant.collect(Digest::of(&gradient)).await.unwrap();
    assert!(fs::read(bench.output("gradient")).unwrap() == gradient);
    let requests = BucketRequests { prepared_puts: 1, puts: 1, gets: 1, collect_gets: 1 };
    assert_eq!(grant.bucket_requests(), requests);
    drop(grant);
    bench.keys_become(weed, "outputs are removed", |keys| matches!(keys, [key] if key.starts_with("states/"))).await;
    assert_eq!(bench.files(), ["gradient"]);
    let moved = bench.bucket.snapshot();
    assert_eq!((moved.bytes_out, moved.bytes_in), (40_000, 40_000));
    bench.bucket.close().await;
    assert_eq!(bench.keys(weed), [""; 0], "the end of the peer has left something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vector_is_written_once_however_many_units_ask_for_it_at_the_same_time() {
    let Some(bench) = Bench::start().await.map(Arc::new) else { return };
    let state = bytes(400_000, "state");
    let offers: Vec<_> = (0..8)
        .map(|unit| {
            let (bench, offer) = (Arc::clone(&bench), bench.unit(&state, &format!("gradient-{unit}")));
            tokio::spawn(async move { bench.bucket.offer(offer).await.unwrap().bucket_requests().prepared_puts })
        })
        .collect();
    let mut puts = 0;
    for offer in offers {
        puts += offer.await.unwrap();
    }
    assert_eq!((puts, bench.bucket.snapshot().bytes_out), (1, 400_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_late_twice_or_damaged_changes_nothing() {
    let Some(bench) = Bench::start().await else { return };
    let (gradient, other) = (bytes(4000, "gradient"), bytes(4000, "other"));
    let mut grant = bench.offer(&bytes(4000, "state"), "gradient").await;
    let destination = destination(grant.as_ref());
    assert_eq!(bench.put(&destination, &gradient), 200);
    assert_eq!(bench.put(&destination, &other), 200, "a store takes the later one");
    let damaged = grant.collect(Digest::of(&gradient)).await.unwrap_err();
    assert!(matches!(damaged, DataPathError::Damaged { .. }) && damaged.retryable() && !damaged.way_gone());
    assert_eq!(bench.files(), [""; 0], "a damaged output has left something");
    assert_eq!(bench.put(&destination, &gradient), 200);
    grant.collect(Digest::of(&gradient)).await.unwrap();
    drop(grant);
    assert_eq!(bench.put(&destination, &other), 200, "its URL is good until it expires");
    assert!(fs::read(bench.output("gradient")).unwrap() == gradient);
    // The next attempt at the same unit has a key of its own.
    let mut next = bench.offer(&bytes(4000, "state"), "gradient").await;
    let nothing = next.collect(Digest::of(&other)).await.unwrap_err();
    assert!(matches!(nothing, DataPathError::NotWritten), "{nothing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_of_another_length_is_not_fetched() {
    let Some(bench) = Bench::start().await else { return };
    for length in [3996, 4004, 0] {
        let mut grant = bench.offer(&bytes(4000, "state"), "gradient").await;
        let gradient = bytes(length, "gradient");
        assert_eq!(bench.put(&destination(grant.as_ref()), &gradient), 200);
        let refused = grant.collect(Digest::of(&gradient)).await.unwrap_err();
        assert!(matches!(refused, DataPathError::WrongLength { found, expected: 4000 } if found == length as u64));
    }
    assert_eq!((bench.files(), bench.bucket.snapshot().bytes_in), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_writes_nothing_gets_no_right_to_write() {
    let (Some(weed), Some(bench)) = (shared(), Bench::start().await) else { return };
    let offer = Offer { output: None, ..bench.unit(&bytes(4000, "state"), "none") };
    let mut grant = bench.bucket.offer(offer).await.unwrap();
    assert!(matches!(grant.places().output, Place::Path(_)));
    assert!(matches!(grant.collect(Digest([0; 32])).await, Err(DataPathError::NotWritten)));
    assert_eq!(bench.keys(weed).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_vector_is_written_in_parts_and_is_the_same() {
    let Some(bench) = Bench::start().await else { return };
    let state = bytes((16 << 20) * 2 + 12_344, "long");
    let mut grant = bench.offer(&state, "gradient").await;
    assert_eq!(grant.bucket_requests().prepared_puts, 5, "to begin, three parts, to finish");
    let (status, read) = bench.get(&parameters(grant.as_ref()));
    assert_eq!((status, Digest::of(&read)), (206, Digest::of(&state)));
    assert_eq!(bench.put(&destination(grant.as_ref()), &state), 200);
    grant.collect(Digest::of(&state)).await.unwrap();
    assert_eq!(Digest::of(&fs::read(bench.output("gradient")).unwrap()), Digest::of(&state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_vectors_are_removed_when_nobody_needs_them() {
    let (Some(weed), Some(bench)) = (shared(), Bench::start().await) else { return };
    let oldest = bench.offer(&bytes(4000, "0"), "gradient").await;
    for round in 1..6 {
        drop(bench.offer(&bytes(4000, &round.to_string()), "gradient").await);
    }
    bench.keys_become(weed, "two are kept, and one is in use", |keys| keys.len() == 3).await;
    assert!(bench.get(&parameters(oldest.as_ref())) == (206, bytes(4000, "0")));
    drop(oldest);
    bench.keys_become(weed, "it is removed", |keys| keys.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vector_that_got_lost_is_written_again() {
    let (Some(weed), Some(bench)) = (shared(), Bench::start().await) else { return };
    let state = bytes(4000, "state");
    let mut grant = bench.offer(&state, "gradient").await;
    grant.check().await.unwrap();
    weed.lose(&format!("{}{}", bench.base, bench.keys(weed)[0]));
    assert_eq!(bench.get(&parameters(grant.as_ref())).0, 404);
    let lost = grant.check().await.unwrap_err();
    assert!(matches!(lost, DataPathError::Bucket(BucketError::NoObject { .. })) && lost.retryable(), "{lost}");
    let again = bench.offer(&state, "gradient").await;
    assert!(bench.get(&parameters(again.as_ref())) == (206, state));
}
