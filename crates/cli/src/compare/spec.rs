//! The file that says what is compared; docs/compare.md describes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use serde::Deserialize;
use toml::{Table, Value};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most repetitions, and most values on an axis.
const MAX_COUNT: usize = 1000;
/// The fault that is none; every specification has it.
pub(crate) const NO_FAULT: &str = "none";
/// What `train` is told by the comparison itself, and where that comes from.
const OWN_FLAGS: [(&str, &str); 10] = [
    ("topology", "the axis `topologies`"),
    ("compute", "the axis `compute`"),
    ("model", "the axis `models`"),
    ("peers", "the axis `peers`"),
    ("batch-size", "the axis `batch-sizes`"),
    ("fault", "[faults.NAME]"),
    ("run-dir", "--out"),
    ("resume", "--out"),
    ("json", "the comparison"),
    ("end-with-watcher", "the comparison"),
];

/// A comparison.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct CompareSpec {
    /// What it is about.
    pub(crate) title: String,
    /// What else is to be said in a report.
    #[serde(default)]
    pub(crate) about: String,
    /// How often each cell is run.
    #[serde(default = "one")]
    pub(crate) repetitions: usize,
    /// Accuracy whose time is measured, besides the time to the end.
    pub(crate) target_accuracy: Option<f64>,
    /// Seconds after which a run counts as hung.
    #[serde(default = "half_an_hour")]
    pub(crate) time_limit_s: u64,
    pub(crate) axes: Axes,
    /// Flags of `train` for all runs.
    #[serde(default)]
    pub(crate) train: Table,
    /// Flags of `train` for one topology.
    #[serde(default)]
    pub(crate) topology: BTreeMap<String, Table>,
    /// Flags of `train` for one way to compute.
    #[serde(default)]
    pub(crate) compute: BTreeMap<String, Table>,
    /// Faults by name.
    #[serde(default)]
    pub(crate) faults: BTreeMap<String, FaultSpec>,
}

/// What is combined with what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Axes {
    pub(crate) topologies: Vec<String>,
    #[serde(default = "functions")]
    pub(crate) compute: Vec<String>,
    #[serde(default = "lenet5")]
    pub(crate) models: Vec<String>,
    #[serde(default = "four")]
    pub(crate) peers: Vec<u16>,
    #[serde(default = "sixty_four")]
    pub(crate) batch_sizes: Vec<u32>,
    /// Names of [`CompareSpec::faults`]; without it no fault and then all of them.
    pub(crate) faults: Option<Vec<String>>,
}

/// A named fault.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FaultSpec {
    /// Faults as `train --fault` takes them: a list, or a table with a list for each topology.
    pub(crate) inject: Option<Value>,
    /// Deaths at random rounds.
    pub(crate) deaths: Option<Deaths>,
}

/// Machines that die at random rounds, the same for all topologies.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Deaths {
    /// Mean number of rounds from one death to the next, of the whole cluster.
    pub(crate) mean_rounds_between: f64,
    /// Rounds until a peer that died is started again. A server is started again after its boot.
    pub(crate) restart_after_rounds: u64,
    /// Seed of the rounds and victims. The repetition is added, so that repetitions differ.
    #[serde(default)]
    pub(crate) seed: u64,
}

fn one() -> usize {
    1
}

fn half_an_hour() -> u64 {
    1800
}

fn functions() -> Vec<String> {
    vec!["functions".to_owned()]
}

fn lenet5() -> Vec<String> {
    vec!["lenet5".to_owned()]
}

fn four() -> Vec<u16> {
    vec![4]
}

fn sixty_four() -> Vec<u32> {
    vec![64]
}

