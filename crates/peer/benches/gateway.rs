//! What the gateway moves over loopback: `cargo bench -p peerless-peer --bench gateway`.
//!
//! One blocking client on a connection that it keeps, as a function has one. A unit is a grant, a GET of the
//! vector, a PUT of as much, and collecting it: all that a remote function's unit costs besides computing.
//! Client and gateway are in this process.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerless_peer::data_path::{DataPath, Offer, OutputFile, OutputSize, Vector};
use peerless_peer::gateway::{Gateway, GatewayConfig, TlsFiles};
use peerless_protocol::Digest;
use peerless_protocol::function::{Place, Remote};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// LeNet-5, and a model of 16.8 million parameters.
const SIZES: [(usize, usize); 2] = [(4 * 61_706, 500), (64 << 20, 20)];

type Outcome<T> = Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Times {
    grant: Vec<Duration>,
    read: Vec<Duration>,
    write: Vec<Duration>,
    collect: Vec<Duration>,
}

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let folder = tempfile::tempdir_in("/dev/shm")?;
        for tls in [false, true] {
            let (gateway, agent) = start(folder.path(), tls).await?;
            for (bytes, units) in SIZES {
                let times = measure(&gateway, &agent, folder.path(), bytes, units).await?;
                report(if tls { "TLS 1.3" } else { "plain" }, bytes, times);
            }
        }
        Ok(())
    })
}

async fn start(folder: &Path, tls: bool) -> Outcome<(Gateway, ureq::Agent)> {
    let mut config = GatewayConfig::new("127.0.0.1:0".parse()?);
    let mut client = ureq::Agent::config_builder();
    if tls {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
        fs::write(&files.certificate, certified.cert.pem())?;
        fs::write(&files.key, certified.signing_key.serialize_pem())?;
        config.tls = Some(files);
        let root = Certificate::from_der(certified.cert.der()).to_owned();
        client = client.tls_config(TlsConfig::builder().root_certs(RootCerts::from(vec![root])).build());
    }
    Ok((Gateway::start(&config).await?, client.build().into()))
}

async fn measure(gateway: &Gateway, agent: &ureq::Agent, folder: &Path, bytes: usize, units: usize) -> Outcome<Times> {
    let gradient = vec![1; bytes];
    let digest = Digest::of(&gradient);
    fs::write(folder.join("state"), &gradient)?;
    let file = Arc::new(File::open(folder.join("state"))?);
    let mut times = Times::default();
    // The first unit connects, and is not counted.
    for unit in 0..=units {
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
        let elements = bytes as u64 / 4;
        let mut grant = gateway
            .offer(Offer {
                parameters: Some(Vector { file: Arc::clone(&file), offset: 0, elements, digest }),
                output: Some(OutputFile { path: folder.join("output"), size: OutputSize::Exactly(bytes as u64) }),
                dataset: false,
                expires: tokio::time::Instant::now() + Duration::from_secs(60),
            })
            .await?;
        let granted = lap();
        let parameters = grant.places().parameters.as_ref().map(|tensor| &tensor.place);
        read(agent, remote(parameters)?, bytes)?;
        let read = lap();
        write(agent, remote(Some(&grant.places().output))?, &gradient)?;
        let written = lap();
        grant.collect(digest).await?;
        let collected = lap();
        if unit > 0 {
            times.grant.push(granted);
            times.read.push(read);
            times.write.push(written);
            times.collect.push(collected);
        }
    }
    Ok(times)
}

fn remote(place: Option<&Place>) -> Outcome<&Remote> {
    match place {
        Some(Place::Remote(remote)) => Ok(remote),
        _ => Err("not a remote place".into()),
    }
}

fn bearer(remote: &Remote) -> String {
    format!("Bearer {}", remote.token.as_deref().unwrap_or_default())
}

fn read(agent: &ureq::Agent, remote: &Remote, bytes: usize) -> Outcome<()> {
    let mut response = agent.get(&remote.url).header("Authorization", bearer(remote)).call()?;
    let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
    if body.len() == bytes { Ok(()) } else { Err("a part is missing".into()) }
}

fn write(agent: &ureq::Agent, remote: &Remote, gradient: &[u8]) -> Outcome<()> {
    agent.put(&remote.url).header("Authorization", bearer(remote)).send(gradient)?;
    Ok(())
}

fn report(what: &str, bytes: usize, times: Times) {
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (grant, collect) = (median(times.grant), median(times.collect));
    let speed = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    let (read, write) = (median(times.read), median(times.write));
    println!(
        "{what}, {bytes} bytes (medians): grant {grant:.1?}, read {read:.1?} ({:.2} GB/s), write {write:.1?} ({:.2} GB/s), collect {collect:.1?}",
        speed(read),
        speed(write)
    );
}
