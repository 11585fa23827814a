//! Flags about the way that sums take from peer to peer.

use clap::Args;
#[cfg(feature = "s3")]
use peerless_peer::data_path::BucketConfig;
use peerless_peer::data_path::ExchangeConfig;

/// How sums get from peer to peer. None of this changes the model.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Topology")]
pub(crate) struct ExchangeArgs {
    /// Bucket of an S3-compatible store by which peers give their sums to each other, s3://NAME or s3://NAME/PREFIX,
    /// instead of directly. Credentials come as for --bucket; see docs/topologies.md
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "URL")]
    exchange: Option<BucketConfig>,
    /// The store of --exchange, such as http://10.0.0.1:8333 [default: AWS_ENDPOINT_URL_S3, or AWS]
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "URL", requires = "exchange")]
    exchange_endpoint: Option<String>,
    /// The region of --exchange [default: AWS_REGION, or us-east-1]
    #[cfg(feature = "s3")]
    #[arg(long, value_name = "REGION", requires = "exchange")]
    exchange_region: Option<String>,
}

impl ExchangeArgs {
    /// What the flags describe.
    pub(crate) fn config(&self) -> ExchangeConfig {
        #[cfg(feature = "s3")]
        if let Some(bucket) = &self.exchange {
            return ExchangeConfig::Bucket(Box::new(BucketConfig {
                endpoint: self.exchange_endpoint.clone(),
                region: self.exchange_region.clone(),
                ..bucket.clone()
            }));
        }
        ExchangeConfig::Direct
    }

    /// The flags again, for a peer.
    #[cfg_attr(not(feature = "s3"), expect(unused_mut, reason = "there are none"))]
    pub(crate) fn for_peer(&self) -> Vec<String> {
        let mut flags = Vec::new();
        #[cfg(feature = "s3")]
        {
            let bucket = self.exchange.as_ref().map(BucketConfig::to_string);
            let values = [
                ("--exchange", bucket),
                ("--exchange-endpoint", self.exchange_endpoint.clone()),
                ("--exchange-region", self.exchange_region.clone()),
            ];
            let given = values.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
            flags.extend(given.flatten());
        }
        flags
    }
}
