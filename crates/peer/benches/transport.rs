//! What the transport moves over loopback: `cargo bench -p peerless-peer --bench transport`, and with
//! `--features iroh` the same for iroh.
//!
//! Both peers run in this process, so the CPU time is that of both ends. Not a criterion benchmark:
//! it measures a stream of blobs in flight, not a function that is called again and again.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_peer::identity::Identity;
use peerless_peer::ticket::JoinSecret;
use peerless_peer::transport::download::fetch_blob;
use peerless_peer::transport::{Admission, Config, SessionTransport, tls};
use peerless_peer::transport::{BlobError, BlobSource, Event, Events, Transport};
use peerless_protocol::{Digest, PeerId, RunId};

const BLOB_BYTES: usize = 64 << 20;
const BLOBS: usize = 24;
const ROUNDS: usize = 3;
const PINGS: usize = 2000;

struct OneBlob(Bytes);

impl BlobSource for OneBlob {
    fn read(&self, _digest: &Digest, range: Range<u64>, _total: u64) -> Result<Bytes, BlobError> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }
}

/// What the streams are.
#[derive(Debug, Clone, Copy)]
enum Wire {
    Tls,
    #[cfg(feature = "iroh")]
    Iroh,
}

struct Node {
    peer: PeerId,
    transport: Arc<SessionTransport>,
    events: Events,
}

impl Node {
    async fn start(wire: Wire, seed: u8, blob: &Bytes) -> Result<Self, Box<dyn Error>> {
        let identity = Identity::from_seed([seed; 32]);
        let peer = identity.peer_id();
        let secret = Some(JoinSecret::from_bytes([7; 32]));
        let config = Config {
            identity,
            run: RunId([1; 32]),
            admission: Admission { secret, ..Admission::default() },
            listen: "127.0.0.1:0".parse()?,
            advertise: Vec::new(),
            max_blob_bytes: BLOB_BYTES as u64,
            max_peers: 8,
            seed: 1,
        };
        let source = Arc::new(OneBlob(blob.clone()));
        let (transport, events) = match wire {
            Wire::Tls => tls::bind(config, source).await?,
            #[cfg(feature = "iroh")]
            Wire::Iroh => peerless_peer::transport::iroh::bind(config, &[], source).await?,
        };
        Ok(Self { peer, transport: Arc::new(transport), events })
    }
}

/// Keeps the push queue to `to` full until `stop` blobs are queued.
async fn push_all(transport: &SessionTransport, to: PeerId, digest: Digest, blob: &Bytes, stop: usize) {
    let mut pushed = 0;
    while pushed < stop {
        match transport.push(to, digest, blob.clone()) {
            Ok(()) => pushed += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn receive_all(events: &mut Events, count: usize) {
    let mut received = 0;
    while received < count {
        match events.recv().await {
            Some(Event::Payload { .. }) => received += 1,
            Some(_) => {}
            None => return,
        }
    }
}

/// User and system time of this process so far, in seconds (clock ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

async fn measure(what: &str, bytes: usize, work: impl Future<Output = ()>) {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    work.await;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let gigabytes = bytes as f64 / 1e9;
    println!("{what}: {:.2} GB/s, {:.2} CPU-s/GB", gigabytes / wall, cpu / gigabytes);
}

/// Round trips of a message that the other side sends back.
async fn ping(what: &str, a: &mut Node, to: PeerId, mut between: impl FnMut(&SessionTransport)) {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        between(&a.transport);
        let start = Instant::now();
        if a.transport.send(to, Bytes::from_static(&[0; 200])).is_err() {
            continue;
        }
        while let Some(event) = a.events.recv().await {
            if matches!(event, Event::Message { .. }) {
                times.push(start.elapsed());
                break;
            }
        }
    }
    times.sort_unstable();
    let quantile = |share: usize| times[(times.len() - 1) * share / 1000];
    println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}", quantile(500), quantile(990), quantile(999));
}

async fn echo(mut node: Node, to: PeerId, blob: Option<(Digest, Bytes)>) {
    loop {
        if let Some((digest, blob)) = &blob {
            let _ = node.transport.push(to, *digest, blob.clone());
        }
        match node.events.recv().await {
            Some(Event::Message { bytes, .. }) => {
                let _ = node.transport.send(to, bytes);
            }
            Some(Event::Disconnected { .. }) | None => return,
            Some(_) => {}
        }
    }
}

async fn pair(wire: Wire, blob: &Bytes) -> Result<(Node, Node), Box<dyn Error>> {
    let (mut a, mut b) = (Node::start(wire, 1, blob).await?, Node::start(wire, 2, blob).await?);
    a.transport.dial(b.peer, vec![b.transport.local_addr()]);
    for node in [&mut a, &mut b] {
        while !matches!(node.events.recv().await, Some(Event::Connected { .. }) | None) {}
    }
    Ok((a, b))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut bytes = vec![0; BLOB_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let blob = Bytes::from(bytes);
    let digest = Digest::of(&blob);
    bench(Wire::Tls, &blob, digest).await?;
    #[cfg(feature = "iroh")]
    bench(Wire::Iroh, &blob, digest).await?;
    Ok(())
}

async fn bench(wire: Wire, blob: &Bytes, digest: Digest) -> Result<(), Box<dyn Error>> {
    println!("{wire:?}");
    let (mut a, mut b) = pair(wire, blob).await?;
    for _ in 0..ROUNDS {
        measure("push one way", BLOBS * BLOB_BYTES, async {
            tokio::join!(push_all(&a.transport, b.peer, digest, blob, BLOBS), receive_all(&mut b.events, BLOBS),);
        })
        .await;
        measure("push both ways, sum", BLOBS * BLOB_BYTES, async {
            tokio::join!(
                push_all(&a.transport, b.peer, digest, blob, BLOBS / 2),
                push_all(&b.transport, a.peer, digest, blob, BLOBS / 2),
                receive_all(&mut a.events, BLOBS / 2),
                receive_all(&mut b.events, BLOBS / 2),
            );
        })
        .await;
        measure("download", 4 * BLOB_BYTES, async {
            for _ in 0..4 {
                if let Err(error) = fetch_blob(&a.transport, digest, BLOB_BYTES as u64, &[b.peer]).await {
                    println!("download failed: {error}");
                }
            }
        })
        .await;
    }

    let (mut a, b) = pair(wire, blob).await?;
    let to = b.peer;
    let answering = tokio::spawn(echo(b, a.peer, None));
    ping("round trip, idle", &mut a, to, |_| {}).await;
    drop(a);
    answering.await?;

    let (mut a, b) = pair(wire, blob).await?;
    let to = b.peer;
    let answering = tokio::spawn(echo(b, a.peer, Some((digest, blob.clone()))));
    ping("round trip, 64 MB blobs both ways", &mut a, to, |transport| {
        let _ = transport.push(to, digest, blob.clone());
    })
    .await;
    drop(a);
    answering.await?;
    Ok(())
}
