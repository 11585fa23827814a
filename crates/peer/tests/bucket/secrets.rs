//! Keys and presigned URLs are told to functions alone.

use std::io::Write;
use std::sync::{Arc, Mutex};

use peerless_functions::InvokeError;
use peerless_peer::data_path::{BucketConfig, DataPath};
use peerless_protocol::Digest;
use peerless_protocol::function::{Failure, FailureKind};
use tracing_subscriber::fmt::MakeWriter;

use crate::bench::{Bench, bytes, config, credentials, destination, parameters, peer, random_run, shared};
use crate::weed::{KEY, SECRET};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The subscriber is that of the whole process, other tests' doings included: one for a thread would miss
/// what other threads had found disabled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_signatures_are_in_no_log_message_or_debug_form() {
    let (Some(weed), log) = (shared(), Log::default()) else { return };
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::start().await.unwrap();
    let mut grant = bench.offer(&bytes(400, "state"), "gradient").await;
    let mut said = format!("{:?} {:?} {:?}", grant.places(), config(weed), bench.bucket.snapshot());
    said += &grant.collect(Digest([0; 32])).await.unwrap_err().to_string();
    let wrong = BucketConfig { credentials: Some(credentials(KEY, "a-guess-at-a-secret")), ..config(weed) };
    let refused = peerless_peer::data_path::Bucket::open(&wrong, &random_run(), &peer(1)).await.err().unwrap();
    said += &format!("{refused} {refused:?}");
    tracing::info!("the end");
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("bucket for remote functions") && log.contains("the end"), "nothing was captured:\n{log}");
    let signature = |url: &str| url.split_once("X-Amz-Signature=").unwrap().1.to_owned();
    let signatures = [&parameters(grant.as_ref()), &destination(grant.as_ref())].map(|remote| signature(&remote.url));
    for secret in [SECRET, "a-guess-at-a-secret", &signatures[0], &signatures[1]] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        assert!(!said.contains(secret), "{secret} is in a message:\n{said}");
    }
}

/// A store that refuses may quote what it was sent, the signature alone for instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_that_a_store_quotes_is_taken_out() {
    let Some(bench) = Bench::start().await else { return };
    let grant = bench.offer(&bytes(400, "state"), "gradient").await;
    let url = parameters(grant.as_ref()).url;
    let signature = url.split_once("X-Amz-Signature=").unwrap().1;
    let message = format!("<SignatureProvided>{signature}</SignatureProvided> for {url}");
    let mut error = InvokeError::Reported(Failure { kind: FailureKind::Environment, message });
    error.redact(&grant.places().secrets());
    let message = error.to_string();
    assert!(!message.contains(signature) && message.contains("[secret]"), "{message}");
}
