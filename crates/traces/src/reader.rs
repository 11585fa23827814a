//! Reads what peers write down, each time from where it came to the last time, and makes spans of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::SpanData;
use peerless_peer::local::{LocalPeer, SERVER};
use peerless_peer::run_directory::{RunDirectory, RunDirectoryError};
use peerless_peer::status::{Phase, status_path};
use peerless_peer::tail::LedgerTail;
use peerless_protocol::PeerId;
use peerless_store::ledger_path;

use crate::ids::Ids;
use crate::life::{End, Ended};
use crate::rounds::Rounds;
use crate::spans::Spans;

/// What the service is called unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE: &str = "peerless";

/// Spans of one peer.
#[derive(Debug)]
pub struct PeerSpans {
    /// Who they are of.
    pub resource: Resource,
    /// The spans.
    pub spans: Vec<SpanData>,
    /// Whether there is more to be read at once.
    pub more: bool,
    /// How its process has ended, if it has.
    pub ended: Option<Ended>,
}

/// The peers of a run that were started on this machine.
#[derive(Debug)]
pub struct RunTraces {
    run: RunDirectory,
    peers: BTreeMap<String, PeerTraces>,
}

#[derive(Debug)]
struct PeerTraces {
    resource: Resource,
    spans: Spans,
    tail: LedgerTail,
    rounds: Rounds,
}

impl RunTraces {
    /// Begins to read a run.
    pub fn new(run: RunDirectory) -> Self {
        Self { run, peers: BTreeMap::new() }
    }

    /// The peers' directories, by name.
    ///
    /// # Errors
    /// When the run's directory cannot be read.
    pub fn directories(&self) -> Result<Vec<(String, PathBuf)>, RunDirectoryError> {
        self.run.peers()
    }

    /// Spans of what is new in the ledger of a peer, as far as it is complete; `None` of a peer that has not begun. Memory is
    /// bounded: there may be more at once.
    ///
    /// # Errors
    /// What is wrong, if the status or the ledger cannot be read; what was read of the ledger counts no more then.
    pub fn read(&mut self, name: &str, directory: &Path) -> Result<Option<PeerSpans>, String> {
        let seen = LocalPeer::read(name.to_owned(), directory.to_path_buf());
        let seen = seen.map_err(|error| format!("peer {name}: {error}"))?;
        // The status has the key that spans are named by.
        let Some(status) = seen.status else {
            let damaged = ledger_path(directory).exists() && status_path(directory).exists();
            return if damaged { Err(format!("peer {name}: its status cannot be read")) } else { Ok(None) };
        };
        // Known before the ledger is read: nothing comes after what is in it then.
        let ended = match status.phase {
            Phase::Finished => Some(Ended::Finished),
            Phase::Left => Some(Ended::Early(End::Left)),
            Phase::Failed => Some(Ended::Early(End::Failed(status.error))),
            Phase::Starting | Phase::Training => (!seen.alive).then_some(Ended::Early(End::Gone)),
        };
        let run = &self.run;
        let peer = self.peers.entry(name.to_owned()).or_insert_with(|| PeerTraces::new(run, name, status.peer));
        let news = peer.tail.read(directory, peer.rounds.limits());
        if news.as_ref().map_or(true, |news| news.anew) {
            peer.rounds = Rounds::new(peer.spans.clone(), run.spec().rounds);
        }
        let news = news.map_err(|error| format!("peer {name}: {error}"))?;
        let more = news.more();
        let spans = peer.rounds.take_in(news, ended.as_ref());
        Ok(Some(PeerSpans { resource: peer.resource.clone(), spans, more, ended }))
    }
}

impl PeerTraces {
    fn new(run: &RunDirectory, name: &str, peer: PeerId) -> Self {
        let spans = Spans::new(Ids::of(run), peer);
        let rounds = Rounds::new(spans.clone(), run.spec().rounds);
        Self { resource: resource(run, name, peer), spans, tail: LedgerTail::default(), rounds }
    }
}

/// The peer as the source of its spans. What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say comes on top.
fn resource(run: &RunDirectory, name: &str, peer: PeerId) -> Resource {
    let spec = run.spec();
    let role = if name == SERVER { "server" } else { "peer" };
    let attributes = [
        KeyValue::new("service.instance.id", peer.to_string()),
        KeyValue::new("peerless.peer", name.to_owned()),
        KeyValue::new("peerless.role", role),
        KeyValue::new("peerless.run", spec.id().to_string()),
        KeyValue::new("peerless.model", spec.model.clone()),
        KeyValue::new("peerless.dataset", spec.dataset.name.clone()),
    ];
    let detector = Box::new(EnvResourceDetector::new());
    let builder =
        Resource::builder_empty().with_service_name(SERVICE).with_attributes(attributes).with_detector(detector);
    match std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty()) {
        Some(name) => builder.with_service_name(name).build(),
        None => builder.build(),
    }
}
