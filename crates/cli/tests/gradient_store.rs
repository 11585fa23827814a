//! Training with gradients in a Redis server: with the module and without, and whatever becomes of the server, the
//! final state is the same, bit for bit.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use common::redis::{Redis, module};
use common::servers::{Server, train_with};
use common::{Ended, Running, Workplace, bill_shows_failures, same_state, wait_until};
use serde_json::Value;

const RUN: [&str; 2] = ["--rounds", "60"];
/// Long enough for a server to be missed and to come back.
const LONG: [&str; 2] = ["--rounds", "120"];
const PASSWORD: &str = "a-password-that-nobody-may-see";
const OTHER_PASSWORD: &str = "one-that-functions-have";
/// LeNet-5's initial parameters, which every peer has made once.
const INITIAL_BYTES: u64 = 4 * 61_706;

/// Trains with 3 peers and gradients in the server; its summary.
fn train(place: &Workplace, server: &str, environment: &[(&str, &str)]) -> Value {
    let flags = ["train", "--json", "--run-dir", "run", "--peers", "3", "--gradient-store", server];
    let mut command = place.command(&[&flags[..], &RUN].concat());
    command.envs(environment.iter().copied());
    same_state(place.start(command), &RUN)
}

fn store_of(place: &Workplace, peer: &str) -> Value {
    place.status("run", peer).map(|status| status["gradient_store"].clone()).unwrap_or_default()
}

/// Waits until peer 1 says that the server is away.
fn wait_until_missed(place: &Workplace, training: &Running) {
    wait_until("a peer misses the server", || {
        let missed = store_of(place, "1")["away"].is_string();
        assert!(missed || training.is_running(), "the run is over: {}", training.stderr());
        missed
    });
}

/// Checks what all peers say at the end.
fn all_say(place: &Workplace, module: bool, how: &str) {
    for peer in ["1", "2", "3"] {
        let store = store_of(place, peer);
        assert_eq!((&store["module"], &store["away"], &store["outages"]), (&module.into(), &Value::Null, &0.into()));
    }
    let status = place.run(&["status", "run"]).stdout;
    assert_eq!(status.matches(how).count(), 3, "{status}");
}

#[test]
fn gradients_summed_in_the_database_give_the_state_of_those_in_files() {
    let Some(module) = module() else { return };
    let Some(server) = Redis::start(Some(&module), "") else { return };
    let place = Workplace::for_training();
    train(&place, &server.url(), &[]);
    all_say(&place, true, ", summed by its module");
    let calls = server.ask("INFO commandstats");
    assert!(calls.contains("cmdstat_peerless.add") && calls.contains("cmdstat_getrange"), "{calls}");
}

#[test]
fn gradients_in_a_database_without_the_module_are_summed_by_the_peer_to_the_same_state() {
    let Some(server) = Redis::start(None, "") else { return };
    let place = Workplace::for_training();
    train(&place, &format!("{}/3", server.url()), &[]);
    all_say(&place, false, ", summed by the peer");
    let calls = server.ask("INFO commandstats");
    assert!(calls.contains("cmdstat_set") && calls.contains("cmdstat_get:"), "{calls}");
}

#[test]
fn a_database_that_is_killed_and_comes_back_empty_costs_time_only_and_the_status_says_so() {
    let module = module();
    let Some(mut server) = Redis::start(module.as_deref(), "") else { return };
    let place = Workplace::for_training();
    let url = server.url();
    let flags = ["train", "--json", "--run-dir", "run", "--peers", "3", "--gradient-store", &url];
    let training = place.start(place.command(&[&flags[..], &LONG].concat()));
    place.wait_for_steps("run", 3, 10);
    server.kill();
    wait_until_missed(&place, &training);
    let status = place.run(&["status", "run"]).stdout;
    assert!(status.contains("gradients of peer 1: summed from files meanwhile: "), "{status}");
    server.restart();
    wait_until("the peer has found it again", || {
        let store = store_of(&place, "1");
        store["away"].is_null() && store["outages"].as_u64() >= Some(1)
    });
    same_state(training, &LONG);
    let log = fs::read_to_string(place.path().join("run/peers/1/peer.log")).unwrap();
    assert_eq!(log.matches("gradients are summed from files meanwhile").count(), 1, "{log}");
    assert!(server.ask("INFO commandstats").contains("cmdstat_set"), "it is not used after its return");
}