impl CompareSpec {
    /// Reads a file and checks what can be checked without knowing `train`'s flags.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(size <= MAX_BYTES, "{} has {size} bytes, more than {MAX_BYTES}", path.display());
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // toml's message is a drawing of several lines; its first one says where and the last one what.
        let spec: Self = toml::from_str(text).map_err(|error| anyhow!("{}", in_one_line(&error.to_string())))?;
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=MAX_COUNT).contains(&self.repetitions),
            "repetitions is {}, not 1 to {MAX_COUNT}",
            self.repetitions
        );
        if let Some(target) = self.target_accuracy {
            ensure!(target > 0.0 && target <= 1.0, "target-accuracy is {target}, not a fraction such as 0.97");
        }
        ensure!(self.time_limit_s > 0, "time-limit-s is 0");
        axis("topologies", &self.axes.topologies)?;
        axis("compute", &self.axes.compute)?;
        axis("models", &self.axes.models)?;
        axis("peers", &self.axes.peers)?;
        axis("batch-sizes", &self.axes.batch_sizes)?;
        if let Some(faults) = &self.axes.faults {
            axis("faults", faults)?;
        }
        for (section, flags) in self.flag_tables() {
            check_flags(&section, flags)?;
        }
        for (name, axis, tables) in
            [("topology", &self.axes.topologies, &self.topology), ("compute", &self.axes.compute, &self.compute)]
        {
            if let Some(unused) = tables.keys().find(|key| !axis.contains(key)) {
                bail!(
                    "[{name}.{unused}] is about nothing: {unused:?} is not on its axis, which has {}",
                    axis.join(", ")
                );
            }
        }
        ensure!(!self.faults.contains_key(NO_FAULT), "[faults.{NO_FAULT}] cannot be: {NO_FAULT:?} is no fault at all");
        for (name, fault) in &self.faults {
            check_name(name)?;
            fault.check().with_context(|| format!("[faults.{name}]"))?;
        }
        if let Some(unknown) =
            self.fault_names().iter().find(|name| *name != NO_FAULT && !self.faults.contains_key(*name))
        {
            bail!("the axis faults names {unknown:?}, but there is no [faults.{unknown}]");
        }
        Ok(())
    }

    fn flag_tables(&self) -> impl Iterator<Item = (String, &Table)> {
        let topology = self.topology.iter().map(|(name, flags)| (format!("topology.{name}"), flags));
        let compute = self.compute.iter().map(|(name, flags)| (format!("compute.{name}"), flags));
        std::iter::once(("train".to_owned(), &self.train)).chain(topology).chain(compute)
    }

    /// Names of faults in the order in which they are shown.
    pub(crate) fn fault_names(&self) -> Vec<String> {
        let all = || std::iter::once(NO_FAULT.to_owned()).chain(self.faults.keys().cloned()).collect();
        self.axes.faults.clone().unwrap_or_else(all)
    }

    /// Flags that `train` gets in any case for this topology and way to compute.
    pub(crate) fn flags(&self, topology: &str, compute: &str) -> Vec<String> {
        let tables = [Some(&self.train), self.topology.get(topology), self.compute.get(compute)];
        tables
            .into_iter()
            .flatten()
            .flat_map(|table| table.iter().flat_map(|(name, value)| words(name, value)))
            .collect()
    }
}

impl FaultSpec {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.inject.is_some() != self.deaths.is_some(), "needs either inject or deaths");
        match &self.inject {
            None | Some(Value::Array(_)) => {}
            Some(Value::Table(table)) if table.values().all(Value::is_array) => {}
            Some(_) => bail!("inject is neither a list such as [\"kill:1@30\"] nor a table of lists by topology"),
        }
        if let Some(deaths) = &self.deaths {
            let mean = deaths.mean_rounds_between;
            ensure!(mean.is_finite() && mean >= 1.0, "mean-rounds-between is {mean}, not 1 or more");
            ensure!(deaths.restart_after_rounds > 0, "restart-after-rounds is 0");
        }
        Ok(())
    }
}

fn axis<T: PartialEq + std::fmt::Debug>(name: &str, values: &[T]) -> anyhow::Result<()> {
    ensure!(!values.is_empty(), "the axis {name} is empty");
    ensure!(values.len() <= MAX_COUNT, "the axis {name} has {} values, more than {MAX_COUNT}", values.len());
    match (1..values.len()).find(|&index| values[..index].contains(&values[index])) {
        Some(index) => bail!("the axis {name} has {:?} twice", values[index]),
        None => Ok(()),
    }
}

/// Names become parts of paths.
fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    ensure!(!name.is_empty() && name.len() <= 64, "the name {name:?} has not 1 to 64 letters");
    ensure!(name.chars().all(plain), "the name {name:?} has other letters than a-z, A-Z, 0-9 and -");
    Ok(())
}

fn check_flags(section: &str, flags: &Table) -> anyhow::Result<()> {
    for (name, value) in flags {
        if let Some((_, from)) = OWN_FLAGS.iter().find(|(own, _)| own == name) {
            bail!("[{section}] has {name}, which comes from {from}");
        }
        let plain = |value: &Value| matches!(value, Value::String(_) | Value::Integer(_) | Value::Float(_));
        let fits = match value {
            Value::Boolean(_) => true,
            Value::Array(values) => values.iter().all(plain),
            value => plain(value),
        };
        ensure!(fits, "[{section}] {name} is neither text, a number, true or false, nor a list of these");
    }
    Ok(())
}

