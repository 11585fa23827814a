//! A real server with the module loaded, for tests and for the benchmark.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a server may take to answer; it also loads its data in this time.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The program to start: `PEERLESS_REDIS_SERVER`, such as `valkey-server`, or else `redis-server`.
pub fn program() -> String {
    std::env::var("PEERLESS_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into())
}

/// The version that the server's program tells, or what is missing to start it.
///
/// # Errors
/// If the program cannot be started.
pub fn version() -> Result<String> {
    let program = program();
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {program}; apt-get install redis-server"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The module, where Cargo puts it beside this program.
///
/// # Errors
/// If it has not been built.
pub fn module() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let folders = program.ancestors().skip(1).take(2);
    let mut modules = folders.map(|folder| folder.join("libpeerless_redis.so"));
    let module = modules.find(|module| module.exists());
    module.context("libpeerless_redis.so is missing; run cargo build in redis-module/ with the same profile")
}

/// A server on a free port of the loopback interface. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts a server with these further arguments and its files in `folder`, and waits until it answers.
    ///
    /// # Errors
    /// If it cannot be started or does not answer.
    pub fn start(folder: &Path, module: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        // Somebody else may take the port before the server does.
        let mut last = Self::start_once(folder, module, arguments);
        for _ in 0..2 {
            if last.is_ok() {
                break;
            }
            last = Self::start_once(folder, module, arguments);
        }
        last
    }

    fn start_once(folder: &Path, module: Option<&Path>, arguments: &[&str]) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = std::fs::File::create(folder.join("server.log"))?;
        let mut command = Command::new(program());
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(folder).args(arguments);
        if let Some(module) = module {
            command.arg("--loadmodule").arg(module);
        }
        let process = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut server = Self { process, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while !server.answers() {
            let ended = server.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(folder.join("server.log")).unwrap_or_default();
                bail!("the server does not answer on port {port} ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    fn answers(&self) -> bool {
        let ping = |mut connection: redis::Connection| redis::cmd("PING").query::<String>(&mut connection);
        self.connect().is_ok_and(|connection| ping(connection).is_ok())
    }

    /// A new connection.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn connect(&self) -> Result<redis::Connection> {
        Ok(redis::Client::open(self.url())?.get_connection()?)
    }

    /// The server's address as clients take it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills the server at once, as `kill -9` does.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a server that cannot be killed.
        let _ = self.kill();
    }
}
