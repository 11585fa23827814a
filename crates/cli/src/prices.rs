//! Flags about money.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::anyhow;
use clap::Args;
use peerless_functions::prices::{Price, PriceTable, Tariff, UnknownPrice};

use crate::failure::{Advise, advised, code};

/// The platform of functions that run as processes of the peer's machine.
const LOCAL: &str = "process";
/// The platform whose functions run on AWS Lambda, and what they cost unless another price is named.
const LAMBDA: (&str, &str) = ("lambda", "lambda-x86");
/// Most memory that a function can be charged for, in MB.
const MAX_MEMORY_MB: u32 = 1_000_000;

/// What the work of a peer costs; see docs/cost.md.
#[derive(Args, Debug, Clone, Default, PartialEq)]
#[command(next_help_heading = "Money")]
pub(crate) struct PriceArgs {
    /// Price of the machine that each peer runs on, such as t2.large, or in dollars per hour [default: nothing]
    #[arg(long, value_name = "NAME")]
    peer_price: Option<String>,
    /// Charge function calls by this price, local ones as if they had run elsewhere with so much memory, such as
    /// lambda-x86:1769; can be repeated for other platforms, such as lambda=lambda-arm64
    #[arg(long, value_name = "[PLATFORM=]NAME[:MB]")]
    function_price: Vec<FunctionPriceFlag>,
    /// Price of requests to the bucket that tensors travel through, such as s3 [default: nothing]
    #[arg(long, value_name = "NAME")]
    bucket_price: Option<String>,
    /// Price of the tensors that functions send, such as aws-internet [default: nothing]
    #[arg(long, value_name = "NAME")]
    egress_price: Option<String>,
    /// Table with own prices, which add to and replace those that come with the program
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

impl PriceArgs {
    /// The prices that apply.
    pub(crate) fn tariff(&self) -> anyhow::Result<Tariff> {
        let table = table(self.prices.as_deref())?;
        self.tariff_of(&table).code(code::USAGE)
    }

    /// Whether calls of functions that are processes of the peer's machine have a price.
    pub(crate) fn charges_processes(&self) -> bool {
        self.function_price.iter().any(|flag| flag.platform == LOCAL)
    }

    fn tariff_of(&self, table: &PriceTable) -> Result<Tariff, UnknownPrice> {
        let mut platforms = [(LAMBDA.0.to_owned(), table.rate(LAMBDA.1, None)?)].into();
        for flag in &self.function_price {
            flag.add_to(&mut platforms, table)?;
        }
        Ok(Tariff {
            platforms,
            machine: self.peer_price.as_deref().map(|name| table.machine(name)).transpose()?,
            bucket: self.bucket_price.as_deref().map(|name| table.bucket(name)).transpose()?,
            egress: self.egress_price.as_deref().map(|name| table.egress(name)).transpose()?,
        })
    }

    /// Refuses prices that there are not, and a budget where nothing can cost anything.
    pub(crate) fn check(&self, budget: Option<Price>) -> anyhow::Result<()> {
        self.tariff()?;
        if budget.is_none() || self.peer_price.is_some() || !self.function_price.is_empty() {
            return Ok(());
        }
        let what = anyhow!("--budget needs a price: local functions cost nothing");
        let hint = "add --peer-price t2.large (or dollars per hour), or --function-price lambda-x86:1769".to_owned();
        Err(advised(what, code::USAGE, Some(hint)))
    }

    /// The flags again, for a peer.
    pub(crate) fn for_peer(&self) -> anyhow::Result<Vec<String>> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        if let Some(path) = &self.prices {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            add("--prices", path.display().to_string());
        }
        for (flag, name) in [
            ("--peer-price", &self.peer_price),
            ("--bucket-price", &self.bucket_price),
            ("--egress-price", &self.egress_price),
        ] {
            if let Some(name) = name {
                add(flag, name.clone());
            }
        }
        for flag in &self.function_price {
            add("--function-price", flag.to_string());
        }
        Ok(flags)
    }
}

/// The built-in prices with those of a file.
pub(crate) fn table(file: Option<&std::path::Path>) -> anyhow::Result<PriceTable> {
    let built_in = PriceTable::built_in()?;
    match file {
        None => Ok(built_in),
        Some(path) => Ok(built_in.with(PriceTable::read(path).code(code::USAGE)?)),
    }
}

/// Which price the calls on a platform have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FunctionPriceFlag {
    platform: String,
    price: FunctionAs,
}

impl FunctionPriceFlag {
    fn add_to(
        &self,
        platforms: &mut std::collections::BTreeMap<String, peerless_functions::prices::PlatformRate>,
        table: &PriceTable,
    ) -> Result<(), UnknownPrice> {
        platforms.insert(self.platform.clone(), table.rate(&self.price.name, self.price.memory_mb)?);
        Ok(())
    }
}

impl FromStr for FunctionPriceFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (platform, price) = text.split_once('=').unwrap_or((LOCAL, text));
        let price: FunctionAs = price.parse()?;
        if platform == LOCAL && price.memory_mb.is_none() {
            return Err(format!("local functions have no memory size to charge for: say {text}:1769, in MB"));
        }
        Ok(Self { platform: platform.to_owned(), price })
    }
}

impl std::fmt::Display for FunctionPriceFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.platform, self.price.name)?;
        self.price.memory_mb.map_or(Ok(()), |mb| write!(f, ":{mb}"))
    }
}

/// A function price with a memory size, such as `lambda-x86:1769`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FunctionAs {
    pub(crate) name: String,
    /// In MB.
    pub(crate) memory_mb: Option<u32>,
}

impl FromStr for FunctionAs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, memory)) = text.split_once(':') else {
            return Ok(Self { name: text.to_owned(), memory_mb: None });
        };
        let memory_mb = memory.parse().ok().filter(|mb| (1..=MAX_MEMORY_MB).contains(mb));
        let memory_mb = memory_mb.ok_or_else(|| format!("{memory:?} is no memory size in MB such as 1769"))?;
        Ok(Self { name: name.to_owned(), memory_mb: Some(memory_mb) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_price_of_a_platform_is_read_and_written() {
        for (text, written) in [
            ("lambda-x86:1769", "process=lambda-x86:1769"),
            ("lambda=lambda-arm64", "lambda=lambda-arm64"),
            ("http=mine:512", "http=mine:512"),
        ] {
            assert_eq!(text.parse::<FunctionPriceFlag>().unwrap().to_string(), written);
            assert_eq!(written.parse::<FunctionPriceFlag>(), text.parse());
        }
        for text in ["lambda-x86", "lambda-x86:", "lambda-x86:0", "lambda-x86:-1", "a:1.5", "a:99999999999"] {
            assert!(text.parse::<FunctionPriceFlag>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_of_a_peer_give_the_same_tariff() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            prices: PriceArgs,
        }
        let line = |words: &[&str]| <Line as clap::Parser>::parse_from([&["test"], words].concat()).prices;
        let given = line(&["--peer-price", "0.5", "--function-price", "lambda-x86:512", "--bucket-price", "s3"]);
        let flags = given.for_peer().unwrap();
        let again = line(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(again, given);
        assert!(given.tariff().unwrap().charges(LOCAL));
        assert!(!line(&[]).tariff().unwrap().charges(LOCAL), "local work costs nothing");
        assert!(line(&[]).tariff().unwrap().charges("lambda"));
    }
}
