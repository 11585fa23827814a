//! The dashboard of a run that is trained here: a process of its own, so that nothing it does reaches this one.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};

use super::beside;
use super::peers::Launch;
use crate::output::{label, say};

/// Longest line with an address, in bytes.
const MAX_LINE: u64 = 200;

/// The process. It ends by itself when this is dropped, or this process dies: its stdin is a pipe from here.
#[derive(Debug)]
pub(crate) struct DashboardProcess {
    _child: Child,
}

impl DashboardProcess {
    /// Starts it, and says where it is once it listens. That it cannot is no reason not to train.
    pub(crate) fn start(launch: &Launch, listen: SocketAddr) -> Option<Self> {
        match spawn(launch, listen) {
            Ok(child) => Some(Self { _child: child }),
            Err(error) => {
                label("warning", &format!("there is no dashboard: {error:#}"));
                None
            }
        }
    }
}

fn spawn(launch: &Launch, listen: SocketAddr) -> anyhow::Result<Child> {
    let mut child = beside::spawn(launch, "dashboard", &["--listen", &listen.to_string()], Stdio::piped())?;
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || announce(stdout));
    }
    Ok(child)
}

fn announce(stdout: ChildStdout) {
    let mut line = String::new();
    // Without an address it has said on stderr why.
    if BufReader::new(stdout.take(MAX_LINE)).read_line(&mut line).is_ok() && !line.is_empty() {
        say(&format!("dashboard at {}", line.trim()));
    }
}
