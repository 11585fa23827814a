//! A collector that takes spans by OTLP over HTTP, and what can be wrong with it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter as Otlp, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use reqwest::{Client, Url, redirect};
use thiserror::Error;

/// Where OTLP over HTTP goes below a collector's URL.
const PATH: &str = "/v1/traces";
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a request may take unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise, as the specification has it.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest reason of a collector that is told, in characters.
const MAX_REASON: usize = 200;

/// Where a collector is. Shows no more than scheme, host and port: paths and queries may hold keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

/// A URL that is none of a collector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// It holds a user or a password. Not quoted, for that reason.
    #[error("the collector's URL holds a user or a password, where everybody who lists processes can read them")]
    Secret,
    /// It is something else. Not quoted, as it may hold a key.
    #[error("the collector's URL is not http://HOST[:PORT][/PATH] or https://")]
    Malformed,
}

impl Endpoint {
    /// The collector at a base URL, such as `http://localhost:4318`; `v1/traces` comes behind it unless it is there.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        let mut url = Url::parse(url.trim()).map_err(|_| EndpointError::Malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::Secret);
        }
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(EndpointError::Malformed);
        }
        let path = url.path().trim_end_matches('/');
        let path = format!("{}{PATH}", path.strip_suffix(PATH).unwrap_or(path));
        url.set_path(&path);
        url.set_fragment(None);
        Ok(Self(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// A collector that cannot be called.
#[derive(Debug, Error)]
pub enum CollectorError {
    /// The TLS library or the HTTP client.
    #[error("cannot set up HTTP: {0}")]
    Client(String),
    /// What the environment asks of exporters (`OTEL_EXPORTER_OTLP_...`).
    #[error("the environment's settings for OTLP cannot be used: {0}")]
    Environment(#[from] ExporterBuildError),
}

/// Spans that a collector did not take. Names no more of its URL than scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExportError {
    /// No answer.
    #[error("the collector at {collector} does not answer: {reason}")]
    Unreachable {
        /// Where it is.
        collector: String,
        /// What the system or the HTTP library says.
        reason: String,
    },
    /// Another answer than success.
    #[error("the collector at {collector} answers with HTTP status {status}")]
    Status {
        /// Where it is.
        collector: String,
        /// What it answered.
        status: u16,
    },
    /// Anything else.
    #[error("spans cannot be sent to the collector at {collector}: {reason}")]
    Other {
        /// Where it is.
        collector: String,
        /// What the library says.
        reason: String,
    },
}

impl ExportError {
    /// Whether these very spans will not be taken, however often they are sent.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 413 | 422, .. })
    }
}

/// What a collector did with spans that it took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Spans that it refused nevertheless.
    pub rejected: u64,
    /// Why, or a warning.
    pub reason: String,
}

/// A collector of spans.
#[derive(Debug)]
pub struct Collector {
    exporter: Otlp,
    last: Arc<Mutex<Last>>,
    name: String,
}

impl Collector {
    /// The collector there. Headers, such as keys, come from `OTEL_EXPORTER_OTLP_HEADERS`. Connects to nothing.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub fn new(endpoint: &Endpoint) -> Result<Self, CollectorError> {
        let last = Arc::<Mutex<Last>>::default();
        let door = Door { client: client()?, last: Arc::clone(&last) };
        let exporter = Otlp::builder()
            .with_http()
            .with_http_client(door)
            .with_endpoint(endpoint.0.as_str())
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        Ok(Self { exporter, last, name: endpoint.to_string() })
    }

    /// Where it is, without what may be secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends spans of one resource, again for a few times if that may help.
    ///
    /// # Errors
    /// [`ExportError`].
    pub async fn export(&mut self, resource: &Resource, spans: Vec<SpanData>) -> Result<Taken, ExportError> {
        self.exporter.set_resource(resource);
        let collector = self.name.clone();
        *lock(&self.last) = Last::Nothing;
        let result = self.exporter.export(spans).await;
        let last = std::mem::take(&mut *lock(&self.last));
        match (result, last) {
            (Ok(()), Last::Answer(body)) => Ok(taken(&body)),
            (Ok(()), _) => Ok(Taken::default()),
            (Err(_), Last::Failure(reason)) => Err(ExportError::Unreachable { collector, reason }),
            (Err(_), Last::Status(status)) => Err(ExportError::Status { collector, status }),
            (Err(error), _) => Err(ExportError::Other { collector, reason: error.to_string() }),
        }
    }
}

