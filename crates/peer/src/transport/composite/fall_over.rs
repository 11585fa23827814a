//! Paths that break and come back, on real connections.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId, RunId};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::super::{Admission, BlobError, BlobSource, Config, Event, Events, Transport};
use super::{CompositeTransport, Path, bind};
use crate::identity::Identity;
use crate::ticket::JoinSecret;

/// A test that waits for longer hangs. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);
const BLOB: &[u8] = b"what every peer here holds";

struct OneBlob;

impl BlobSource for OneBlob {
    fn read(&self, _: &Digest, range: Range<u64>, _: u64) -> Result<Bytes, BlobError> {
        Ok(Bytes::from_static(BLOB).slice(range.start as usize..range.end as usize))
    }
}

struct Node {
    peer: PeerId,
    transport: CompositeTransport,
    events: Events,
}

impl Node {
    async fn start(seed: u8) -> Self {
        let identity = Identity::from_seed([seed; 32]);
        let peer = identity.peer_id();
        let config = Config {
            identity,
            run: RunId([1; 32]),
            admission: Admission { secret: Some(JoinSecret::from_bytes([2; 32])), ..Admission::default() },
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
            max_blob_bytes: 1000,
            max_peers: 4,
            seed: 1,
        };
        let (transport, events) = bind(config, &[], Arc::new(OneBlob)).await.unwrap();
        Self { peer, transport, events }
    }

    /// The next event, which must not be that the peer is gone, or back.
    async fn next(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("no event came").expect("the transport is gone");
        match event {
            Event::Disconnected { reason, .. } => panic!("the loss of one path was reported: {reason}"),
            Event::Connected { .. } => panic!("the second path was reported"),
            event => event,
        }
    }

    async fn connected(&mut self) {
        let event = timeout(PATIENCE, self.events.recv()).await.expect("no event came").expect("the transport is gone");
        assert!(matches!(event, Event::Connected { .. }), "{event:?}");
    }

    async fn has_paths(&self, to: PeerId, tls: bool, iroh: bool) {
        let iroh_is_up = || self.transport.iroh.as_ref().is_some_and(|iroh| iroh.is_connected(to));
        let paths = || (self.transport.tls.is_connected(to), iroh_is_up());
        let waiting = async {
            while paths() != (tls, iroh) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("the paths (tls, iroh) are up: {:?}", paths()));
    }
}

/// Messages and blobs go both ways, by the path that there is.
async fn everything_arrives(a: &mut Node, b: &mut Node, mark: &'static [u8]) {
    for (from, to) in [(0, 1), (1, 0)] {
        let [sender, receiver] = if (from, to) == (0, 1) { [&mut *a, &mut *b] } else { [&mut *b, &mut *a] };
        sender.transport.send(receiver.peer, Bytes::from_static(mark)).unwrap();
        sender.transport.push(receiver.peer, Digest::of(mark), Bytes::from_static(mark)).unwrap();
        let (mut message, mut payload) = (false, false);
        while !(message && payload) {
            match receiver.next().await {
                Event::Message { bytes, .. } => message |= bytes == mark,
                Event::Payload { bytes, .. } => payload |= bytes == mark,
                _ => {}
            }
        }
        let (digest, total) = (Digest::of(BLOB), BLOB.len() as u64);
        let fetched = sender.transport.fetch(receiver.peer, digest, 0..total, total).await;
        assert_eq!(fetched.as_deref(), Ok(BLOB));
    }
}

/// Forwards TCP connections to `target` until it is dropped.
struct Proxy(JoinHandle<()>);

impl Proxy {
    fn start(listener: TcpListener, target: std::net::SocketAddr) -> Self {
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut incoming, _)) = listener.accept().await {
                connections.spawn(async move {
                    let mut outgoing = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await;
                });
            }
        }))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_tls_breaks_iroh_goes_on_and_when_tls_is_back_it_is_taken_again() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (through_proxy, direct) = (listener.local_addr().unwrap(), b.transport.local_addr());
    let proxy = Proxy::start(listener, direct);
    a.transport.iroh.as_ref().unwrap().dial(b.peer, vec![direct]);
    a.connected().await;
    b.connected().await;
    assert_eq!(a.transport.path(b.peer), Some(Path::Iroh));
    everything_arrives(&mut a, &mut b, b"iroh was first").await;

    a.transport.tls.dial(b.peer, vec![through_proxy]);
    a.has_paths(b.peer, true, true).await;
    b.has_paths(a.peer, true, true).await;
    assert_eq!(a.transport.path(b.peer), Some(Path::Tls));
    everything_arrives(&mut a, &mut b, b"tls is preferred").await;

    drop(proxy);
    a.has_paths(b.peer, false, true).await;
    b.has_paths(a.peer, false, true).await;
    everything_arrives(&mut a, &mut b, b"iroh goes on").await;

    let _proxy = Proxy::start(TcpListener::bind(through_proxy).await.unwrap(), direct);
    a.has_paths(b.peer, true, true).await;
    b.has_paths(a.peer, true, true).await;
    everything_arrives(&mut a, &mut b, b"tls is back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_iroh_breaks_tls_goes_on() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    a.transport.dial(b.peer, vec![b.transport.local_addr()]);
    a.connected().await;
    b.connected().await;
    a.has_paths(b.peer, true, true).await;
    b.has_paths(a.peer, true, true).await;

    // Not only the session, which would be dialled again: the whole endpoint.
    drop(b.transport.iroh.take());
    a.has_paths(b.peer, true, false).await;
    everything_arrives(&mut a, &mut b, b"tls goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_loss_of_the_last_path_is_a_loss_of_the_peer() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    a.transport.dial(b.peer, vec![b.transport.local_addr()]);
    a.connected().await;
    b.connected().await;
    a.has_paths(b.peer, true, true).await;
    b.has_paths(a.peer, true, true).await;
    let peer = b.peer;
    drop(b);
    let event = timeout(PATIENCE, a.events.recv()).await.expect("no event came");
    assert!(matches!(event, Some(Event::Disconnected { peer: lost, .. }) if lost == peer), "{event:?}");
    assert_eq!(a.transport.path(peer), None);
}
