//! The TCP and TLS transport under the contract of all transports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[macro_use]
mod contract;

use contract::{Member, Network, Node, config, messages, start};
use peerless_peer::transport::{BindError, CloseReason, SessionTransport, Transport, tls};

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