#[test]
fn a_peer_that_starts_again_while_the_database_is_away_goes_on_without_it() {
    let Some(mut server) = Redis::start(None, "") else { return };
    let place = Workplace::for_training();
    let url = server.url();
    let flags = ["train", "--json", "--run-dir", "run", "--peers", "2", "--gradient-store", &url];
    let training = place.start(place.command(&[&flags[..], &RUN, &["--fault", "restart:1@40"]].concat()));
    place.wait_for_steps("run", 2, 10);
    server.kill();
    same_state(training, &RUN);
    assert!(store_of(&place, "1")["away"].is_string());
}

#[test]
fn a_user_with_the_documented_rights_is_enough_and_the_password_is_nowhere_to_be_seen() {
    let module = module();
    let Some(server) = with_users(module.as_deref()) else { return };
    let place = Workplace::for_training();
    let environment = [("PEERLESS_REDIS_USER", "peerless-peer"), ("PEERLESS_REDIS_PASSWORD", PASSWORD)];
    let summary = train(&place, &server.url(), &[&environment[..], &[("RUST_LOG", "trace")]].concat());
    all_say(&place, module.is_some(), ", summed by");
    assert!(!summary.to_string().contains(PASSWORD));
    assert!(!finds(place.path(), PASSWORD.as_bytes()), "the password is in a file of the run");
}

/// A server with the users of docs/redis.md, and nobody else.
fn with_users(module: Option<&Path>) -> Option<Redis> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/redis.md")).unwrap();
    let users = page.lines().filter(|line| line.starts_with("user peerless-"));
    // Commands of a module that is not there are unknown to the server.
    let known = |word: &&str| module.is_some() || !word.starts_with("+peerless.");
    let users = users.map(|line| line.split(' ').filter(known).collect::<Vec<_>>().join(" "));
    let users =
        users.map(|line| line.replace("PASSWORD", if line.contains("-peer ") { PASSWORD } else { OTHER_PASSWORD }));
    let users: Vec<String> = users.collect();
    assert_eq!(users.len(), 2, "{users:?}");
    Redis::start(module, &format!("user default off\nuser admin on nopass ~* +@all\n{}\n", users.join("\n")))
}

/// Function servers whose user has this password.
fn function_servers(place: &Workplace, password: &str) -> [Server; 2] {
    let environment = [("PEERLESS_REDIS_USER", "peerless-function"), ("PEERLESS_REDIS_PASSWORD", password)];
    [(); 2].map(|()| Server::with(place, &environment))
}

/// Starts to train with functions that write to the database.
fn start_direct(place: &Workplace, server: &Redis, functions: &[Server; 2], run: &[&str]) -> Running {
    let url = format!("{}/1", server.url());
    let more = ["--peers", "3", "--gradient-store", &url, "--direct-gradients"];
    let mut command = train_with(place, &functions.each_ref(), &[&more[..], run].concat());
    command.env("PEERLESS_REDIS_USER", "peerless-peer").env("PEERLESS_REDIS_PASSWORD", PASSWORD);
    place.start(command)
}

#[test]
fn functions_elsewhere_write_their_gradients_to_the_database_themselves_with_the_documented_rights() {
    for module in [module(), None] {
        let Some(server) = with_users(module.as_deref()) else { return };
        let place = Workplace::for_training();
        let functions = function_servers(&place, OTHER_PASSWORD);
        same_state(start_direct(&place, &server, &functions, &RUN), &RUN);
        all_say(&place, module.is_some(), ", summed by");
        let calls = server.ask("AUTH admin any\r\nINFO commandstats");
        assert!(calls.contains("cmdstat_rename"), "{calls}");
        assert_eq!(calls.contains("cmdstat_peerless.digest"), module.is_some(), "{calls}");
        let moved = &place.status("run", "1").unwrap()["functions"]["data_path"]["bytes_in"];
        // A call for initial parameters may have been made again.
        assert!(moved.as_u64() <= Some(3 * INITIAL_BYTES), "gradients went through the gateway: {moved}");
        for password in [PASSWORD, OTHER_PASSWORD] {
            assert!(!finds(place.path(), password.as_bytes()), "a password is in a file of the run");
        }
    }
}

