//! `peerless train`: a run with several peers on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use peerless_functions::prices::{Money, Price};
use peerless_peer::local::SERVER;
use peerless_peer::run_directory::{RunDirectory, RunDirectoryError};
use peerless_peer::status::unix_us;
use peerless_peer::ticket::JoinSecret;
use peerless_training::model;

use super::{dashboard, trace};
use crate::cost::{self, Bill, Projection};
use crate::exchange::ExchangeArgs;
use crate::failure::{Advise, advised, code};
use crate::functions::FunctionArgs;
use crate::gradient_store::GradientStoreArgs;
use crate::output::{self, label, say, thousands};
use crate::prices::PriceArgs;
use crate::spec::SpecArgs;
use crate::train::dashboard::DashboardProcess;
use crate::train::fault::{Action, Fault};
use crate::train::peers::{Exit, Launch, Peer, log_tail};
use crate::train::summary::Summary;
use crate::train::supervise::expect;
use crate::train::topology::{TopologyArgs, TopologyKind};
use crate::train::traces::TracesProcess;
use crate::train::watch::{Outcome, Watch};
use crate::{data, runs};

const DEFAULT_PEERS: u16 = 4;
/// Most peers that are started on one machine.
const MAX_PEERS: i64 = 256;

const EXAMPLES: &str = "\
Examples:
  peerless train
  peerless train --peers 2 --rounds 200 --optimizer adam --lr 0.002
  peerless train --until-accuracy 98% --json > summary.json
  peerless train --rounds 200 --fault kill:1@10 --fault kill-function:2@15 --fault restart:1@40
  peerless train --run-dir runs/mine --rounds 500
  peerless train --resume runs/mine
  peerless train --dashboard
  peerless train --otlp http://localhost:4318
  peerless train --peer-price t2.large --budget 0.50
  peerless train --compute instance --peer-price t2.large
  peerless train --topology parameter-server --boot-s 5 --fault kill:server@30

Faults are ACTION:NUMBER@ROUND, due when the first peer has taken ROUND optimizer steps:
  kill:PEER@ROUND        kill -9 of a peer, counted from 1; kill:server@ROUND for a parameter server
  stop:PEER@ROUND        SIGSTOP, and cont:PEER@ROUND for SIGCONT
  slow:PEER@ROUND        its functions stand still nine tenths of the time from then on
  restart:PEER@ROUND     start the peer again on its directory, killed before if it lives
  kill-function:N@ROUND  kill -9 of N function processes, busy ones first

The peers do not need this process: if it is killed they go on, and --resume watches them again.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// Peers, each a process of its own [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_PEERS))]
    peers: Option<u16>,
    /// Where the run is kept [default: runs/MODEL-DATASET-ID]
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    run_dir: Option<PathBuf>,
    /// Go on with a run: start the peers that do not live, and watch
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Inject a fault, see below; can be repeated
    #[arg(long, value_name = "SPEC")]
    fault: Vec<Fault>,
    /// End the peers when this process ends, however it does
    #[arg(long)]
    end_with_watcher: bool,
    /// Seconds between durable checkpoints [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: Option<u32>,
    /// Serve a live page of the run, for this machine unless an address is given; see `peerless dashboard --help`
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:0")]
    dashboard: Option<SocketAddr>,
    /// Send traces to the OpenTelemetry collector at this base URL, without keys in it; see `peerless trace --help`
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Write the summary to stdout as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    topology: TopologyArgs,
    #[command(flatten)]
    exchange: ExchangeArgs,
    #[command(flatten)]
    functions: FunctionArgs,
    #[command(flatten)]
    gradient_store: GradientStoreArgs,
    #[command(flatten)]
    prices: PriceArgs,
    /// Most that the run may cost, in dollars, in equal shares for the peers: each leaves with a checkpoint before its
    /// share is passed. Needs a price for something
    #[arg(long, value_name = "DOLLARS", help_heading = "Money")]
    budget: Option<Price>,
}

/// A new run as a line of flags describes it, after all checks that need nothing to be there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planned {
    /// Who forms states.
    pub(crate) topology: TopologyKind,
    /// Optimizer steps, if nothing ends it before.
    pub(crate) rounds: u64,
    /// The dataset.
    pub(crate) dataset: &'static str,
}

