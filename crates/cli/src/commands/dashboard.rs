//! `peerless dashboard`: a local web page over a run directory.

use std::env;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use peerless_dashboard::{Dashboard, DashboardError, DashboardOptions, Limits, Token};

use crate::ending::{asked_to_end, step_back};
use crate::failure::{Advise, advised, code};
use crate::output::{data, say};
use crate::runs;

/// Where the token is if it is in no file.
const TOKEN: &str = "PEERLESS_DASHBOARD_TOKEN";
/// Longest file of a token, in bytes.
const MAX_TOKEN_FILE: u64 = 4_096;

const EXAMPLES: &str = "\
Examples:
  peerless dashboard                                  the newest run, on any free port of this machine
  peerless dashboard runs/mine --listen 127.0.0.1:8080
  peerless dashboard runs/mine --listen 0.0.0.0:8080 --token-file token
  ssh -L 8080:127.0.0.1:8080 HOST                     from elsewhere, without opening a port
  curl http://127.0.0.1:8080/snapshot.json            everything on the page, for scripts
  curl http://127.0.0.1:8080/metrics                  for Prometheus

The dashboard reads what peers write and is in no data path: to kill it changes nothing for the run. Other
addresses than those of this machine need a token of 16 characters or more, from PEERLESS_DASHBOARD_TOKEN or
--token-file; readers send it as `Authorization: Bearer TOKEN`, browsers open /?token=TOKEN once. The
connection is not encrypted.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DashboardArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    listen: SocketAddr,
    /// File with the token that readers must show
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// End when stdin ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

pub(crate) fn run(args: DashboardArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref())?.path().to_path_buf();
    let token = token(args.token_file.as_deref())?;
    let options = DashboardOptions { run, listen: args.listen, token, limits: Limits::default() };
    step_back();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let needs_token = options.token.is_some();
        let stop = asked_to_end(args.end_with_parent)?;
        let dashboard = Dashboard::listen(options).map_err(explained)?;
        data(&format!("http://{}/", dashboard.address()))?;
        if needs_token {
            say("browsers open it with ?token=TOKEN once");
        }
        Ok(dashboard.serve(stop).await?)
    })
}

/// Refuses an address that would need a token and has none, before anything is started.
pub(crate) fn check(listen: SocketAddr) -> anyhow::Result<()> {
    match token(None)? {
        None if !listen.ip().is_loopback() => Err(explained(DashboardError::NeedsToken(listen))),
        _ => Ok(()),
    }
}

fn token(file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    let text = match file {
        Some(file) => {
            let mut text = String::new();
            let read = File::open(file).and_then(|file| file.take(MAX_TOKEN_FILE).read_to_string(&mut text));
            read.with_context(|| format!("cannot read {}", file.display()))?;
            Some(text)
        }
        None => env::var(TOKEN).ok().filter(|text| !text.is_empty()),
    };
    text.map(|text| Token::new(&text)).transpose().code(code::USAGE)
}

fn explained(error: DashboardError) -> anyhow::Error {
    match error {
        DashboardError::NeedsToken(_) => {
            let hint = format!("put one into {TOKEN} or a --token-file: head -c 32 /dev/urandom | base64");
            advised(error, code::USAGE, Some(hint))
        }
        DashboardError::Listen { ref source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            advised(error, code::IN_USE, Some("port 0 takes any free one".to_owned()))
        }
        error => error.into(),
    }
}