#[test]
fn gradients_that_were_lost_with_the_database_are_computed_again() {
    let module = module();
    let Some(mut server) = with_users(module.as_deref()) else { return };
    let place = Workplace::for_training();
    let functions = function_servers(&place, OTHER_PASSWORD);
    let training = start_direct(&place, &server, &functions, &LONG);
    place.wait_for_steps("run", 3, 10);
    server.kill();
    wait_until_missed(&place, &training);
    server.restart();
    wait_until("the peer has found it again", || store_of(&place, "1")["away"].is_null());
    same_state(training, &LONG);
    bill_shows_failures(&place);
    assert!(server.ask("AUTH admin any\r\nINFO commandstats").contains("cmdstat_rename"), "it is not used again");
}

#[test]
fn a_function_that_may_not_write_to_the_database_is_told_of_without_its_password() {
    let Some(server) = with_users(None) else { return };
    let place = Workplace::for_training();
    let functions = function_servers(&place, "an0ther");
    let ended = start_direct(&place, &server, &functions, &RUN).wait();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot write redis://127.0.0.1:"), "{}", ended.stderr);
    assert!(!finds(place.path(), b"an0ther"), "the password is in a file of the run");
}

/// Whether a file below has these bytes.
fn finds(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => finds(&path, needle),
            false => fs::read(&path).unwrap().windows(needle.len()).any(|bytes| bytes == needle),
        }
    })
}

#[test]
fn a_database_is_reached_by_tls_if_its_certificate_is_trusted() {
    let files = tempfile::tempdir().unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| files.path().join(name));
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, own.cert.pem()).unwrap();
    fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let Some(server) = Redis::with_tls(&certificate, &key) else { return };
    let url = server.url().replace("redis:", "rediss:");
    let place = Workplace::for_training();
    refused(&place, &url, &[], 1, &["certificate", "hint: "]);
    train(&place, &url, &[("SSL_CERT_FILE", certificate.to_str().unwrap())]);
    all_say(&place, false, "rediss://127.0.0.1:");
}

/// Checks that a run is refused and leaves nothing behind.
fn refused(place: &Workplace, server: &str, environment: &[(&str, &str)], code: i32, parts: &[&str]) -> Ended {
    let mut command = place.command(&["train", "--peers", "1", "--rounds", "2", "--gradient-store", server]);
    command.envs(environment.iter().copied());
    let ended = place.start(command).wait();
    ended.failed(code, parts);
    assert!(place.files().is_empty(), "{server} left {:?}", place.files());
    ended
}

#[test]
fn an_address_that_is_none_is_refused_and_a_password_in_it_is_not_repeated() {
    let place = Workplace::new();
    refused(&place, "localhost:6379", &[], 2, &["\"localhost:6379\" is not redis://HOST", "hint: such as"]);
    let secret = format!("redis://:{PASSWORD}@localhost");
    let ended = refused(&place, &secret, &[], 2, &["holds a user or a password", "PEERLESS_REDIS_PASSWORD"]);
    assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    let user = [("PEERLESS_REDIS_USER", "somebody")];
    refused(&place, "redis://localhost", &user, 2, &["PEERLESS_REDIS_USER is set, but PEERLESS_REDIS_PASSWORD is not"]);
    let peer = place.run(&["peer", "start", "--run-dir", "run", "--gradient-store", &secret]);
    peer.failed(2, &["holds a user or a password"]);
    assert!(!peer.stderr.contains(PASSWORD) && place.files().is_empty(), "{}", peer.stderr);
}

#[test]
fn a_database_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    drop(listener);
    refused(&Workplace::new(), &url, &[], 1, &[&format!("{url} does not answer"), "refused", "hint: start it"]);
}

#[test]
fn a_wrong_password_is_said_to_be_one_and_not_shown() {
    let Some(server) = Redis::start(None, &format!("requirepass {PASSWORD}\n")) else { return };
    let place = Workplace::new();
    for wrong in ["", "an0ther"] {
        let hint = "hint: check PEERLESS_REDIS_USER and PEERLESS_REDIS_PASSWORD";
        let ended = refused(&place, &server.url(), &[("PEERLESS_REDIS_PASSWORD", wrong)], 1, &["denies access", hint]);
        assert!(!ended.stderr.contains("an0ther") && !ended.stderr.contains(PASSWORD), "{}", ended.stderr);
    }
}
