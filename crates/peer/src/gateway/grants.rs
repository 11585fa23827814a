//! Capabilities: who may read and write what, until when.
//!
//! A token is 256 random bits that the gateway finds in a table. The other way, a keyed digest over
//! (invocation, kind, expiry), would need no table; but there has to be one anyway, since an open file
//! is behind every read and a right to write is used up by being used. A table also takes rights back at
//! once, has no key that could be lost, and forgets everything with the process.
//!
//! The table holds digests of tokens. So it tells no secret, and how long a search takes says something
//! about the digest of a guess only: comparing in constant time by construction.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use hyper::StatusCode;
use peerless_protocol::Digest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::refusal::Refusal;
use crate::data_path::{DataPathError, OutputSize};

const TOKEN_BYTES: usize = 32;

/// Revoked tokens that are remembered, so that who comes late is told so.
const REMEMBERED: usize = 4096;

/// Part of an open file.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub file: Arc<File>,
    pub offset: u64,
    pub length: u64,
}

/// What a token allows.
#[derive(Debug)]
pub(super) struct Rights {
    pub parameters: Option<Window>,
    pub dataset: bool,
    pub output: Option<Destination>,
    pub expires: Instant,
}

/// What a write goes to.
#[derive(Debug)]
pub(super) struct Destination {
    /// Where it is gathered. Becomes `path` when the peer collects it.
    pub partial: PathBuf,
    pub path: PathBuf,
    pub size: OutputSize,
}

/// Digest of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key([u8; 32]);

impl Key {
    fn of(token: &[u8]) -> Self {
        Self(*blake3::hash(token).as_bytes())
    }
}

/// All tokens of a gateway.
#[derive(Default)]
pub(super) struct Grants(Mutex<Table>);

#[derive(Default)]
struct Table {
    records: BTreeMap<Key, Record>,
    /// Oldest first.
    revoked: VecDeque<Key>,
}

struct Record {
    number: u64,
    /// None when it was revoked.
    permission: Option<Arc<Permission>>,
}

/// A token's rights and what became of them.
#[derive(Debug)]
pub(super) struct Permission {
    pub rights: Rights,
    progress: Mutex<Progress>,
    over: watch::Sender<bool>,
}

/// The one write of a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    Underway,
    Complete(Digest),
    Revoked,
}

/// Tokens and rights are given out by this, and end with it.
pub(super) struct Capability {
    grants: Arc<Grants>,
    key: Key,
    permission: Arc<Permission>,
}

impl Grants {
    /// A new token for grant `number` and what holds its rights.
    pub fn issue(self: &Arc<Self>, number: u64, rights: Rights) -> Result<(String, Capability), DataPathError> {
        let mut random = [0; TOKEN_BYTES];
        getrandom::fill(&mut random).map_err(|error| DataPathError::Randomness(error.to_string()))?;
        let token = BASE64URL_NOPAD.encode(&random);
        let key = Key::of(token.as_bytes());
        let (progress, over) = (Mutex::new(Progress::Open), watch::Sender::new(false));
        let permission = Arc::new(Permission { rights, progress, over });
        self.lock().records.insert(key, Record { number, permission: Some(Arc::clone(&permission)) });
        Ok((token, Capability { grants: Arc::clone(self), key, permission }))
    }

