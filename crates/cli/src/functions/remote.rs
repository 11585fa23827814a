//! Flags about functions on other machines, and about how they reach the peer's tensors.

use std::collections::BTreeMap;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use peerless_functions::{FunctionPlatform, HttpConfig, HttpPlatform};
#[cfg(feature = "lambda")]
use peerless_functions::{LambdaConfig, LambdaPlatform};
#[cfg(feature = "s3")]
use peerless_peer::data_path::BucketConfig;
use peerless_peer::data_path::DataPathConfig;
use peerless_peer::gateway::{GatewayConfig, TlsFiles};

/// The environment variable with the token that HTTP functions are called with: a flag would show it to
/// everybody who lists processes.
const TOKEN: &str = "PEERLESS_FUNCTION_TOKEN";

/// Functions elsewhere.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct RemoteArgs {
    /// HTTP server that computes units, instead of processes here; repeat it for several. See
    /// `peerless function --help`. PEERLESS_FUNCTION_TOKEN is sent as a bearer token
    #[arg(long, value_name = "URL", conflicts_with = "function_program", group = "elsewhere")]
    function_url: Vec<String>,
    /// Certificate authorities that function servers are trusted by, besides the usual ones (PEM)
    #[arg(long, value_name = "FILE", requires = "function_url")]
    function_ca: Option<PathBuf>,
    /// This peer's certificate and key for function servers that ask for one (PEM)
    #[arg(long, value_name = "FILE", requires = "function_url")]
    function_identity: Option<PathBuf>,
    #[cfg(feature = "lambda")]
    #[command(flatten)]
    lambda: LambdaArgs,
    /// Compute with processes here first, --functions of them, and have at most N units at a time computed by
    /// --function-url or --lambda when all of them are at work and waiting for one takes longer
    #[arg(long, value_name = "N", requires = "elsewhere", value_parser = at_least_one)]
    pub(super) burst: Option<usize>,
    /// Where remote functions reach this peer's tensors [default: 127.0.0.1, any port]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<SocketAddr>,
    /// URL of the gateway as functions see it, if it is not its address
    #[arg(long, value_name = "URL")]
    gateway_url: Option<String>,
    /// Certificate of the gateway (PEM): makes it speak TLS
    #[arg(long, value_name = "FILE", requires = "gateway_key")]
    gateway_cert: Option<PathBuf>,
    /// Private key of the gateway (PEM)
    #[arg(long, value_name = "FILE", requires = "gateway_cert")]
    gateway_key: Option<PathBuf>,
    #[cfg(feature = "s3")]
    #[command(flatten)]
    bucket: BucketArgs,
}

/// A bucket instead of the gateway.
#[cfg(feature = "s3")]
#[derive(Args, Debug, Clone, Default)]
struct BucketArgs {
    /// Bucket of an S3-compatible store by which remote functions get at tensors, instead of a gateway:
    /// s3://NAME or s3://NAME/PREFIX. Credentials come from the environment (AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY) or the role of this machine, never from flags; see docs/buckets.md
    #[arg(long, value_name = "URL",
        conflicts_with_all = ["gateway", "gateway_url", "gateway_cert", "gateway_key"])]
    bucket: Option<BucketConfig>,
    /// The bucket's store, such as http://10.0.0.1:8333 [default: AWS_ENDPOINT_URL_S3, or AWS]
    #[arg(long, value_name = "URL", requires = "bucket")]
    bucket_endpoint: Option<String>,
    /// The bucket's region [default: AWS_REGION, or us-east-1]
    #[arg(long, value_name = "REGION", requires = "bucket")]
    bucket_region: Option<String>,
}

/// Functions on AWS Lambda.
#[cfg(feature = "lambda")]
#[derive(Args, Debug, Clone, Default)]
struct LambdaArgs {
    /// AWS Lambda function that computes units, by name or ARN. Credentials are taken from the environment,
    /// the profile or the role of this machine
    #[arg(long, value_name = "NAME", conflicts_with_all = ["function_program", "function_url"], group = "elsewhere")]
    lambda: Option<String>,
    /// AWS region [default: that of environment or profile]
    #[arg(long, value_name = "REGION", requires = "lambda")]
    lambda_region: Option<String>,
    /// Another endpoint than AWS's, such as that of an emulation
    #[arg(long, value_name = "URL", requires = "lambda")]
    lambda_endpoint: Option<String>,
}

