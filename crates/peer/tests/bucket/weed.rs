//! SeaweedFS, a real S3-compatible server, on ports and in a folder of its own. Other crates' tests use it, too.
#![allow(dead_code, reason = "every test program uses another part of this")]

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Far longer than it takes.
const LIMIT: Duration = Duration::from_secs(120);

/// The bucket that there is.
pub const BUCKET: &str = "models";
/// Who may do everything in it, and nothing in others.
pub const KEY: &str = "peer-key";
pub const SECRET: &str = "a-secret-key-that-nobody-may-see";
/// Who may only read.
pub const READER: (&str, &str) = ("reader-key", "another-secret-key");

/// Ends the server when this process ends, however that happens.
const WRAPPER: &str = r#"weed "$@" >log 2>&1 </dev/null & echo $! >pid; cat >/dev/null; kill -9 $! 2>/dev/null"#;

/// A running server.
pub struct Weed {
    folder: TempDir,
    ports: Vec<u16>,
    process: Option<(Child, ChildStdin)>,
}

impl Weed {
    /// `None`, said loudly, where there is no SeaweedFS.
    pub fn start() -> Option<Self> {
        if Command::new("weed").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            let test = thread::current().name().unwrap_or_default().to_owned();
            // Unlike that of `eprintln!`, this output is not captured.
            let skipped =
                format!("SKIPPED {test}: SeaweedFS is not installed: PATH=$(scripts/install-seaweedfs):$PATH");
            let _ = writeln!(std::io::stderr(), "{skipped}");
            return None;
        }
        let ports = std::iter::from_fn(|| Some(free_port())).take(9).collect();
        let folder = tempfile::tempdir().unwrap();
        let right = |action: &str| format!("{action}:{BUCKET}");
        let identity = |name: &str, (key, secret): (&str, &str), actions: &[&str]| {
            let actions: Vec<String> = actions.iter().map(|action| right(action)).collect();
            json!({ "name": name, "credentials": [{ "accessKey": key, "secretKey": secret }], "actions": actions })
        };
        let identities = json!({ "identities": [
            identity("peer", (KEY, SECRET), &["Read", "Write", "List"]),
            identity("reader", READER, &["Read", "List"]),
        ] });
        fs::write(folder.path().join("s3.json"), identities.to_string()).unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        let mut weed = Self { folder, ports, process: None };
        weed.launch();
        assert_eq!(weed.filer("POST", &format!("/buckets/{BUCKET}/"), "").map(|(status, _)| status), Some(201));
        Some(weed)
    }

    /// Starts it again after it was killed, with what it had.
    pub fn launch(&mut self) {
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc, metrics] = self.ports[..] else {
            panic!("nine ports")
        };
        let mut wrapper = Command::new("sh");
        wrapper.args(["-c", WRAPPER, "weed", "server", "-dir=data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        wrapper.args(["-filer", "-s3", "-s3.config=s3.json", "-s3.autoCreateBucket=false", "-master.telemetry=false"]);
        wrapper.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=256"]);
        for (flag, port) in [
            ("master.port", master),
            ("master.port.grpc", master_grpc),
            ("volume.port", volume),
            ("volume.port.grpc", volume_grpc),
            ("filer.port", filer),
            ("filer.port.grpc", filer_grpc),
            ("s3.port", s3),
            ("s3.port.grpc", s3_grpc),
            ("metricsPort", metrics),
        ] {
            wrapper.arg(format!("-{flag}={port}"));
        }
        wrapper.current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = wrapper.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        self.process = Some((child, stdin));
        let ready = || {
            let written = self.filer("PUT", "/ready/file", "x").is_some_and(|(status, _)| status == 201);
            written && TcpStream::connect(("127.0.0.1", s3)).is_ok()
        };
        let start = Instant::now();
        while !ready() {
            assert!(start.elapsed() < LIMIT, "SeaweedFS does not start: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        let Some((mut child, stdin)) = self.process.take() else { return };
        self.signal(Signal::KILL);
        drop(stdin);
        child.wait().unwrap();
    }

    /// Stops the server as if its machine hung. Its threads stop one after the other: when this returns, all have.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
        let is_stopped = |stat: &str| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'));
        let tasks = || fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero())).unwrap();
        let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        while !tasks().all(|task| is_stopped(&stat(task.unwrap()))) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Of the server itself.
    fn pid(&self) -> Pid {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[6])
    }

    /// Lengths of all objects of the bucket by key, as the file system behind it has them.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        let mut objects = BTreeMap::new();
        self.collect(&format!("/buckets/{BUCKET}"), &mut objects);
        objects
    }

    fn collect(&self, folder: &str, objects: &mut BTreeMap<String, u64>) {
        let Some((200, listing)) = self.filer("GET", &format!("{folder}/?limit=10000"), "") else { return };
        let listing: Value = serde_json::from_str(&listing).unwrap();
        for entry in listing["Entries"].as_array().into_iter().flatten() {
            let path = entry["FullPath"].as_str().unwrap();
            // The bit that Go sets for directories.
            if entry["Mode"].as_u64().unwrap() & (1 << 31) != 0 {
                if !path.ends_with("/.uploads") {
                    self.collect(path, objects);
                }
            } else {
                let key = path.strip_prefix(&format!("/buckets/{BUCKET}/")).unwrap().to_owned();
                objects.insert(key, entry["FileSize"].as_u64().unwrap());
            }
        }
    }

    /// Removes an object behind the store's back.
    pub fn lose(&self, key: &str) {
        let (status, _) = self.filer("DELETE", &format!("/buckets/{BUCKET}/{key}"), "").unwrap();
        assert_eq!(status, 204);
    }

    /// Requests to the S3 door so far, by kind and status.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        let (_, metrics) = http(self.ports[8], "GET", "/metrics", "").unwrap();
        let mut requests = BTreeMap::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix("SeaweedFS_s3_request_total{")) {
            let (labels, count) = line.split_once("} ").unwrap();
            let label = |name: &str| labels.split(&format!("{name}=\"")).nth(1)?.split('"').next();
            let kind = format!("{} {}", label("type").unwrap(), label("code").unwrap());
            *requests.entry(kind).or_default() += count.parse::<f64>().unwrap() as u64;
        }
        requests
    }

    fn filer(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        http(self.ports[4], method, path, body)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let Some((mut child, stdin)) = self.process.take() else { return };
        drop(stdin);
        let _ = child.wait();
    }
}

/// A port that nobody listens on, and below those that the kernel gives to clients: the server has to find it free
/// again when it is restarted.
fn free_port() -> u16 {
    let random = || 10_000 + (RandomState::new().build_hasher().finish() % 20_000) as u16;
    std::iter::repeat_with(random).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// One request; nothing where nobody answers.
fn http(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nAccept: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
