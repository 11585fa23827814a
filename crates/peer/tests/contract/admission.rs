//! Who is let in, and who is told why not.

use bytes::Bytes;
use peerless_peer::ticket::JoinSecret;
use peerless_peer::transport::{Event, Refusal, Rejection, Transport};
use peerless_protocol::RunId;

use super::{Member, Network};

fn rejected(event: Event) -> Option<Rejection> {
    match event {
        Event::Rejected { reason, .. } => Some(reason),
        Event::Connected { peer, .. } => panic!("{peer} was admitted"),
        _ => None,
    }
}

async fn is_refused<N: Network>(network: N, joiner: Member, refusal: Refusal) {
    let mut host = network.start(Member::new(1)).await;
    let mut joiner = network.start(joiner).await;
    joiner.dial(&host);
    assert_eq!(joiner.find(rejected).await, Rejection::ByThem(refusal.clone()));
    assert_eq!(host.find(rejected).await, Rejection::ByUs(refusal));
}

pub async fn a_wrong_secret_is_refused_with_the_reason_on_both_sides<N: Network>(network: N) {
    let joiner = Member { secret: Some(JoinSecret::from_bytes([99; 32])), ..Member::new(2) };
    is_refused(network, joiner, Refusal::WrongSecret).await;
}

pub async fn another_run_is_refused_with_the_reason_on_both_sides<N: Network>(network: N) {
    is_refused(network, Member { run: RunId([99; 32]), ..Member::new(2) }, Refusal::OtherRun).await;
}

pub async fn a_peer_without_secret_and_not_listed_is_refused<N: Network>(network: N) {
    is_refused(network, Member { secret: None, ..Member::new(2) }, Refusal::NotListed).await;
}

pub async fn a_copy_of_the_own_key_is_refused<N: Network>(network: N) {
    let mut host = network.start(Member::new(1)).await;
    let mut copy = network.start(Member::new(1)).await;
    // It looks for another peer there, and finds one with its own key.
    let other = Member::new(2).identity.peer_id();
    copy.transport.dial(other, vec![host.transport.local_addr()]);
    let reason = copy.find(rejected).await;
    assert_eq!(reason, Rejection::ByUs(Refusal::OtherPeer { expected: other }));
    match host.find(rejected).await {
        Rejection::Handshake(_) if N::DIALS_BY_KEY => {}
        reason => assert_eq!(reason, Rejection::ByUs(Refusal::SameKey)),
    }
}

pub async fn listed_peers_need_no_secret<N: Network>(network: N) {
    let (one, two) = (Member::new(1), Member::new(2));
    let (one_id, two_id) = (one.identity.peer_id(), two.identity.peer_id());
    let mut a = network.start(Member { secret: None, allowed: vec![two_id], ..one }).await;
    let mut b = network.start(Member { secret: None, allowed: vec![one_id], ..two }).await;
    b.dial(&a);
    a.connected(two_id).await;
    b.connected(one_id).await;
}

/// The impostor proves nothing, so that the dialling side has to refuse it.
pub async fn a_host_that_does_not_know_the_secret_is_refused_by_the_joiner<N: Network>(network: N) {
    let joiner = Member::new(2);
    let allowed = vec![joiner.identity.peer_id()];
    let host = network.start(Member { secret: None, allowed, ..Member::new(1) }).await;
    let mut joiner = network.start(joiner).await;
    joiner.dial(&host);
    assert_eq!(joiner.find(rejected).await, Rejection::ByUs(Refusal::NotListed));
}

pub async fn another_peer_at_the_address_is_refused<N: Network>(network: N) {
    let host = network.start(Member::new(1)).await;
    let mut joiner = network.start(Member::new(2)).await;
    let expected = Member::new(3).identity.peer_id();
    joiner.transport.dial(expected, vec![host.transport.local_addr()]);
    assert_eq!(joiner.find(rejected).await, Rejection::ByUs(Refusal::OtherPeer { expected }));
}

pub async fn an_address_where_nobody_listens_is_reported_and_tried_again<N: Network>(network: N) {
    let mut joiner = network.start(Member::new(2)).await;
    let host = network.start(Member::new(1)).await;
    let (peer, address) = (host.peer, host.transport.local_addr());
    drop(host);
    joiner.transport.dial(peer, vec![address]);
    let reason = joiner.find(rejected).await;
    assert!(matches!(reason, Rejection::Unreachable(_)), "{reason}");

    let mut host = network.start(Member { listen: address, ..Member::new(1) }).await;
    host.connected(joiner.peer).await;
    joiner.connected(peer).await;
    host.transport.send(joiner.peer, Bytes::from_static(b"here")).unwrap();
    assert_eq!(joiner.message().await, &b"here"[..]);
}
