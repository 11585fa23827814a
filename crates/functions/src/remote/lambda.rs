//! AWS Lambda, or whatever speaks its API: synchronous invocations of one function.

mod log;

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::Region;
use aws_sdk_lambda::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::{InvokeError as SdkInvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use serde::Deserialize;
use thiserror::Error;

use super::{Answer, Calls, Door, Limits};
use crate::error::{FunctionName, InvokeError, ProtocolViolation};
use crate::metering::Billing;
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};
use crate::report::{MAX_REPORT_BYTES, REASON_CHARS};

/// The platform's name.
const PLATFORM: &str = "lambda";

/// Most bytes of the payload of a synchronous invocation. Lambda enforces it; emulations do not.
const TASK_LIMIT: usize = 6 << 20;

/// Longest time to reach the endpoint.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Which function, and how much it is asked to do. Credentials come from where all programs for AWS look
/// for them: environment, profile, role of the machine.
#[derive(Debug, Clone)]
pub struct LambdaConfig {
    /// Name or ARN, with version or alias if wanted.
    pub function: String,
    /// Region; that of environment or profile if absent.
    pub region: Option<String>,
    /// Another endpoint than AWS's, such as that of an emulation.
    pub endpoint: Option<String>,
    /// Most invocations at a time. Lambda throttles those beyond the account's or function's limit.
    pub concurrency: usize,
    /// Most calls that wait; further ones fail with [`InvokeError::QueueFull`].
    pub queue_limit: usize,
    /// Longest time of a call. Lambda ends functions by their own limit, at most 15 minutes.
    pub time_limit: Duration,
}

impl LambdaConfig {
    /// Defaults: 16 invocations at a time, 1024 waiting, 15 min each.
    pub fn new(function: impl Into<String>) -> Self {
        Self {
            function: function.into(),
            region: None,
            endpoint: None,
            concurrency: 16,
            queue_limit: 1024,
            time_limit: Duration::from_secs(15 * 60),
        }
    }
}

/// A [`LambdaConfig`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LambdaConfigError {
    /// No region anywhere.
    #[error("no AWS region is configured; name one, or set AWS_REGION")]
    NoRegion,
    /// Without a name.
    #[error("the name of the Lambda function is empty")]
    NoFunction,
    /// No call may run.
    #[error("the concurrency is 0, but must be at least 1")]
    Concurrency,
}

/// One function on Lambda.
pub struct LambdaPlatform {
    calls: Calls<LambdaDoor>,
}

impl LambdaPlatform {
    /// Reads region and credentials' sources; invokes nothing.
    ///
    /// # Errors
    /// [`LambdaConfigError`] for a configuration that no call could succeed with.
    pub async fn new(config: LambdaConfig) -> Result<Self, LambdaConfigError> {
        if config.function.is_empty() {
            return Err(LambdaConfigError::NoFunction);
        }
        if config.concurrency == 0 {
            return Err(LambdaConfigError::Concurrency);
        }
        let client = client(&config).await?;
        let limits = Limits { concurrency: config.concurrency, queue: config.queue_limit, time: config.time_limit };
        Ok(Self { calls: Calls::new(LambdaDoor { client, function: config.function }, limits) })
    }
}

impl FunctionPlatform for LambdaPlatform {
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

async fn client(config: &LambdaConfig) -> Result<Client, LambdaConfigError> {
    // The provider that the rest of the program uses: two would be compiled and linked otherwise.
    let http = Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        // Retries have one owner, and that is not this client.
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build())
        // A function that computes for minutes is no stalled stream.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &config.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    let shared = loader.load().await;
    if shared.region().is_none() {
        return Err(LambdaConfigError::NoRegion);
    }
    Ok(Client::new(&shared))
}

struct LambdaDoor {
    client: Client,
    function: String,
}

impl LambdaDoor {
    async fn exchange(&self, task: Vec<u8>) -> Answer {
        let request = self.client.invoke().function_name(&self.function);
        let request = request.invocation_type(InvocationType::RequestResponse).log_type(LogType::Tail);
        let (billing, body) = match request.payload(Blob::new(task)).send().await {
            // Failed invocations have a log, too. Without one nobody says what is billed; it is a request at least.
            Ok(output) => {
                let billing = output.log_result().and_then(log::billed).unwrap_or_else(|| self.given_up());
                (billing, self.payload(output))
            }
            Err(error) => (Billing::default(), Err(self.refused(error))),
        };
        Answer { body, function: self.name(), billing }
    }

