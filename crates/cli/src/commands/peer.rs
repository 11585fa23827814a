//! `peerless peer`: single peers, on this or several machines.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use peerless_functions::prices::{Money, Price};
use peerless_peer::run_directory::{RunDirectory, RunDirectoryError};
use peerless_peer::status::{BillStatus, PeerStatus, Phase, unix_us};
use peerless_peer::ticket::{MAX_TICKET_PEERS, MAX_TICKET_RELAYS, MAX_TICKET_TEXT, Ticket, TicketError};
use peerless_peer::transport::{BindError, RelayUrl};
use peerless_peer::{PeerError, PeerOptions, Topology, fetch_spec, run_peer};
use peerless_protocol::{PeerId, StopReason};
use peerless_store::{LockError, StoreError};
use serde_json::json;

use super::train::create_run;
use crate::ending::asked_to_end;
use crate::exchange::ExchangeArgs;
use crate::failure::{Advise, advised, code};
use crate::functions::{ForPeer, FunctionArgs};
use crate::gradient_store::{self, GradientStoreArgs};
use crate::output::{self, Align, label, say, table};
use crate::prices::PriceArgs;
use crate::spec::SpecArgs;
use crate::train::topology::DEFAULT_CHECKPOINT_ROUNDS;
use crate::{data, logging, runs};

/// How long the peers of a ticket may take to answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks for the address that a peer listens on.
const POLL: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples, two machines:
  a$ peerless peer start --run-dir runs/mine --rounds 500 \\
       --listen 0.0.0.0:4000 --advertise 10.0.0.1:4000 --print-ticket
  b$ peerless peer join TICKET --listen 0.0.0.0:4000 --advertise 10.0.0.2:4000

One of them behind NAT: it needs no address of its own as long as it reaches the others.
  b$ peerless peer join TICKET