/// How the last request ended. The exporter's own error does not say.
#[derive(Debug, Default)]
enum Last {
    #[default]
    Nothing,
    Answer(Bytes),
    Status(u16),
    Failure(String),
}

fn lock(last: &Mutex<Last>) -> std::sync::MutexGuard<'_, Last> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The project's HTTP client for the library.
#[derive(Debug)]
struct Door {
    client: Client,
    last: Arc<Mutex<Last>>,
}

impl HttpClient for Door {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answered = self.exchange(request).await;
            *lock(&self.last) = match &answered {
                Ok(answer) if answer.status().is_success() => Last::Answer(answer.body().clone()),
                Ok(answer) => Last::Status(answer.status().as_u16()),
                Err(reason) => Last::Failure(reason.clone()),
            };
            Ok(answered?)
        })
    }
}

impl Door {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let request = reqwest::Request::try_from(request).map_err(without_url)?;
        let mut answer = self.client.execute(request).await.map_err(without_url)?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(without_url)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err("its answer is too long".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        response.body(body.into()).map_err(|error| error.to_string())
    }
}

fn client() -> Result<Client, CollectorError> {
    // The TLS library of the whole program; whoever was first has set the same.
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(request_limit())
        // Redirected, a key would reach whoever is redirected to.
        .redirect(redirect::Policy::none());
    builder.build().map_err(|error| CollectorError::Client(without_url(error)))
}

/// The library tells its own client of it, and no other one.
fn request_limit() -> Duration {
    let set = |name: &str| std::env::var(name).ok()?.trim().parse().ok().map(Duration::from_millis);
    let set = set("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| set("OTEL_EXPORTER_OTLP_TIMEOUT"));
    set.unwrap_or(REQUEST_LIMIT)
}

/// What the answer of a collector that took a request says of its spans; one that cannot be read says nothing.
fn taken(body: &Bytes) -> Taken {
    let answer = ExportTraceServiceResponse::decode(body.clone()).unwrap_or_default();
    let Some(partial) = answer.partial_success else { return Taken::default() };
    let reason = partial.error_message.chars().filter(|letter| !letter.is_control()).take(MAX_REASON).collect();
    Taken { rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(), reason }
}

/// The error with its causes, which are what tells something, and without the URL, which may hold a key.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(base: &str) -> String {
        Endpoint::new(base).unwrap().0.to_string()
    }

    #[test]
    fn a_base_url_gets_the_path_of_traces_once() {
        for base in
            ["http://tempo:4318", "http://tempo:4318/", "http://tempo:4318/v1/traces", "http://tempo:4318/v1/traces/"]
        {
            assert_eq!(url(base), "http://tempo:4318/v1/traces", "{base}");
        }
        assert_eq!(url("https://otlp.example/otlp?tenant=7#x"), "https://otlp.example/otlp/v1/traces?tenant=7");
    }

    #[test]
    fn what_is_no_url_of_a_collector_is_refused_and_not_quoted() {
        for wrong in ["localhost:4318", "", "ftp://host/", "http://"] {
            assert_eq!(Endpoint::new(wrong), Err(EndpointError::Malformed), "{wrong}");
        }
        for secret in ["http://user:pass@host", "http://token@host"] {
            assert_eq!(Endpoint::new(secret), Err(EndpointError::Secret), "{secret}");
        }
    }

    #[test]
    fn paths_and_queries_are_not_shown() {
        let endpoint = Endpoint::new("https://host:8443/s3cr3t?key=s3cr3t").unwrap();
        assert_eq!(
            (endpoint.to_string(), format!("{endpoint:?}")),
            ("https://host:8443".into(), "Endpoint(https://host:8443)".into())
        );
    }

    #[test]
    fn what_a_collector_refused_of_a_request_is_read() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too\nold".into() };
        let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
        assert_eq!(taken(&answer.encode_to_vec().into()), Taken { rejected: 3, reason: "tooold".into() });
        assert_eq!(taken(&Bytes::from_static(b"\xff\xff<html>")), Taken::default());
    }
}
