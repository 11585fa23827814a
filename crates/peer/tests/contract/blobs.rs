//! Pushed and fetched blobs, downloads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use peerless_peer::transport::download::{DOWNLOAD_CHUNK_BYTES, Download, DownloadError, fetch_blob};
use peerless_peer::transport::{Event, FetchError, FetchRefusal, MAX_FETCH_BYTES, SendError, Transport};
use peerless_protocol::Digest;
use tokio::sync::Notify;

use super::{Blobs, MAX_BLOB, Member, Network, Node, connect, pair, sample_blob};

fn payload(event: Event) -> Option<(Digest, Bytes)> {
    match event {
        Event::Payload { digest, bytes, .. } => Some((digest, bytes)),
        _ => None,
    }
}

pub async fn pushed_blobs_arrive_whole_and_in_order<N: Network>(network: N) {
    let (a, mut b) = pair(&network).await;
    for length in [0, 1, 262_144, 262_145, 5_000_000] {
        let blob = sample_blob(1, length);
        a.transport.push(b.peer, Digest::of(&blob), blob.clone()).unwrap();
        let (digest, bytes) = b.find(payload).await;
        assert!(digest == Digest::of(&blob) && bytes == blob, "a blob of {length} bytes");
    }
}

pub async fn a_blob_that_is_not_its_digest_is_refused_and_the_next_one_taken<N: Network>(network: N) {
    let (a, mut b) = pair(&network).await;
    let (right, wrong) = (sample_blob(1, 1000), sample_blob(2, 1000));
    a.transport.push(b.peer, Digest::of(&right), wrong).unwrap();
    a.transport.push(b.peer, Digest::of(&right), right.clone()).unwrap();
    assert_eq!(b.find(payload).await, (Digest::of(&right), right));
}

pub async fn a_blob_beyond_the_limit_is_not_queued<N: Network>(network: N) {
    let (a, b) = pair(&network).await;
    let blob = Bytes::from(vec![0; MAX_BLOB as usize + 1]);
    let error = a.transport.push(b.peer, Digest([0; 32]), blob).unwrap_err();
    assert_eq!(error, SendError::TooLong { length: MAX_BLOB + 1, limit: MAX_BLOB });
}

pub async fn a_full_push_queue_is_an_error<N: Network>(network: N) {
    let (a, b) = pair(&network).await;
    let blob = sample_blob(1, 16 << 20);
    let digest = Digest::of(&blob);
    let mut pushed = 0;
    while a.transport.push(b.peer, digest, blob.clone()) != Err(SendError::QueueFull) {
        pushed += 1;
        assert!(pushed < 64, "{pushed} blobs were queued for a peer that takes none");
        tokio::task::yield_now().await;
    }
}

/// Blobs flow both ways all the time, and a message goes back and forth between them.
pub async fn messages_pass_while_blobs_flow_both_ways<N: Network>(network: N) {
    let (mut a, b) = pair(&network).await;
    let (a_id, b_id) = (a.peer, b.peer);
    let blob = sample_blob(1, 4 << 20);
    let echo = tokio::spawn(echo_while_pushing(b, a_id, blob.clone()));
    let mut payloads = 0;
    let digest = Digest::of(&blob);
    for number in 0..200u32 {
        let _ = a.transport.push(b_id, digest, blob.clone());
        let ping = Bytes::copy_from_slice(&number.to_le_bytes());
        a.transport.send(b_id, ping.clone()).unwrap();
        let pong = a
            .find(|event| match event {
                Event::Message { bytes, .. } => Some(bytes),
                Event::Payload { .. } => {
                    payloads += 1;
                    None
                }
                event => panic!("{event:?}"),
            })
            .await;
        assert_eq!(pong, ping);
    }
    while payloads == 0 {
        payloads += u32::from(payload(a.next().await).is_some());
    }
    drop(a);
    assert!(echo.await.unwrap() > 0, "no blob arrived at the other side");
}

/// Sends messages back and pushes blobs until the other side is gone: returns how many blobs came.
async fn echo_while_pushing<T: Transport>(mut node: Node<T>, to: peerless_protocol::PeerId, blob: Bytes) -> u32 {
    let mut payloads = 0;
    loop {
        let _ = node.transport.push(to, Digest::of(&blob), blob.clone());
        match node.next().await {
            Event::Message { bytes, .. } => {
                let _ = node.transport.send(to, bytes);
            }
            Event::Payload { .. } => payloads += 1,
            Event::Disconnected { .. } => return payloads,
            _ => {}
        }
    }
}

