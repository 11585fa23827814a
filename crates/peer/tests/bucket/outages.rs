//! The store dies, hangs and comes back.

use std::time::Duration;

use peerless_functions::InvokeError;
use peerless_peer::data_path::{BucketConfig, BucketError, DataPath, DataPathError};
use peerless_protocol::Digest;

use crate::bench::{Bench, bytes, config, destination, parameters, peer, random_run};
use crate::weed::Weed;

fn is_outage(error: DataPathError) {
    assert!(error.retryable() && error.way_gone(), "{error}");
    let message = error.to_string();
    assert!(message.contains("s3://models/runs"), "{message}");
    let error = InvokeError::from(error);
    assert!(error.retryable() && error.platform_gone(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_an_error_worth_another_attempt_and_ends_with_it() {
    let Some(mut weed) = Weed::start() else { return };
    let patience = Duration::from_secs(1);
    let bench = Bench::of(BucketConfig { patience, ..config(&weed) }, random_run(), peer(1)).await;
    let (state, gradient) = (bytes(4000, "state"), bytes(4000, "gradient"));
    let mut grant = bench.offer(&state, "gradient").await;
    assert_eq!(bench.put(&destination(grant.as_ref()), &gradient), 200);

    weed.suspend();
    is_outage(grant.collect(Digest::of(&gradient)).await.unwrap_err());
    assert_eq!(bench.files(), [""; 0]);
    weed.resume();
    // What had been asked for in the meantime is worked off first.
    for _ in 0..50 {
        match grant.collect(Digest::of(&gradient)).await {
            Ok(()) => break,
            Err(error) => is_outage(error),
        }
    }
    assert_eq!(bench.files(), ["gradient"]);

    weed.kill();
    is_outage(grant.check().await.unwrap_err());
    // All that wait for the same vector are told.
    let offers: [_; 3] = std::array::from_fn(|_| bench.bucket.offer(bench.unit(&state, "next")));
    for offer in offers {
        is_outage(offer.await.err().unwrap());
    }
    weed.launch();
    let mut back = None;
    for _ in 0..200 {
        match bench.bucket.offer(bench.unit(&state, "next")).await {
            Ok(grant) => {
                back = Some(grant);
                break;
            }
            Err(error) => is_outage(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bench.get(&parameters(back.unwrap().as_ref())) == (206, state));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_ends_in_time_without_its_store() {
    let Some(mut weed) = Weed::start() else { return };
    let bench = Bench::at(&weed).await;
    let grant = bench.offer(&bytes(400, "state"), "gradient").await;
    weed.suspend();
    drop(grant);
    tokio::time::timeout(Duration::from_secs(8), bench.bucket.close()).await.expect("it waits for ever");
    let error = bench.bucket.offer(bench.unit(&bytes(400, "next"), "gradient"));
    let given_up = tokio::time::timeout(Duration::from_secs(30), error).await.expect("it waits for ever");
    assert!(matches!(given_up.err().unwrap(), DataPathError::Shared(error)
        if matches!(*error, DataPathError::Bucket(BucketError::Unreachable { .. }))));
    weed.kill();
}
