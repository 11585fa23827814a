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
use peerless_peer::transport::{Admission, BindError, BlobError, BlobSource, Config, Event, Events, Transport};
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

/// What a transport of `member` is told at its start.
pub fn config(member: &Member) -> Config {
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

/// Starts a transport of `member` with `bind`.
pub async fn start<T: Transport, F>(member: Member, bind: impl Fn(Config, Arc<dyn BlobSource>) -> F) -> Node<T>
where
    F: Future<Output = Result<(T, Events), BindError>>,
{
    let (transport, events) = loop {
        match bind(config(&member), member.blobs.clone()).await {
            // The member that had the port before is dropped, and its tasks end one by one.
            Err(BindError::InUse { .. }) => tokio::task::yield_now().await,
            bound => break bound.unwrap(),
        }
    };
    Node { peer: member.identity.peer_id(), transport: Arc::new(transport), events, blobs: member.blobs }
}

/// Makes the transports under test.
pub trait Network {
    type Transport: Transport;

    /// Whether a peer that is dialled shows its key before the dialling one does, and is not told
    /// whose key the dialling one holds if it is the wrong peer.
    const DIALS_BY_KEY: bool = false;

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

/// The whole contract, as tests of the network `$network`.
macro_rules! contract_tests {
    ($network:expr) => {
        contract_tests! { $network;
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
    };
    ($network:expr; $($module:ident: $($name:ident),+;)+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            contract::$module::$name($network).await;
        }
    )+)+};
}
