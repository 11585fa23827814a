//! Tokens stay between the peer and the function that got them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use peerless_peer::data_path::{DataPath, Offer};
use peerless_protocol::function::{Place, Remote};
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

use crate::bench::{Bench, bearer, put_head, target};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Everything that can be done with a token, right and wrong, also what puts it where it does not belong.
fn misuse(bench: &Bench, parameters: &Remote, destination: &Remote) -> String {
    let mut said = String::new();
    let mut ask = |request: Vec<u8>| {
        let answer = bench.raw(&request);
        said += &format!("{:?} {}\n", answer.headers, if answer.status < 300 { String::new() } else { answer.text() });
    };
    let token = parameters.token.as_ref().unwrap();
    for path in ["parameters", "output", "dataset/unknown", "dataset/..", "nothing"] {
        let path = target(parameters).replace("parameters", path);
        ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n", bearer(parameters)).into());
        ask(format!("GET {path}?token={token} HTTP/1.1\r\nHost: x\r\n\r\n").into());
        ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}{token}\r\n\r\n").into());
    }
    ask(format!("GET /v1/tasks/{token}/parameters HTTP/1.1\r\nHost: x\r\n\r\n").into());
    ask(format!("{token} / HTTP/1.1\r\nHost: x\r\n\r\n").into());
    ask(format!("GET / HTTP/1.1\r\n{token}\r\n\r\n").into());
    ask([put_head(destination, 9), b"123456789".to_vec()].concat());
    ask([put_head(destination, 8), b"12345678".to_vec()].concat());
    ask([put_head(destination, 8), b"12345678".to_vec()].concat());
    said
}

/// The subscriber is that of the whole process, other tests' doings included: one for a thread would miss
/// what other threads had found disabled before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_in_no_log_message_or_debug_form() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Arc::new(Bench::start().await);
    let mut granted = bench.offer(bench.unit(b"12345678", "a")).await;
    let expired = bench.offer(Offer { expires: Instant::now(), ..bench.unit(b"12345678", "b") }).await;
    let mut said = String::new();
    for grant in [&granted, &expired] {
        let (clients, parameters, destination) = (Arc::clone(&bench), grant.parameters(), grant.destination());
        let misused = tokio::task::spawn_blocking(move || misuse(&clients, &parameters, &destination));
        said += &misused.await.unwrap();
    }
    granted.collect().await.unwrap();
    said += &format!("{:?} {:?}", granted.grant.places(), bench.gateway.snapshot());
    let failed = peerless_peer::data_path::DataPathError::NotAFile(Place::Remote(granted.parameters()).to_string());
    said += &failed.to_string();
    tracing::info!("the end");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("a request was refused") && log.contains("the end"), "nothing was captured:\n{log}");
    for grant in [&granted, &expired] {
        let token = grant.parameters().token.unwrap();
        // A part would already be too much.
        for part in [&token[..16], &token[16..]] {
            assert!(!log.contains(part), "a token is in the log:\n{log}");
            assert!(!said.contains(part), "a token is in a message:\n{said}");
        }
    }
}
