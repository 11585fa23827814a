//! Messages, connections, queues.

use bytes::Bytes;
use peerless_peer::transport::{CloseReason, Event, MAX_MESSAGE_BYTES, SendError, Transport};

use super::{Member, Network, connect, pair, sample_blob};

pub async fn messages_arrive_in_order_and_once<N: Network>(network: N) {
    let (a, mut b) = pair(&network).await;
    let mut sent = 0u32;
    let mut received = 0u32;
    while received < 5000 {
        while sent < 5000 && a.transport.send(b.peer, Bytes::copy_from_slice(&sent.to_le_bytes())).is_ok() {
            sent += 1;
        }
        assert_eq!(b.message().await, received.to_le_bytes()[..]);
        received += 1;
    }
}

pub async fn a_message_of_any_allowed_length_arrives<N: Network>(network: N) {
    let (a, mut b) = pair(&network).await;
    for length in [0, 1, 65_535, MAX_MESSAGE_BYTES] {
        let message = sample_blob(length as u64, length);
        a.transport.send(b.peer, message.clone()).unwrap();
        assert_eq!(b.message().await, message);
    }
    let long = Bytes::from(vec![0; MAX_MESSAGE_BYTES + 1]);
    let limit = MAX_MESSAGE_BYTES as u64;
    assert_eq!(a.transport.send(b.peer, long), Err(SendError::TooLong { length: limit + 1, limit }));
}

pub async fn nothing_is_sent_to_a_stranger<N: Network>(network: N) {
    let a = network.start(Member::new(1)).await;
    let stranger = Member::new(9).identity.peer_id();
    assert_eq!(a.transport.send(stranger, Bytes::new()), Err(SendError::NotConnected));
}

pub async fn a_full_queue_is_an_error_and_takes_no_more_memory<N: Network>(network: N) {
    let (a, b) = pair(&network).await;
    let message = Bytes::from(vec![7; 64 << 10]);
    // Far more than what the queues at both ends and the kernel between them may hold.
    let limit = 1 << 30;
    let mut queued = 0;
    loop {
        match a.transport.send(b.peer, message.clone()) {
            Ok(()) => queued += message.len(),
            Err(SendError::QueueFull) => break,
            Err(error) => panic!("{error} after {queued} bytes"),
        }
        assert!(queued < limit, "{queued} bytes were queued for a peer that takes none");
        tokio::task::yield_now().await;
    }
    drop(b);
}

pub async fn a_peer_that_takes_nothing_delays_no_other<N: Network>(network: N) {
    let (mut a, stuck) = pair(&network).await;
    let mut other = network.start(Member::new(3)).await;
    connect(&mut a, &mut other).await;
    let message = Bytes::from(vec![7; 64 << 10]);
    while a.transport.send(stuck.peer, message.clone()) != Err(SendError::QueueFull) {
        tokio::task::yield_now().await;
    }
    a.transport.send(other.peer, Bytes::from_static(b"still here")).unwrap();
    assert_eq!(other.message().await, &b"still here"[..]);
}

pub async fn a_lost_peer_is_reported_and_dialled_again<N: Network>(network: N) {
    let (mut a, b) = pair(&network).await;
    let (peer, address) = (b.peer, b.transport.local_addr());
    drop(b);
    let reason = a.find(disconnected).await;
    assert!(matches!(reason, CloseReason::Lost(_)), "{reason}");
    assert_eq!(a.transport.send(peer, Bytes::new()), Err(SendError::NotConnected));

    let mut again = network.start(Member { listen: address, ..Member::new(2) }).await;
    a.connected(peer).await;
    again.connected(a.peer).await;
    a.transport.send(peer, Bytes::from_static(b"welcome back")).unwrap();
    assert_eq!(again.message().await, &b"welcome back"[..]);
}

pub async fn a_peer_that_restarts_elsewhere_replaces_its_old_connection<N: Network>(network: N) {
    let (mut a, old) = pair(&network).await;
    // The old process still holds its connection, as after a host has been cut off.
    let mut new = network.start(Member::new(2)).await;
    new.dial(&a);
    assert_eq!(a.find(disconnected).await, CloseReason::Replaced);
    a.connected(new.peer).await;
    new.connected(a.peer).await;
    a.transport.send(new.peer, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(new.message().await, &b"hello"[..]);
    old.transport.forget(a.peer);
}

pub async fn two_peers_that_dial_each_other_share_one_connection<N: Network>(network: N) {
    for round in 0..20u8 {
        let (mut a, mut b) = (network.start(Member::new(1)).await, network.start(Member::new(2)).await);
        a.dial(&b);
        b.dial(&a);
        a.connected(b.peer).await;
        b.connected(a.peer).await;
        for _ in 0..20 {
            a.transport.send(b.peer, Bytes::copy_from_slice(&[round])).unwrap();
            b.transport.send(a.peer, Bytes::copy_from_slice(&[round])).unwrap();
            for node in [&mut a, &mut b] {
                let event = node.next().await;
                assert!(matches!(&event, Event::Message { bytes, .. } if bytes[..] == [round]), "{round}: {event:?}");
            }
        }
    }
}

pub async fn a_forgotten_peer_is_told_goodbye_and_not_dialled_again<N: Network>(network: N) {
    let (mut a, mut b) = pair(&network).await;
    a.transport.send(b.peer, Bytes::from_static(b"last words")).unwrap();
    a.transport.forget(b.peer);
    assert_eq!(b.message().await, &b"last words"[..]);
    assert_eq!(b.find(disconnected).await, CloseReason::Goodbye);
    assert_eq!(a.find(disconnected).await, CloseReason::Forgotten);
    // The next event at `b` is the one that it causes itself.
    b.dial(&a);
    let event = b.next().await;
    assert!(matches!(event, Event::Connected { .. }), "{event:?}");
}

pub async fn a_shutdown_writes_out_what_is_queued<N: Network>(network: N) {
    let (a, mut b) = pair(&network).await;
    for number in 0..100u8 {
        a.transport.send(b.peer, Bytes::copy_from_slice(&[number; 1000])).unwrap();
    }
    a.transport.shutdown().await;
    drop(a);
    for number in 0..100u8 {
        assert_eq!(b.message().await, [number; 1000][..]);
    }
    assert_eq!(b.find(disconnected).await, CloseReason::Goodbye);
}

pub async fn a_peer_says_where_it_listens<N: Network>(network: N) {
    let (mut a, b) = (network.start(Member::new(1)).await, network.start(Member::new(2)).await);
    a.dial(&b);
    let addresses = a
        .find(|event| match event {
            Event::Connected { addresses, .. } => Some(addresses),
            _ => None,
        })
        .await;
    assert_eq!(addresses, [b.transport.local_addr()]);
}

pub fn disconnected(event: Event) -> Option<CloseReason> {
    match event {
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    }
}
