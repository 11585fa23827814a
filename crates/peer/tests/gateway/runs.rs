//! Whole runs with functions elsewhere.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use peerless_peer::data_path::DataPathConfig;
use peerless_peer::gateway::GatewayConfig;
use peerless_peer::ticket::JoinSecret;
use peerless_peer::{
    Compute, FunctionsConfig, PeerError, PeerOptions, PeerSummary, Phase, RunDirectory, Topology, run_peer,
};
use peerless_protocol::function::{Task, Work};
use peerless_protocol::{Digest, Layout, LayoutEntry, Role, RoundPlan, UnitSet};
use peerless_store::{PayloadFormat, RoundSums};

use crate::function::{Elsewhere, Mischief};
use crate::over_network::spec;

const ROUNDS: u64 = 12;

async fn run(folder: &Path, functions: Elsewhere, gateway: bool) -> Result<PeerSummary, PeerError> {
    let run = RunDirectory::create(&folder.join("run"), spec(ROUNDS), JoinSecret::from_bytes([7; 32]), 1).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = PeerOptions {
        run,
        name: "peer".into(),
        listen,
        advertise: Vec::new(),
        relays: Vec::new(),
        bootstrap: Vec::new(),
        expected_peers: 0,
        functions: FunctionsConfig::Platform(Arc::new(functions)),
        compute: Compute::Functions,
        topology: Topology::PeerToPeer,
        data_path: gateway.then(|| DataPathConfig::Gateway(GatewayConfig::new(listen))),
        hedge: None,
        fallback: None,
        burst: false,
        checkpoint_every: Duration::from_secs(60),
        tariff: Default::default(),
        budget: None,
        exchange: peerless_peer::data_path::ExchangeConfig::Direct,
        gradient_store: None,
    };
    run_peer(options, std::future::pending()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_in_the_same_state_wherever_its_functions_are_and_whatever_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let here = run(folder.path(), Elsewhere::here(), false).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let mischiefs = [
        Mischief::DiesAfterWriting,
        Mischief::WritesLate,
        Mischief::WritesTwice,
        Mischief::CutWhileWriting,
        Mischief::WritesNothing,
        Mischief::None,
    ];
    // Two attempts may fail, so the third does well.
    let choose = move |task: &Task, attempt| match task.work {
        Work::Unit { round, unit, .. } if attempt < 3 => {
            mischiefs[(round as usize + 2 * unit as usize + attempt as usize) % 6]
        }
        _ => Mischief::None,
    };
    let elsewhere = Elsewhere::new(choose);
    let seen = elsewhere.seen();
    let there = run(folder.path(), elsewhere, true).await.unwrap();
    seen.wait_for_the_late();
    assert_eq!((there.phase, there.status.steps), (Phase::Finished, ROUNDS));
    assert_eq!(there.status.state_digest, here.status.state_digest);
    let moved = there.status.functions.data_path.unwrap();
    assert!(moved.bytes_out > 0 && moved.bytes_in > 0 && moved.refused[&403] > 0, "{moved:?}");
    assert_eq!(here.status.functions.data_path, None);
    assert!(seen.tasks.lock().unwrap().len() > 100, "nothing went wrong");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_functions_without_a_way_to_tensors_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), Elsewhere::new(|_, _| Mischief::None), false).await.unwrap_err();
    assert!(matches!(refused, PeerError::NoDataPath { platform: "elsewhere" }), "{refused}");
}

/// The sums of the first round for a model of this many elements.
pub fn sums(elements: usize) -> RoundSums {
    let shape = vec![u32::try_from(elements).unwrap()];
    let entry = LayoutEntry { name: "weight".into(), shape, offset: 0, role: Role::Parameter };
    let format = PayloadFormat::new(&spec(ROUNDS), &Layout { entries: vec![entry] }).unwrap();
    let mut sums = RoundSums::new(format, 1 << 30);
    sums.begin(&RoundPlan::new(&spec(ROUNDS), 0)).unwrap();
    sums
}

pub fn digest_of_sum(sums: &mut RoundSums, unit: u32) -> Digest {
    sums.sum_of(&UnitSet::from_iter([unit])).unwrap().unwrap().0
}
