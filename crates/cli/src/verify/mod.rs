//! Checks a run from what its peers wrote down.

mod files;
mod findings;
mod ledgers;
mod recompute;
mod sample;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::PeerStatus;
use peerless_protocol::{Digest, Layout, PeerId, RunId, RunSpec};
use peerless_store::{Ledger, PayloadFormat};
use peerless_training::{Model, TrainingError};

use crate::failure::Advise;
use crate::runs;

pub(crate) use findings::{Author, Finding, Findings};
pub(crate) use recompute::Recomputed;
pub(crate) use sample::Sample;

/// What is known of the run before anything is checked.
pub(crate) struct Evidence {
    pub(crate) spec: RunSpec,
    pub(crate) run: RunId,
    /// The form of every payload of the run.
    format: PayloadFormat,
    names: BTreeMap<PeerId, String>,
    pub(crate) peers: Vec<Peer>,
}

/// A peer that was started in the run's directory.
pub(crate) struct Peer {
    pub(crate) name: String,
    directory: PathBuf,
    id: Option<PeerId>,
    /// What its status says.
    fingerprint: Option<Digest>,
}

/// A peer's ledger, held at one moment, and what is remembered of it.
struct Recorded {
    peer: usize,
    ledger: Ledger,
    /// Digests of the states by round, and whether a round here made them.
    states: BTreeMap<u64, (Digest, bool)>,
    /// States of this peer that lost to another digest, as its events say.
    lost: BTreeMap<u64, Vec<Digest>>,
    /// Fingerprints of the functions that computed for it.
    fingerprints: Vec<Digest>,
    keeps_all_signatures: bool,
}

/// What was verified.
pub(crate) struct Verified {
    pub(crate) findings: Findings,
    /// The last state that any ledger knows.
    pub(crate) newest: Option<u64>,
    /// States that no ledger here knows, as first and last of each gap.
    pub(crate) gaps: Vec<(u64, u64)>,
    pub(crate) recomputed: Option<Recomputed>,
}

impl Evidence {
    /// Looks what there is of a run.
    pub(crate) fn gather(run: &RunDirectory) -> anyhow::Result<Self> {
        let spec = run.spec().clone();
        let layout = layout(run)?;
        let format = PayloadFormat::new(&spec, &layout)?;
        let mut peers = Vec::new();
        for (name, directory) in run.peers()? {
            let status = PeerStatus::read(&directory)?;
            let id = status.as_ref().map(|status| status.peer);
            peers.push(Peer { name, directory, id, fingerprint: status.and_then(|status| status.fingerprint) });
        }
        let names = peers.iter().filter_map(|peer| Some((peer.id?, peer.name.clone()))).collect();
        Ok(Self { run: spec.id(), spec, format, names, peers })
    }

    fn author(&self, peer: PeerId) -> Author {
        Author { peer, name: self.names.get(&peer).cloned() }
    }
}

/// Where each tensor is in the run's vectors. Of a model that this program does not know, a checkpoint says it.
fn layout(run: &RunDirectory) -> anyhow::Result<Layout> {
    match Model::of(run.spec()) {
        Err(TrainingError::UnknownModel { .. }) => Ok(runs::newest_checkpoint(run)?.1.state.header.layout),
        model => Ok(model?.layout().clone()),
    }
}

/// Checks everything that can be checked from ledgers and files, and recomputes the contributions that
/// `sample` chooses.
pub(crate) fn verify(evidence: &Evidence, sample: Option<&Sample>) -> anyhow::Result<Verified> {
    let mut findings = Findings::default();
    let mut recorded = ledgers::open_all(evidence, &mut findings);
    if recorded.is_empty() {
        let first = findings.shown().first().map(|finding| format!(": {}", finding.what)).unwrap_or_default();
        return Err(anyhow::anyhow!("there is no ledger to verify{first}"))
            .hint("name the directory of a run whose peers have trained; `peerless runs list` shows them");
    }
    let mut chosen = BTreeMap::new();
    recorded.retain_mut(|recorded| ledgers::check(evidence, recorded, sample, &mut chosen, &mut findings));
    ledgers::compare(evidence, &recorded, &mut findings);
    let files = files::check(evidence, &recorded, &mut findings);
    let recomputed = match sample {
        Some(sample) => Some(recompute::recompute(evidence, &recorded, files, chosen, sample, &mut findings)?),
        None => None,
    };
    let newest = recorded.iter().filter_map(|ledger| ledger.states.keys().next_back().copied()).max();
    Ok(Verified { gaps: ledgers::gaps(&recorded), findings, newest, recomputed })
}
