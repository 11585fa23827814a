//! Functions in a real container, built from scratch by `deploy/container/build` and run by podman. It has no
//! dataset, no shell and no right to write anywhere.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::servers::{Server, TOKEN, train_with};
use common::{Running, Workplace, same_state, skip, wait_until};

const RUN: [&str; 2] = ["--rounds", "60"];
const IMAGE: &str = "peerless-test";

/// A container with two instances of the function.
struct Container {
    name: String,
    port: u16,
}

impl Container {
    fn start(&self, place: &Workplace) -> Server {
        let port = format!("PORT={}", self.port);
        let mut command = Command::new("podman");
        // Not every machine lets containers raise limits, has crun, or can set up a network of their own.
        command.args(["--runtime", "runc", "run", "--rm", "--replace", "--name", &self.name, "--network", "host"]);
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        command.args(["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]);
        command.args(["--env", &port, "--env", "PEERLESS_FUNCTION_INSTANCES=2", "--env", "PEERLESS_FUNCTION_TOKEN"]);
        command.arg(IMAGE).env("PEERLESS_FUNCTION_TOKEN", TOKEN);
        let process = place.start(command);
        wait_until("the container listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
        Server { process, url: format!("http://127.0.0.1:{}", self.port) }
    }

    fn kill(&self) {
        let killed = Command::new("podman").args(["kill", &self.name]).stdout(Stdio::null()).status().unwrap();
        assert!(killed.success());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = Command::new("podman").args(["rm", "--force", &self.name]).stdout(Stdio::null()).status();
    }
}

/// Builds the image. `None`, said loudly, where there is no podman.
fn container() -> Option<Container> {
    let there = |program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there("podman") || !there("runc") {
        skip("podman or runc is not installed: apt-get install podman runc");
        return None;
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/container/build");
    let built =
        Command::new(build).args(["--program", env!("CARGO_BIN_EXE_peerless"), "--tag", IMAGE]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    Some(Container { name: format!("peerless-test-{port}"), port })
}

fn start(place: &Workplace, server: &Server) -> Running {
    place.start(train_with(place, &[server], &[&RUN[..], &["--peers", "3"]].concat()))
}

#[test]
fn functions_in_a_container_give_the_state_of_local_ones_even_if_it_is_killed() {
    let place = Workplace::for_training();
    let Some(container) = container() else { return };
    let server = container.start(&place);
    let training = start(&place, &server);
    place.wait_for_steps("run", 3, 20);
    container.kill();
    drop(server);
    place.wait_for_steps("run", 3, 30);
    let _back = container.start(&place);
    let summary = same_state(training, &RUN);
    assert!(summary["functions"]["failed"].as_u64() > Some(0), "{summary:#}");
}