    /// The permission that a token gives for grant `number`.
    pub fn authorise(&self, number: u64, token: &[u8]) -> Result<Arc<Permission>, Refusal> {
        let table = self.lock();
        let record = table.records.get(&Key::of(token)).ok_or_else(Refusal::unauthorised)?;
        if record.number != number {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this token is another task's"));
        }
        let ended = || Refusal::new(StatusCode::FORBIDDEN, "this attempt is over");
        let permission = record.permission.as_ref().ok_or_else(ended)?;
        if permission.rights.expires <= Instant::now() {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "this token has expired"));
        }
        Ok(Arc::clone(permission))
    }

    fn revoke(&self, key: &Key) {
        let mut table = self.lock();
        if let Some(record) = table.records.get_mut(key) {
            record.permission = None;
        }
        table.revoked.push_back(*key);
        if table.revoked.len() > REMEMBERED
            && let Some(oldest) = table.revoked.pop_front()
        {
            table.records.remove(&oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every holder leaves the table consistent, even one that panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permission {
    /// Resolves when nothing is allowed any more.
    pub async fn ended(&self) {
        let mut over = self.over.subscribe();
        tokio::select! {
            _ = over.wait_for(|over| *over) => {}
            () = sleep_until(self.rights.expires) => {}
        }
    }

    /// Whether nothing is allowed any more.
    pub fn is_over(&self) -> bool {
        *self.over.borrow() || self.rights.expires <= Instant::now()
    }

    /// Takes the right to write, which goes back if the write is dropped before its end.
    pub fn begin_write(self: &Arc<Self>) -> Result<Write, Refusal> {
        let refused = |status, why| Err(Refusal::new(status, why));
        if self.rights.output.is_none() {
            return refused(StatusCode::FORBIDDEN, "this task writes nothing");
        }
        let mut progress = self.progress();
        match *progress {
            Progress::Open => {}
            Progress::Underway => return refused(StatusCode::CONFLICT, "the output is being written"),
            Progress::Complete(_) => return refused(StatusCode::FORBIDDEN, "the output has been written"),
            Progress::Revoked => return refused(StatusCode::FORBIDDEN, "this attempt is over"),
        }
        *progress = Progress::Underway;
        Ok(Write { permission: Arc::clone(self) })
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_partial(&self) {
        if let Some(output) = &self.rights.output {
            // Mostly there is none; what cannot be removed goes with the round's outputs.
            let _ = fs::remove_file(&output.partial);
        }
    }
}

/// A write under way.
pub(super) struct Write {
    permission: Arc<Permission>,
}

impl Write {
    /// Uses the right up: what is in the partial file is the output, and this is its digest. False if the
    /// right has ended.
    pub fn complete(self, digest: Digest) -> bool {
        let mut progress = self.permission.progress();
        let granted = *progress == Progress::Underway && !self.permission.is_over();
        if granted {
            *progress = Progress::Complete(digest);
        }
        granted
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let mut progress = self.permission.progress();
        match *progress {
            Progress::Complete(_) => {}
            Progress::Underway => {
                *progress = Progress::Open;
                self.permission.remove_partial();
            }
            Progress::Open | Progress::Revoked => self.permission.remove_partial(),
        }
    }
}

impl Capability {
    /// Moves a complete output to its place if it is the one reported.
    pub fn collect(&self, reported: Digest) -> Result<(), DataPathError> {
        let Progress::Complete(found) = *self.permission.progress() else { return Err(DataPathError::NotWritten) };
        let output = self.permission.rights.output.as_ref().ok_or(DataPathError::NotWritten)?;
        if found != reported {
            return Err(DataPathError::Damaged { found, reported });
        }
        let failed = |source| DataPathError::File { action: "collect", path: output.path.clone(), source };
        fs::rename(&output.partial, &output.path).map_err(failed)
    }
}

impl Drop for Capability {
    fn drop(&mut self) {
        self.grants.revoke(&self.key);
        let before = std::mem::replace(&mut *self.permission.progress(), Progress::Revoked);
        if matches!(before, Progress::Complete(_)) {
            self.permission.remove_partial();
        }
        // A write under way removes its file itself, when it stops.
        self.permission.over.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rights() -> Rights {
        let expires = Instant::now() + Duration::from_secs(60);
        Rights { parameters: None, dataset: false, output: None, expires }
    }

    fn status(result: Result<Arc<Permission>, Refusal>) -> Option<u16> {
        result.err().map(|refusal| refusal.status().as_u16())
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_own_grant_until_that_is_dropped() {
        let grants = Arc::new(Grants::default());
        let (token, capability) = grants.issue(1, rights()).unwrap();
        let (other, _other) = grants.issue(2, rights()).unwrap();
        assert_eq!(status(grants.authorise(1, token.as_bytes())), None);
        assert_eq!(status(grants.authorise(1, other.as_bytes())), Some(403));
        assert_eq!(status(grants.authorise(1, b"guess")), Some(401));
        drop(capability);
        assert_eq!(status(grants.authorise(1, token.as_bytes())), Some(403));
        assert_eq!(status(grants.authorise(2, other.as_bytes())), None);
    }

    #[tokio::test]
    async fn an_expired_token_is_refused() {
        let grants = Arc::new(Grants::default());
        let (token, _capability) = grants.issue(1, Rights { expires: Instant::now(), ..rights() }).unwrap();
        assert_eq!(status(grants.authorise(1, token.as_bytes())), Some(403));
    }

    #[tokio::test]
    async fn the_table_does_not_grow_with_the_run() {
        let grants = Arc::new(Grants::default());
        for number in 0..2 * REMEMBERED as u64 {
            grants.issue(number, rights()).unwrap();
        }
        let table = grants.lock();
        assert_eq!((table.records.len(), table.revoked.len()), (REMEMBERED, REMEMBERED));
    }

    #[tokio::test]
    async fn tokens_are_long_and_differ() {
        let grants = Arc::new(Grants::default());
        let (one, _one) = grants.issue(1, rights()).unwrap();
        let (two, _two) = grants.issue(1, rights()).unwrap();
        assert_eq!(BASE64URL_NOPAD.decode(one.as_bytes()).unwrap().len(), TOKEN_BYTES);
        assert_ne!(one, two);
    }
}
