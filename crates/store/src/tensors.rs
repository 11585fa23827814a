//! States as content-addressed files, and the places where functions put gradients.
//!
//! The directory should be on shared memory (tmpfs): a peer and its local functions then share tensors
//! without a copy through a pipe. Nothing in it need survive more than the process.
//!
//! ```text
//! states/0000000042-<digest>.state     canonical bytes of a state (see `state`)
//! units/<incarnation>/r42-u3-17.f32    what a function writes; removed when its round is over
//! tensors.lock
//! ```

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerless_protocol::function::{Place, TensorRef};
use peerless_protocol::{Digest, RunSpec, StateRef};
use thiserror::Error;

use crate::error::{AtPath, FileError, Skipped};
use crate::files;
use crate::lock::{DirectoryLock, LockError};
use crate::state::{MAX_ELEMENTS, State, StateError, read_prefix};

/// States kept by default: enough for peers that are a few rounds behind.
pub const DEFAULT_KEPT_STATES: usize = 4;

const ENDING: &str = "state";

/// A tensor file that cannot be written, read or trusted.
#[derive(Debug, Error)]
pub enum TensorError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory belongs to another process.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file is not the state that it should be.
    #[error("{}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: StateError,
    },
    /// No such state is kept.
    #[error("state {} is not among the states that are kept", digest.short())]
    NotKept {
        /// Its digest.
        digest: Digest,
    },
    /// A part of a fetched state lies outside of it, or the state is larger than any can be.
    #[error("bytes {offset}..{end} do not lie in a state of {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Behind the last byte.
        end: u64,
        /// Bytes of the whole state.
        size: u64,
    },
}

/// A state in a file, for functions to read by path and offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// Round and digest.
    pub reference: StateRef,
    /// The file with the canonical bytes.
    pub path: PathBuf,
    /// Where the flat vector starts in the file, in bytes.
    pub vector_offset: u64,
    /// Elements of the flat vector, parameters and buffers.
    pub elements: u64,
    /// Bytes of the file.
    pub size: u64,
}

impl StoredState {
    /// The flat vector, for a function that sees the file.
    pub fn vector(&self) -> TensorRef {
        let place = Place::Path(self.path.clone());
        TensorRef { place, offset: self.vector_offset, elements: self.elements, digest: None }
    }
}

/// A kept state that is open to be served; stays readable when the state is no longer kept.
#[derive(Debug, Clone)]
pub struct StateFile {
    file: Arc<File>,
    size: u64,
}

impl StateFile {
    /// Bytes of the state.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the state has no such bytes, or the error of the file system.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

#[derive(Debug)]
struct Kept {
    stored: StoredState,
    file: Arc<File>,
}

/// The file of a state as another process sees it, which may remove it at any moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// The file.
    pub path: PathBuf,
    /// The state that its name says it is.
    pub reference: StateRef,
}

impl KeptFile {
    /// The states in a peer's tensor directory, by round; none if there is no such directory. Neither
    /// takes the directory nor changes it.
    ///
    /// # Errors
    /// [`TensorError::File`].
    pub fn list(directory: &Path) -> Result<Vec<Self>, TensorError> {
        let states = directory.join("states");
        if !states.is_dir() {
            return Ok(Vec::new());
        }
        let kept = |path: PathBuf| Some(Self { reference: reference_of(&path)?, path });
        Ok(files::list(&states)?.into_iter().filter_map(kept).collect())
    }

    /// Reads the state and verifies that it is the one that the name says.
    ///
    /// # Errors
    /// [`TensorError::State`], or [`TensorError::File`], also when it has been removed.
    pub fn read(&self, spec: &RunSpec) -> Result<State, TensorError> {
        let file = File::open(&self.path).at("open", &self.path)?;
        read_verified(&file, &self.path, self.reference, spec)
    }
}

/// The folder that functions write to, and names in it. Copies share the names, so that a function can be started while
/// the store is busy.
#[derive(Debug, Clone)]
pub struct Outputs {
    directory: PathBuf,
    next_name: Arc<AtomicU64>,
}

