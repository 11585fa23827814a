//! Peers behind NAT train with others: real processes in network namespaces.
//!
//! Needs root, `ip` and `nft`; says so and passes where they are missing. Two peers behind different
//! NATs also need the program `iroh-relay` in `PATH` or named by `PEERLESS_IROH_RELAY`
//! (`cargo install iroh-relay --features server`).
//!
//! A program of its own and not a test harness, since it is peer and function too.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod function;
mod network;
mod peer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use network::{A, B, C, Network, Process};
use peer::{NAME, Orders, ticket_file};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::{PeerStatus, Phase};
use peerless_peer::transport::RelayUrl;

/// A test that waits for longer hangs. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 120;
const POLL: Duration = Duration::from_millis(20);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("function") => return function::serve().unwrap(),
        Some("peer") => return peer::run(serde_json::from_str(&args[2]).unwrap()),
        Some("--list") => return,
        _ => {}
    }
    if let Some(missing) = network::missing() {
        println!("SKIPPED all tests of peers behind NAT: {missing} is missing");
        return;
    }
    let undisturbed = Bench::new().alone();
    test("a_peer_behind_nat_trains_with_one_that_it_can_reach", || one_behind_nat(&undisturbed));
    test("a_run_goes_on_by_iroh_while_tcp_is_cut", || tcp_is_cut(&undisturbed));
    test("a_run_goes_on_by_tls_while_udp_is_cut", || udp_is_cut(&undisturbed));
    match relay_program() {
        Some(relay) => {
            test("peers_behind_two_nats_train_by_a_relay", || by_relay(&undisturbed, &relay));
            test("peers_behind_two_nats_that_know_their_addresses_punch_a_hole", || by_hole(&undisturbed, &relay));
        }
        None => println!("SKIPPED the tests of two NATs: the program iroh-relay is missing"),
    }
}

fn test(name: &str, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    println!("test {name} ... ok in {:.1} s", start.elapsed().as_secs_f64());
}

fn relay_program() -> Option<PathBuf> {
    let named = std::env::var_os("PEERLESS_IROH_RELAY").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&path).map(|folder| folder.join("iroh-relay")).find(|file| file.is_file());
    named.or_else(found)
}

/// Peers with a directory each, in namespaces.
struct Bench {
    network: Network,
    folder: tempfile::TempDir,
    relays: Vec<RelayUrl>,
    /// Whether the peers behind NAT know their address before it. The routers keep the ports.
    advertise: bool,
}

impl Bench {
    fn new() -> Self {
        Self { network: Network::build(), folder: tempfile::tempdir().unwrap(), relays: Vec::new(), advertise: false }
    }

    fn directory(&self, space: &str) -> PathBuf {
        self.folder.path().join(space)
    }

    /// Starts a peer in `space` that joins by way of the one in `by`.
    fn start(&self, space: &str, expected_peers: usize, by: Option<&str>) -> Process {
        let directory = self.directory(space);
        std::fs::create_dir(&directory).unwrap();
        let listen: SocketAddr = if space == A { "10.77.1.2:4000" } else { "0.0.0.0:4000" }.parse().unwrap();
        let before_nat = if space == B { "10.77.2.2:4000" } else { "10.77.3.2:4000" }.parse().unwrap();
        let advertise = if self.advertise { vec![before_nat] } else { Vec::new() };
        let ticket = by.map(|by| wait_for(|| std::fs::read_to_string(ticket_file(&self.directory(by))).ok()));
        let orders = Orders {
            directory,
            listen,
            advertise,
            expected_peers,
            relays: self.relays.clone(),
            ticket,
            rounds: ROUNDS,
        };
        let program = std::env::current_exe().unwrap();
        let orders = serde_json::to_string(&orders).unwrap();
        self.network.spawn(space, program.to_str().unwrap(), &["peer", &orders])
    }

