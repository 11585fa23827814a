//! Buckets that cannot be used are found out at the start, with what to do about it.

use std::net::TcpListener;
use std::time::Duration;

use peerless_peer::data_path::{Bucket, BucketConfig, BucketError, DataPath, DataPathError};

use crate::bench::{Bench, bytes, config, credentials, destination, peer, random_run, shared};
use crate::weed::{KEY, READER, SECRET};

async fn refused(config: BucketConfig) -> BucketError {
    match Bucket::open(&config, &random_run(), &peer(1)).await {
        Err(DataPathError::Bucket(error)) => {
            let message = format!("{error} {error:?}");
            assert!(!message.contains(SECRET) && !message.contains(READER.1), "{message}");
            error
        }
        Err(error) => panic!("{config}: {error}"),
        Ok(_) => panic!("{config} was opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_keys_and_rights_are_named() {
    let Some(weed) = shared() else { return };
    let good = config(weed);
    for (config, expected) in [
        (BucketConfig { bucket: "nowhere".into(), ..good.clone() }, "s3://nowhere/runs"),
        (BucketConfig { credentials: Some(credentials("nobody", SECRET)), ..good.clone() }, "InvalidAccessKeyId"),
        (BucketConfig { credentials: Some(credentials(KEY, "guess")), ..good.clone() }, "SignatureDoesNotMatch"),
        (BucketConfig { credentials: Some(credentials(READER.0, READER.1)), ..good }, "cannot write an object"),
    ] {
        let error = refused(config).await;
        assert!(!error.retryable(), "{error}");
        let message = error.to_string();
        assert!(message.contains(expected) && message.contains("check "), "{expected:?} is not in {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_there_or_silent_is_named_in_time() {
    let Some(weed) = shared() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let patience = Duration::from_millis(300);
    for (address, reason) in [(unused, "refused"), (silent.local_addr().unwrap(), "no answer within 300ms")] {
        let error =
            refused(BucketConfig { endpoint: Some(format!("http://{address}")), patience, ..config(weed) }).await;
        assert!(matches!(&error, BucketError::Unreachable { reason: found, .. } if found.contains(reason)), "{error}");
        assert!(error.retryable());
    }
    let endpoint = Some("127.0.0.1:1".to_owned());
    assert!(matches!(refused(BucketConfig { endpoint, ..config(weed) }).await, BucketError::Endpoint { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_peer_left_is_removed_when_it_starts_again_and_nothing_of_others() {
    let Some(weed) = shared() else { return };
    let run = random_run();
    let killed = Bench::of(config(weed), run, peer(1)).await;
    let other = Bench::of(config(weed), run, peer(2)).await;
    let others_grant = other.offer(&bytes(400, "state"), "gradient").await;
    for round in 0..3 {
        let grant = killed.offer(&bytes(400, &round.to_string()), "gradient").await;
        assert_eq!(killed.put(&destination(grant.as_ref()), b"12345678"), 200);
        // As with SIGKILL.
        std::mem::forget(grant);
    }
    assert_eq!(killed.keys(weed).len(), 6);
    let back = Bench::of(config(weed), run, peer(1)).await;
    assert_eq!(back.keys(weed), [""; 0]);
    assert_eq!(other.keys(weed).len(), 1);
    drop(others_grant);
    other.bucket.close().await;
}
