//! Function servers: real processes that peers call over HTTP.

use std::process::Command;

use super::{Running, Workplace, wait_until};

/// What servers are called with.
pub const TOKEN: &str = "a-token-that-nobody-may-see";

/// A function server.
pub struct Server {
    pub process: Running,
    pub url: String,
}

impl Server {
    /// At any port of this machine.
    pub fn start(place: &Workplace) -> Self {
        Self::at(place, "127.0.0.1:0")
    }

    /// At this address.
    pub fn at(place: &Workplace, address: &str) -> Self {
        Self::of(place, place.command(&["function", "--http", address]))
    }

    /// With room for the calls of several peers at the same time.
    pub fn roomy(place: &Workplace) -> Self {
        Self::of(place, place.command(&["function", "--http", "127.0.0.1:0", "--instances", "12"]))
    }

    /// On a machine that has no dataset, with room for the calls of several peers.
    pub fn without_dataset(place: &Workplace) -> Self {
        let mut command = place.command(&["function", "--http", "127.0.0.1:0", "--instances", "12"]);
        command.env("PEERLESS_DATA", place.path().join("nowhere"));
        Self::of(place, command)
    }

    /// With more in its environment.
    pub fn with(place: &Workplace, environment: &[(&str, &str)]) -> Self {
        let mut command = place.command(&["function", "--http", "127.0.0.1:0"]);
        command.envs(environment.iter().copied());
        Self::of(place, command)
    }

    fn of(place: &Workplace, mut command: Command) -> Self {
        // What one test has fetched is nothing that another one may find.
        command.env("PEERLESS_FUNCTION_TOKEN", TOKEN).env("TMPDIR", place.path());
        let process = place.start(command);
        let url = || process.stderr().lines().find_map(|line| Some(line.split_once("functions: ")?.1.to_owned()));
        wait_until("the function server listens", || url().is_some());
        let url = url().unwrap();
        Self { process, url }
    }
}

/// `train --json` with these servers, into the directory `run`.
pub fn train_with(place: &Workplace, servers: &[&Server], more: &[&str]) -> Command {
    let urls = servers.iter().flat_map(|server| ["--function-url", &server.url]);
    let flags: Vec<&str> = ["train", "--json", "--run-dir", "run"].into_iter().chain(urls).collect();
    let mut command = place.command(&[&flags[..], more].concat());
    command.env("PEERLESS_FUNCTION_TOKEN", TOKEN);
    command
}