/// The flags of `train` alone.
#[derive(Debug, clap::Parser)]
#[command(name = "train", no_binary_name = true)]
struct Line {
    #[command(flatten)]
    train: TrainArgs,
}

impl Planned {
    /// Checks flags as `train` would, and makes nothing.
    pub(crate) fn of(flags: &[String]) -> anyhow::Result<Self> {
        let line = <Line as clap::Parser>::try_parse_from(flags).map_err(|error| {
            // The first line says what is wrong; the others are about usage, which is not that of `train` here.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            anyhow::anyhow!("{}", line.strip_prefix("error: ").unwrap_or(line).to_owned())
        });
        let args = line.code(code::USAGE)?.train;
        args.check()?;
        let topology = args.topology.kind(None)?;
        let names = args.names(topology);
        check_fault_names(&args.fault, &names)?;
        if !args.functions.may_know_more_models() {
            model(args.spec.model()).code(code::USAGE)?;
        }
        let dataset = data::named(args.spec.dataset())?;
        let spec = args.spec.spec(dataset.spec())?;
        Ok(Self { topology, rounds: spec.rounds, dataset: dataset.name })
    }
}

impl TrainArgs {
    /// Refuses flags that exclude each other.
    fn check(&self) -> anyhow::Result<()> {
        self.prices.check(self.budget)?;
        self.gradient_store.check()?;
        self.functions.check(&self.prices)
    }

    /// Names of the peers of a new run.
    fn names(&self, topology: TopologyKind) -> Vec<String> {
        let count: u16 = self.peers.unwrap_or(DEFAULT_PEERS);
        let server = topology == TopologyKind::ParameterServer;
        (1..=count).map(|number| number.to_string()).chain(server.then(|| SERVER.to_owned())).collect()
    }
}

pub(crate) fn run(args: TrainArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    args.check()?;
    args.functions.check_isolation()?;
    args.dashboard.map_or(Ok(()), dashboard::check)?;
    args.otlp.as_deref().map_or(Ok(()), trace::check)?;
    let (run, mut peers, topology) = match &args.resume {
        Some(directory) => resume(&args, directory)?,
        None => create(&args)?,
    };
    let workers = peers.iter().filter(|peer| !peer.is_server()).count();
    check_faults(&args.fault, &peers)?;
    let starting = peers.iter().filter(|peer| peer.exit().is_none() && !peer.is_server()).count();
    let launch = launch(&args, &run, topology, starting, &mut peers)?;
    introduce(&run, workers, topology);
    let _dashboard = args.dashboard.and_then(|listen| DashboardProcess::start(&launch, listen));
    let _traces = args.otlp.as_deref().map(|collector| TracesProcess::start(&launch, collector));
    let mut watch = Watch::new(run, launch, peers, args.fault);
    watch.budget = args.budget.map(Money::from);
    (watch.topology, watch.boot) = (topology, args.topology.boot());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        watch.start()?;
        watch.watch().await
    })?;
    conclude(&watch, outcome, start, args.json)
}

/// Checks everything before anything is made.
fn create(args: &TrainArgs) -> anyhow::Result<(RunDirectory, Vec<Peer>, TopologyKind)> {
    let kind = args.topology.kind(None)?;
    let names = args.names(kind);
    check_fault_names(&args.fault, &names)?;
    let run = create_run(&args.spec, args.functions.may_know_more_models(), args.run_dir.as_deref())?;
    let peers = names.iter().map(|name| peer(&run, name)).collect::<Result<_, _>>()?;
    Ok((run, peers, kind))
}

