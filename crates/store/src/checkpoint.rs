//! Durable checkpoints and exports, as safetensors files that PyTorch opens.
//!
//! A checkpoint holds the model's tensors under their names in the layout, the optimizer's slots as
//! `optimizer.slot0.<name>`, and in `__metadata__` the encoded spec and state header, so that exactly
//! the state (the same digest) comes back. An export leaves the slots out.
//!
//! A file is written under another name, flushed, renamed, and only then is an older one removed. So
//! at any moment, whatever dies, the previous checkpoint is whole.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use peerless_protocol::{Digest, RunSpec, SpecError, StateHeader, StateRef};
use thiserror::Error;

use crate::error::{AtPath, FileError, Skipped};
use crate::files;
use crate::hex;
use crate::safetensors_header::{self as header, Tensors};
use crate::state::{State, StateError, check_layout, decode_header, encode_header, read_tensor};

/// Version of the content of `__metadata__`.
pub const CHECKPOINT_FORMAT: u16 = 1;

/// Checkpoints kept by default: the newest and the one before it.
pub const DEFAULT_KEPT_CHECKPOINTS: usize = 2;

const ENDING: &str = "safetensors";

/// A checkpoint or export that cannot be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not what its safetensors header or its kind says.
    #[error("{} is no peerless {kind}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it was read as.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by another version of the program.
    #[error("{} has format {found}, this program reads format {CHECKPOINT_FORMAT}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: String,
    },
    /// The run spec in the file is invalid.
    #[error("{}: {source}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SpecError,
    },
    /// The state in the file is invalid.
    #[error("{}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StateError,
    },
}

/// A checkpoint that was read and verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The spec of the run.
    pub spec: RunSpec,
    /// The state.
    pub state: State,
    /// Its round and digest.
    pub reference: StateRef,
}

/// The newest checkpoint of a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Newest {
    /// Its file and content; `None` if there is none that is whole.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
    /// Newer ones that are damaged.
    pub skipped: Vec<Skipped>,
}

/// A trained model as read from a checkpoint or an export.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The spec of the run that trained it.
    pub spec: RunSpec,
    /// Round, newest evaluation and layout.
    pub header: StateHeader,
    /// Parameters, then buffers, as the layout says.
    pub vector: Vec<f32>,
    /// The digest of the state that it is a part of, as the file says. An export holds too little of
    /// the state to verify it.
    pub state_digest: Digest,
}

/// The directory of a run's checkpoints. Holds no lock and no memory of its own, so that checkpoints
/// can be written on another thread than the rest of the store.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    directory: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints in `directory`; `keep` (at least 1) is how many stay when another is written.
    pub fn new(directory: &Path, keep: usize) -> Self {
        Self { directory: directory.to_path_buf(), keep: keep.max(1) }
    }

    /// Creates the directory and removes what a crash left half-written. For the process that writes
    /// checkpoints; readers need not call it.
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn prepare(&self) -> Result<(), CheckpointError> {
        files::create_directory(&self.directory)?;
        Ok(files::remove_temporaries(&self.directory)?)
    }

    /// Rounds and files of the checkpoints, newest first. None if there is no such directory.
    ///
    /// # Errors
    /// [`CheckpointError::File`].
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        if !self.directory.is_dir() {
            return Ok(Vec::new());
        }
        let paths = files::list(&self.directory)?.into_iter();
        let mut found: Vec<_> = paths.filter_map(|path| Some((round_of(&path)?, path))).collect();
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Writes a checkpoint and, when it is durable, removes the oldest ones beyond the number kept.
    /// `digest` must be the state's; passing it saves hashing it again.
    ///
    /// # Errors
    /// [`CheckpointError::File`]; the checkpoints that were there still are.
    pub fn write(&self, spec: &RunSpec, state: &State, digest: Digest) -> Result<PathBuf, CheckpointError> {
        let name = format!("round-{:010}.{ENDING}", state.header.round);
        let path = self.directory.join(name);
        write_file(&path, "checkpoint", spec, state, digest, &state.slots)?;
        for (_, older) in self.list()?.into_iter().skip(self.keep) {
            files::remove(&older)?;
        }
        Ok(path)
    }

    /// Reads the newest checkpoint that is whole, and says which newer ones were passed over and why.
    ///
    /// # Errors
    /// [`CheckpointError::File`] if the directory cannot be listed.
    pub fn load_newest(&self) -> Result<Newest, CheckpointError> {
        let mut skipped = Vec::new();
        for (_, path) in self.list()? {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => {
                    let checkpoint = Some((path, checkpoint));
                    return Ok(Newest { checkpoint, skipped });
                }
                Err(error) => skipped.push(Skipped::new(&path, error)),
            }
        }
        Ok(Newest { checkpoint: None, skipped })
    }
}

impl Checkpoint {
    /// Reads a checkpoint and verifies its digest.
    ///
    /// # Errors
    /// [`CheckpointError`]; see its variants.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let mut opened = Opened::read(path, "checkpoint")?;
        opened.expect_kind(&["checkpoint"])?;
        let model = opened.vector()?;
        let slots = opened.slots()?;
        let Opened { spec, header, digest, .. } = opened;
        let state = State { header, vector: model, slots };
        let expected = StateRef { round: state.header.round, digest };
        let found = state.reference();
        if found != expected {
            let source = StateError::OtherState { expected, found };
            return Err(CheckpointError::State { path: path.to_path_buf(), source });
        }
        Ok(Self { spec, state, reference: found })
    }
}

