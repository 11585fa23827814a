//! One peer's directory: what is in it, who may use it, and where a restarted peer goes on.
//!
//! ```text
//! <directory>/
//!   store.lock       held while a peer runs
//!   format           version of this layout
//!   spec             the run spec, postcard
//!   ledger.sqlite    what happened and what it cost
//!   checkpoints/     durable states
//! <tensor directory>/    see `tensors`; on shared memory
//! ```

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peerless_protocol::{Digest, MAX_SPEC_BYTES, RunId, RunSpec, SpecError, StateRef, Tally};
use thiserror::Error;

use crate::apply::{ApplyError, RoundTotals, apply};
use crate::checkpoint::{Checkpoint, CheckpointError, Checkpoints, DEFAULT_KEPT_CHECKPOINTS};
use crate::error::{AtPath, FileError, Skipped};
use crate::files;
use crate::ledger::{Batch, Ledger, LedgerError, StateOrigin};
use crate::lock::{DirectoryLock, LockError};
use crate::state::State;
use crate::sums::{Cover, RoundSums, SumsError};
use crate::tensors::{DEFAULT_KEPT_STATES, StoredState, TensorError, TensorStore};

/// Version of the layout of a peer's directory.
pub const STORE_FORMAT: u32 = 1;

/// A store that cannot be opened, or a step of it that failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Written by a newer version of the program, or not a store.
    #[error("{} has store format {found:?}, this program knows formats up to {STORE_FORMAT}; use the newer peerless that wrote it", path.display())]
    Format {
        /// The directory.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The directory holds no store.
    #[error("{} holds no peerless store", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another run.
    #[error("{} holds run {}, not run {}; use another directory", path.display(), found.short(), expected.short())]
    OtherRun {
        /// The directory.
        path: PathBuf,
        /// The run that was to be opened.
        expected: RunId,
        /// The run that is there.
        found: RunId,
    },
    /// The spec in the directory is invalid.
    #[error("{}: {source}", path.display())]
    Spec {
        /// The spec file.
        path: PathBuf,
        /// What is wrong with it.
        source: SpecError,
    },
    /// Tensor files.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Sums.
    #[error(transparent)]
    Sums(#[from] SumsError),
    /// The transition.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Everything that a peer keeps. The parts are used directly; the methods join those that belong
/// together.
#[derive(Debug)]
pub struct Store {
    /// States and the outputs of functions.
    pub tensors: TensorStore,
    /// Durable states.
    pub checkpoints: Checkpoints,
    /// What happened and what it cost.
    pub ledger: Ledger,
    spec: RunSpec,
    scratch: Vec<f32>,
    _lock: DirectoryLock,
}

/// A store and where it goes on.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// The newest state that is whole; `None` for a peer that has none.
    pub resumed: Option<Resumed>,
    /// Damaged files that were passed over.
    pub skipped: Vec<Skipped>,
}

/// A state found on disk.
#[derive(Debug)]
pub struct Resumed {
    /// The state.
    pub state: State,
    /// Its file for functions.
    pub stored: StoredState,
    /// The checkpoint it was read from; `None` if a tensor file had survived.
    pub checkpoint: Option<PathBuf>,
}

/// The state after a round, and how long the parts of the step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advanced {
    /// The new state's file for functions.
    pub stored: StoredState,
    /// Forming the total.
    pub sum: Duration,
    /// Mean, clipping and optimizer.
    pub update: Duration,
    /// Hashing and storing the new state.
    pub digest: Duration,
}

impl Store {
    /// Opens or creates a peer's store for this process alone and finds the newest state: of the tensor
    /// files that the ledger knows and the checkpoints, the one of the highest round whose digest is
    /// right.
    ///
    /// # Errors
    /// [`StoreError`]; see its variants.
    pub fn open(directory: &Path, tensor_directory: &Path, spec: &RunSpec) -> Result<Opened, StoreError> {
        files::create_directory(directory)?;
        let lock = DirectoryLock::acquire(&directory.join("store.lock"))?;
        check_or_write_format(directory)?;
        check_or_write_spec(directory, spec)?;
        let checkpoints = Checkpoints::new(&checkpoints_path(directory), DEFAULT_KEPT_CHECKPOINTS);
        checkpoints.prepare()?;
        let ledger = Ledger::open(&ledger_path(directory))?;
        let (tensors, mut skipped) = TensorStore::open(tensor_directory, spec, DEFAULT_KEPT_STATES)?;
        let spec = spec.clone();
        let mut store = Self { tensors, checkpoints, ledger, spec, scratch: Vec::new(), _lock: lock };
        let resumed = store.resume(&mut skipped)?;
        Ok(Opened { store, resumed, skipped })
    }