    fn payload(&self, output: InvokeOutput) -> Result<Vec<u8>, InvokeError> {
        let payload = output.payload.map(Blob::into_inner).unwrap_or_default();
        if output.function_error.is_none() {
            if payload.len() > MAX_REPORT_BYTES {
                let violation = ProtocolViolation::LineTooLong { limit: MAX_REPORT_BYTES };
                return Err(InvokeError::Protocol { function: self.name(), violation });
            }
            return Ok(payload);
        }
        let said: FunctionError = serde_json::from_slice(&payload).unwrap_or_default();
        Err(match timed_out(&said.message) {
            Some(limit) => InvokeError::TimedOut { function: self.name(), limit },
            None => {
                let reason = format!("{}: {}", said.kind, said.message).chars().take(REASON_CHARS).collect();
                InvokeError::Crashed { function: self.name(), reason }
            }
        })
    }

    fn refused(&self, error: SdkError<SdkInvokeError>) -> InvokeError {
        let function = self.name();
        let reason = DisplayErrorContext(&error).to_string();
        let SdkError::ServiceError(context) = &error else {
            // The request was not sent, or nothing that can be read came back. Without credentials it
            // cannot be signed, which the reason says.
            return InvokeError::Unreachable { function, reason };
        };
        let status = context.raw().status().as_u16();
        let service = context.err();
        let reason = match (service.code(), service.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            _ => reason,
        };
        match service {
            SdkInvokeError::TooManyRequestsException(throttled) => {
                let seconds = throttled.retry_after_seconds().and_then(|text| text.parse::<u32>().ok());
                let retry_after = seconds.map(|seconds| Duration::from_secs(seconds.into()));
                InvokeError::Throttled { function, retry_after }
            }
            SdkInvokeError::Ec2ThrottledException(_) | SdkInvokeError::ResourceNotReadyException(_) => {
                InvokeError::Throttled { function, retry_after: None }
            }
            SdkInvokeError::ResourceNotFoundException(_) => InvokeError::Missing { function, reason },
            _ if status == 429 => InvokeError::Throttled { function, retry_after: None },
            _ if status == 401 || status == 403 => InvokeError::Denied { function, reason },
            _ if status == 404 => InvokeError::Missing { function, reason },
            _ if status >= 500 => InvokeError::Crashed { function, reason },
            _ => InvokeError::Refused { function, reason },
        }
    }
}

impl Door for LambdaDoor {
    fn platform(&self) -> &'static str {
        PLATFORM
    }

    fn task_limit(&self) -> usize {
        TASK_LIMIT
    }

    fn call(&self, task: Vec<u8>, _hedge: bool) -> BoxFuture<'_, Answer> {
        Box::pin(self.exchange(task))
    }

    fn name(&self) -> FunctionName {
        FunctionName::Remote(self.function.clone())
    }

    /// A request at least; the function works on, and nobody says for how long.
    fn given_up(&self) -> Billing {
        Billing { requests: 1, ..Billing::default() }
    }
}

/// The payload of an invocation whose function failed.
#[derive(Debug, Default, Deserialize)]
struct FunctionError {
    /// Such as `Runtime.ExitError`.
    #[serde(rename = "errorType", default = "unnamed")]
    kind: String,
    #[serde(rename = "errorMessage", default)]
    message: String,
}

fn unnamed() -> String {
    "Unknown".to_owned()
}

/// The limit in a message such as `… Task timed out after 3.00 seconds`.
fn timed_out(message: &str) -> Option<Duration> {
    let (_, rest) = message.split_once("Task timed out after ")?;
    let seconds = rest.split_whitespace().next()?.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_read_from_lambdas_message() {
        let message = "2026-11-22T01:02:03.004Z 1a2b Task timed out after 3.02 seconds";
        assert_eq!(timed_out(message), Some(Duration::from_millis(3020)));
        for other in
            ["", "Task timed out after", "Task timed out after NaN seconds", "RequestId: x Error: exit status 1"]
        {
            assert_eq!(timed_out(other), None, "{other}");
        }
    }
}
