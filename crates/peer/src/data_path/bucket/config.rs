//! Which bucket, and where in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, RetryConfig};

use super::error::{BucketError, root_cause};

/// Where objects go if the URL names only the bucket.
const DEFAULT_PREFIX: &str = "peerless";

/// Longest prefix, which leaves room for what comes behind it in a key of at most 1,024 bytes.
const MAX_PREFIX_BYTES: usize = 512;

/// Longest time to reach the store.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A bucket of any S3-compatible store by which remote functions get at tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketConfig {
    /// The bucket's name.
    pub bucket: String,
    /// What the keys of all objects begin with, without a slash at its end.
    pub prefix: String,
    /// The store's URL, for other stores than AWS; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or AWS's.
    pub endpoint: Option<String>,
    /// The bucket's region; else `AWS_REGION`, or us-east-1.
    pub region: Option<String>,
    /// Who the peer is; else the environment says (`AWS_ACCESS_KEY_ID` and so on), a web identity, or the role of
    /// the container or machine.
    pub credentials: Option<Credentials>,
    /// Files of the dataset that functions may read, by the names that they know them under. They stay in the bucket,
    /// for other peers and runs.
    pub dataset: BTreeMap<String, PathBuf>,
    /// How long a URL is good at most. Should be longer than the platform lets functions work: 15 minutes on AWS
    /// Lambda.
    pub lifetime: Duration,
    /// How long a request of the peer may take, besides a second for every MiB that it moves.
    pub patience: Duration,
}

/// A key of a store. Its `Debug` form does not show the secret parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the key.
    pub key_id: String,
    /// What requests and URLs are signed with.
    pub secret: String,
    /// Of temporary credentials. URLs end with them.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl BucketConfig {
    /// Keys of a run and peer below this one.
    pub(super) fn base(&self, run: &str, peer: &str) -> String {
        format!("{}/{run}/{peer}", self.prefix)
    }

    /// Keys of files that are for all runs below this one.
    pub(super) fn datasets(&self) -> String {
        format!("{}/datasets", self.prefix)
    }

    /// A client for it. No request is made yet.
    pub(super) fn connect(&self) -> Result<AmazonS3, BucketError> {
        let bad = |error: object_store::Error| self.unusable(&error);
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(&self.bucket).with_retry(no_retries());
        if let Some(endpoint) = &self.endpoint {
            // The more special key: the environment must not have a say where the command line has had one.
            builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(Credentials { key_id, secret, session_token }) = &self.credentials {
            builder = builder.with_access_key_id(key_id).with_secret_access_key(secret);
            if let Some(token) = session_token {
                builder = builder.with_token(token);
            }
        }
        let of_store = builder.get_config_value(&AmazonS3ConfigKey::S3Endpoint);
        let endpoint = of_store.or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
        if let Some(endpoint) = &endpoint {
            let plain = check_endpoint(endpoint)?;
            builder = builder.with_allow_http(plain);
        }
        // Set key by key, so that proxies and the like from the environment stay. Requests are limited here, by
        // what they move.
        let seconds = |limit: Duration| format!("{} seconds", limit.as_secs());
        let client = |key| AmazonS3ConfigKey::Client(key);
        builder
            .with_config(client(ClientConfigKey::ConnectTimeout), seconds(CONNECT_LIMIT))
            .with_config(client(ClientConfigKey::Timeout), "1 day")
            .build()
            .map_err(bad)
    }

    fn unusable(&self, error: &object_store::Error) -> BucketError {
        BucketError::Settings { bucket: self.to_string(), reason: root_cause(error) }
    }
}

/// The URL, without endpoint and region.
impl fmt::Display for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// `s3://NAME` or `s3://NAME/PREFIX`.
impl FromStr for BucketConfig {
    type Err = BucketError;

    fn from_str(url: &str) -> Result<Self, BucketError> {
        let bad = |reason| BucketError::Url { url: without_user(url), reason };
        let rest = url.strip_prefix("s3://").ok_or_else(|| bad("it does not begin with s3://"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !(3..=255).contains(&bucket.len()) || !is_plain(bucket) {
            return Err(bad("a bucket's name has 3 or more letters, digits, dots, dashes and underscores"));
        }
        let prefix = match prefix.trim_end_matches('/') {
            "" => DEFAULT_PREFIX,
            prefix => prefix,
        };
        if prefix.len() > MAX_PREFIX_BYTES || !prefix.split('/').all(is_plain) {
            return Err(bad(
                "a prefix has letters, digits, dots, dashes and underscores, with single slashes in between",
            ));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
            credentials: None,
            dataset: BTreeMap::new(),
            lifetime: Duration::from_secs(16 * 60),
            patience: Duration::from_secs(10),
        })
    }
}

/// A name that stands for itself in a URL.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
}

/// Whether a URL of a store is one without TLS.
fn check_endpoint(url: &str) -> Result<bool, BucketError> {
    let bad = |reason| BucketError::Endpoint { url: without_user(url), reason };
    let uri: hyper::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
    let plain = match uri.scheme_str() {
        Some("http") => true,
        Some("https") => false,
        _ => return Err(bad("it must begin with http:// or https://")),
    };
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(bad("it must name a host, without a user"));
    }
    if url.contains(['?', '#']) {
        return Err(bad("it must end before ? and #"));
    }
    Ok(plain)
}

/// A URL without what may be a key and its secret.
fn without_user(url: &str) -> String {
    let Some((before, host)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
    format!("{scheme}://…@{host}")
}

/// Retries have one owner, and that is not this client.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, backoff: BackoffConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_with_or_without_a_prefix() {
        for (url, bucket, prefix) in [
            ("s3://models", "models", "peerless"),
            ("s3://models/", "models", "peerless"),
            ("s3://my.models-1/team_a/runs/", "my.models-1", "team_a/runs"),
        ] {
            let config: BucketConfig = url.parse().unwrap();
            assert_eq!((config.bucket.as_str(), config.prefix.as_str()), (bucket, prefix), "{url}");
            assert_eq!(config.to_string().parse::<BucketConfig>().unwrap(), config);
        }
    }

    #[test]
    fn what_is_no_bucket_is_refused() {
        let long = format!("s3://models/{}", "x".repeat(600));
        for url in
            ["", "models", "https://models", "s3://", "s3://ab", "s3:///p", "s3://a b c", "s3://models//p", &long]
                .into_iter()
                .chain(["s3://models/../other", "s3://models/a?b", "s3://models/ä", "s3://models/.hidden"])
        {
            assert!(matches!(url.parse::<BucketConfig>(), Err(BucketError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn a_store_without_tls_is_told_from_one_with() {
        assert_eq!(check_endpoint("http://127.0.0.1:8333"), Ok(true));
        assert_eq!(check_endpoint("https://accountid.r2.cloudflarestorage.com"), Ok(false));
        for url in ["", "host", "ftp://host", "http://u:p@host", "http://host/?a", "http://host/#a"] {
            assert!(matches!(check_endpoint(url), Err(BucketError::Endpoint { .. })), "{url}");
        }
    }

    #[test]
    fn keys_in_urls_are_not_repeated() {
        let error = "s3://AKIA:s3cret@models".parse::<BucketConfig>().unwrap_err().to_string();
        assert!(error.contains("s3://…@models") && !error.contains("s3cret"), "{error}");
        let error = check_endpoint("http://AKIA:s3cret@host").unwrap_err().to_string();
        assert!(error.contains("http://…@host") && !error.contains("s3cret"), "{error}");
    }
}