/// Makes the directory of the run that the flags describe. The dataset is pulled if it is not here. A model that this
/// program does not know is left to the functions, if they may know it.
pub(crate) fn create_run(
    args: &SpecArgs,
    functions_may_know: bool,
    directory: Option<&Path>,
) -> anyhow::Result<RunDirectory> {
    let known = model(args.model());
    let is_known = known.is_ok();
    if let Err(error) = known
        && !functions_may_know
    {
        let hint = "a model of one's own needs --function-program; see examples/own-model";
        return Err(advised(error, code::USAGE, Some(hint.to_owned())));
    }
    let dataset = data::named(args.dataset())?;
    let spec = args.spec(dataset.spec())?;
    if let Some(Err(error @ (RunDirectoryError::Newer { .. } | RunDirectoryError::Damaged { .. }))) =
        directory.map(RunDirectory::open)
    {
        return Err(error.into());
    }
    data::ensure(dataset.name)?;
    if is_known {
        data::trainer(&spec.model, dataset.name)?;
    }
    let directory = directory.map_or_else(|| runs::free_directory(&spec), Path::to_path_buf);
    let secret = JoinSecret::generate().context("the operating system gives no randomness")?;
    let hint = format!("go on with it: peerless train --resume {}", directory.display());
    RunDirectory::create(&directory, spec, secret, unix_us()).map_err(|error| match error {
        RunDirectoryError::Exists { .. } => advised(error, code::ERROR, Some(hint)),
        error => error.into(),
    })
}

