//! The iroh transport under the contract of all transports.

#![cfg(feature = "iroh")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[macro_use]
mod contract;

use contract::{Member, Network, Node, config, messages, start};
use peerless_peer::transport::{BindError, CloseReason, SessionTransport, Transport, iroh};

struct Iroh;

impl Network for Iroh {
    type Transport = SessionTransport;
    const DIALS_BY_KEY: bool = true;

    async fn start(&self, member: Member) -> Node<SessionTransport> {
        start(member, |config, blobs| iroh::bind(config, &[], blobs)).await
    }
}

contract_tests!(Iroh);

#[tokio::test]
async fn a_port_in_use_is_refused_with_its_address() {
    let first = Iroh.start(Member::new(1)).await;
    let address = first.transport.local_addr();
    let second = Member { listen: address, ..Member::new(2) };
    let error = iroh::bind(config(&second), &[], second.blobs.clone()).await.err().unwrap();
    assert!(matches!(error, BindError::InUse { address: named } if named == address), "{error}");
}

const CHILD_DIALS: &str = "PEERLESS_TEST_CHILD_DIALS";

/// Not a test of its own: the process that the test below kills.
#[tokio::test]
#[ignore = "run by a_killed_process_is_noticed_within_the_time_of_silence in a process of its own"]
async fn child_that_dials_and_waits() {
    let Ok(address) = std::env::var(CHILD_DIALS) else { return };
    let child = Iroh.start(Member::new(2)).await;
    child.transport.dial(Member::new(1).identity.peer_id(), vec![address.parse().unwrap()]);
    std::future::pending().await
}

#[tokio::test]
async fn a_killed_process_is_noticed_within_the_time_of_silence() {
    let mut host = Iroh.start(Member::new(1)).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_dials_and_waits"])
        .env(CHILD_DIALS, host.transport.local_addr().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    host.connected(Member::new(2).identity.peer_id()).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = std::time::Instant::now();
    let reason = host.find(messages::disconnected).await;
    println!("noticed after {} ms", killed.elapsed().as_millis());
    assert!(matches!(reason, CloseReason::Lost(_)), "{reason}");
}