Two terminals of one machine:
  peerless peer start --run-dir runs/mine --rounds 500
  peerless peer start --run-dir runs/mine
  peerless peer list runs/mine";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PeerArgs {
    #[command(subcommand)]
    command: PeerCommand,
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// Run a peer in a run directory, which is made if there is none
    Start(Box<StartArgs>),
    /// Take part in a run on another machine
    Join(Box<JoinArgs>),
    /// List the peers of a run directory
    List(ListArgs),
    /// Print a ticket that lets other machines join by way of the peers that run here
    Ticket(TicketArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  peerless peer start --run-dir runs/mine --rounds 500 --print-ticket
  peerless peer start --run-dir runs/mine --name second

It ends when the run is over. SIGTERM or Ctrl-C make it leave with a checkpoint.")]
struct StartArgs {
    /// Run directory; if it does not exist, it is made for the run that the flags describe
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Name of the peer in the run directory [default: the first number that is free]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    spec: SpecArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples (TICKET is what `peerless peer ticket` printed on the other machine):
  peerless peer join TICKET
  peerless peer join TICKET --dir runs/mine --listen 0.0.0.0:4000 --advertise 10.0.0.2:4000
  peerless peer join - < ticket       keeps the ticket out of the list of processes
  peerless peer join @ticket          the same, for containers and services without a shell")]
struct JoinArgs {
    /// The ticket, - to read it from stdin, or @FILE; anyone who has it can join the run
    ticket: String,
    /// Run directory on this machine [default: runs/MODEL-DATASET-ID]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Name of the peer in the run directory [default: the first number that is free]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  peerless peer list\n  peerless peer list runs/mine --json")]
struct ListArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    run_dir: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  peerless peer ticket\n  peerless peer ticket runs/mine")]
struct TicketArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    run_dir: Option<PathBuf>,
}

/// How a peer takes part; none of this changes the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Peer")]
struct NodeArgs {
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:0, with a relay 0.0.0.0:0]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Address at which others reach this peer; can be repeated [default: the one it listens on]
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Vec<SocketAddr>,
    /// Relay that peers meet at who cannot reach each other directly, such as http://10.0.0.1:3340; can be
    /// repeated. None is used unless it is named here or in the ticket
    #[cfg(feature = "iroh")]
    #[arg(long, value_name = "URL")]
    relay: Vec<RelayUrl>,
    /// Other peers to wait a few seconds for before the first round
    #[arg(long, value_name = "N", default_value_t = 0)]
    expect: usize,
    /// Seconds between durable checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: u32,
    /// Train with a parameter server: the peer with this id is the server, all others are its workers; see
    /// docs/topologies.md
    #[arg(long, value_name = "PEER_ID")]
    parameter_server: Option<PeerId>,
    /// Train by all-reduce: start when all peers that are expected are there, and end when one of them is lost; see
    /// docs/topologies.md
    #[arg(long, conflicts_with = "parameter_server")]
    all_reduce: bool,
    /// Rounds between the checkpoints of a parameter server, or of each worker of an all-reduce
    #[arg(long, value_name = "ROUNDS", default_value_t = DEFAULT_CHECKPOINT_ROUNDS,
        value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_rounds: u64,
    /// Print a ticket to stdout as soon as the peer listens
    #[arg(long)]
    print_ticket: bool,
    /// Leave when stdin ends
    #[arg(long, hide = true)]
    end_with_parent: bool,
    #[command(flatten)]
    exchange: ExchangeArgs,
    #[command(flatten)]
    functions: FunctionArgs,
    #[command(flatten)]
    gradient_store: GradientStoreArgs,
    #[command(flatten)]
    prices: PriceArgs,
    /// Most that this peer may spend, in dollars, over all its processes: it leaves with a checkpoint before
    #[arg(long, value_name = "DOLLARS", help_heading = "Money")]
    budget: Option<Price>,
}

pub(crate) fn run(args: PeerArgs) -> anyhow::Result<()> {
    match args.command {
        PeerCommand::Start(args) => start(*args),
        PeerCommand::Join(args) => join(*args),
        PeerCommand::List(args) => list(&args),
        PeerCommand::Ticket(args) => ticket(&args),
    }
}

fn start(args: StartArgs) -> anyhow::Result<()> {
    logging::start("info");
    args.node.check_addresses(&[])?;
    args.node.prices.check(args.node.budget)?;
    args.node.functions.check(&args.node.prices)?;
    args.node.gradient_store.config()?;
    let run = match RunDirectory::open(&args.run_dir) {
        Err(RunDirectoryError::NotARun { .. }) => {
            create_run(&args.spec, args.node.functions.may_know_more_models(), Some(&args.run_dir))?
        }
        opened => same_run(opened?, &args.spec)?,
    };
    let runtime = runtime()?;
    runtime.block_on(take_part(run, args.name, args.node, Vec::new(), &[]))
}

/// A run that exists must be the one that the flags describe, if there are any.
fn same_run(run: RunDirectory, flags: &SpecArgs) -> anyhow::Result<RunDirectory> {
    let other = flags.is_given() && flags.spec(data::named(flags.dataset())?.spec())? != *run.spec();
    if !other {
        return Ok(run);
    }
    let what = anyhow::anyhow!(
        "{} holds run {}, but the flags describe another run",
        run.path().display(),
        run.spec().id().short()
    );
    let hint = "leave the flags about what is trained out, or name another directory".to_owned();
    Err(advised(what, code::USAGE, Some(hint)))
}

fn join(args: JoinArgs) -> anyhow::Result<()> {
    logging::start("info");
    let ticket = read_ticket(&args.ticket)?;
    args.node.check_addresses(ticket.relays())?;
    args.node.prices.check(args.node.budget)?;
    args.node.functions.check(&args.node.prices)?;
    args.node.gradient_store.config()?;
    let runtime = runtime()?;
    let spec = runtime.block_on(fetch_spec(&ticket, JOIN_TIMEOUT))?;
    let directory = args.dir.unwrap_or_else(|| runs::default_directory(&spec));
    data::verify_for(&spec)?;
    let run = match RunDirectory::open(&directory) {
        Err(RunDirectoryError::NotARun { .. }) => {
            RunDirectory::create(&directory, spec, ticket.secret().clone(), unix_us())?
        }
        opened => joined_before(opened?, &ticket)?,
    };
    runtime.block_on(take_part(run, args.name, args.node, ticket.peers().to_vec(), ticket.relays()))
}

/// The ticket that was given, or the one on stdin or in a file: other users can see command lines, and the
/// ticket contains the run's secret.
fn read_ticket(given: &str) -> anyhow::Result<Ticket> {
    let mut text = given.to_owned();
    let limit = MAX_TICKET_TEXT as u64 + 1;
    if given == "-" {
        text.clear();
        io::stdin().take(limit).read_to_string(&mut text).context("cannot read the ticket from stdin")?;
    } else if let Some(file) = given.strip_prefix('@') {
        text.clear();
        let read = File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text));
        read.with_context(|| format!("cannot read the ticket in {file}"))?;
    }
    text.trim().parse().map_err(|error| {
        let hint = "`peerless peer ticket` prints one on a machine that takes part".to_owned();
        advised(anyhow::Error::new::<TicketError>(error), code::USAGE, Some(hint))
    })
}

