//! States and checkpoints on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use peerless_peer::tensor_directory;
use peerless_protocol::{RunSpec, StateRef};
use peerless_store::{Checkpoint, Checkpoints, DEFAULT_KEPT_CHECKPOINTS, KeptFile, State, checkpoints_path};

use super::findings::{Check, Finding, Findings};
use super::ledgers::has_lost;
use super::{Evidence, Peer, Recorded};

/// Where a state can be read.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Kept(KeptFile),
    Checkpoint(PathBuf),
}

/// States whose content was found right.
pub(super) type Available = BTreeMap<StateRef, Source>;

impl Source {
    /// Reads the state and verifies its digest. `None` when a running peer has removed it.
    pub(super) fn read(&self, spec: &RunSpec) -> Result<Option<(StateRef, State)>, String> {
        let (path, read) = match self {
            Self::Kept(file) => {
                let read = file.read(spec).map(|state| (file.reference, state));
                (&file.path, read.map_err(|error| error.to_string()))
            }
            Self::Checkpoint(path) => {
                let read = Checkpoint::read(path).map_err(|error| error.to_string());
                let of_the_run = read.and_then(|checkpoint| match checkpoint.spec.id() == spec.id() {
                    true => Ok((checkpoint.reference, checkpoint.state)),
                    false => Err(format!("{} is a checkpoint of run {}", path.display(), checkpoint.spec.id())),
                });
                (path, of_the_run)
            }
        };
        match read {
            Err(_) if !path.exists() => Ok(None),
            read => read.map(Some),
        }
    }
}

/// Reads every state that is on disk and compares it with its peer's ledger.
pub(super) fn check(evidence: &Evidence, recorded: &[Recorded], findings: &mut Findings) -> Available {
    let mut available = Available::new();
    for ledger in recorded {
        let peer = &evidence.peers[ledger.peer];
        for source in sources(peer, findings) {
            match source.read(&evidence.spec) {
                Ok(None) => {}
                Ok(Some((reference, _))) => {
                    findings.checked(Check::File, 1);
                    let known = ledger.states.get(&reference.round).map(|(digest, _)| *digest);
                    match known {
                        Some(digest) if digest != reference.digest => {
                            if has_lost(ledger, reference.round, reference.digest) {
                                continue;
                            }
                            let what = format!("{source} is state {}, the ledger has {digest}", reference.digest);
                            findings.add(finding(peer, Some(reference.round), what));
                        }
                        Some(_) => {
                            available.insert(reference, source);
                        }
                        // Newer than the ledger, which is written behind.
                        None => {}
                    }
                }
                Err(what) => {
                    findings.checked(Check::File, 1);
                    findings.add(finding(peer, None, what));
                }
            }
        }
    }
    available
}

fn sources(peer: &Peer, findings: &mut Findings) -> Vec<Source> {
    let kept = KeptFile::list(&tensor_directory(&peer.directory)).map_err(|error| error.to_string());
    let checkpoints = Checkpoints::new(&checkpoints_path(&peer.directory), DEFAULT_KEPT_CHECKPOINTS).list();
    let checkpoints = checkpoints.map_err(|error| error.to_string());
    let mut sources = Vec::new();
    match kept {
        Ok(files) => sources.extend(files.into_iter().map(Source::Kept)),
        Err(what) => findings.add(finding(peer, None, what)),
    }
    match checkpoints {
        Ok(files) => sources.extend(files.into_iter().map(|(_, path)| Source::Checkpoint(path))),
        Err(what) => findings.add(finding(peer, None, what)),
    }
    sources
}

fn finding(peer: &Peer, round: Option<u64>, what: String) -> Finding {
    Finding { check: Check::File, found_at: Some(peer.name.clone()), round, author: None, what }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kept(file) => file.path.display().fmt(f),
            Self::Checkpoint(path) => path.display().fmt(f),
        }
    }
}
