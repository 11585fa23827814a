//! A peer's identity: its Ed25519 key and the file that holds it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use peerless_protocol::PeerId;
use thiserror::Error;

/// Length of the key file in bytes: the Ed25519 seed (RFC 8032) and nothing else.
pub const KEY_FILE_BYTES: usize = 32;

/// PKCS#8 v1 (RFC 5208, RFC 8410) around an Ed25519 seed: everything before the 32 bytes.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why an identity could not be made, read or written.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The operating system gave no random bytes.
    #[error("the operating system gave no randomness for a key: {0}")]
    Randomness(getrandom::Error),
    /// The file could not be read or written.
    #[error("cannot {action} the key file {path}: {source}")]
    Io {
        /// What was tried: read, write.
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the key file {path} has {length} bytes instead of {KEY_FILE_BYTES}: it is no peerless key; move it away")]
    Length {
        /// The key file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// Somebody else on the machine could read the key.
    #[error("the key file {path} has mode {mode:03o}, so others can use it: run chmod 600 {path}")]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is a key already, and it is not overwritten.
    #[error("the key file {path} exists already")]
    Exists {
        /// The key file.
        path: PathBuf,
    },
}

/// An Ed25519 key pair: who this peer is. The secret half is never printed.
#[derive(Clone)]
pub struct Identity(SigningKey);

impl Identity {
    /// A new identity from the operating system's randomness.
    ///
    /// # Errors
    /// [`IdentityError::Randomness`] when there is none.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = [0; KEY_FILE_BYTES];
        getrandom::fill(&mut seed).map_err(IdentityError::Randomness)?;
        Ok(Self::from_seed(seed))
    }

    /// The identity of an Ed25519 seed (RFC 8032, section 5.1.5).
    pub fn from_seed(seed: [u8; KEY_FILE_BYTES]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads the key file at `path`.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be read, is not [`KEY_FILE_BYTES`] long, or is readable or
    /// writable by group or others.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { action: "read", path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions { path: path.to_owned(), mode });
        }
        if metadata.len() != KEY_FILE_BYTES as u64 {
            return Err(IdentityError::Length { path: path.to_owned(), length: metadata.len() });
        }
        let mut seed = [0; KEY_FILE_BYTES];
        file.read_exact(&mut seed).map_err(failed)?;
        Ok(Self::from_seed(seed))
    }

    /// Writes the key file at `path` with mode 0600, whole or not at all, never over another one.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] or [`IdentityError::Io`].
    pub fn store(&self, path: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Io { action: "write", path: path.to_owned(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new()
            .prefix(".key-")
            .permissions(PermissionsExt::from_mode(0o600))
            .tempfile_in(folder)
            .map_err(failed)?;
        file.write_all(self.0.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist_noclobber(path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists { path: path.to_owned() },
            _ => failed(error.error),
        })?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Reads the key file at `path`, or makes an identity and writes it there when there is none.
    ///
    /// # Errors
    /// As [`Identity::load`], [`Identity::generate`] and [`Identity::store`].
    pub fn load_or_generate(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            known => return known,
        }
        let identity = Self::generate()?;
        match identity.store(path) {
            Ok(()) => Ok(identity),
            // Another process was faster: both must go on with the same key.
            Err(IdentityError::Exists { .. }) => Self::load(path),
            Err(error) => Err(error),
        }
    }

    /// The public key: this peer's name.
    pub fn peer_id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// The Ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The key itself, for the protocol to sign contributions with.
    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    /// The key as PKCS#8, for the TLS library.
    pub(crate) fn to_pkcs8(&self) -> Vec<u8> {
        [&PKCS8_PREFIX[..], self.0.as_bytes()].concat()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.peer_id().short())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ed25519_dalek::{Signature, VerifyingKey};

    use super::*;

    #[test]
    fn a_stored_identity_is_the_same_when_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        let identity = Identity::load_or_generate(&path).unwrap();
        assert_eq!(Identity::load_or_generate(&path).unwrap().peer_id(), identity.peer_id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn an_existing_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        let first = Identity::generate().unwrap();
        first.store(&path).unwrap();
        let error = Identity::generate().unwrap().store(&path).unwrap_err();
        assert!(matches!(error, IdentityError::Exists { .. }), "{error}");
        assert_eq!(Identity::load(&path).unwrap().peer_id(), first.peer_id());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        Identity::generate().unwrap().store(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(matches!(error, IdentityError::Permissions { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused_with_its_length() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 31, 33, 64] {
            let path = folder.path().join(length.to_string());
            fs::write(&path, vec![7; length]).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            let error = Identity::load(&path).unwrap_err();
            assert!(error.to_string().contains(&format!("has {length} bytes")), "{error}");
        }
    }

    #[test]
    fn a_signature_verifies_under_the_peer_id() {
        let identity = Identity::from_seed([3; 32]);
        let key = VerifyingKey::from_bytes(identity.peer_id().as_bytes()).unwrap();
        let signature = Signature::from_bytes(&identity.sign(b"round 7"));
        assert!(key.verify_strict(b"round 7", &signature).is_ok());
        assert!(key.verify_strict(b"round 8", &signature).is_err());
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let text = format!("{:?}", Identity::from_seed([0xab; 32]));
        assert!(!text.to_lowercase().contains("abab") && !text.contains("171, 171"), "{text}");
    }
}