fn joined_before(run: RunDirectory, ticket: &Ticket) -> anyhow::Result<RunDirectory> {
    if run.spec().id() == ticket.run() && run.secret() == ticket.secret() {
        return Ok(run);
    }
    let found = run.spec().id().short();
    Err(anyhow::anyhow!("{} holds run {found}, which is not the ticket's", run.path().display()))
        .hint("name another directory with --dir")
}

impl NodeArgs {
    /// The relays of the flags, or else those of a ticket.
    fn relays(&self, ticket: &[RelayUrl]) -> Vec<RelayUrl> {
        #[cfg(feature = "iroh")]
        if !self.relay.is_empty() {
            return self.relay.clone();
        }
        ticket.to_vec()
    }

    fn listen(&self, relays: &[RelayUrl]) -> SocketAddr {
        let default = if relays.is_empty() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        self.listen.unwrap_or(SocketAddr::from((default, 0)))
    }

    /// A peer with a relay may be reachable in no other way.
    fn check_addresses(&self, ticket: &[RelayUrl]) -> anyhow::Result<()> {
        let relays = self.relays(ticket);
        let listen = self.listen(&relays);
        if !listen.ip().is_unspecified() || !self.advertise.is_empty() || !relays.is_empty() {
            return Ok(());
        }
        let what = anyhow::anyhow!("{listen} is an address to listen on, but not one to be reached at");
        let hint = format!("add --advertise with this machine's address, such as 10.0.0.1:{}", listen.port());
        Err(advised(what, code::USAGE, Some(hint)))
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

async fn take_part(
    run: RunDirectory,
    name: Option<String>,
    args: NodeArgs,
    bootstrap: Vec<(PeerId, Vec<SocketAddr>)>,
    ticket_relays: &[RelayUrl],
) -> anyhow::Result<()> {
    data::verify_for(run.spec())?;
    let name = match name {
        Some(name) => name,
        None => free_name(&run)?,
    };
    let leave = asked_to_end(args.end_with_parent)?;
    if args.print_ticket {
        tokio::spawn(print_ticket(run.clone(), run.peer_directory(&name)?));
    }
    let relays = args.relays(ticket_relays);
    let ForPeer { functions, compute, data_path, hedge, fallback, burst } =
        args.functions.config(&run.spec().dataset.name).await?;
    let options = PeerOptions {
        run,
        name: name.clone(),
        listen: args.listen(&relays),
        advertise: args.advertise,
        relays,
        bootstrap,
        expected_peers: args.expect,
        functions,
        compute,
        topology: match (args.parameter_server, args.all_reduce) {
            (Some(server), _) => Topology::ParameterServer { server, checkpoint_rounds: args.checkpoint_rounds },
            (None, true) => Topology::AllReduce { checkpoint_rounds: args.checkpoint_rounds },
            (None, false) => Topology::PeerToPeer,
        },
        exchange: args.exchange.config(),
        data_path: Some(data_path),
        hedge,
        fallback: Some(fallback),
        burst,
        checkpoint_every: Duration::from_secs(args.checkpoint_every.into()),
        tariff: args.prices.tariff()?,
        budget: args.budget.map(Money::from),
        gradient_store: args.gradient_store.config()?,
    };
    let path = options.run.path().to_path_buf();
    let summary = run_peer(options, leave).await.map_err(explain)?;
    if let Some(BillStatus { spent_usd, budget_usd: Some(budget), used_up: true, .. }) = summary.status.bill
        && summary.phase != Phase::Finished
    {
        let steps = summary.status.steps;
        let what =
            anyhow::anyhow!("the budget of {budget} of peer {name} is used up after {steps} rounds: {spent_usd}");
        let hint = format!("go on: peerless peer start --run-dir {} --name {name} --budget MORE", path.display());
        return Err(advised(what, code::BUDGET, Some(hint)));
    }
    let what = if summary.phase == Phase::Finished { "finished" } else { "left" };
    say(&format!("peer {name} {what} after {} rounds, state {}", summary.status.steps, summary.status.state_digest));
    Ok(())
}

/// The first number that is not the name of a peer that lives.
fn free_name(run: &RunDirectory) -> anyhow::Result<String> {
    let peers = runs::peers(run)?;
    let taken = |name: &str| peers.iter().any(|peer| peer.alive && peer.name == name);
    (1_u32..).map(|number| number.to_string()).find(|name| !taken(name)).context("no name is free")
}

fn explain(error: PeerError) -> anyhow::Error {
    let (code, hint) = match &error {
        PeerError::Bind(BindError::InUse { .. }) => (code::IN_USE, Some("--listen 127.0.0.1:0 takes any free port")),
        PeerError::Store(StoreError::Lock(LockError::InUse { .. })) => {
            (code::IN_USE, Some("`peerless peer list` shows who runs; --name starts another peer"))
        }
        PeerError::GradientStore(error) => (code::ERROR, gradient_store::hint(error)),
        PeerError::Stopped(StopReason::WorkerLost(_)) => (code::WORKER_LOST, None),
        PeerError::Stopped(_) => (code::RUN_FAILED, None),
        _ => (code::ERROR, None),
    };
    advised(error, code, hint.map(str::to_owned))
}

/// Waits until this process's peer listens, and prints a ticket to it.
async fn print_ticket(run: RunDirectory, directory: PathBuf) {
    let status = loop {
        let status = PeerStatus::read(&directory).ok().flatten();
        let mine = |status: &PeerStatus| status.pid == std::process::id() && !status.addresses.is_empty();
        if let Some(status) = status.filter(mine) {
            break status;
        }
        tokio::time::sleep(POLL).await;
    };
    if status.addresses.iter().all(|address| address.ip().is_loopback()) {
        label("hint", "this ticket works on this machine only; --listen and --advertise take other addresses");
    }
    let printed = encode_ticket(&run, &[&status]).and_then(|ticket| output::data(&ticket));
    if let Err(error) = printed {
        label("error", &format!("cannot print the ticket: {error:#}"));
    }
}

fn encode_ticket(run: &RunDirectory, peers: &[&PeerStatus]) -> anyhow::Result<String> {
    let peers: Vec<_> = peers.iter().take(MAX_TICKET_PEERS).collect();
    // "Any interface" is no address for others; such a peer is reached by its relay.
    let reached =
        |status: &PeerStatus| status.addresses.iter().copied().filter(|it| !it.ip().is_unspecified()).collect();
    let mut relays: Vec<RelayUrl> = Vec::new();
    for relay in peers.iter().flat_map(|status| &status.relays) {
        if !relays.contains(relay) && relays.len() < MAX_TICKET_RELAYS {
            relays.push(relay.clone());
        }
    }
    let listed = peers.iter().map(|status| (status.peer, reached(status))).collect();
    Ok(Ticket::new(run.spec().id(), run.secret().clone(), listed)?.with_relays(relays)?.encode()?)
}

fn ticket(args: &TicketArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref().or(args.run_dir.as_deref()))?;
    let peers = runs::peers(&run)?;
    let living = peers.iter().filter(|peer| peer.alive).filter_map(|peer| peer.status.as_ref());
    let reachable: Vec<&PeerStatus> = living.filter(|status| !status.addresses.is_empty()).collect();
    if reachable.is_empty() {
        return Err(anyhow::anyhow!("no peer of {} runs on this machine", run.path().display()))
            .hint(format!("start one: peerless peer start --run-dir {}", run.path().display()));
    }
    output::data(&encode_ticket(&run, &reachable)?)
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref().or(args.run_dir.as_deref()))?;
    let peers = runs::peers(&run)?;
    if args.json {
        let peer = |peer: &runs::LocalPeer| {
            let status = peer.status.as_ref();
            json!({
                "name": peer.name, "id": status.map(|status| status.peer), "alive": peer.alive,
                "pid": status.map(|status| status.pid), "phase": peer.phase(),
                "addresses": status.map(|status| &status.addresses), "directory": peer.directory,
            })
        };
        return output::json(&peers.iter().map(peer).collect::<Vec<_>>());
    }
    output::data(&list_table(&peers))
}

fn list_table(peers: &[runs::LocalPeer]) -> String {
    let columns = [
        ("peer", Align::Left),
        ("pid", Align::Right),
        ("phase", Align::Left),
        ("address", Align::Left),
        ("id", Align::Left),
    ];
    let row = |peer: &runs::LocalPeer| {
        let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        let status = peer.status.as_ref();
        let address = |address: &SocketAddr| address.to_string();
        vec![
            peer.name.clone(),
            or_dash(status.map(|status| status.pid.to_string())),
            peer.phase().to_owned(),
            or_dash(status.map(|status| status.addresses.iter().map(address).collect::<Vec<_>>().join(" "))),
            or_dash(status.map(|status| status.peer.to_string())),
        ]
    };
    table(&columns, &peers.iter().map(row).collect::<Vec<_>>())
}