    /// The run's spec.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Stores a state that did not come from a round here (initial or fetched) and records it.
    ///
    /// # Errors
    /// [`StoreError::Tensor`] or [`StoreError::Ledger`].
    pub fn adopt(&mut self, state: &State, origin: StateOrigin) -> Result<StoredState, StoreError> {
        let stored = self.tensors.put_state(state)?;
        self.record_state(stored.reference, origin)?;
        Ok(stored)
    }

    /// Records a state that is among the tensor files already, such as an imported one.
    ///
    /// # Errors
    /// [`StoreError::Ledger`].
    pub fn record_state(&mut self, reference: StateRef, origin: StateOrigin) -> Result<(), StoreError> {
        let state = Some((reference, origin));
        Ok(self.ledger.record(&Batch { state, ..Batch::default() })?)
    }

    /// Applies a round: forms the total of the cover, turns `state` into the next one and stores it.
    /// The caller then records the round, with [`StateOrigin::Applied`], in one batch.
    ///
    /// # Errors
    /// [`StoreError::Sums`] or [`StoreError::Apply`] with `state` unchanged, or [`StoreError::Tensor`]
    /// when the new state could not be stored: `state` is then the new one and the disk has the old.
    pub fn advance(
        &mut self,
        state: &mut State,
        sums: &mut RoundSums,
        cover: &Cover,
        training: Tally,
        evaluation: Option<Tally>,
    ) -> Result<Advanced, StoreError> {
        let start = Instant::now();
        let gradient_units = sums.gradient_units();
        let gradient_sum = sums.total(cover)?;
        let summed = Instant::now();
        let totals = RoundTotals { gradient_sum, gradient_units, training, evaluation };
        apply(&self.spec, state, &totals, &mut self.scratch)?;
        let updated = Instant::now();
        let stored = self.tensors.put_state(state)?;
        Ok(Advanced { stored, sum: summed - start, update: updated - summed, digest: updated.elapsed() })
    }

    /// Writes a durable checkpoint of a state that is stored. For a large model clone
    /// [`checkpoints`](Self::checkpoints) and write on another thread.
    ///
    /// # Errors
    /// [`StoreError::Checkpoint`]; earlier checkpoints are untouched.
    pub fn checkpoint(&self, state: &State, digest: Digest) -> Result<PathBuf, StoreError> {
        Ok(self.checkpoints.write(&self.spec, state, digest)?)
    }

    fn resume(&mut self, skipped: &mut Vec<Skipped>) -> Result<Option<Resumed>, StoreError> {
        let checkpoints = self.checkpoints.list()?;
        let mut checkpoints = checkpoints.into_iter().peekable();
        let mut files: Vec<StoredState> = self.tensors.states().cloned().collect();
        files.sort_by_key(|stored| stored.reference.round);
        while let Some(stored) = files.pop() {
            while let Some((_, path)) = checkpoints.next_if(|(round, _)| *round > stored.reference.round) {
                if let Some(resumed) = self.try_checkpoint(path, skipped)? {
                    return Ok(Some(resumed));
                }
            }
            if let Some(resumed) = self.try_tensor_file(stored, skipped)? {
                return Ok(Some(resumed));
            }
        }
        for (_, path) in checkpoints {
            if let Some(resumed) = self.try_checkpoint(path, skipped)? {
                return Ok(Some(resumed));
            }
        }
        Ok(None)
    }

