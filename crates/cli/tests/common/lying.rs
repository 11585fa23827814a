//! Functions that compute other bits, or wait: programs of their own, as a user's functions are.
//!
//! The program is the test's own executable, which passes tasks on to a real function and changes what
//! it reports. Its protocol goes through another descriptor than stdout, where the test harness writes.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use peerless_protocol::Digest;
use serde_json::Value;

use super::Workplace;

/// Rounds in which gradients are changed, as `FIRST..END`.
pub const LYING_FUNCTION: &str = "PEERLESS_TEST_LIE";

/// From [`GATED_ROUND`] on, functions wait until this file exists.
const GATE: &str = "PEERLESS_TEST_GATE";

/// The first round that waits.
const GATED_ROUND: u64 = 3;

/// A function program that behaves as these variables say.
pub fn function_program(place: &Workplace, name: &str, variables: &[(&str, &str)]) -> PathBuf {
    let path = place.path().join(name);
    let mut script = String::from("#!/bin/sh\n");
    for (variable, value) in variables {
        script += &format!("export {variable}='{value}'\n");
    }
    let test = std::env::current_exe().unwrap();
    script += "exec 3>&1 1>/dev/null\n";
    script += &format!("exec '{}' --ignored --exact --nocapture lying_function\n", test.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Serves tasks from stdin until it ends.
pub fn serve() {
    // Only where the script has put the reports.
    let Ok(mut reports) = OpenOptions::new().write(true).open("/proc/self/fd/3") else { return };
    let mut real = Command::new(env!("CARGO_BIN_EXE_peerless"))
        .arg("function")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tasks_out = real.stdin.take().unwrap();
    let mut reports_in = BufReader::new(real.stdout.take().unwrap()).lines();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let task: Value = serde_json::from_str(&line).unwrap();
        wait_at_the_gate(&task);
        writeln!(tasks_out, "{line}").unwrap();
        let Some(Ok(report)) = reports_in.next() else { break };
        let mut report: Value = serde_json::from_str(&report).unwrap();
        lie(&task, &mut report);
        writeln!(reports, "{report}").unwrap();
    }
    let _ = real.kill();
    let _ = real.wait();
}

fn round(task: &Value) -> Option<u64> {
    task["work"]["round"].as_u64()
}

fn wait_at_the_gate(task: &Value) {
    let Some(gate) = std::env::var_os(GATE) else { return };
    while round(task).is_some_and(|round| round >= GATED_ROUND) && !Path::new(&gate).exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Changes one element of a gradient, and reports the new digest.
fn lie(task: &Value, report: &mut Value) {
    let Ok(rounds) = std::env::var(LYING_FUNCTION) else { return };
    let (first, end) = rounds.split_once("..").unwrap();
    let rounds = first.parse().unwrap()..end.parse().unwrap();
    let output = &mut report["outcome"]["Ok"];
    if !round(task).is_some_and(|round| rounds.contains(&round)) || !output["digest"].is_string() {
        return;
    }
    let path = task["work"]["output"]["path"].as_str().unwrap();
    let mut gradient = fs::read(path).unwrap();
    let value = f32::from_le_bytes(gradient[..4].try_into().unwrap());
    gradient[..4].copy_from_slice(&(value + 0.25).to_le_bytes());
    fs::write(path, &gradient).unwrap();
    output["digest"] = Value::from(Digest::of(&gradient).to_string());
}
