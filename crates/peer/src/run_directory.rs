//! The directory of a run on one machine: the spec, the join secret and the peers' own directories.
//!
//! ```text
//! RUN/run.json           format version, run id, spec
//! RUN/join-secret        lets peers into the run; mode 0600
//! RUN/create.lock        held while the two files above are made
//! RUN/peers/NAME/        identity.key, status.json, peer.log and the store of one peer
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use peerless_protocol::{RunId, RunSpec, SpecError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ticket::JoinSecret;

/// Version of the directory's layout.
pub const RUN_DIRECTORY_FORMAT: u32 = 1;

/// Largest `run.json`, in bytes.
const MAX_RUN_FILE: u64 = 64 * 1024;

/// Longest name of a peer, in bytes.
const MAX_NAME: usize = 32;

/// A run directory that cannot be made or used.
#[derive(Debug, Error)]
pub enum RunDirectoryError {
    /// The file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The directory holds a run already.
    #[error("{} already holds run {}", path.display(), found.short())]
    Exists {
        /// The directory.
        path: PathBuf,
        /// The run in it.
        found: RunId,
    },
    /// No `run.json`.
    #[error("{} is no run directory: it has no run.json", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a newer version of the program.
    #[error("{} has format {found}, this program knows formats up to {RUN_DIRECTORY_FORMAT}; use the newer peerless that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u64,
    },
    /// `run.json` is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The spec cannot be run.
    #[error("{}: {source}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SpecError,
    },
    /// The directory's name for a peer is not usable.
    #[error("{0:?} is no name for a peer: use 1 to {MAX_NAME} letters, digits, '-' or '_'")]
    PeerName(String),
}

#[derive(Serialize, Deserialize)]
struct RunFile {
    format: u64,
    run: RunId,
    created_unix_us: u64,
    spec: RunSpec,
}

/// An existing run directory.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
    spec: RunSpec,
    secret: JoinSecret,
    created_unix_us: u64,
}

impl RunDirectory {
    /// Makes a directory for a run.
    ///
    /// # Errors
    /// [`RunDirectoryError`]; nothing is changed if the directory holds a run already.
    pub fn create(path: &Path, spec: RunSpec, secret: JoinSecret, now_unix_us: u64) -> Result<Self, RunDirectoryError> {
        let file = path.join("run.json");
        spec.validate().map_err(|source| RunDirectoryError::Spec { path: file.clone(), source })?;
        let peers = path.join("peers");
        fs::create_dir_all(&peers).map_err(io("create", &peers))?;
        // Of two processes that make the same directory, one waits and then finds the other's run.
        let lock = path.join("create.lock");
        let lock_file = File::create(&lock).map_err(io("create", &lock))?;
        lock_file.lock().map_err(io("lock", &lock))?;
        match Self::open(path) {
            Ok(existing) => return Err(RunDirectoryError::Exists { path: path.into(), found: existing.spec.id() }),
            Err(RunDirectoryError::NotARun { .. }) => {}
            Err(error) => return Err(error),
        }
        write_new(&path.join("join-secret"), &hex(secret.as_bytes()))?;
        let id = spec.id();
        let content = RunFile {
            format: u64::from(RUN_DIRECTORY_FORMAT),
            run: id,
            created_unix_us: now_unix_us,
            spec: spec.clone(),
        };
        let text = serde_json::to_string_pretty(&content).map_err(|error| io("encode", &file)(error.into()))?;
        // Last, since a directory with a run.json is complete.
        write_new(&file, &text)?;
        Ok(Self { path: path.into(), spec, secret, created_unix_us: now_unix_us })
    }

    /// Opens a run's directory.
    ///
    /// # Errors
    /// [`RunDirectoryError`]; see its variants.
    pub fn open(path: &Path) -> Result<Self, RunDirectoryError> {
        let file = path.join("run.json");
        let Some(text) = read_small(&file)? else { return Err(RunDirectoryError::NotARun { path: path.into() }) };
        let damaged = |reason: String| RunDirectoryError::Damaged { path: file.clone(), reason };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let found = value.get("format").and_then(serde_json::Value::as_u64);
        match found {
            None => return Err(damaged("it has no format number".into())),
            Some(found) if found > u64::from(RUN_DIRECTORY_FORMAT) => {
                return Err(RunDirectoryError::Newer { path: file, found });
            }
            Some(_) => {}
        }
        let content: RunFile = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        content.spec.validate().map_err(|source| RunDirectoryError::Spec { path: file.clone(), source })?;
        if content.spec.id() != content.run {
            return Err(damaged(format!("the spec is that of run {}, not of {}", content.spec.id(), content.run)));
        }
        let secret = read_secret(&path.join("join-secret"))?;
        Ok(Self { path: path.into(), spec: content.spec, secret, created_unix_us: content.created_unix_us })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run trains.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// What lets peers into the run.
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// When the directory was made, in microseconds since the Unix epoch.
    pub fn created_unix_us(&self) -> u64 {
        self.created_unix_us
    }

    /// The directory of the peer called `name`, made if it is not there.
    ///
    /// # Errors
    /// [`RunDirectoryError::PeerName`] or [`RunDirectoryError::Io`].
    pub fn peer_directory(&self, name: &str) -> Result<PathBuf, RunDirectoryError> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !plain || !(1..=MAX_NAME).contains(&name.len()) {
            return Err(RunDirectoryError::PeerName(name.into()));
        }
        let path = self.path.join("peers").join(name);
        fs::create_dir_all(&path).map_err(io("create", &path))?;
        Ok(path)
    }

