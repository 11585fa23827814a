//! The dataset's files as objects, for functions whose machine has none: they read the samples of their unit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::signer::Method;
use peerless_protocol::function::Remote;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::BucketError;
use super::objects::{Content, Object, Objects};
use crate::data_path::DataPathError;

/// Files that are in the bucket under their BLAKE3 digests, so that peers and runs can share them. So nobody knows when
/// the last one has gone, and they stay.
pub(super) struct Dataset {
    files: BTreeMap<String, (Content, Object)>,
    /// One at a time looks whether they are there: they are written once.
    looking: Mutex<()>,
}

impl Dataset {
    /// Reads the files to know their digests; `folder` is what all keys begin with.
    pub async fn open(
        files: BTreeMap<String, PathBuf>,
        folder: String,
        objects: Arc<Objects>,
    ) -> Result<Self, DataPathError> {
        let opened = tokio::task::spawn_blocking(move || {
            let open = |(name, path): (String, PathBuf)| {
                let (content, digest) = content(&path)?;
                let object = objects.lasting_object(&format!("{folder}/{digest}/{name}"));
                Ok((name, (content, object)))
            };
            files.into_iter().map(open).collect::<Result<_, DataPathError>>()
        });
        let files = opened.await.map_err(|_| DataPathError::Thread)??;
        Ok(Self { files, looking: Mutex::default() })
    }

    /// Writes those that are not there. How many.
    pub async fn provide(&self) -> Result<usize, DataPathError> {
        let _only_one = self.looking.lock().await;
        let mut written = 0;
        for (content, object) in self.files.values() {
            let there = match object.head().await {
                Ok(bytes) => bytes == content.bytes,
                Err(BucketError::NoObject { .. }) => false,
                Err(error) => return Err(error.into()),
            };
            if !there {
                object.put(content).await?;
                written += 1;
            }
        }
        Ok(written)
    }

    /// The rights to read them, by name.
    pub async fn presigned(&self, expires: Instant) -> Result<BTreeMap<String, Remote>, BucketError> {
        let mut remotes = BTreeMap::new();
        for (name, (_, object)) in &self.files {
            remotes.insert(name.clone(), object.presigned(Method::GET, expires).await?);
        }
        Ok(remotes)
    }
}

/// A whole file, and the digest of its bytes.
fn content(path: &Path) -> Result<(Content, blake3::Hash), DataPathError> {
    let read = || -> io::Result<_> {
        let file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file)?;
        Ok((file, hasher))
    };
    let failed = |source| DataPathError::File { action: "read", path: path.to_owned(), source };
    let (file, hasher) = read().map_err(failed)?;
    let content = Content { file: Arc::new(file), offset: 0, bytes: hasher.count(), name: path.to_owned() };
    Ok((content, hasher.finalize()))
}