/// A node that serves `blob`, and nodes that hold it and are connected to it.
async fn with_donors<N: Network>(
    network: &N,
    donors: Vec<Arc<Blobs>>,
) -> (Node<N::Transport>, Vec<Node<N::Transport>>) {
    let mut taker = network.start(Member::new(100)).await;
    let mut nodes = Vec::new();
    for (number, blobs) in donors.into_iter().enumerate() {
        let mut node = network.start(Member { blobs, ..Member::new(number as u8 + 1) }).await;
        connect(&mut taker, &mut node).await;
        nodes.push(node);
    }
    (taker, nodes)
}

pub async fn ranges_are_fetched_and_bad_ones_refused<N: Network>(network: N) {
    let blob = sample_blob(1, 3_000_000);
    let (taker, donors) = with_donors(&network, vec![Blobs::with(&blob)]).await;
    let (donor, digest, total) = (donors[0].peer, Digest::of(&blob), blob.len() as u64);
    for range in [0..1, 0..MAX_FETCH_BYTES, 1_999_999..3_000_000] {
        let bytes = taker.transport.fetch(donor, digest, range.clone(), total).await.unwrap();
        assert!(bytes == blob[range.start as usize..range.end as usize], "{range:?}");
    }
    for range in [5..5, total - 1..total + 1, 0..MAX_FETCH_BYTES + 1] {
        let error = taker.transport.fetch(donor, digest, range, total).await.unwrap_err();
        assert!(matches!(error, FetchError::Range { .. }), "{error}");
    }
    let unknown = taker.transport.fetch(donor, Digest([9; 32]), 0..1, total).await;
    assert_eq!(unknown, Err(FetchError::Refused(FetchRefusal::Unknown)));
    let longer = taker.transport.fetch(donor, digest, 0..1, total + 1).await;
    assert_eq!(longer, Err(FetchError::Refused(FetchRefusal::OtherLength { total })));
    let stranger = Member::new(9).identity.peer_id();
    assert_eq!(taker.transport.fetch(stranger, digest, 0..1, total).await, Err(FetchError::NotConnected));
}

pub async fn a_download_is_shared_by_the_donors<N: Network>(network: N) {
    let blob = sample_blob(1, 24 * DOWNLOAD_CHUNK_BYTES as usize + 17);
    let (taker, donors) = with_donors(&network, vec![Blobs::with(&blob), Blobs::with(&blob), Blobs::with(&blob)]).await;
    let ids: Vec<_> = donors.iter().map(|donor| donor.peer).collect();
    let downloaded = fetch_blob(&taker.transport, Digest::of(&blob), blob.len() as u64, &ids).await.unwrap();
    assert!(downloaded.bytes == blob && downloaded.liars.is_empty());
    for donor in &donors {
        assert!(donor.blobs.reads() > 0, "a donor was not asked");
    }
    let empty = fetch_blob(&taker.transport, Digest::of(b""), 0, &ids).await.unwrap();
    assert!(empty.bytes.is_empty());
}

/// Serves the first `chunks` chunks and then hangs; tells when it hangs.
fn hanging_after(blob: &Bytes, chunks: usize) -> (Arc<Blobs>, Arc<Notify>, Arc<Release>) {
    let (hangs, release) = (Arc::new(Notify::new()), Arc::new(Release::default()));
    let (hung, hold, served) = (Arc::clone(&hangs), Arc::clone(&release), Mutex::new(0));
    let blobs = Blobs::serving(blob, move |_, bytes| {
        let mut served = served.lock().unwrap();
        if *served == chunks {
            hung.notify_one();
            hold.wait();
        }
        *served += 1;
        bytes
    });
    (blobs, hangs, release)
}

/// Lets a hanging donor's thread go, so that the test's runtime can end.
#[derive(Default)]
struct Release(AtomicBool);