    /// The directories of all peers that were started here, by name; numbers in numeric order.
    ///
    /// # Errors
    /// [`RunDirectoryError::Io`].
    pub fn peers(&self) -> Result<Vec<(String, PathBuf)>, RunDirectoryError> {
        let path = self.path.join("peers");
        let mut peers = Vec::new();
        for entry in fs::read_dir(&path).map_err(io("list", &path))? {
            let entry = entry.map_err(io("list", &path))?;
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_dir()) {
                peers.push((name, entry.path()));
            }
        }
        peers.sort_by_key(|(name, _)| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
        Ok(peers)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RunDirectoryError + use<> {
    let path = path.to_path_buf();
    move |source| RunDirectoryError::Io { action, path, source }
}

/// Writes a file that only the user can read, as a whole or not at all.
fn write_new(path: &Path, content: &str) -> Result<(), RunDirectoryError> {
    let temporary = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(io("write", path)(error));
    }
    Ok(())
}

fn read_small(path: &Path) -> Result<Option<String>, RunDirectoryError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.map_err(io("open", path))?,
    };
    let mut text = String::new();
    file.take(MAX_RUN_FILE).read_to_string(&mut text).map_err(io("read", path))?;
    Ok(Some(text))
}

fn read_secret(path: &Path) -> Result<JoinSecret, RunDirectoryError> {
    let damaged = |reason: &str| RunDirectoryError::Damaged { path: path.into(), reason: reason.into() };
    let text = read_small(path)?.ok_or_else(|| damaged("it is missing"))?;
    let id: RunId = text.trim().parse().map_err(|_| damaged("it is not 64 hexadecimal digits"))?;
    Ok(JoinSecret::from_bytes(id.0))
}

fn hex(bytes: &[u8; 32]) -> String {
    RunId(*bytes).to_string()
}

#[cfg(test)]
mod tests {
    use peerless_protocol::{DatasetSpec, Digest, EvaluationSpec, SPEC_VERSION};

    use super::*;

    fn spec() -> RunSpec {
        let dataset = DatasetSpec {
            name: "mnist".into(),
            digest: Digest::of(b"data"),
            train_samples: 60_000,
            test_samples: 10_000,
        };
        let json = serde_json::json!({
            "version": SPEC_VERSION, "model": "lenet5", "dataset": dataset, "seed": 1, "units_per_round": 4,
            "samples_per_unit": 64, "rounds": 10,
            "optimizer": serde_json::to_value("sgd".parse::<peerless_protocol::Optimizer>().unwrap()).unwrap(),
            "learning_rate": {"base": 0.1, "warm_up_rounds": 0, "schedule": "constant"},
            "clip_norm": null, "fraction_bits": 40,
            "evaluation": EvaluationSpec { every_rounds: 5, samples_per_unit: 250 },
            "early_stopping": null, "until_correct": null,
        });
        serde_json::from_value(json).unwrap()
    }

    fn created() -> (tempfile::TempDir, RunDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let run = RunDirectory::create(&run, spec(), JoinSecret::from_bytes([7; 32]), 5).unwrap();
        (directory, run)
    }

    #[test]
    fn a_run_is_opened_as_it_was_created() {
        let (_guard, run) = created();
        let opened = RunDirectory::open(run.path()).unwrap();
        assert_eq!((opened.spec().id(), opened.secret().as_bytes()), (spec().id(), &[7; 32]));
    }

    #[test]
    fn a_second_run_in_the_same_directory_is_refused() {
        let (_guard, run) = created();
        let again = RunDirectory::create(run.path(), spec(), JoinSecret::from_bytes([8; 32]), 6);
        assert!(matches!(again, Err(RunDirectoryError::Exists { .. })), "{again:?}");
    }

    #[test]
    fn a_directory_of_a_newer_version_says_so() {
        let (_guard, run) = created();
        let file = run.path().join("run.json");
        let text = fs::read_to_string(&file).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(&file, text).unwrap();
        let error = RunDirectory::open(run.path()).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("newer"), "{error}");
    }

    #[test]
    fn an_edited_spec_is_noticed() {
        let (_guard, run) = created();
        let file = run.path().join("run.json");
        let text = fs::read_to_string(&file).unwrap().replace("\"seed\": 1", "\"seed\": 2");
        fs::write(&file, text).unwrap();
        assert!(matches!(RunDirectory::open(run.path()), Err(RunDirectoryError::Damaged { .. })));
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        let (_guard, run) = created();
        for name in ["", "../x", "a/b", ".", "a b", &"x".repeat(33)] {
            assert!(matches!(run.peer_directory(name), Err(RunDirectoryError::PeerName(_))), "{name:?}");
        }
    }

    #[test]
    fn the_secret_is_readable_by_the_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let (_guard, run) = created();
        let mode = fs::metadata(run.path().join("join-secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
