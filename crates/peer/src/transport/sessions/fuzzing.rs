//! Entrances for the fuzz targets (`fuzz/`), compiled for them alone (`--cfg fuzzing`): what they
//! feed is private to the transport and stays so.

use std::future::{pending, ready};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId, RunId};

use super::super::{BlobError, BlobSource, Events, Refusal, Rejection, events};
use super::frame::{self, Farewell};
use super::hello::Hello;
use super::registry::Registry;
use super::wire::{Arrival, BoxFuture, Purpose, Secured, Wire};
use super::{Admission, Shared, bulk, handshake};

/// Longest blob of the transport that is fuzzed, in bytes.
const MAX_BLOB_BYTES: u64 = 4096;

/// Reads a greeting as it comes behind the TLS handshake. One that is read must be written the same.
pub fn greeting(bytes: &[u8]) {
    let _ = block_on(handshake::read_greeting(&mut &bytes[..]));
    if let Ok(hello) = Hello::decode(bytes) {
        let again = hello.encode().map(|bytes| Hello::decode(&bytes));
        assert_eq!(again, Ok(Ok(hello)));
    }
}

/// Reads frames until the bytes end or are refused, and their bodies as each type that they can hold.
pub fn frames(mut bytes: &[u8]) {
    block_on(async {
        while let Ok((frame, length)) = frame::read_header(&mut bytes).await {
            let Ok(body) = frame::read_body(&mut bytes, length).await else { return };
            assert_eq!(body.len(), length);
            let _ = frame::decode::<Farewell>(frame, &body);
            let _ = frame::decode::<Refusal>(frame, &body);
        }
    });
}

/// Runs both ends of a bulk connection on what the other side sends: blobs and answers, and requests.
pub fn bulk(bytes: &[u8]) {
    thread_local! {
        static SHARED: Arc<Shared> = Arc::new(shared());
    }
    let shared = SHARED.with(Arc::clone);
    block_on(bulk::fuzz(&shared, bytes));
}

/// What the tasks of a transport share, without a transport. What the tasks report goes nowhere.
fn shared() -> Shared {
    let peer = PeerId([1; 32]);
    let (sender, _): (_, Events) = events();
    Shared {
        peer,
        run: RunId([2; 32]),
        instance: 3,
        admission: Admission::default(),
        addresses: Vec::new(),
        max_blob_bytes: MAX_BLOB_BYTES,
        seed: 4,
        dial_after: Duration::ZERO,
        wire: Arc::new(NoWire),
        source: Arc::new(NoBlobs),
        events: sender,
        sent: Arc::default(),
        registry: Arc::new(Registry::new(peer, 1)),
        tasks: Mutex::default(),
    }
}

/// Reaches nobody.
#[derive(Debug)]
struct NoWire;

impl Wire for NoWire {
    fn routes(&self, _: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
        Vec::new()
    }

    fn connect<'a>(&'a self, _: PeerId, _: &'a [SocketAddr], _: Purpose) -> BoxFuture<'a, Result<Secured, Rejection>> {
        Box::pin(ready(Err(Rejection::HungUp)))
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>> {
        Box::pin(pending())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: std::io::Result<tokio::runtime::Runtime> = tokio::runtime::Builder::new_current_thread().build();
    }
    RUNTIME.with(|runtime| match runtime {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => panic!("no runtime: {error}"),
    })
}

/// Knows no blob.
struct NoBlobs;

impl BlobSource for NoBlobs {
    fn read(&self, _digest: &Digest, range: Range<u64>, total: u64) -> Result<Bytes, BlobError> {
        assert!(range.start <= range.end && range.end <= total, "an unchecked range");
        Err(BlobError::Unknown)
    }
}
