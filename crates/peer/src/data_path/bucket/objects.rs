//! The objects of one peer: all keys begin with its run and its id, so that nobody else's are touched.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::signer::{Method, Signer};
use object_store::{GetResult, ObjectStore, ObjectStoreExt, WriteMultipart};
use peerless_protocol::Digest;
use peerless_protocol::function::Remote;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::error::BucketError;
use crate::data_path::{DataPathError, DataPathSnapshot, OutputFile};

/// Objects up to this are written with one request, longer ones in parts of it.
const PART_BYTES: usize = 16 << 20;

/// Parts that are under way at the same time.
const PARTS_UNDER_WAY: usize = 4;

/// Bytes that are expected to move in a second.
const SLOWEST_RATE: u64 = 1 << 20;

/// S3's longest life of a presigned URL.
pub(super) const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// A part of an open file that becomes an object.
#[derive(Debug, Clone)]
pub(super) struct Content {
    pub file: Arc<std::fs::File>,
    /// Where it starts, in bytes.
    pub offset: u64,
    pub bytes: u64,
    /// What it is, for messages.
    pub name: PathBuf,
}

/// A bucket, as far as it is this peer's.
pub(super) struct Objects {
    store: AmazonS3,
    /// The bucket's URL, for messages.
    bucket: String,
    /// What all keys begin with.
    base: String,
    patience: Duration,
    runtime: Handle,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    denied: AtomicU64,
}

impl Objects {
    /// `base` is what all keys begin with. To be called on the runtime that objects are removed on in the background.
    pub fn new(store: AmazonS3, bucket: String, base: String, patience: Duration) -> Arc<Self> {
        let (runtime, counters) = (Handle::current(), Counters::default());
        Arc::new(Self { store, bucket, base, patience, runtime, counters })
    }

    pub fn snapshot(&self) -> DataPathSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { requests, bytes_in, bytes_out, denied } = &self.counters;
        let refused = Some(get(denied)).filter(|&denied| denied > 0).map(|denied| (403, denied));
        DataPathSnapshot {
            requests: get(requests),
            bytes_in: get(bytes_in),
            bytes_out: get(bytes_out),
            refused: refused.into_iter().collect(),
        }
    }

    /// Gets credentials, from wherever they come.
    pub async fn prove(&self) -> Result<(), BucketError> {
        let no_credentials = |reason| BucketError::NoCredentials { bucket: self.bucket.clone(), reason };
        match timeout(self.patience, self.store.credentials().get_credential()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(no_credentials("neither the environment nor a role of this machine has any".to_owned())),
            Err(_) => Err(no_credentials(format!("the machine's role is silent for {:?}", self.patience))),
        }
    }

    /// A key that nobody else has.
    pub fn new_object(self: &Arc<Self>, folder: &str) -> Result<Object, BucketError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| BucketError::Randomness(error.to_string()))?;
        let key = Key::from(format!("{}/{folder}/{}", self.base, HEXLOWER.encode(&random)));
        Ok(Object { objects: Arc::clone(self), key, stays: false })
    }

    /// An object with this key, which is one below those of this peer.
    pub fn object(self: &Arc<Self>, key: &str) -> Object {
        Object { objects: Arc::clone(self), key: Key::from(key), stays: false }
    }

    /// An object that is for other peers too, and stays.
    pub fn lasting_object(self: &Arc<Self>, key: &str) -> Object {
        Object { objects: Arc::clone(self), key: Key::from(key), stays: true }
    }

    /// Does each of what a peer needs a right to, once.
    pub async fn try_out(self: &Arc<Self>) -> Result<(), BucketError> {
        let object = self.new_object("probe")?;
        let written = Bytes::from_static(b"is this bucket of use?");
        object.put_bytes(written.clone()).await?;
        if object.get_bytes().await? != written {
            let reason = "it gives other bytes than were written".to_owned();
            return Err(BucketError::Refused { bucket: self.bucket.clone(), action: "keep an object", reason });
        }
        object.remove().await
    }

    /// Removes everything of this peer.
    pub async fn sweep(&self) -> Result<usize, BucketError> {
        let base = Key::from(self.base.as_str());
        let listed = self.store.list(Some(&base)).map_ok(|object| object.location);
        let keys: Vec<Key> = self.request("list objects", 0, listed.try_collect()).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        let found = futures_util::stream::iter(keys.into_iter().map(Ok)).boxed();
        let removed = self.request("remove objects", 0, self.store.delete_stream(found).try_collect::<Vec<Key>>());
        Ok(removed.await?.len())
    }

    async fn remove(&self, key: &Key) -> Result<(), BucketError> {
        self.request("remove an object", 0, self.store.delete(key)).await
    }

    /// One request, or several that belong together, which move so many bytes.
    async fn request<T>(
        &self,
        action: &'static str,
        bytes: u64,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BucketError> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        let limit = self.patience + Duration::from_secs(bytes / SLOWEST_RATE);
        let Ok(answered) = timeout(limit, answer).await else {
            let reason = format!("no answer within {limit:?}");
            return Err(BucketError::Unreachable { bucket: self.bucket.clone(), action, reason });
        };
        answered.map_err(|error| {
            let error = BucketError::of_request(&self.bucket, action, &error);
            if matches!(error, BucketError::Denied { .. }) {
                self.counters.denied.fetch_add(1, Ordering::Relaxed);
            }
            error
        })
    }
}

