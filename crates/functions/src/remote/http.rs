//! Functions behind HTTP: any server that takes a task as the body of a POST and answers with a report.

use std::fmt;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, Response, StatusCode, Url, redirect};
use thiserror::Error;
use tokio::time::Instant;

use super::endpoints::{Endpoints, Lease};
use super::{Answer, Calls, Door, Limits, MAX_REPORT_BYTES};
use crate::error::{FunctionName, InvokeError, ProtocolViolation};
use crate::metering::Billing;
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};

/// The platform's name.
const PLATFORM: &str = "http";

/// Most bytes of a task: what Peerless's own server takes.
const TASK_LIMIT: usize = 1 << 20;

/// Longest time to reach a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest time that a server which failed may take to say that it is well.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);

/// Bytes of an error's body to quote.
const EXCERPT_BYTES: usize = 300;

/// Where the functions are, and how much they are asked to do.
#[derive(Clone)]
pub struct HttpConfig {
    /// Servers that do the same; each call goes to the one with the fewest calls.
    pub urls: Vec<String>,
    /// Sent as `Authorization: Bearer TOKEN`.
    pub token: Option<String>,
    /// A PEM file with certificates of authorities to trust besides the usual ones.
    pub authorities: Option<PathBuf>,
    /// A PEM file with this peer's certificate and key, for servers that ask for one (mTLS).
    pub identity: Option<PathBuf>,
    /// Most calls at a time.
    pub concurrency: usize,
    /// Most calls that wait; further ones fail with [`InvokeError::QueueFull`].
    pub queue_limit: usize,
    /// Longest time of a call.
    pub time_limit: Duration,
}

impl HttpConfig {
    /// Defaults: one call per server and core of this machine at a time, 1024 waiting, 5 min each.
    pub fn new(urls: Vec<String>) -> Self {
        let concurrency = urls.len().max(1).saturating_mul(available_parallelism().map_or(1, usize::from));
        Self {
            urls,
            token: None,
            authorities: None,
            identity: None,
            concurrency,
            queue_limit: 1024,
            time_limit: Duration::from_secs(300),
        }
    }
}

/// Shows no token.
impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { urls, token, authorities, identity, concurrency, queue_limit, time_limit } = self;
        f.debug_struct("HttpConfig")
            .field("urls", urls)
            .field("token", &token.as_ref().map(|_| "…"))
            .field("authorities", authorities)
            .field("identity", identity)
            .field("concurrency", concurrency)
            .field("queue_limit", queue_limit)
            .field("time_limit", time_limit)
            .finish()
    }
}

/// An [`HttpConfig`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HttpConfigError {
    /// Without a server.
    #[error("no function URL is given")]
    NoUrl,
    /// Not a URL that can be called.
    #[error("{url:?} is not the URL of a function: {reason}; expected something like https://host:8080")]
    Url {
        /// What was given, without a password.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A token that cannot be sent.
    #[error("the function token has characters that an HTTP header cannot have")]
    Token,
    /// A file with certificates or keys.
    #[error("cannot use the PEM file {}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No call may run.
    #[error("the concurrency is 0, but must be at least 1")]
    Concurrency,
    /// The TLS library.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Functions on HTTP servers. Needs a tokio runtime for every call.
pub struct HttpPlatform {
    calls: Calls<HttpDoor>,
}

impl HttpPlatform {
    /// Checks the configuration; connects to nothing.
    ///
    /// # Errors
    /// [`HttpConfigError`] for a configuration that no call could succeed with.
    pub fn new(config: HttpConfig) -> Result<Self, HttpConfigError> {
        if config.concurrency == 0 {
            return Err(HttpConfigError::Concurrency);
        }
        let limits = Limits { concurrency: config.concurrency, queue: config.queue_limit, time: config.time_limit };
        Ok(Self { calls: Calls::new(HttpDoor::new(config)?, limits) })
    }
}

impl FunctionPlatform for HttpPlatform {
    fn name(&self) -> &'static str {
        PLATFORM
    }

    fn concurrency(&self) -> usize {
        self.calls.concurrency()
    }

    fn shares_files(&self) -> bool {
        false
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        Box::pin(self.calls.invoke(call))
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.calls.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.calls.shutdown())
    }
}

struct HttpDoor {
    client: Client,
    servers: Vec<Server>,
    endpoints: Endpoints,
    token: Option<String>,
}

struct Server {
    tasks: Url,
    health: Url,
}

impl Server {
    fn name(&self) -> FunctionName {
        FunctionName::Remote(format!("at {}", self.tasks))
    }
}