impl Outputs {
    fn new(directory: PathBuf) -> Self {
        Self { directory, next_name: Arc::default() }
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path of its own for one invocation to write unit `unit` of round `round` to.
    pub fn of_unit(&self, round: u64, unit: u32) -> PathBuf {
        self.directory.join(format!("r{round}-u{unit}-{}.f32", self.next()))
    }

    /// A path of its own for one invocation to write the initial parameters to.
    pub fn of_initial_parameters(&self) -> PathBuf {
        self.directory.join(format!("initial-{}.f32", self.next()))
    }

    fn next(&self) -> u64 {
        self.next_name.fetch_add(1, Ordering::Relaxed)
    }
}

/// The tensor files of one peer.
#[derive(Debug)]
pub struct TensorStore {
    spec: RunSpec,
    states: PathBuf,
    outputs: Outputs,
    /// Oldest first.
    kept: VecDeque<Kept>,
    keep: usize,
    next_name: u64,
    _lock: DirectoryLock,
}

impl TensorStore {
    /// Opens or creates the directory for this process alone, removes what earlier processes left
    /// half-written or for functions, and verifies the states that are there. `keep` (at least 1) is
    /// how many states are kept. Damaged and foreign states are removed and reported.
    ///
    /// # Errors
    /// [`TensorError::Lock`] if another process has the directory, or [`TensorError::File`].
    pub fn open(directory: &Path, spec: &RunSpec, keep: usize) -> Result<(Self, Vec<Skipped>), TensorError> {
        let states = directory.join("states");
        let units = directory.join("units");
        files::create_directory(&states)?;
        let lock = DirectoryLock::acquire(&directory.join("tensors.lock"))?;
        match fs::remove_dir_all(&units) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.at("remove", &units)?,
        }
        let outputs = units.join(lock.incarnation().to_string());
        files::create_directory(&outputs)?;
        files::remove_temporaries(&states)?;
        let mut store = Self {
            spec: spec.clone(),
            states,
            outputs: Outputs::new(outputs),
            kept: VecDeque::new(),
            keep: keep.max(1),
            next_name: 0,
            _lock: lock,
        };
        let skipped = store.adopt_files()?;
        Ok((store, skipped))
    }

    /// Takes over the states of an earlier process. Names begin with the round, so the order of names
    /// is that of rounds.
    fn adopt_files(&mut self) -> Result<Vec<Skipped>, TensorError> {
        let mut skipped = Vec::new();
        for path in files::list(&self.states)? {
            match self.inspect(&path) {
                Ok(kept) => self.keep(kept)?,
                Err(error) => {
                    skipped.push(Skipped::new(&path, error));
                    files::remove(&path)?;
                }
            }
        }
        Ok(skipped)
    }

    fn inspect(&self, path: &Path) -> Result<Kept, TensorError> {
        let file = File::open(path).at("open", path)?;
        let wrong = |source| TensorError::State { path: path.to_path_buf(), source };
        let size = file.metadata().at("inspect", path)?.len();
        let digest = digest_of_file(&file).at("read", path)?;
        // Read again from the start: hashing moved the file's own position.
        let (header, vector_offset) = read_prefix(&mut PositionedReader::new(&file), size).map_err(wrong)?;
        let reference = StateRef { round: header.round, digest };
        if path != self.path_of(&reference) {
            return Err(wrong(StateError::Header("its name does not tell its content".into())));
        }
        let run = self.spec.id();
        if header.run != run {
            return Err(wrong(StateError::OtherRun { expected: run, found: header.run }));
        }
        let stored = StoredState {
            reference,
            path: path.to_path_buf(),
            vector_offset: vector_offset as u64,
            elements: header.layout.elements(),
            size,
        };
        Ok(Kept { stored, file: Arc::new(file) })
    }