/// An object, written or not yet. Dropped, it is removed in the background, unless it is to stay.
pub(super) struct Object {
    objects: Arc<Objects>,
    key: Key,
    /// Not to be removed any more: it is gone already, or for others too.
    stays: bool,
}

impl Object {
    /// Removes it now.
    pub async fn remove(mut self) -> Result<(), BucketError> {
        self.stays = true;
        self.objects.remove(&self.key).await
    }

    /// The right to read or write it until then, and nothing else.
    pub async fn presigned(&self, method: Method, expires: Instant) -> Result<Remote, BucketError> {
        let objects = &self.objects;
        let left = expires.saturating_duration_since(Instant::now()).clamp(Duration::from_secs(1), LONGEST_LIFETIME);
        let signed = objects.store.signed_url(method, &self.key, left);
        // Without a request, unless the credentials have to be renewed.
        let url = timeout(objects.patience, signed).await.unwrap_or_else(|_| {
            Err(object_store::Error::Generic { store: "S3", source: "the credentials are not renewed in time".into() })
        });
        let url = url.map_err(|error| BucketError::of_request(&objects.bucket, "sign a URL", &error))?;
        Ok(Remote { url: url.into(), token: None })
    }

    /// Writes it. Requests made.
    pub async fn put(&self, content: &Content) -> Result<u32, DataPathError> {
        self.objects.counters.bytes_out.fetch_add(content.bytes, Ordering::Relaxed);
        if content.bytes > PART_BYTES as u64 {
            return self.put_parts(content).await;
        }
        self.put_bytes(read(content, 0, content.bytes as usize).await?).await?;
        Ok(1)
    }

    /// Writes it with one request.
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<(), BucketError> {
        let length = bytes.len() as u64;
        self.objects.request("write an object", length, self.objects.store.put(&self.key, bytes.into())).await?;
        Ok(())
    }

    async fn put_parts(&self, content: &Content) -> Result<u32, DataPathError> {
        let objects = &self.objects;
        let begun = objects.request("write an object", 0, objects.store.put_multipart(&self.key)).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(begun, PART_BYTES);
        match self.put_each(&mut upload, content).await {
            Ok(parts) => {
                let rest = PART_BYTES as u64 * PARTS_UNDER_WAY as u64;
                objects.request("write an object", rest, upload.finish()).await?;
                Ok(parts + 2)
            }
            Err(error) => {
                // What cannot be taken back is for the bucket's lifecycle rule.
                let _ = timeout(objects.patience, upload.abort()).await;
                Err(error)
            }
        }
    }

    async fn put_each(&self, upload: &mut WriteMultipart, content: &Content) -> Result<u32, DataPathError> {
        let (mut position, mut parts) = (0, 0);
        while position < content.bytes {
            let length = usize::try_from(content.bytes - position).unwrap_or(PART_BYTES).min(PART_BYTES);
            let part = read(content, position, length).await?;
            let room = upload.wait_for_capacity(PARTS_UNDER_WAY);
            self.objects.request("write an object", (PART_BYTES * PARTS_UNDER_WAY) as u64, room).await?;
            upload.put(part);
            (position, parts) = (position + length as u64, parts + 1);
        }
        Ok(parts)
    }

