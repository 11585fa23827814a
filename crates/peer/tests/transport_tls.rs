//! The TCP and TLS transport under the contract of all transports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod contract;

use std::sync::Arc;

use contract::{MAX_BLOB, Member, Network, Node, admission, blobs, messages};
use peerless_peer::transport::tls::{Admission, Config, TlsTransport};
use peerless_peer::transport::{BindError, CloseReason, Transport};

struct Tls;

fn config(member: &Member) -> Config {
    Config {
        identity: member.identity.clone(),
        run: member.run,
        admission: Admission { secret: member.secret.clone(), allowed: member.allowed.iter().copied().collect() },
        listen: member.listen,
        advertise: Vec::new(),
        max_blob_bytes: MAX_BLOB,
        max_peers: 16,
        seed: 1,
    }
}

impl Network for Tls {
    type Transport = TlsTransport;

    async fn start(&self, member: Member) -> Node<TlsTransport> {
        let (transport, events) = loop {
            match TlsTransport::bind(config(&member), member.blobs.clone()).await {
                // The member that had the port before is dropped, and its tasks end one by one.
                Err(BindError::InUse { .. }) => tokio::task::yield_now().await,
                bound => break bound.unwrap(),
            }
        };
        Node { peer: member.identity.peer_id(), transport: Arc::new(transport), events, blobs: member.blobs }
    }
}

macro_rules! contract {
    ($($module:ident: $($name:ident),+;)+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $module::$name(Tls).await;
        }
    )+)+};
}

contract! {
    messages:
        messages_arrive_in_order_and_once,
        a_message_of_any_allowed_length_arrives,
        nothing_is_sent_to_a_stranger,
        a_full_queue_is_an_error_and_takes_no_more_memory,
        a_peer_that_takes_nothing_delays_no_other,
        a_lost_peer_is_reported_and_dialled_again,
        a_peer_that_restarts_elsewhere_replaces_its_old_connection,
        two_peers_that_dial_each_other_share_one_connection,
        a_forgotten_peer_is_told_goodbye_and_not_dialled_again,
        a_shutdown_writes_out_what_is_queued,
        a_peer_says_where_it_listens;
    admission:
        a_wrong_secret_is_refused_with_the_reason_on_both_sides,
        another_run_is_refused_with_the_reason_on_both_sides,
        a_peer_without_secret_and_not_listed_is_refused,
        a_copy_of_the_own_key_is_refused,
        listed_peers_need_no_secret,
        a_host_that_does_not_know_the_secret_is_refused_by_the_joiner,
        another_peer_at_the_address_is_refused,
        an_address_where_nobody_listens_is_reported_and_tried_again;
    blobs:
        pushed_blobs_arrive_whole_and_in_order,
        a_blob_that_is_not_its_digest_is_refused_and_the_next_one_taken,
        a_blob_beyond_the_limit_is_not_queued,
        a_full_push_queue_is_an_error,
        messages_pass_while_blobs_flow_both_ways,
        ranges_are_fetched_and_bad_ones_refused,
        a_download_is_shared_by_the_donors,
        a_download_goes_on_elsewhere_when_its_donor_dies,
        a_download_survives_the_death_of_one_of_its_donors,
        a_donor_that_hangs_does_not_hold_up_a_download,
        a_lying_donor_is_found_and_named,
        a_download_beyond_the_limit_is_not_begun;
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_its_address() {
    let first = Tls.start(Member::new(1)).await;
    let address = first.transport.local_addr();
    let second = Member { listen: address, ..Member::new(2) };
    let error = TlsTransport::bind(config(&second), second.blobs.clone()).await.err().unwrap();
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