/// A flag as words of a command line: `name = true` is a flag without a value, a list is a flag for each value.
fn words(name: &str, value: &Value) -> Vec<String> {
    let flag = format!("--{name}");
    let with = |value: &Value| match value {
        Value::String(text) => vec![flag.clone(), text.clone()],
        value => vec![flag.clone(), value.to_string()],
    };
    match value {
        Value::Boolean(true) => vec![flag],
        Value::Boolean(false) => Vec::new(),
        Value::Array(values) => values.iter().flat_map(with).collect(),
        value => with(value),
    }
}

fn in_one_line(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines[..] {
        [first, .., last] => format!("{first}: {last}"),
        _ => lines.concat(),
    }
}

/// What a specification is called in tables and folders: its file's name without the ending.
pub(crate) fn name_of(path: &Path) -> anyhow::Result<String> {
    let stem = PathBuf::from(path.file_stem().unwrap_or_default());
    let name = stem.to_string_lossy().into_owned();
    check_name(&name).with_context(|| format!("the file name of {}", path.display()))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\n";

    fn error(text: &str) -> String {
        format!("{:#}", CompareSpec::parse(text).unwrap_err())
    }

    #[test]
    fn a_small_specification_has_defaults() {
        let spec = CompareSpec::parse(SMALL).unwrap();
        assert_eq!((spec.repetitions, &spec.axes.peers[..], &spec.axes.batch_sizes[..]), (1, &[4][..], &[64][..]));
        assert_eq!(spec.fault_names(), ["none"]);
        assert!(spec.flags("p2p", "functions").is_empty());
    }

    #[test]
    fn flags_are_those_of_train_then_topology_then_compute() {
        let text = format!(
            "{SMALL}[train]\nrounds = 60\nlr = 0.5\nfunction-price = [\"a\", \"b=c\"]\nisolated = true\nx = false\n\
             [topology.p2p]\ny = \"z\"\n[compute.functions]\nfunctions = 2"
        );
        let flags = CompareSpec::parse(&text).unwrap().flags("p2p", "functions").join(" ");
        assert_eq!(
            flags,
            "--function-price a --function-price b=c --isolated --lr 0.5 --rounds 60 --y z --functions 2"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("[axes]\ntopologies = [\"p2p\"]", "title"),
            ("title = \"t\"\nseed = 1\n[axes]\ntopologies = [\"p2p\"]", "seed"),
            ("title = \"t\"\n[axes]\ntopologies = []", "the axis topologies is empty"),
            ("title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\npeers = [2, 2]", "peers has 2 twice"),
            ("title = \"t\"\nrepetitions = 0\n[axes]\ntopologies = [\"p2p\"]", "repetitions is 0"),
            ("title = \"t\"\ntarget-accuracy = 97\n[axes]\ntopologies = [\"p2p\"]", "target-accuracy is 97"),
            ("title = \"t\"\n[axes]\ntopologies = [\"p2p\"]\nfaults = [\"x\"]", "no [faults.x]"),
            (&format!("{SMALL}[train]\npeers = 3"), "the axis `peers`"),
            (&format!("{SMALL}[train]\nx = {{ a = 1 }}"), "[train] x"),
            (&format!("{SMALL}[topology.parameter-server]\na = 1"), "about nothing"),
            (&format!("{SMALL}[faults.none]\ninject = []"), "no fault at all"),
            (&format!("{SMALL}[faults.\"a/b\"]\ninject = []"), "a/b"),
            (&format!("{SMALL}[faults.x]"), "either inject or deaths"),
            (&format!("{SMALL}[faults.x]\ninject = 3"), "inject is neither"),
            (&format!("{SMALL}[faults.x]\nkill = 3"), "kill"),
            (
                &format!("{SMALL}[faults.x.deaths]\nmean-rounds-between = 0.5\nrestart-after-rounds = 1"),
                "mean-rounds-between is 0.5",
            ),
        ];
        for (text, part) in cases {
            let error = error(text);
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn a_specification_is_called_as_its_file() {
        assert_eq!(name_of(Path::new("experiments/2-worker-dies.toml")).unwrap(), "2-worker-dies");
        assert!(name_of(Path::new("a b.toml")).is_err());
    }
}