impl RemoteArgs {
    /// Whether functions elsewhere are asked for.
    pub(super) fn is_given(&self) -> bool {
        #[cfg(feature = "lambda")]
        if self.lambda.lambda.is_some() {
            return true;
        }
        !self.function_url.is_empty()
    }

    /// The platform that the flags name; `None` for processes of this machine.
    pub(super) async fn platform(
        &self,
        functions: Option<usize>,
        time_limit: Option<Duration>,
    ) -> anyhow::Result<Option<Arc<dyn FunctionPlatform>>> {
        #[cfg(feature = "lambda")]
        if let Some(function) = &self.lambda.lambda {
            let mut config = LambdaConfig::new(function);
            config.region.clone_from(&self.lambda.lambda_region);
            config.endpoint.clone_from(&self.lambda.lambda_endpoint);
            config.concurrency = functions.unwrap_or(config.concurrency);
            config.time_limit = time_limit.unwrap_or(config.time_limit);
            return Ok(Some(Arc::new(LambdaPlatform::new(config).await?)));
        }
        if self.function_url.is_empty() {
            return Ok(None);
        }
        let mut config = HttpConfig::new(self.function_url.clone());
        config.token = env::var(TOKEN).ok().filter(|token| !token.is_empty());
        config.authorities.clone_from(&self.function_ca);
        config.identity.clone_from(&self.function_identity);
        config.concurrency = functions.unwrap_or(config.concurrency);
        config.time_limit = time_limit.unwrap_or(config.time_limit);
        Ok(Some(Arc::new(HttpPlatform::new(config)?)))
    }

    /// How its functions get at tensors and at the files of the dataset.
    pub(super) fn data_path(&self, dataset: BTreeMap<String, PathBuf>) -> DataPathConfig {
        #[cfg(feature = "s3")]
        if let Some(bucket) = &self.bucket.bucket {
            return DataPathConfig::Bucket(BucketConfig {
                endpoint: self.bucket.bucket_endpoint.clone(),
                region: self.bucket.bucket_region.clone(),
                dataset,
                ..bucket.clone()
            });
        }
        let listen = self.gateway.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let mut config = GatewayConfig::new(listen);
        config.url.clone_from(&self.gateway_url);
        config.dataset = dataset;
        if let (Some(certificate), Some(key)) = (&self.gateway_cert, &self.gateway_key) {
            config.tls = Some(TlsFiles { certificate: certificate.clone(), key: key.clone() });
        }
        DataPathConfig::Gateway(config)
    }

    /// The flags again.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags: Vec<String> =
            self.function_url.iter().flat_map(|url| ["--function-url".to_owned(), url.clone()]).collect();
        let mut add = |name: &str, value: Option<String>| {
            flags.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        add("--function-ca", text(&self.function_ca));
        add("--function-identity", text(&self.function_identity));
        #[cfg(feature = "lambda")]
        {
            add("--lambda", self.lambda.lambda.clone());
            add("--lambda-region", self.lambda.lambda_region.clone());
            add("--lambda-endpoint", self.lambda.lambda_endpoint.clone());
        }
        add("--burst", self.burst.map(|functions| functions.to_string()));
        add("--gateway", self.gateway.map(|address| address.to_string()));
        add("--gateway-url", self.gateway_url.clone());
        add("--gateway-cert", text(&self.gateway_cert));
        add("--gateway-key", text(&self.gateway_key));
        #[cfg(feature = "s3")]
        {
            add("--bucket", self.bucket.bucket.as_ref().map(BucketConfig::to_string));
            add("--bucket-endpoint", self.bucket.bucket_endpoint.clone());
            add("--bucket-region", self.bucket.bucket_region.clone());
        }
        flags
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&number| number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}