impl HttpDoor {
    fn new(config: HttpConfig) -> Result<Self, HttpConfigError> {
        if config.urls.is_empty() {
            return Err(HttpConfigError::NoUrl);
        }
        if config.token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(HttpConfigError::Token);
        }
        let servers = config.urls.iter().map(|url| server(url)).collect::<Result<Vec<_>, _>>()?;
        let endpoints = Endpoints::new(servers.len());
        Ok(Self { client: client(&config)?, servers, endpoints, token: config.token })
    }

    async fn exchange(&self, server: &Server, lease: &Lease<'_>, task: Vec<u8>) -> Result<Vec<u8>, InvokeError> {
        let function = server.name();
        if lease.suspect {
            self.ask_how_it_is(server, lease).await?;
        }
        let mut request = self.client.post(server.tasks.clone()).header(CONTENT_TYPE, "application/json").body(task);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| lost(lease, &function, error))?;
        let status = response.status();
        if status.is_success() {
            let body = body(response, MAX_REPORT_BYTES).await.map_err(|error| lost(lease, &function, error))?;
            lease.answered();
            if body.len() > MAX_REPORT_BYTES {
                let violation = ProtocolViolation::LineTooLong { limit: MAX_REPORT_BYTES };
                return Err(InvokeError::Protocol { function, violation });
            }
            return Ok(body);
        }
        let pause = retry_after(&response);
        let said = body(response, EXCERPT_BYTES).await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said[..said.len().min(EXCERPT_BYTES)]);
        let reason = format!("{status}: {}", said.trim());
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                lease.failed(Instant::now(), Some(pause.unwrap_or(Duration::ZERO)));
                InvokeError::Throttled { function, retry_after: pause }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => InvokeError::Denied { function, reason },
            StatusCode::NOT_FOUND | StatusCode::GONE => InvokeError::Missing { function, reason },
            // A proxy that cannot reach the function behind it.
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                lease.failed(Instant::now(), None);
                InvokeError::Crashed { function, reason }
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                InvokeError::Crashed { function, reason }
            }
            _ => InvokeError::Refused { function, reason },
        })
    }

    /// One that failed is asked for its health first: that costs less than a task which gets lost.
    async fn ask_how_it_is(&self, server: &Server, lease: &Lease<'_>) -> Result<(), InvokeError> {
        let answer = self.client.get(server.health.clone()).timeout(HEALTH_LIMIT).send().await;
        match answer.map_err(|error| lost(lease, &server.name(), error))?.status() {
            // Others' servers may have no such page, which is an answer as well.
            status if status.is_success() || status.is_client_error() => Ok(()),
            status => {
                lease.failed(Instant::now(), None);
                let reason = format!("it says that it is not well: {status}");
                Err(InvokeError::Unreachable { function: server.name(), reason })
            }
        }
    }
}

impl Door for HttpDoor {
    fn platform(&self) -> &'static str {
        PLATFORM
    }

    fn task_limit(&self) -> usize {
        TASK_LIMIT
    }

    fn call(&self, task: Vec<u8>, hedge: bool) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let now = Instant::now();
            let lease = if hedge { self.endpoints.take_for_hedge(now) } else { self.endpoints.take(now) };
            let server = &self.servers[lease.index];
            let body = self.exchange(server, &lease, task).await;
            Answer { body, function: server.name(), billing: Billing::default() }
        })
    }

    fn name(&self) -> FunctionName {
        match &self.servers[..] {
            [only] => only.name(),
            several => FunctionName::Remote(format!("at one of {} servers", several.len())),
        }
    }
}

fn server(text: &str) -> Result<Server, HttpConfigError> {
    let wrong = |reason: &str, shown: &str| HttpConfigError::Url { url: shown.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string(), text))?;
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(wrong("user names and passwords are not sent; give a token", host));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("neither http: nor https:", text));
    }
    let health = url.join("/health").map_err(|error| wrong(&error.to_string(), text))?;
    Ok(Server { tasks: url, health })
}

fn client(config: &HttpConfig) -> Result<Client, HttpConfigError> {
    // The TLS library of the whole program; whoever was first has set the same.
    let _set_already = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .pool_max_idle_per_host(config.concurrency)
        // Redirected, a token would reach whoever is redirected to.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("peerless/", env!("CARGO_PKG_VERSION")));
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| HttpConfigError::Pem { path: path.clone(), reason: error.to_string() })
    };
    let pem =
        |path: &PathBuf, error: reqwest::Error| HttpConfigError::Pem { path: path.clone(), reason: without_url(error) };
    if let Some(path) = &config.authorities {
        let certificates = Certificate::from_pem_bundle(&read(path)?).map_err(|error| pem(path, error))?;
        builder =
            certificates.into_iter().fold(builder, |builder, certificate| builder.add_root_certificate(certificate));
    }
    if let Some(path) = &config.identity {
        builder = builder.identity(Identity::from_pem(&read(path)?).map_err(|error| pem(path, error))?);
    }
    builder.build().map_err(|error| HttpConfigError::Tls(without_url(error)))
}

/// The body, of which no more is read than shows that it is longer than `limit`.
async fn body(mut response: Response, limit: usize) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            break;
        }
    }
    Ok(body)
}

/// Seconds only: a date would need this machine's clock to be right.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

fn lost(lease: &Lease<'_>, function: &FunctionName, error: reqwest::Error) -> InvokeError {
    lease.failed(Instant::now(), None);
    InvokeError::Unreachable { function: function.clone(), reason: without_url(error) }
}

/// The error with its causes, which are what tells something. The URL is named already.
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
