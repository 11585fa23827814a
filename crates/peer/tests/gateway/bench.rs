//! A gateway under test, and clients for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerless_peer::data_path::{DataPath, DataPathError, Grant, Offer, OutputFile, OutputSize, Vector};
use peerless_peer::gateway::{Gateway, GatewayConfig};
use peerless_protocol::Digest;
use peerless_protocol::function::{Place, Remote};
use tempfile::TempDir;
use tokio::time::Instant;

/// What stands before the vector in its file, as a state's header does.
pub const HEADER: &[u8] = b"a header that is nobody's business";
pub const FILE: &str = "train-images-idx3-ubyte";

pub struct Bench {
    pub folder: TempDir,
    pub gateway: Gateway,
    pub agent: ureq::Agent,
}

/// A grant, and where its output goes.
pub struct Granted {
    pub grant: Box<dyn Grant>,
    pub output: PathBuf,
}

/// An answer, whoever asked.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Bench {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub async fn with(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), dataset()).unwrap();
        fs::create_dir(folder.path().join("outputs")).unwrap();
        let mut config = GatewayConfig::new("127.0.0.1:0".parse().unwrap());
        config.dataset.insert(FILE.into(), folder.path().join(FILE));
        adjust(&mut config);
        let gateway = Gateway::start(&config).await.unwrap();
        Self { folder, gateway, agent: agent() }
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
        self.folder.path().join("outputs").join(name)
    }

    pub async fn offer(&self, offer: Offer) -> Granted {
        let output = offer.output.as_ref().map(|output| output.path.clone()).unwrap_or_default();
        Granted { grant: self.gateway.offer(offer).await.unwrap(), output }
    }

    /// Names of what lies where outputs go.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("outputs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub async fn nothing_is_left(&self) {
        self.eventually("outputs are removed", || self.leftovers().is_empty()).await;
    }

    pub async fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..1000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to it that {what}: {:?}, {:?}", self.leftovers(), self.gateway.snapshot());
    }

    pub fn get(&self, remote: &Remote, range: Option<&str>) -> Answer {
        let mut request = self.agent.get(&remote.url).header("Authorization", bearer(remote));
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        Answer::of(request.call().unwrap())
    }

    pub fn put(&self, remote: &Remote, bytes: &[u8]) -> Answer {
        Answer::of(self.agent.put(&remote.url).header("Authorization", bearer(remote)).send(bytes).unwrap())
    }

    /// Without a length: in chunks.
    pub fn put_chunked(&self, remote: &Remote, bytes: &[u8]) -> Answer {
        let body = ureq::SendBody::from_owned_reader(std::io::Cursor::new(bytes.to_vec()));
        Answer::of(self.agent.put(&remote.url).header("Authorization", bearer(remote)).send(body).unwrap())
    }

    pub fn raw(&self, request: &[u8]) -> Answer {
        raw(self.gateway.local_address(), request)
    }

    /// A GET of a target as it is, with a valid token.
    pub fn get_target(&self, target: &str, remote: &Remote) -> Answer {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\r\n", bearer(remote));
        self.raw(head.as_bytes())
    }
}

impl Granted {
    /// Collects whatever has been written, but not under another digest.
    pub async fn collect(&mut self) -> Result<(), DataPathError> {
        match self.grant.collect(Digest([0; 32])).await {
            Err(DataPathError::Damaged { found, .. }) => self.grant.collect(found).await,
            other => other,
        }
    }

    pub fn parameters(&self) -> Remote {
        remote(&self.grant.places().parameters.as_ref().unwrap().place)
    }

    pub fn destination(&self) -> Remote {
        remote(&self.grant.places().output)
    }

    pub fn dataset(&self) -> Remote {
        self.grant.places().dataset[FILE].clone()
    }
}

impl Answer {
    fn of(mut response: ureq::http::Response<ureq::Body>) -> Self {
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        Self { status, headers, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into()
}

pub fn remote(place: &Place) -> Remote {
    match place {
        Place::Remote(remote) => remote.clone(),
        Place::Path(path) => panic!("{} is a file", path.display()),
    }
}

pub fn bearer(remote: &Remote) -> String {
    format!("Bearer {}", remote.token.as_ref().unwrap())
}

/// The part of a URL that stands in a request.
pub fn target(remote: &Remote) -> &str {
    &remote.url[remote.url.find("/v1/").unwrap()..]
}

pub fn dataset() -> Vec<u8> {
    bytes(100_000)
}

/// Bytes that differ from place to place.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// The head of a PUT of `length` bytes.
pub fn put_head(remote: &Remote, length: usize) -> Vec<u8> {
    let (target, bearer) = (target(remote), bearer(remote));
    format!("PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: {length}\r\n\r\n").into()
}

/// Sends bytes on a connection of their own and reads one answer.
pub fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    // The gateway may answer and close before all is sent.
    let _ = stream.write_all(request);
    read_answer(&mut stream).expect("an answer")
}

/// Reads one answer; `None` if the connection ends before it is complete.
pub fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<_, _> = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body })
}

/// Whether the other side closes the connection, without sending anything more, within 30 s.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.shutdown(Shutdown::Write);
    match stream.read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}
