//! A bucket under test, and a client for it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use peerless_peer::data_path::{
    Bucket, BucketConfig, Credentials, DataPath, Grant, Offer, OutputFile, OutputSize, Vector,
};
use peerless_protocol::function::{Place, Remote};
use peerless_protocol::{Digest, PeerId, RunId};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::weed::{BUCKET, KEY, SECRET, Weed};

/// What stands before the vector in its file, as a state's header does.
const HEADER: &[u8] = b"a header that is nobody's business";

pub struct Bench {
    pub folder: TempDir,
    pub bucket: Bucket,
    /// What all keys of this peer begin with.
    pub base: String,
    agent: ureq::Agent,
}

impl Bench {
    /// With the server that the tests of this process share, and a run of its own; `None` without a server.
    pub async fn start() -> Option<Self> {
        Some(Self::at(shared()?).await)
    }

    pub async fn at(weed: &Weed) -> Self {
        Self::of(config(weed), random_run(), peer(1)).await
    }

    pub async fn of(config: BucketConfig, run: RunId, peer: PeerId) -> Self {
        let bucket = Bucket::open(&config, &run, &peer).await.unwrap();
        let base = format!("{}/{run}/{peer}/", config.prefix);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        Self { folder: tempfile::tempdir().unwrap(), bucket, base, agent }
    }

    /// A vector in a file that is removed at once, as those of old states are.
    pub fn vector(&self, bytes: &[u8]) -> Vector {
        let path = self.folder.path().join("state");
        fs::write(&path, [HEADER, bytes, b"and a trailer"].concat()).unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        fs::remove_file(path).unwrap();
        Vector { file, offset: HEADER.len() as u64, elements: bytes.len() as u64 / 4, digest: Digest::of(bytes) }
    }

    pub fn unit(&self, bytes: &[u8], name: &str) -> Offer {
        Offer {
            parameters: Some(self.vector(bytes)),
            output: Some(OutputFile { path: self.output(name), size: OutputSize::Exactly(bytes.len() as u64) }),
            dataset: true,
            expires: Instant::now() + Duration::from_secs(60),
        }
    }

    pub fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn offer(&self, bytes: &[u8], name: &str) -> Box<dyn Grant> {
        self.bucket.offer(self.unit(bytes, name)).await.unwrap()
    }

    /// Names of what lies where outputs go.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Keys of this peer in the bucket, without what they begin with.
    pub fn keys(&self, weed: &Weed) -> Vec<String> {
        weed.objects().into_keys().filter_map(|key| Some(key.strip_prefix(&self.base)?.to_owned())).collect()
    }

    pub async fn keys_become(&self, weed: &Weed, what: &str, condition: impl Fn(&[String]) -> bool) {
        for _ in 0..1000 {
            if condition(&self.keys(weed)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to it that {what}: {:?}", self.keys(weed));
    }

    pub fn get(&self, remote: &Remote) -> (u16, Vec<u8>) {
        self.get_url(&remote.url)
    }

    pub fn get_url(&self, url: &str) -> (u16, Vec<u8>) {
        let mut answer = self.agent.get(url).header("Range", "bytes=0-99999999").call().unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap())
    }

    pub fn put(&self, remote: &Remote, bytes: &[u8]) -> u16 {
        self.put_url(&remote.url, bytes)
    }

    pub fn put_url(&self, url: &str, bytes: &[u8]) -> u16 {
        self.agent.put(url).send(bytes).unwrap().status().as_u16()
    }
}

/// The server that tests share which do nothing to it.
pub fn shared() -> Option<&'static Weed> {
    static SERVER: OnceLock<Option<Weed>> = OnceLock::new();
    SERVER.get_or_init(Weed::start).as_ref()
}

pub fn config(weed: &Weed) -> BucketConfig {
    BucketConfig {
        endpoint: Some(weed.endpoint()),
        credentials: Some(credentials(KEY, SECRET)),
        ..format!("s3://{BUCKET}/runs").parse().unwrap()
    }
}

pub fn credentials(key_id: &str, secret: &str) -> Credentials {
    Credentials { key_id: key_id.into(), secret: secret.into(), session_token: None }
}

pub fn random_run() -> RunId {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    RunId(bytes)
}

pub fn peer(number: u8) -> PeerId {
    PeerId([number; 32])
}

pub fn parameters(grant: &dyn Grant) -> Remote {
    remote(&grant.places().parameters.as_ref().unwrap().place)
}

pub fn destination(grant: &dyn Grant) -> Remote {
    remote(&grant.places().output)
}

fn remote(place: &Place) -> Remote {
    match place {
        Place::Remote(remote) => remote.clone(),
        Place::Path(path) => panic!("{} is a file", path.display()),
    }
}

/// Bytes that differ from place to place.
pub fn bytes(length: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