fn resume(args: &TrainArgs, directory: &Path) -> anyhow::Result<(RunDirectory, Vec<Peer>, TopologyKind)> {
    if args.spec.is_given() {
        return Err(anyhow::anyhow!("what a run trains cannot be changed when it is resumed")).code(code::USAGE);
    }
    let run = runs::open(Some(directory))?;
    data::ensure(&run.spec().dataset.name)?;
    let mut names: Vec<String> = run.peers()?.into_iter().map(|(name, _)| name).collect();
    let has_server = names.iter().any(|name| name == SERVER);
    let of_run = if has_server { TopologyKind::ParameterServer } else { TopologyKind::P2p };
    let kind = args.topology.kind(Some(of_run).filter(|_| !names.is_empty()))?;
    if kind == TopologyKind::ParameterServer && !has_server {
        names.push(SERVER.to_owned());
    }
    let none = names.iter().all(|name| name == SERVER);
    let wanted = args.peers.unwrap_or(if none { DEFAULT_PEERS } else { 0 });
    for name in (1..=wanted).map(|number| number.to_string()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut peers = names.iter().map(|name| peer(&run, name)).collect::<anyhow::Result<Vec<_>>>()?;
    find_processes(&mut peers)?;
    Ok((run, peers, kind))
}

/// Takes over the processes that live. Peers that have the final state are not started again, and
/// once one has it and none lives, nobody is: the run is over.
fn find_processes(peers: &mut [Peer]) -> anyhow::Result<()> {
    let mut lives = false;
    for peer in &mut *peers {
        lives |= peer.attach()?;
    }
    for peer in peers.iter_mut().filter(|peer| !peer.lives()) {
        peer.recall()?;
    }
    let over = !lives && peers.iter().any(|peer| peer.exit() == Some(Exit::Finished));
    for peer in peers.iter_mut().filter(|peer| !over && peer.exit() != Some(Exit::Finished) && !peer.lives()) {
        peer.forget();
    }
    if over {
        say("this run is finished already");
    }
    Ok(())
}

fn peer(run: &RunDirectory, name: &str) -> anyhow::Result<Peer> {
    Ok(Peer::new(name.to_owned(), run.peer_directory(name)?))
}

fn check_faults(faults: &[Fault], peers: &[Peer]) -> anyhow::Result<()> {
    check_fault_names(faults, &peers.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>())
}

fn check_fault_names(faults: &[Fault], names: &[String]) -> anyhow::Result<()> {
    let server = names.iter().any(|name| name == SERVER);
    let peers = names.len() - usize::from(server);
    let of_server = faults.iter().find(|fault| fault.action == Action::KillServer && !server);
    if let Some(fault) = of_server {
        let what = anyhow::anyhow!("fault {fault} is done to a server, which the run does not have");
        return Err(advised(what, code::USAGE, Some("add --topology parameter-server".to_owned())));
    }
    match faults.iter().find(|fault| fault.action.peer().is_some_and(|peer| peer > peers)) {
        None => Ok(()),
        Some(fault) => Err(anyhow::anyhow!("fault {fault} names a peer that the run does not have: it has {peers}"))
            .code(code::USAGE),
    }
}

/// `starting` peers that compute are started.
fn launch(
    args: &TrainArgs,
    run: &RunDirectory,
    topology: TopologyKind,
    starting: usize,
    peers: &mut [Peer],
) -> anyhow::Result<Launch> {
    let program = std::env::current_exe().context("cannot find out where this program is")?;
    let mut flags = args.topology.for_peer(topology, run)?;
    match peers.iter_mut().find(|peer| peer.is_server()) {
        Some(server) => server.flags = expect(starting),
        None => flags.extend(expect(starting.saturating_sub(1))),
    }
    flags.extend(args.exchange.for_peer());
    flags.extend(args.functions.for_peer(starting));
    flags.extend(args.gradient_store.for_peer());
    flags.extend(args.prices.for_peer()?);
    if let Some(budget) = args.budget {
        let share = Money::from(budget).part(peers.len() as u64).rounded_down();
        flags.extend(["--budget".to_owned(), share.to_string()]);
    }
    if let Some(seconds) = args.checkpoint_every {
        flags.extend(["--checkpoint-every".to_owned(), seconds.to_string()]);
    }
    Ok(Launch { program, run: run.path().to_path_buf(), flags, end_with_watcher: args.end_with_watcher })
}

fn introduce(run: &RunDirectory, peers: usize, topology: TopologyKind) {
    let spec = run.spec();
    say(&format!("run {} in {}", spec.id().short(), run.path().display()));
    let (one, several) = match topology {
        TopologyKind::P2p => ("peer", "peers"),
        TopologyKind::ParameterServer => ("worker and a server", "workers and a server"),
        TopologyKind::AllReduce => ("worker", "workers by all-reduce"),
    };
    say(&format!(
        "{} on {}, {} rounds of {} samples, {peers} {}",
        spec.model,
        spec.dataset.name,
        thousands(spec.rounds),
        thousands(spec.samples_per_round()),
        if peers == 1 { one } else { several },
    ));
}

fn conclude(watch: &Watch, outcome: Outcome, start: Instant, json: bool) -> anyhow::Result<()> {
    let hint = Some(format!("go on: peerless train --resume {}", watch.run.path().display()));
    match outcome {
        Outcome::Finished => free_memory(watch),
        Outcome::Interrupted => return Err(advised(anyhow::anyhow!("interrupted"), code::INTERRUPTED, hint)),
        Outcome::BudgetUsedUp => return Err(budget_used_up(watch)),
        Outcome::Abandoned => {
            let reason = last_words(watch);
            return Err(advised(anyhow::anyhow!("no peer is left{reason}"), code::RUN_FAILED, hint));
        }
    }
    let summary = Summary::new(watch, start.elapsed());
    if json {
        output::json(&summary)?;
    } else {
        output::data(&summary.text())?;
    }
    if summary.agrees() {
        return Ok(());
    }
    label("warning", "different machines may compute different bits; `peerless status` shows the fingerprints");
    Err(anyhow::anyhow!("the finished peers have different states")).code(code::DIVERGED)
}

fn budget_used_up(watch: &Watch) -> anyhow::Error {
    let directory = watch.run.path().display();
    let bill = cost::read(&watch.run, &Projection::default()).map(|reading| Bill::of(&reading));
    let spent = bill.map(|bill| format!("; {} is spent", bill.total.total())).unwrap_or_default();
    let budget = watch.budget.map(|budget| format!(" of {budget}")).unwrap_or_default();
    let what = anyhow::anyhow!("the budget{budget} is used up at round {}{spent}", thousands(watch.round()));
    let hint = format!("go on: peerless train --resume {directory} with a larger --budget, or without one");
    advised(what, code::BUDGET, Some(hint))
}

/// Peers that were killed and not started again still own shared memory, which nobody needs any more.
fn free_memory(watch: &Watch) {
    for peer in &watch.peers {
        if let Err(error) = peerless_peer::release_tensors(&peer.directory) {
            label("warning", &format!("the shared memory of peer {} was not freed: {error}", peer.name));
        }
    }
}

/// Why the peers ended, if one of them said so: in its status or, if even that could not be written,
/// at the end of its log.
fn last_words(watch: &Watch) -> String {
    let status = |peer: &Peer| peer.status.as_ref()?.error.clone();
    let log = |peer: &Peer| {
        log_tail(&peer.directory).iter().rev().find_map(|line| Some(line.strip_prefix("error: ")?.to_owned()))
    };
    let error = watch.peers.iter().find_map(|peer| status(peer).or_else(|| log(peer)));
    error.map(|error| format!(": {error}")).unwrap_or_default()
}
