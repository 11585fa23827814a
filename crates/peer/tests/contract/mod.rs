//! What every transport must do, as functions over the way to make one.

pub mod admission;
pub mod blobs;
pub mod messages;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerless_peer::identity::Identity;
use peerless_peer::ticket::JoinSecret;
use peerless_peer::transport::{BlobError, BlobSource, Event, Events, Transport};
use peerless_protocol::{Digest, PeerId, RunId};

/// Longest blob of every transport under test, in bytes.
pub const MAX_BLOB: u64 = 64 << 20;
/// A test that waits for longer hangs. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a transport under test is made of.
#[derive(Clone)]
pub struct Member {
    pub identity: Identity,
    pub run: RunId,
    pub secret: Option<JoinSecret>,
    pub allowed: Vec<PeerId>,
    pub listen: SocketAddr,
    pub blobs: Arc<Blobs>,
}

impl Member {
    /// The member number `number` of the usual run, with the usual secret.
    pub fn new(number: u8) -> Self {
        Self {
            identity: Identity::from_seed([number; 32]),
            run: RunId([1; 32]),
            secret: Some(JoinSecret::from_bytes([2; 32])),
            allowed: Vec::new(),
            listen: "127.0.0.1:0".parse().unwrap(),
            blobs: Arc::default(),
        }
    }
}

/// Makes the transports under test.
pub trait Network {
    type Transport: Transport;

    fn start(&self, member: Member) -> impl Future<Output = Node<Self::Transport>>;
}

/// A running transport.
pub struct Node<T> {
    pub peer: PeerId,
    pub transport: Arc<T>,
    pub events: Events,
    pub blobs: Arc<Blobs>,
}

impl<T: Transport> Node<T> {
    pub fn dial(&self, other: &Self) {
        self.transport.dial(other.peer, vec![other.transport.local_addr()]);
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no event came").expect("the transport is gone")
    }

    /// The first thing that `pick` takes from the events to come; the others are dropped.
    pub async fn find<R>(&mut self, mut pick: impl FnMut(Event) -> Option<R>) -> R {
        loop {
            if let Some(found) = pick(self.next().await) {
                return found;
            }
        }
    }

    pub async fn connected(&mut self, other: PeerId) {
        self.find(|event| matches!(event, Event::Connected { peer, .. } if peer == other).then_some(())).await;
    }

    pub async fn message(&mut self) -> Bytes {
        self.find(|event| match event {
            Event::Message { bytes, .. } => Some(bytes),
            _ => None,
        })
        .await
    }
}

/// Two members of one run that are connected.
pub async fn pair<N: Network>(network: &N) -> (Node<N::Transport>, Node<N::Transport>) {
    let (mut a, mut b) = (network.start(Member::new(1)).await, network.start(Member::new(2)).await);
    connect(&mut a, &mut b).await;
    (a, b)
}

pub async fn connect<T: Transport>(a: &mut Node<T>, b: &mut Node<T>) {
    a.dial(b);
    a.connected(b.peer).await;
    b.connected(a.peer).await;
}

/// Bytes that differ from place to place and from seed to seed.
pub fn sample_blob(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// What happens when a peer asks for a range.
type Serve = Box<dyn Fn(Range<u64>, Bytes) -> Bytes + Send + Sync>;

/// Blobs in memory that count how often they are read.
#[derive(Default)]
pub struct Blobs {
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    reads: Mutex<u64>,
    serve: Mutex<Option<Arc<Serve>>>,
}

impl Blobs {
    pub fn with(blob: &Bytes) -> Arc<Self> {
        let blobs = Self::default();
        blobs.blobs.lock().unwrap().insert(Digest::of(blob), blob.clone());
        Arc::new(blobs)
    }

    /// Blobs that come out as `serve` makes them.
    pub fn serving(blob: &Bytes, serve: impl Fn(Range<u64>, Bytes) -> Bytes + Send + Sync + 'static) -> Arc<Self> {
        let blobs = Self::with(blob);
        *blobs.serve.lock().unwrap() = Some(Arc::new(Box::new(serve)));
        blobs
    }

    /// How many ranges were read.
    pub fn reads(&self) -> u64 {
        *self.reads.lock().unwrap()
    }
}

impl BlobSource for Blobs {
    fn read(&self, digest: &Digest, range: Range<u64>, total: u64) -> Result<Bytes, BlobError> {
        let blob = self.blobs.lock().unwrap().get(digest).cloned().ok_or(BlobError::Unknown)?;
        if blob.len() as u64 != total {
            return Err(BlobError::OtherLength { total: blob.len() as u64 });
        }
        *self.reads.lock().unwrap() += 1;
        let bytes = blob.slice(range.start as usize..range.end as usize);
        let serve = self.serve.lock().unwrap().clone();
        Ok(match serve {
            Some(serve) => serve(range, bytes),
            None => bytes,
        })
    }
}
