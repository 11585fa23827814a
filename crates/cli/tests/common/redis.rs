//! Redis servers of tests: real ones, on free ports of the loopback interface.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{skip, wait_until};

/// A server without persistence. Killed when dropped.
pub struct Redis {
    process: Child,
    configuration: PathBuf,
    folder: TempDir,
    pub port: u16,
}

impl Redis {
    /// Starts a server, with more lines of configuration; `None`, with a line that says so, if this machine has
    /// none.
    pub fn start(module: Option<&Path>, lines: &str) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Self::configured(port, module, &format!("port {port}\n{lines}"))
    }

    /// Starts a server that speaks TLS alone, with these files.
    pub fn with_tls(certificate: &Path, key: &Path) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (certificate, key) = (certificate.display(), key.display());
        let lines = format!(
            "port 0\ntls-port {port}\ntls-cert-file {certificate}\ntls-key-file {key}\n\
             tls-ca-cert-file {certificate}\ntls-auth-clients no\n"
        );
        Self::configured(port, None, &lines)
    }

    fn configured(port: u16, module: Option<&Path>, lines: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let configuration = folder.path().join("redis.conf");
        let module = module.map(|path| format!("loadmodule {}\n", path.display())).unwrap_or_default();
        let here = folder.path().display();
        fs::write(&configuration, format!("bind 127.0.0.1\nsave \"\"\ndir {here}\n{module}{lines}")).unwrap();
        let Some(process) = spawn(&configuration) else {
            skip("redis-server is missing; see scripts/install-redis");
            return None;
        };
        let server = Self { process, configuration, folder, port };
        server.wait();
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again, without what it held.
    pub fn restart(&mut self) {
        self.process = spawn(&self.configuration).unwrap();
        self.wait();
    }

    /// What it says to a command without arguments, such as INFO.
    pub fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn wait(&self) {
        wait_until("the Redis server listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok());
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(configuration: &Path) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        spawned => Some(spawned.unwrap()),
    }
}

/// `PEERLESS_REDIS_MODULE`, or where `cargo build` in `redis-module/` puts it; `None`, with a line that says so, if
/// it is nowhere.
pub fn module() -> Option<PathBuf> {
    let given = std::env::var_os("PEERLESS_REDIS_MODULE").map(PathBuf::from);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../redis-module/target");
    let built = ["release", "debug", "debug/deps"].map(|folder| target.join(folder).join("libpeerless_redis.so"));
    let found = given.into_iter().chain(built).find(|path| path.exists());
    if found.is_none() {
        skip("the module is not built (cargo build in redis-module/)");
    }
    found
}