    /// Writes a state, hashing it on the way, and drops the oldest one beyond the number kept.
    ///
    /// # Errors
    /// [`TensorError::File`]; nothing half-written is left.
    pub fn put_state(&mut self, state: &State) -> Result<StoredState, TensorError> {
        // The name is known only after hashing; so hash and write in one pass under another name.
        self.next_name += 1;
        let temporary = self.states.join(format!("put-{}.tmp", self.next_name));
        let written = write_hashed(&temporary, state).and_then(|(digest, file)| {
            let reference = StateRef { round: state.header.round, digest };
            fs::rename(&temporary, self.path_of(&reference))?;
            Ok((reference, file))
        });
        let (reference, file) = match written {
            Ok(written) => written,
            Err(error) => {
                let _ = fs::remove_file(&temporary);
                return Err(error).at("write", &temporary).map_err(TensorError::from);
            }
        };
        let stored = StoredState {
            reference,
            path: self.path_of(&reference),
            vector_offset: state.vector_offset(),
            elements: state.vector.len() as u64,
            size: state.encoded_len(),
        };
        self.keep(Kept { stored: stored.clone(), file: Arc::new(file) })?;
        Ok(stored)
    }

    /// Makes a state the newest one kept. Files of dropped states stay readable where they are open.
    fn keep(&mut self, new: Kept) -> Result<(), TensorError> {
        self.kept.retain(|kept| kept.stored.reference != new.stored.reference);
        self.kept.push_back(new);
        while self.kept.len() > self.keep {
            if let Some(oldest) = self.kept.pop_front() {
                files::remove(&oldest.stored.path)?;
            }
        }
        Ok(())
    }

    /// The states kept, in the order in which they were put.
    pub fn states(&self) -> impl DoubleEndedIterator<Item = &StoredState> {
        self.kept.iter().map(|kept| &kept.stored)
    }

    /// A kept state by digest.
    pub fn state(&self, digest: &Digest) -> Option<&StoredState> {
        self.states().find(|stored| stored.reference.digest == *digest)
    }

    /// A kept state's file by digest, to be served to other peers in ranges. Usable from any thread.
    pub fn state_file(&self, digest: &Digest) -> Option<StateFile> {
        let kept = self.kept.iter().find(|kept| kept.stored.reference.digest == *digest)?;
        Some(StateFile { file: Arc::clone(&kept.file), size: kept.stored.size })
    }

    /// Reads a kept state and verifies its digest.
    ///
    /// # Errors
    /// [`TensorError::NotKept`], [`TensorError::State`] or [`TensorError::File`].
    pub fn load(&self, digest: &Digest) -> Result<State, TensorError> {
        let kept = self.kept.iter().find(|kept| kept.stored.reference.digest == *digest);
        let kept = kept.ok_or(TensorError::NotKept { digest: *digest })?;
        read_verified(&kept.file, &kept.stored.path, kept.stored.reference, &self.spec)
    }

    /// Starts taking in a state of `size` bytes that is fetched from other peers in pieces.
    ///
    /// # Errors
    /// [`TensorError::OutOfRange`] for a size that no state can have, or [`TensorError::File`].
    pub fn begin_import(&mut self, reference: StateRef, size: u64) -> Result<StateImport, TensorError> {
        if size > 8 * MAX_ELEMENTS {
            return Err(TensorError::OutOfRange { offset: 0, end: size, size: 8 * MAX_ELEMENTS });
        }
        self.next_name += 1;
        let path = self.states.join(format!("import-{}.tmp", self.next_name));
        let file = files::create_file(&path).at("create", &path)?;
        let import = StateImport { file, path, reference, size };
        // A file with a hole: takes room only as pieces arrive.
        import.file.set_len(size).at("resize", &import.path)?;
        Ok(import)
    }