    /// Its length, if it is there.
    pub async fn head(&self) -> Result<u64, BucketError> {
        let head = self.objects.store.head(&self.key);
        self.objects.request("look for an object", 0, head).await.map(|meta| meta.size)
    }

    /// Reads a short object.
    pub async fn get_bytes(&self) -> Result<Bytes, BucketError> {
        let read = async { self.objects.store.get(&self.key).await?.bytes().await };
        self.objects.request("read an object", 0, read).await
    }

    /// Reads an object that must have this length.
    pub async fn get_exactly(&self, bytes: u64) -> Result<Bytes, BucketError> {
        let read = async {
            let answer = self.objects.store.get(&self.key).await?;
            if answer.meta.size != bytes {
                let source = format!("it has {} bytes instead of {bytes}", answer.meta.size).into();
                return Err(object_store::Error::Generic { store: "S3", source });
            }
            answer.bytes().await
        };
        let read = self.objects.request("read an object", bytes, read).await?;
        self.objects.counters.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        Ok(read)
    }

    /// Moves it into the place of an output, if it is what a function has reported.
    pub async fn collect(&self, output: &OutputFile, reported: Digest) -> Result<(), DataPathError> {
        let (objects, size) = (&self.objects, output.size);
        let begun = objects.request("read an object", 0, objects.store.get(&self.key)).await;
        let answer = begun.map_err(|error| match error {
            BucketError::NoObject { .. } => DataPathError::NotWritten,
            error => error.into(),
        })?;
        let found = answer.meta.size;
        if !size.allows(found) {
            return Err(DataPathError::WrongLength { found, expected: size.limit() });
        }
        let partial = Partial::beside(output, &self.key);
        let limit = objects.patience + Duration::from_secs(found / SLOWEST_RATE);
        let fetched = timeout(limit, self.fetch(answer, &partial, size.limit())).await.unwrap_or_else(|_| {
            let reason = format!("it has not come within {limit:?}");
            Err(BucketError::Unreachable { bucket: objects.bucket.clone(), action: "read an object", reason }.into())
        });
        let (digest, length) = fetched?;
        if !size.allows(length) {
            return Err(DataPathError::WrongLength { found: length, expected: size.limit() });
        }
        if digest != reported {
            return Err(DataPathError::Damaged { found: digest, reported });
        }
        let failed = |source| DataPathError::File { action: "collect", path: output.path.clone(), source };
        fs::rename(&partial.0, &output.path).map_err(failed)
    }

    /// The digest and the length of what came, which is in the file now.
    async fn fetch(&self, answer: GetResult, to: &Partial, limit: u64) -> Result<(Digest, u64), DataPathError> {
        let failed = |source| DataPathError::File { action: "write", path: to.0.clone(), source };
        let mut file = File::create(&to.0).await.map_err(failed)?;
        let (mut hasher, mut length) = (blake3::Hasher::new(), 0_u64);
        let mut pieces = answer.into_stream();
        while let Some(piece) = pieces.next().await {
            let cut = |error| BucketError::of_request(&self.objects.bucket, "read an object", &error);
            let piece = piece.map_err(cut)?;
            length += piece.len() as u64;
            self.objects.counters.bytes_in.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if length > limit {
                break;
            }
            hasher.update(&piece);
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok((Digest(*hasher.finalize().as_bytes()), length))
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let (objects, key) = (Arc::clone(&self.objects), self.key.clone());
        self.objects.runtime.spawn(async move {
            if let Err(error) = objects.remove(&key).await {
                tracing::debug!(%error, "an object is left for the end of the peer");
            }
        });
    }
}

/// A file that is on its way to an output's place. Dropped before it is there, it is removed.
struct Partial(PathBuf);

impl Partial {
    /// Several attempts may write at the same time, each to a file of its own.
    fn beside(output: &OutputFile, key: &Key) -> Self {
        let mut name = OsString::from(&output.path);
        name.push(format!(".{}.partial", key.filename().unwrap_or_default()));
        Self(name.into())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It has been renamed, mostly.
        let _ = fs::remove_file(&self.0);
    }
}

/// A part of its bytes.
async fn read(content: &Content, position: u64, length: usize) -> Result<Bytes, DataPathError> {
    let (file, offset) = (Arc::clone(&content.file), content.offset + position);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
    });
    let failed = |source| DataPathError::File { action: "read", path: content.name.clone(), source };
    read.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)
}