    fn try_tensor_file(&self, stored: StoredState, skipped: &mut Vec<Skipped>) -> Result<Option<Resumed>, StoreError> {
        let reference = stored.reference;
        if self.ledger.state_digest(reference.round)? != Some(reference.digest) {
            // Stored, but the process died before it was recorded: its round is computed once more,
            // so that the ledger has no gap.
            skipped.push(Skipped::new(&stored.path, "the ledger does not know this state"));
            return Ok(None);
        }
        match self.tensors.load(&reference.digest) {
            Ok(state) => Ok(Some(Resumed { state, stored, checkpoint: None })),
            Err(error) => {
                skipped.push(Skipped::new(&stored.path, error));
                Ok(None)
            }
        }
    }

    fn try_checkpoint(&mut self, path: PathBuf, skipped: &mut Vec<Skipped>) -> Result<Option<Resumed>, StoreError> {
        let checkpoint = match Checkpoint::read(&path) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                skipped.push(Skipped::new(&path, error));
                return Ok(None);
            }
        };
        let reference = checkpoint.reference;
        let recorded = self.ledger.state_digest(reference.round)?;
        let reason = if checkpoint.spec.id() != self.spec.id() {
            Some("it belongs to another run")
        } else if recorded.is_some_and(|digest| digest != reference.digest) {
            Some("the ledger has another state for its round")
        } else {
            None
        };
        if let Some(reason) = reason {
            skipped.push(Skipped::new(&path, reason));
            return Ok(None);
        }
        let state = checkpoint.state;
        let stored = self.adopt(&state, StateOrigin::Restored)?;
        Ok(Some(Resumed { state, stored, checkpoint: Some(path) }))
    }
}

/// Where the ledger of a peer's directory is.
pub fn ledger_path(directory: &Path) -> PathBuf {
    directory.join("ledger.sqlite")
}

/// Where the checkpoints of a peer's directory are.
pub fn checkpoints_path(directory: &Path) -> PathBuf {
    directory.join("checkpoints")
}

/// Reads the spec of the run that a directory holds, without taking the directory.
///
/// # Errors
/// [`StoreError::NotAStore`], [`StoreError::Format`], [`StoreError::Spec`] or [`StoreError::File`].
pub fn read_spec(directory: &Path) -> Result<RunSpec, StoreError> {
    let path = directory.to_path_buf();
    match read_format(directory)? {
        None => return Err(StoreError::NotAStore { path }),
        Some(found) => check_format(directory, found)?,
    }
    stored_spec(directory)?.ok_or(StoreError::NotAStore { path })
}

fn check_or_write_format(directory: &Path) -> Result<(), StoreError> {
    match read_format(directory)? {
        Some(found) => check_format(directory, found),
        None => {
            let content = format!("{STORE_FORMAT}\n");
            let path = directory.join("format");
            Ok(files::replace_durably(&path, |file| file.write_all(content.as_bytes()))?)
        }
    }
}

fn check_format(directory: &Path, found: String) -> Result<(), StoreError> {
    let known = (1..=STORE_FORMAT).contains(&found.parse().unwrap_or_default());
    let path = directory.to_path_buf();
    if known { Ok(()) } else { Err(StoreError::Format { path, found }) }
}

fn read_format(directory: &Path) -> Result<Option<String>, StoreError> {
    let content = read_small(&directory.join("format"), 32)?;
    Ok(content.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()))
}

fn check_or_write_spec(directory: &Path, spec: &RunSpec) -> Result<(), StoreError> {
    match stored_spec(directory)? {
        None => {
            let bytes = spec.encode();
            Ok(files::replace_durably(&directory.join("spec"), |file| file.write_all(&bytes))?)
        }
        Some(found) if found.id() == spec.id() => Ok(()),
        Some(found) => {
            Err(StoreError::OtherRun { path: directory.to_path_buf(), expected: spec.id(), found: found.id() })
        }
    }
}

fn stored_spec(directory: &Path) -> Result<Option<RunSpec>, StoreError> {
    let path = directory.join("spec");
    let Some(bytes) = read_small(&path, MAX_SPEC_BYTES as u64 + 1)? else {
        return Ok(None);
    };
    let spec = RunSpec::decode(&bytes).map_err(|source| StoreError::Spec { path, source })?;
    Ok(Some(spec))
}

/// The first `limit` bytes of a file; `None` if there is no such file.
fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    use std::io::Read;
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.at("open", path)?,
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).at("read", path)?;
    Ok(Some(bytes))
}
