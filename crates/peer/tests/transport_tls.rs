//! The TCP and TLS transport under the contract of all transports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[macro_use]
mod contract;

use std::io::{BufRead, BufReader, Write};
use std::sync::Mutex;

use contract::{Blobs, Member, Network, Node, config, connect, messages, sample_blob, start};
use peerless_peer::transport::download::{DOWNLOAD_CHUNK_BYTES, Download, DownloadError};
use peerless_peer::transport::{BindError, CloseReason, SessionTransport, Transport, tls};
use peerless_protocol::Digest;

struct Tls;

impl Network for Tls {
    type Transport = SessionTransport;

    async fn start(&self, member: Member) -> Node<SessionTransport> {
        start(member, tls::bind).await
    }
}

contract_tests!(Tls);

#[tokio::test]
async fn a_port_in_use_is_refused_with_its_address() {
    let first = Tls.start(Member::new(1)).await;
    let address = first.transport.local_addr();
    let second = Member { listen: address, ..Member::new(2) };
    let error = tls::bind(config(&second), second.blobs.clone()).await.err().unwrap();
    assert!(matches!(error, BindError::InUse { address: named } if named == address), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

const CHILD_DIALS: &str = "PEERLESS_TEST_CHILD_DIALS";

/// Not a test of its own: the process that the test below kills.
#[tokio::test]
#[ignore = "run by a_killed_process_is_noticed_at_once in a process of its own"]
async fn child_that_dials_and_waits() {
    let Ok(address) = std::env::var(CHILD_DIALS) else { return };
    let child = Tls.start(Member::new(2)).await;
    child.transport.dial(Member::new(1).identity.peer_id(), vec![address.parse().unwrap()]);
    std::future::pending().await
}

#[tokio::test]
async fn a_killed_process_is_noticed_at_once() {
    let mut host = Tls.start(Member::new(1)).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_dials_and_waits"])
        .env(CHILD_DIALS, host.transport.local_addr().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.connected(Member::new(2).identity.peer_id()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let reason = host.find(messages::disconnected).await;
    assert!(matches!(reason, CloseReason::Lost(_)), "{reason}");
}

const CHILD_DONATES: &str = "PEERLESS_TEST_CHILD_DONATES";
const CHUNKS: usize = 20;
/// Chunks that the child serves before it says that it hangs.
const SERVED: usize = 8;

/// Not a test of its own: the donor that the test below kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by a_download_goes_on_elsewhere_when_the_process_of_its_donor_is_killed in a process of its own"]
async fn child_that_donates_and_hangs() {
    let Ok(address) = std::env::var(CHILD_DONATES) else { return };
    let served = Mutex::new(0);
    let blobs = Blobs::serving(&sample_blob(1, CHUNKS * DOWNLOAD_CHUNK_BYTES as usize), move |_, bytes| {
        let mut served = served.lock().unwrap();
        if *served == SERVED {
            writeln!(std::io::stdout(), "hangs").unwrap();
            std::thread::park();
        }
        *served += 1;
        bytes
    });
    let child = Tls.start(Member { blobs, ..Member::new(2) }).await;
    child.transport.dial(Member::new(1).identity.peer_id(), vec![address.parse().unwrap()]);
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_elsewhere_when_the_process_of_its_donor_is_killed() {
    let blob = sample_blob(1, CHUNKS * DOWNLOAD_CHUNK_BYTES as usize);
    let mut taker = Tls.start(Member::new(1)).await;
    let mut second = Tls.start(Member { blobs: Blobs::with(&blob), ..Member::new(3) }).await;
    connect(&mut taker, &mut second).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_donates_and_hangs", "--nocapture"])
        .env(CHILD_DONATES, taker.transport.local_addr().to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let first = Member::new(2).identity.peer_id();
    taker.connected(first).await;

    let (digest, size) = (Digest::of(&blob), blob.len() as u64);
    let transport = taker.transport.clone();
    let run = tokio::spawn(async move {
        let mut download = Download::new(digest, size);
        let ended = download.run(&transport, &[first]).await;
        (download, ended)
    });
    let killed = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("hangs")), "the donor was not asked for enough");
        child.kill().unwrap();
        child.wait().unwrap();
    });
    killed.await.unwrap();
    let (mut download, ended) = run.await.unwrap();
    let Err(DownloadError::NoDonorLeft { received, .. }) = ended else { panic!("{ended:?}") };
    assert!(received > 0 && download.is_of(&digest, size), "{received} bytes");

    let downloaded = download.run(&taker.transport, &[second.peer]).await.unwrap();
    assert!(downloaded.bytes == blob);
    let missing = (size - received) / DOWNLOAD_CHUNK_BYTES;
    assert_eq!(second.blobs.reads(), missing, "what had arrived was fetched again");
}
