//! Sums from a real database are those from files, byte for byte, whatever becomes of its server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use peerless_aggregation::SumError;
use peerless_protocol::{Digest, UnitSet};
use peerless_store::{
    GradientFiles, PayloadFormat, RedisError, RedisGradients, RedisOutput, RedisOutputError, RedisOutputs, RedisServer,
    RedisState, SumsError, UnitGradients, check_redis,
};
use tempfile::TempDir;

#[path = "store/fixtures.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod fixtures;

fn skipped(what: &str) {
    // Past the capture of the test's output.
    std::io::stderr().write_all(format!("SKIPPED: {what}\n").as_bytes()).unwrap();
}

/// A server without persistence; it is killed when this is dropped.
struct Server {
    process: Child,
    port: u16,
    folder: TempDir,
    module: Option<PathBuf>,
}

impl Server {
    fn start(module: Option<PathBuf>) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = TempDir::new().unwrap();
        let Ok(process) = spawn(port, folder.path(), module.as_deref()) else {
            skipped("redis-server is missing; see scripts/install-redis");
            return None;
        };
        let server = Self { process, port, folder, module };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        for _ in 0..1000 {
            let client = redis::Client::open(self.url()).unwrap();
            let pong =
                client.get_connection().and_then(|mut connection| redis::cmd("PING").query::<()>(&mut connection));
            if pong.is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("the server does not answer on port {}", self.port);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = spawn(self.port, self.folder.path(), self.module.as_deref()).unwrap();
        self.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(port: u16, folder: &Path, module: Option<&Path>) -> std::io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
    if let Some(module) = module {
        command.arg("--loadmodule").arg(module);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// `PEERLESS_REDIS_MODULE`, or where `cargo build` in `redis-module/` puts it.
fn module() -> Option<PathBuf> {
    let given = std::env::var_os("PEERLESS_REDIS_MODULE").map(PathBuf::from);
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../redis-module/target");
    let built = ["debug", "debug/deps", "release"].map(|folder| target.join(folder).join("libpeerless_redis.so"));
    let found = given.into_iter().chain(built).find(|path| path.exists());
    if found.is_none() {
        skipped("the module is not built; sums in the database are not tested (cargo build in redis-module/)");
    }
    found
}

fn format() -> PayloadFormat {
    PayloadFormat::new(&fixtures::spec(), &fixtures::layout(5000)).unwrap()
}

/// Gradients in files and in a database at once.
struct Both {
    files: GradientFiles,
    database: RedisGradients,
    outputs: Arc<RedisOutputs>,
    told: Arc<Mutex<Vec<RedisState>>>,
    folder: TempDir,
}

impl Both {
    fn new(server: &Server) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let on_change = Box::new(move |state: &RedisState| tell.lock().unwrap().push(state.clone()));
        let named = RedisServer::new(&server.url()).unwrap();
        let outputs = Arc::new(RedisOutputs::new(&named, "run:peer", "session").unwrap());
        let database = RedisGradients::new(format(), &named, "run:peer", on_change).unwrap();
        let mut database = database.with_outputs(Arc::clone(&outputs));
        database.connect().unwrap();
        Self { files: GradientFiles::new(format()), database, outputs, told, folder: TempDir::new().unwrap() }
    }

    /// Adds a gradient to both as a function elsewhere gives it, to the database without a file. The result is that of
    /// the database.
    fn add_from_elsewhere(
        &mut self,
        function: &mut redis::Connection,
        unit: u32,
        gradient: &[f32],
    ) -> Result<(), SumsError> {
        let bytes: Vec<u8> = gradient.iter().flat_map(|element| element.to_le_bytes()).collect();
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        let [one, other] = ["file", "database"].map(|name| self.folder.path().join(format!("{name}{unit}")));
        std::fs::write(&one, &bytes).unwrap();
        let output = self.outputs.offer().expect("the server answers");
        redis::cmd("SET").arg(key(&output)).arg(&bytes).query::<()>(function).unwrap();
        self.outputs.collect(&output, &other, length, digest).unwrap();
        // One that comes late.
        redis::cmd("SET").arg(key(&output)).arg("late").query::<()>(function).unwrap();
        let _ = self.files.add(unit, &one, digest);
        self.database.add(unit, &other, digest)
    }

    fn add(&mut self, unit: u32, gradient: &[f32]) -> [Result<(), SumsError>; 2] {
        let bytes: Vec<u8> = gradient.iter().flat_map(|element| element.to_le_bytes()).collect();
        let write = |name: &str| {
            let path = self.folder.path().join(format!("{name}{unit}"));
            std::fs::write(&path, &bytes).unwrap();
            path
        };
        let digest = Digest::of(&bytes);
        let [one, other] = ["file", "database"].map(write);
        [self.files.add(unit, &one, digest), self.database.add(unit, &other, digest)]
    }

    fn add_sound(&mut self, unit: u32) {
        self.add(unit, &sound(unit)).into_iter().for_each(Result::unwrap);
    }

    fn check(&mut self, units: &[u32]) {
        let units: UnitSet = units.iter().copied().collect();
        let [expected, found] = [self.files.sum(&units).unwrap(), self.database.sum(&units).unwrap()];
        assert!(expected == found, "the sums of {units:?} differ");
    }

    /// How often the server was said to be away, and that it answers.
    fn told(&self) -> (usize, usize) {
        let told = self.told.lock().unwrap();
        let away = told.iter().filter(|state| matches!(state, RedisState::Away(_))).count();
        (away, told.len() - away)
    }
}

/// The gradient of a unit.
fn sound(unit: u32) -> Vec<f32> {
    let mut random = fixtures::Random(u64::from(unit));
    (0..format().elements()).map(|_| random.next() as i64 as f32 / 1e17).collect()
}

fn key(output: &RedisOutput) -> &str {
    output.url.split_once("/0/").unwrap().1
}

/// Runs a test with a server that has the module and with one that has not.
fn with_and_without_module(test: impl Fn(&mut Server, &mut Both)) {
    for module in [None].into_iter().chain(module().map(Some)) {
        let Some(mut server) = Server::start(module) else { return };
        let mut both = Both::new(&server);
        assert_eq!(both.database.sums_in_database(), Some(server.module.is_some()));
        test(&mut server, &mut both);
    }
}

#[test]
fn sums_from_the_database_are_those_from_files() {
    with_and_without_module(|_, both| {
        for round in 0..3 {
            for unit in [4, 0, 9, 2] {
                both.add_sound(unit + round);
                both.add_sound(unit + round);
            }
            both.check(&[round, 2 + round, 4 + round, 9 + round]);
            both.check(&[2 + round, 9 + round]);
            let missing = both.database.sum(&[2 + round, 77].into_iter().collect());
            assert!(matches!(missing, Err(SumsError::MissingUnit { unit: 77 })), "{missing:?}");
            both.files.clear().unwrap();
            both.database.clear().unwrap();
            assert!(both.database.units().is_empty());
        }
        assert_eq!(both.told(), (0, 1));
        assert_eq!(std::fs::read_dir(both.folder.path()).unwrap().count(), 0);
    });
}

#[test]
fn a_gradient_that_cannot_be_added_is_refused_as_from_files() {
    with_and_without_module(|_, both| {
        both.add_sound(0);
        let mut gradient = vec![1.0; format().elements()];
        gradient[4321] = f32::NAN;
        for result in both.add(1, &gradient) {
            let error = SumError::NotANumber { unit: 1, index: 4321 };
            assert!(matches!(&result, Err(SumsError::Sum(found)) if *found == error), "{result:?}");
        }
        both.check(&[0]);
    });
}

#[test]
fn a_server_that_is_killed_and_restarted_without_its_data_changes_no_sum() {
    with_and_without_module(|server, both| {
        both.add_sound(0);
        both.add_sound(1);
        server.kill();
        both.check(&[0, 1]);
        both.add_sound(2);
        // Past the pause, so that the server is tried again.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        both.check(&[0, 1, 2]);
        assert_eq!(both.told(), (1, 1), "one outage is told once");
        server.restart();
        // After the pause the database is used again, with everything in it.
        while both.database.sums_in_database().is_none() {
            both.check(&[0, 1, 2]);
        }
        assert_eq!(both.told(), (1, 2));
        both.check(&[0, 2]);
        both.add_sound(3);
        both.check(&[0, 1, 2, 3]);
    });
}

#[test]
fn gradients_that_functions_wrote_to_the_database_are_summed_as_those_in_files() {
    with_and_without_module(|server, both| {
        let mut function = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        for round in 0..2 {
            both.add_sound(1 + round);
            for unit in [2, 3, 2, 5] {
                both.add_from_elsewhere(&mut function, unit + round, &sound(unit + round)).unwrap();
            }
            // What another function computed again for a unit that is there, and came as a file.
            both.add_sound(5 + round);
            both.check(&[1 + round, 2 + round, 3 + round, 5 + round]);
            both.check(&[2 + round, 5 + round]);
            let other = both.add_from_elsewhere(&mut function, 3 + round, &sound(9));
            assert!(matches!(other, Err(SumsError::NotDeterministic { .. })), "{other:?}");
            both.files.clear().unwrap();
            both.database.clear().unwrap();
            let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut function).unwrap();
            assert!(
                keys.iter().all(|key| key.contains(":out:") || key.ends_with(":sum") || key.ends_with(":probe")),
                "{keys:?}"
            );
        }
        assert_eq!(both.told(), (0, 1));
    });
}

#[test]
fn what_is_not_the_output_that_a_report_names_is_not_taken_over() {
    with_and_without_module(|server, both| {
        let mut function = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let path = both.folder.path().join("output");
        let digest = Digest::of(b"gradient");
        let collect = |function: &mut redis::Connection, value: Option<&[u8]>| {
            let output = both.outputs.offer().unwrap();
            if let Some(value) = value {
                redis::cmd("SET").arg(key(&output)).arg(value).query::<()>(function).unwrap();
            }
            both.outputs.collect(&output, &path, 8, digest)
        };
        let absent = collect(&mut function, None);
        assert!(matches!(absent, Err(RedisOutputError::NotWritten)), "{absent:?}");
        let long = collect(&mut function, Some(b"gradients"));
        assert!(matches!(long, Err(RedisOutputError::Length { found: 9, expected: 8 })), "{long:?}");
        let other = collect(&mut function, Some(b"Gradient"));
        assert!(matches!(other, Err(RedisOutputError::Damaged { reported, .. }) if reported == digest), "{other:?}");
        let keys: Vec<String> = redis::cmd("KEYS").arg("*session*").query(&mut function).unwrap();
        assert!(keys.is_empty() && !path.exists(), "{keys:?}");
        collect(&mut function, Some(b"gradient")).unwrap();
    });
}

#[test]
fn a_gradient_that_cannot_be_added_in_the_database_is_refused_as_from_files() {
    with_and_without_module(|server, both| {
        let mut function = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        both.add_from_elsewhere(&mut function, 0, &sound(0)).unwrap();
        let mut gradient = sound(1);
        gradient[4321] = f32::INFINITY;
        let result = both.add_from_elsewhere(&mut function, 1, &gradient);
        assert!(matches!(&result, Err(SumsError::Sum(SumError::Infinite { unit: 1, index: 4321, .. }))), "{result:?}");
        assert!(!both.database.units().contains(1));
        both.check(&[0]);
        assert_eq!(both.told(), (0, 1));
    });
}

#[test]
fn gradients_that_were_in_the_database_alone_are_said_to_be_lost_with_it() {
    let Some(module) = module() else { return };
    let Some(mut server) = Server::start(Some(module)) else { return };
    let mut both = Both::new(&server);
    let mut function = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    both.add_sound(0);
    both.add_from_elsewhere(&mut function, 1, &sound(1)).unwrap();
    both.add_from_elsewhere(&mut function, 2, &sound(2)).unwrap();
    server.kill();
    assert_eq!(both.outputs.offer(), None, "a server that is gone is no place to write to");
    both.check(&[0]);
    let lost: UnitSet = [1, 2].into_iter().collect();
    let sum = both.database.sum(&[0, 1, 2].into_iter().collect());
    assert!(matches!(&sum, Err(SumsError::Lost { units }) if *units == lost), "{sum:?}");
    // Computed again, and written to files.
    both.add_sound(1);
    both.add_sound(2);
    both.check(&[0, 1, 2]);
    server.restart();
    while both.database.sums_in_database().is_none() {
        both.check(&[0, 1, 2]);
    }
    both.check(&[1, 2]);
    assert_eq!(both.told(), (1, 2));
    assert_eq!(both.outputs.offer(), None, "what is computed again could be lost again");
    both.files.clear().unwrap();
    both.database.clear().unwrap();
    while both.outputs.offer().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    both.add_from_elsewhere(&mut redis::Client::open(server.url()).unwrap().get_connection().unwrap(), 1, &sound(1))
        .unwrap();
    both.check(&[1]);
}

#[test]
fn what_is_wrong_with_a_server_is_said_without_its_password() {
    let Some(mut server) = Server::start(None) else { return };
    let mut admin = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let rights = ["ACL", "SETUSER", "reader", "on", ">pass-of-reader", "~*", "+get"];
    redis::cmd(rights[0]).arg(&rights[1..]).query::<()>(&mut admin).unwrap();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", "s3cret-pass"]).query::<()>(&mut admin).unwrap();
    let named = |database: &str| RedisServer::new(&format!("{}{database}", server.url())).unwrap();
    let with = |user: Option<&str>, password: &str| {
        check_redis(&named("").with_password(user.map(str::to_owned), Some(password.to_owned())), "run:peer")
    };
    assert_eq!(with(None, "s3cret-pass"), Ok(false));
    let refused = [
        with(None, "wr0ng-pass"),
        with(Some("nobody"), "wr0ng-pass"),
        with(Some("reader"), "pass-of-reader"),
        check_redis(&named(""), "run:peer"),
        check_redis(&named("1"), "run:peer"),
    ];
    for result in refused {
        let Err(RedisError::Denied { reason, .. }) = result else { panic!("{result:?}") };
        assert!(!reason.contains("wr0ng") && !reason.contains("pass-of-reader"), "{reason}");
    }
    let too_many = named("99").with_password(None, Some("s3cret-pass".into()));
    assert!(matches!(check_redis(&too_many, "run:peer"), Err(RedisError::Refused { .. })));
    let address = named("");
    server.kill();
    assert!(matches!(check_redis(&address, "run:peer"), Err(RedisError::Unreachable { .. })));
}

#[test]
fn values_that_vanish_are_put_there_again() {
    with_and_without_module(|server, both| {
        both.add_sound(0);
        both.add_sound(1);
        let mut other = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        for units in [&[0_u32, 1][..], &[0]] {
            redis::cmd("FLUSHALL").query::<()>(&mut other).unwrap();
            both.check(units);
        }
        // Evicted, and begun anew with the next unit.
        redis::cmd("FLUSHALL").query::<()>(&mut other).unwrap();
        both.add_sound(2);
        both.check(&[0, 1, 2]);
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut other).unwrap();
        assert!(keys.contains(&"{run:peer}:gradient:1".to_owned()), "{keys:?}");
        assert_eq!(both.told(), (0, 1));
    });
}
