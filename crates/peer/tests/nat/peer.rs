//! A peer process in a namespace.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peerless_functions::ProcessConfig;
use peerless_functions::prices::Tariff;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::{PeerStatus, unix_us};
use peerless_peer::ticket::{JoinSecret, Ticket};
use peerless_peer::transport::RelayUrl;
use peerless_peer::{Compute, PeerOptions, Topology, fetch_spec, run_peer};
use peerless_protocol::RunSpec;
use serde::{Deserialize, Serialize};

/// What a peer process is told, as JSON in its command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// Directory of its own.
    pub directory: PathBuf,
    pub listen: SocketAddr,
    pub advertise: Vec<SocketAddr>,
    pub expected_peers: usize,
    pub relays: Vec<RelayUrl>,
    /// How it joins; `None` begins the run.
    pub ticket: Option<String>,
    pub rounds: u64,
}

/// The name of every peer in its own directory.
pub const NAME: &str = "peer";

/// Where a peer leaves a ticket to it.
pub fn ticket_file(directory: &Path) -> PathBuf {
    directory.join("ticket")
}

pub fn run(orders: Orders) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(take_part(orders));
}

async fn take_part(orders: Orders) {
    let ticket: Option<Ticket> = orders.ticket.map(|text| text.parse().unwrap());
    let (spec, secret, bootstrap) = match &ticket {
        None => (spec(orders.rounds), JoinSecret::from_bytes([7; 32]), Vec::new()),
        Some(ticket) => {
            let spec = fetch_spec(ticket, Duration::from_secs(20)).await.unwrap();
            (spec, ticket.secret().clone(), ticket.peers().to_vec())
        }
    };
    let run = RunDirectory::create(&orders.directory.join("run"), spec, secret, unix_us()).unwrap();
    let mut functions = ProcessConfig::new(std::env::current_exe().unwrap());
    functions.args = vec!["function".into()];
    functions.concurrency = 1;
    let options = PeerOptions {
        run: run.clone(),
        name: NAME.into(),
        listen: orders.listen,
        advertise: orders.advertise,
        relays: orders.relays.clone(),
        bootstrap,
        expected_peers: orders.expected_peers,
        functions: functions.into(),
        compute: Compute::Functions,
        topology: Topology::PeerToPeer,
        data_path: None,
        hedge: None,
        fallback: None,
        burst: false,
        checkpoint_every: Duration::from_secs(60),
        tariff: Tariff::default(),
        budget: None,
        exchange: peerless_peer::data_path::ExchangeConfig::Direct,
        gradient_store: None,
    };
    let tickets = tokio::spawn(leave_ticket(run, orders.directory, orders.relays));
    let summary = run_peer(options, std::future::pending()).await;
    tickets.abort();
    summary.unwrap();
}

async fn leave_ticket(run: RunDirectory, directory: PathBuf, relays: Vec<RelayUrl>) {
    let status = loop {
        let status = PeerStatus::read(&run.peer_directory(NAME).unwrap()).ok().flatten();
        if let Some(status) = status.filter(|status| !status.addresses.is_empty()) {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let ticket = Ticket::new(run.spec().id(), run.secret().clone(), vec![(status.peer, status.addresses)]).unwrap();
    let partial = directory.join("ticket.partial");
    std::fs::write(&partial, ticket.with_relays(relays).unwrap().encode().unwrap()).unwrap();
    std::fs::rename(partial, ticket_file(&directory)).unwrap();
}

fn spec(rounds: u64) -> RunSpec {
    serde_json::from_value(serde_json::json!({
        "version": 1, "model": "stand-in",
        "dataset": { "name": "none", "digest": "00".repeat(32), "train_samples": 1024, "test_samples": 16 },
        "seed": 1, "units_per_round": 6, "samples_per_unit": 4, "rounds": rounds,
        "optimizer": { "momentum": { "momentum": 0.9, "nesterov": true, "weight_decay": 0.0 } },
        "learning_rate": { "base": 0.05, "warm_up_rounds": 0, "schedule": "constant" },
        "clip_norm": null, "fraction_bits": 40,
        "evaluation": { "every_rounds": 1000, "samples_per_unit": 16 },
        "early_stopping": null, "until_correct": null
    }))
    .unwrap()
}