impl Model {
    /// Reads the model of an export or a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; see its variants.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let mut opened = Opened::read(path, "model")?;
        opened.expect_kind(&["model", "checkpoint"])?;
        let vector = opened.vector()?;
        let Opened { spec, header, digest, .. } = opened;
        Ok(Self { spec, header, vector, state_digest: digest })
    }
}

/// Writes the model's tensors alone, with run, round and accuracy in the metadata. The same care is
/// taken as with checkpoints: `path` holds the whole export or what it held before.
///
/// # Errors
/// [`CheckpointError::File`].
pub fn export(path: &Path, spec: &RunSpec, state: &State) -> Result<(), CheckpointError> {
    write_file(path, "model", spec, state, state.digest(), &[])
}

fn write_file(
    path: &Path,
    kind: &'static str,
    spec: &RunSpec,
    state: &State,
    digest: Digest,
    slots: &[Vec<f32>],
) -> Result<(), CheckpointError> {
    let tensors = Tensors { layout: &state.header.layout, slots: slots.len() };
    let metadata = metadata(kind, spec, &state.header, digest);
    let start = header::encode(metadata, &tensors).map_err(|reason| CheckpointError::Malformed {
        path: path.to_path_buf(),
        kind,
        reason,
    })?;
    files::replace_durably(path, |file| {
        file.write_all(&start)?;
        file.write_all(bytemuck::cast_slice(&state.vector))?;
        slots.iter().try_for_each(|slot| file.write_all(bytemuck::cast_slice(slot)))
    })?;
    Ok(())
}

fn metadata(kind: &str, spec: &RunSpec, header: &StateHeader, digest: Digest) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        // What PyTorch tools expect of weights that are theirs to load.
        ("format", "pt".into()),
        ("peerless.format", CHECKPOINT_FORMAT.to_string()),
        ("peerless.kind", kind.into()),
        ("peerless.model", spec.model.clone()),
        ("peerless.dataset", spec.dataset.name.clone()),
        ("peerless.run", header.run.to_string()),
        ("peerless.round", header.round.to_string()),
        ("peerless.state_digest", digest.to_string()),
        ("peerless.spec", hex::encode(&spec.encode())),
        ("peerless.header", hex::encode(&encode_header(header))),
    ];
    if let Some(evaluation) = header.evaluation {
        metadata.push(("peerless.evaluated_round", evaluation.round.to_string()));
        metadata.push(("peerless.accuracy", evaluation.tally.accuracy().to_string()));
    }
    metadata
}

fn round_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?;
    name.strip_prefix("round-")?.strip_suffix('.')?.parse().ok()
}

/// A file whose metadata has been read and checked, positioned at its first tensor.
struct Opened {
    path: PathBuf,
    wanted: &'static str,
    file: File,
    kind: String,
    spec: RunSpec,
    header: StateHeader,
    digest: Digest,
}

impl Opened {
    fn read(path: &Path, wanted: &'static str) -> Result<Self, CheckpointError> {
        let malformed = |reason: String| CheckpointError::Malformed { path: path.to_path_buf(), kind: wanted, reason };
        let mut file = File::open(path).at("open", path)?;
        let size = file.metadata().at("inspect", path)?.len();
        let found = header::decode(&mut file, size).map_err(malformed)?;
        let text = |key: &str| {
            let missing = || malformed(format!("its metadata has no {key:?}"));
            found.text(key).ok_or_else(missing)
        };
        let bytes = |key: &str| hex::decode(text(key)?).ok_or_else(|| malformed(format!("{key:?} is not hexadecimal")));
        let version = text("peerless.format")?;
        if version != CHECKPOINT_FORMAT.to_string() {
            let found = version.chars().take(20).collect();
            return Err(CheckpointError::Version { path: path.to_path_buf(), found });
        }
        let spec = RunSpec::decode(&bytes("peerless.spec")?)
            .map_err(|source| CheckpointError::Spec { path: path.to_path_buf(), source })?;
        let state_error = |source| CheckpointError::State { path: path.to_path_buf(), source };
        let header = decode_header(&bytes("peerless.header")?).map_err(state_error)?;
        check_layout(&header.layout, &spec).map_err(state_error)?;
        if header.run != spec.id() {
            return Err(state_error(StateError::OtherRun { expected: spec.id(), found: header.run }));
        }
        let digest = text("peerless.state_digest")?;
        let digest = digest.parse().map_err(|error| malformed(format!("its state digest: {error}")))?;
        let kind = text("peerless.kind")?.to_string();
        let slots = if kind == "checkpoint" { spec.optimizer.slots() } else { 0 };
        let tensors = Tensors { layout: &header.layout, slots };
        found.expect(&tensors).map_err(malformed)?;
        Ok(Self { path: path.to_path_buf(), wanted, file, kind, spec, header, digest })
    }

    fn expect_kind(&self, kinds: &[&str]) -> Result<(), CheckpointError> {
        if kinds.contains(&self.kind.as_str()) {
            return Ok(());
        }
        Err(CheckpointError::Malformed {
            path: self.path.clone(),
            kind: self.wanted,
            reason: format!("it says it is a {:?}", self.kind.chars().take(20).collect::<String>()),
        })
    }

    fn vector(&mut self) -> Result<Vec<f32>, CheckpointError> {
        self.tensor(self.header.layout.elements())
    }

    fn slots(&mut self) -> Result<Vec<Vec<f32>>, CheckpointError> {
        let parameters = self.header.layout.parameters();
        (0..self.spec.optimizer.slots()).map(|_| self.tensor(parameters)).collect()
    }

    fn tensor(&mut self, elements: u64) -> Result<Vec<f32>, CheckpointError> {
        let path = &self.path;
        read_tensor(&mut self.file, elements).map_err(|source| CheckpointError::State { path: path.clone(), source })
    }
}