    fn status(&self, space: &str) -> Option<PeerStatus> {
        let run = RunDirectory::open(&self.directory(space).join("run")).ok()?;
        PeerStatus::read(&run.peer_directory(NAME).unwrap()).ok().flatten()
    }

    /// Waits until the peer in `space` has made so many rounds.
    fn reaches(&self, space: &str, round: u64) -> PeerStatus {
        wait_for(|| self.status(space).filter(|status| status.round >= round))
    }

    /// The digest of the final state of one peer that trains by itself.
    fn alone(&self) -> String {
        let mut alone = self.start(A, 0, None);
        self.ends(&mut alone, A).state_digest.to_string()
    }

    fn ends(&self, process: &mut Process, space: &str) -> PeerStatus {
        assert!(wait_for(|| process.ended_well()), "the peer in {space} failed: {:?}", self.status(space));
        let status = self.status(space).unwrap();
        assert_eq!(status.phase, Phase::Finished);
        status
    }

    /// All peers end with the state of a peer that trained alone, and each had its part in it.
    fn all_end_with(&self, digest: &str, peers: &mut [(&str, Process)]) {
        for (space, process) in peers {
            let status = self.ends(process, space);
            println!(
                "  {space}: {} contributions in {} rounds, {} backups, state {}",
                status.contributions,
                status.rounds_applied,
                status.backup_units,
                status.state_digest.short()
            );
            assert_eq!(status.state_digest.to_string(), digest, "the peer in {space} has another model");
            assert!(status.contributions > ROUNDS / 4, "the peer in {space} had little part in the run");
        }
    }
}

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "nothing came in {} s", PATIENCE.as_secs());
        std::thread::sleep(POLL);
    }
}

fn one_behind_nat(undisturbed: &str) {
    let bench = Bench::new();
    let a = bench.start(A, 1, None);
    let b = bench.start(B, 1, Some(A));
    bench.all_end_with(undisturbed, &mut [(A, a), (B, b)]);
}

/// Cuts a protocol for 60 rounds in the middle of the run.
fn cut(undisturbed: &str, protocol: &str) {
    let bench = Bench::new();
    let a = bench.start(A, 1, None);
    let b = bench.start(B, 1, Some(A));
    let before = bench.reaches(B, 20).round;
    bench.network.cut(Some(protocol));
    let during = bench.reaches(B, before + 60);
    assert_eq!(during.neighbours, 1, "the other peer was lost while {protocol} was cut");
    bench.network.cut(None);
    bench.all_end_with(undisturbed, &mut [(A, a), (B, b)]);
}

fn tcp_is_cut(undisturbed: &str) {
    cut(undisturbed, "tcp");
}

fn udp_is_cut(undisturbed: &str) {
    cut(undisturbed, "udp");
}

/// A relay beside the public network's place for a peer, and two peers that cannot reach each other.
fn two_behind_nats(undisturbed: &str, relay: &Path, advertise: bool) -> u64 {
    let mut bench = Bench::new();
    let _relay = bench.network.spawn(A, relay.to_str().unwrap(), &["--dev"]);
    bench.relays = vec!["http://10.77.1.2:3340".parse().unwrap()];
    bench.advertise = advertise;
    let b = bench.start(B, 1, None);
    let c = bench.start(C, 1, Some(B));
    bench.all_end_with(undisturbed, &mut [(B, b), (C, c)]);
    bench.network.punched()
}

/// The relay of this test does not tell peers their addresses (that takes TLS), and they know of none.
fn by_relay(undisturbed: &str, relay: &Path) {
    let punched = two_behind_nats(undisturbed, relay, false);
    println!("  {punched} packets went from one router to the other without the relay");
}

fn by_hole(undisturbed: &str, relay: &Path) {
    let punched = two_behind_nats(undisturbed, relay, true);
    println!("  {punched} packets went from one router to the other without the relay");
    assert!(punched > ROUNDS, "everything went through the relay");
}