impl Release {
    fn wait(&self) {
        while !self.0.load(Ordering::Relaxed) {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

pub async fn a_download_goes_on_elsewhere_when_its_donor_dies<N: Network>(network: N) {
    let chunks = 20;
    let blob = sample_blob(1, chunks * DOWNLOAD_CHUNK_BYTES as usize);
    let (dying, hangs, release) = hanging_after(&blob, 8);
    let (taker, mut donors) = with_donors(&network, vec![dying, Blobs::with(&blob)]).await;
    let (first, second) = (donors[0].peer, donors[1].peer);
    let (digest, size) = (Digest::of(&blob), blob.len() as u64);

    let transport = Arc::clone(&taker.transport);
    let mut download = Download::new(digest, size);
    let run = tokio::spawn(async move {
        let ended = download.run(&transport, &[first]).await;
        (download, ended)
    });
    hangs.notified().await;
    drop(donors.remove(0));
    let (mut download, ended) = run.await.unwrap();
    let Err(DownloadError::NoDonorLeft { received, failures, .. }) = ended else { panic!("{ended:?}") };
    assert!(received > 0 && failures == [(first, FetchError::NotConnected)], "{received} bytes, {failures:?}");

    let downloaded = download.run(&taker.transport, &[second]).await.unwrap();
    assert!(downloaded.bytes == blob);
    let missing = (size - received) / DOWNLOAD_CHUNK_BYTES;
    assert_eq!(donors[0].blobs.reads(), missing, "what had arrived was fetched again");
    release.0.store(true, Ordering::Relaxed);
}

pub async fn a_download_survives_the_death_of_one_of_its_donors<N: Network>(network: N) {
    let blob = sample_blob(1, 40 * DOWNLOAD_CHUNK_BYTES as usize);
    let (dying, hangs, release) = hanging_after(&blob, 2);
    let (taker, mut donors) = with_donors(&network, vec![dying, Blobs::with(&blob)]).await;
    let ids = [donors[0].peer, donors[1].peer];
    let transport = Arc::clone(&taker.transport);
    let (digest, size) = (Digest::of(&blob), blob.len() as u64);
    let run = tokio::spawn(async move { fetch_blob(&transport, digest, size, &ids).await });
    hangs.notified().await;
    drop(donors.remove(0));
    assert!(run.await.unwrap().unwrap().bytes == blob);
    release.0.store(true, Ordering::Relaxed);
}

pub async fn a_donor_that_hangs_does_not_hold_up_a_download<N: Network>(network: N) {
    let blob = sample_blob(1, 10 * DOWNLOAD_CHUNK_BYTES as usize);
    let (hanging, _, release) = hanging_after(&blob, 0);
    let (taker, donors) = with_donors(&network, vec![hanging, Blobs::with(&blob)]).await;
    let ids = [donors[0].peer, donors[1].peer];
    let downloaded = fetch_blob(&taker.transport, Digest::of(&blob), blob.len() as u64, &ids).await.unwrap();
    assert!(downloaded.bytes == blob);
    assert_eq!(donors[1].blobs.reads(), 10, "the other donor had to deliver everything once");
    release.0.store(true, Ordering::Relaxed);
}

/// A donor that changes one byte of every chunk.
fn lying(blob: &Bytes) -> Arc<Blobs> {
    Blobs::serving(blob, |_, bytes| {
        let mut wrong = BytesMut::from(&bytes[..bytes.len() - 1]);
        wrong.put_u8(!bytes[bytes.len() - 1]);
        wrong.freeze()
    })
}

pub async fn a_lying_donor_is_found_and_named<N: Network>(network: N) {
    let blob = sample_blob(1, 12 * DOWNLOAD_CHUNK_BYTES as usize);
    let (taker, donors) = with_donors(&network, vec![Blobs::with(&blob), lying(&blob), Blobs::with(&blob)]).await;
    let ids: Vec<_> = donors.iter().map(|donor| donor.peer).collect();
    let (digest, size) = (Digest::of(&blob), blob.len() as u64);
    let downloaded = fetch_blob(&taker.transport, digest, size, &ids).await.unwrap();
    assert!(downloaded.bytes == blob);
    assert_eq!(downloaded.liars, [ids[1]]);

    let only_the_liar = fetch_blob(&taker.transport, digest, size, &ids[1..2]).await;
    assert_eq!(only_the_liar, Err(DownloadError::Corrupt { digest, liars: vec![ids[1]] }));
}

pub async fn a_download_beyond_the_limit_is_not_begun<N: Network>(network: N) {
    let (taker, donors) = with_donors(&network, vec![Arc::default()]).await;
    let error = fetch_blob(&taker.transport, Digest([0; 32]), u64::MAX, &[donors[0].peer]).await.unwrap_err();
    assert_eq!(error, DownloadError::TooLarge { size: u64::MAX, limit: MAX_BLOB });
}