    /// Verifies a fetched state and keeps it.
    ///
    /// # Errors
    /// [`TensorError::State`] if it is not what was asked for (pieces missing, a donor that lies), or
    /// [`TensorError::File`]. The fetched bytes are then removed.
    pub fn finish_import(&mut self, import: StateImport) -> Result<(State, StoredState), TensorError> {
        let reference = import.reference;
        let state = read_verified(&import.file, &import.path, reference, &self.spec)?;
        let path = self.path_of(&reference);
        fs::rename(&import.path, &path).at("rename", &path)?;
        let stored = StoredState {
            reference,
            path,
            vector_offset: state.vector_offset(),
            elements: state.vector.len() as u64,
            size: import.size,
        };
        let file = import.file.try_clone().at("reopen", &stored.path)?;
        self.keep(Kept { stored: stored.clone(), file: Arc::new(file) })?;
        Ok((state, stored))
    }

    /// The folder with the states, which functions read.
    pub fn states_directory(&self) -> &Path {
        &self.states
    }

    /// Where functions write to.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// Removes what functions wrote for rounds before `round`, late and unreported outputs too, and
    /// initial parameters. A function that is still writing keeps its file, unseen, until it closes it.
    ///
    /// # Errors
    /// [`TensorError::File`].
    pub fn remove_outputs_before(&mut self, round: u64) -> Result<(), TensorError> {
        for path in files::list(&self.outputs.directory)? {
            if round_of_output(&path).is_none_or(|of| of < round) {
                files::remove(&path)?;
            }
        }
        Ok(())
    }

    fn path_of(&self, reference: &StateRef) -> PathBuf {
        let StateRef { round, digest } = reference;
        self.states.join(format!("{round:010}-{digest}.{ENDING}"))
    }
}

/// A state that is being fetched. Dropping it removes what has arrived.
#[derive(Debug)]
pub struct StateImport {
    file: File,
    path: PathBuf,
    reference: StateRef,
    size: u64,
}

impl StateImport {
    /// The state that is being fetched.
    pub fn reference(&self) -> StateRef {
        self.reference
    }

    /// Bytes of the whole state.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts a piece where it belongs; pieces may come in any order and more than once.
    ///
    /// # Errors
    /// [`TensorError::OutOfRange`] or [`TensorError::File`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TensorError> {
        let size = self.size;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > size {
            return Err(TensorError::OutOfRange { offset, end, size });
        }
        Ok(self.file.write_all_at(bytes, offset).at("write", &self.path)?)
    }
}

impl Drop for StateImport {
    fn drop(&mut self) {
        // Gone already when the import was finished; otherwise removed at the next start at the latest.
        let _ = fs::remove_file(&self.path);
    }
}

fn write_hashed(path: &Path, state: &State) -> io::Result<(Digest, File)> {
    use io::Write;
    let mut hasher = blake3::Hasher::new();
    let mut file = files::create_file(path)?;
    state.for_each_chunk(|chunk| {
        hasher.update(chunk);
        file.write_all(chunk)
    })?;
    Ok((Digest(*hasher.finalize().as_bytes()), file))
}

fn read_verified(file: &File, path: &Path, expected: StateRef, spec: &RunSpec) -> Result<State, TensorError> {
    let wrong = |source| TensorError::State { path: path.to_path_buf(), source };
    let size = file.metadata().at("inspect", path)?.len();
    let state = State::read(&mut PositionedReader::new(file), size, spec).map_err(wrong)?;
    let found = state.reference();
    if found == expected { Ok(state) } else { Err(wrong(StateError::OtherState { expected, found })) }
}

fn digest_of_file(file: &File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(PositionedReader::new(file))?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// The inverse of [`TensorStore::path_of`].
fn reference_of(path: &Path) -> Option<StateRef> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?.strip_suffix('.')?;
    let (round, digest) = name.split_once('-')?;
    Some(StateRef { round: round.parse().ok()?, digest: digest.parse().ok()? })
}

fn round_of_output(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix('r')?.split('-').next()?.parse().ok()
}

/// Reads a file from its start without moving the position that other users of the file share.
struct PositionedReader<'a> {
    file: &'a File,
    position: u64,
}

impl<'a> PositionedReader<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, position: 0 }
    }
}

impl io::Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}
