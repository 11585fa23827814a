//! The gateway: an HTTP/1.1 server in the peer, by which functions that share no disk with it read
//! parameters and samples and write gradients. What it promises is in `docs/gateway.md`.
//!
//! It is built on hyper alone. A router would only stand in the way here: it decodes and normalises
//! paths before it matches them, and three resources with one spelling each need none.

mod config;
mod counters;
mod download;
mod grants;
mod pieces;
mod ranges;
mod refusal;
mod server;
mod service;
mod stall;
mod target;
mod tls;
mod upload;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerless_functions::BoxFuture;
use peerless_protocol::Digest;
use peerless_protocol::function::{Place, Remote, TensorRef};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

pub use config::{GatewayConfig, GatewayError, Limits, TlsFiles};
use counters::Counters;
use grants::{Capability, Destination, Grants, Rights, Window};
use service::Shared;

use crate::data_path::{DataPath, DataPathError, DataPathSnapshot, Grant, Offer, OutputFile, Places};

/// A running gateway. Dropping it closes all connections.
pub struct Gateway {
    shared: Arc<Shared>,
    local: SocketAddr,
    url: String,
    next: AtomicU64,
    server: AbortHandle,
}

impl Gateway {
    /// Listens and serves on the current tokio runtime.
    ///
    /// # Errors
    /// [`GatewayError`], which names the address, file or URL.
    pub async fn start(config: &GatewayConfig) -> Result<Self, GatewayError> {
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let dataset = open_dataset(&config.dataset)?;
        let unheard = |source| GatewayError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(unheard)?;
        let local = listener.local_addr().map_err(unheard)?;
        let url = config.base_url(local)?;
        if tls.is_none() && !local.ip().is_loopback() {
            tracing::warn!(%local, "the gateway speaks plain HTTP: whoever is on the way can read tokens and tensors");
        }
        tracing::info!(%local, url, "gateway for remote functions");
        let shared = Arc::new(Shared {
            grants: Arc::new(Grants::default()),
            dataset,
            transfers: Arc::new(Semaphore::new(config.limits.transfers)),
            limits: config.limits,
            counters: Arc::new(Counters::default()),
        });
        let server = tokio::spawn(server::serve(listener, tls, Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, local, url, next: AtomicU64::new(1), server })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn offer_now(&self, offer: Offer) -> Result<Box<dyn Grant>, DataPathError> {
        // Numbered by itself and not by the task's invocation: every attempt at that has its own.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let parameters = offer.parameters.as_ref().map(|vector| Window {
            file: Arc::clone(&vector.file),
            offset: vector.offset,
            length: vector.elements.saturating_mul(4),
        });
        let output = offer.output.map(|output| destination(output, number));
        let rights = Rights { parameters, dataset: offer.dataset, output, expires: offer.expires };
        let (token, capability) = self.shared.grants.issue(number, rights)?;
        let remote = |resource: &str| Remote {
            url: format!("{}/v1/tasks/{number}/{resource}", self.url),
            token: Some(token.clone()),
        };
        let parameters = offer.parameters.map(|vector| TensorRef {
            place: Place::Remote(remote("parameters")),
            offset: 0,
            elements: vector.elements,
            digest: Some(vector.digest),
        });
        let names = self.shared.dataset.keys().filter(|_| offer.dataset);
        let dataset = names.map(|name| (name.clone(), remote(&format!("dataset/{name}")))).collect();
        let places = Places { parameters, output: Place::Remote(remote("output")), dataset };
        Ok(Box::new(GatewayGrant { places, capability }))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl DataPath for Gateway {
    fn offer(&self, offer: Offer) -> BoxFuture<'_, Result<Box<dyn Grant>, DataPathError>> {
        Box::pin(async move { self.offer_now(offer) })
    }

    fn snapshot(&self) -> DataPathSnapshot {
        self.shared.counters.snapshot()
    }
}

struct GatewayGrant {
    places: Places,
    capability: Capability,
}

impl Grant for GatewayGrant {
    fn places(&self) -> &Places {
        &self.places
    }

    fn collect(&mut self, digest: Digest) -> BoxFuture<'_, Result<(), DataPathError>> {
        Box::pin(async move { self.capability.collect(digest) })
    }
}

/// Several attempts may write at the same time, each to a file of its own.
fn destination(OutputFile { path, size }: OutputFile, number: u64) -> Destination {
    let mut partial = OsString::from(&path);
    partial.push(format!(".{number}.partial"));
    Destination { partial: partial.into(), path, size }
}

fn open_dataset(files: &BTreeMap<String, PathBuf>) -> Result<BTreeMap<String, Window>, GatewayError> {
    files.iter().map(|(name, path)| Ok((name.clone(), open_dataset_file(name, path)?))).collect()
}

fn open_dataset_file(name: &str, path: &Path) -> Result<Window, GatewayError> {
    let bad = |reason: String| GatewayError::Dataset { name: name.to_owned(), path: path.to_path_buf(), reason };
    if !config::is_file_name(name) {
        return Err(bad("the name must be letters, digits, dots, dashes and underscores".into()));
    }
    let file = File::open(path).map_err(|error| bad(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| bad(error.to_string()))?;
    if !metadata.is_file() {
        return Err(bad("it is not a file".into()));
    }
    Ok(Window { file: Arc::new(file), offset: 0, length: metadata.len() })
}
