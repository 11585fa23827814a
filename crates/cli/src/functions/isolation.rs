//! Flags about what local functions are kept from.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use peerless_functions::{Isolation, IsolationLevel, ProcessConfig};
use peerless_training::datasets::default_dir;

use crate::failure::{advised, code};

/// The subcommand that restricts its process and becomes a function. Looked for before any other is parsed.
pub(crate) const SANDBOX_COMMAND: &str = "sandbox";

/// What functions on this machine are kept from.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct IsolationArgs {
    /// What function processes are kept from: "full" is other files, network and processes, "limits" only sets
    /// limits; see docs/isolation.md [default: full, without the parts that this machine lacks]
    #[arg(long, value_name = "LEVEL")]
    function_isolation: Option<Level>,
    /// File or folder that function processes may read and execute besides their own; can be repeated
    #[arg(long, value_name = "PATH")]
    function_read: Vec<PathBuf>,
    /// Environment variable that function processes get besides the usual ones; can be repeated
    #[arg(long, value_name = "NAME", value_parser = variable)]
    function_env: Vec<String>,
    /// CPU time of function processes with --function-memory: "lambda" is one core for each 1769M, as AWS Lambda gives,
    /// where cgroups can be made; "none" sets no limit [default: lambda]
    #[arg(long, value_name = "RULE")]
    function_cpu: Option<CpuRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Full,
    Limits,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CpuRule {
    Lambda,
    None,
}

impl IsolationArgs {
    /// Sets up a pool's isolation as the flags say.
    pub(super) fn apply(&self, config: &mut ProcessConfig) -> anyhow::Result<()> {
        config.env.extend(self.variables());
        config.isolation = self.isolation()?.map(Box::new);
        let Some(isolation) = &config.isolation else { return Ok(()) };
        let missing = isolation.missing(config.memory_limit_bytes.is_some());
        if !isolation.required || missing.is_empty() {
            return Ok(());
        }
        let what = anyhow::anyhow!("functions cannot be isolated in full, this machine lacks {}", missing.join("; "));
        let hint = "without --function-isolation the other parts are used; docs/isolation.md says what each needs";
        Err(advised(what, code::ERROR, Some(hint.to_owned())))
    }

    /// Whether functions see their own files alone.
    pub(super) fn hides_devices(&self) -> bool {
        matches!(self.function_isolation, Some(Level::Full) | None)
    }

    /// What this machine lacks of what peers will do by default, for the one who starts them.
    pub(super) fn missing(&self, memory_limited: bool) -> anyhow::Result<Vec<String>> {
        Ok(self.isolation()?.map(|isolation| isolation.missing(memory_limited)).unwrap_or_default())
    }

    fn isolation(&self) -> anyhow::Result<Option<Isolation>> {
        let level = match self.function_isolation {
            Some(Level::None) => return Ok(None),
            Some(Level::Limits) => IsolationLevel::Limits,
            Some(Level::Full) | None => IsolationLevel::Full,
        };
        let launcher = std::env::current_exe().context("cannot find out where this program is")?;
        let mut read = with_link_targets(&default_dir());
        for path in &self.function_read {
            read.push(there(path)?);
        }
        Ok(Some(Isolation {
            launcher: (launcher, vec![OsString::from(SANDBOX_COMMAND)]),
            level,
            required: self.function_isolation == Some(Level::Full),
            read,
            write: Vec::new(),
            cpu_by_memory: self.function_cpu != Some(CpuRule::None),
        }))
    }

    /// The named variables that are set.
    fn variables(&self) -> impl Iterator<Item = (OsString, OsString)> {
        self.function_env.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
    }

    /// The flags again.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |name: &str, value: String| flags.extend([name.to_owned(), value]);
        let word = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        if let Some(level) = word(self.function_isolation.and_then(|level| level.to_possible_value())) {
            add("--function-isolation", level);
        }
        self.function_read.iter().for_each(|path| add("--function-read", path.display().to_string()));
        self.function_env.iter().for_each(|name| add("--function-env", name.clone()));
        if let Some(rule) = word(self.function_cpu.and_then(|rule| rule.to_possible_value())) {
            add("--function-cpu", rule);
        }
        flags
    }
}

fn there(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("there is no {} for functions to read", path.display()))
}

/// The folder of datasets, and what links in it or one folder below lead to: a rule for a folder does not hold for what
/// is elsewhere.
fn with_link_targets(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let outer = entries(folder);
    let inner = outer.iter().flat_map(|path| entries(path));
    let links = outer.iter().cloned().chain(inner).filter(|path| path.is_symlink());
    let targets: Vec<PathBuf> = links.filter_map(|link| link.canonicalize().ok()).collect();
    [folder.to_owned()].into_iter().chain(targets).collect()
}

fn variable(name: &str) -> Result<String, String> {
    let fits = !name.is_empty() && !name.contains(['=', '\0']);
    if fits { Ok(name.to_owned()) } else { Err("expected the name of a variable, without a value".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datasets_behind_links_can_be_read() {
        let place = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (place.path().join("data"), place.path().join("elsewhere"));
        fs::create_dir_all(data.join("mnist")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("images"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.join("images"), data.join("mnist/images")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, data.join("linked")).unwrap();
        let mut found = with_link_targets(&data);
        found.sort();
        let real = elsewhere.canonicalize().unwrap();
        assert_eq!(found, [data, real.clone(), real.join("images")]);
    }

    #[test]
    fn peers_get_the_flags_of_their_starter() {
        let given = IsolationArgs {
            function_isolation: Some(Level::Limits),
            function_read: vec!["/opt/venv".into()],
            function_env: vec!["TOKEN".into()],
            function_cpu: Some(CpuRule::None),
        };
        let flags = given.flags().join(" ");
        let all = "--function-isolation limits --function-read /opt/venv --function-env TOKEN --function-cpu none";
        assert_eq!(flags, all);
        assert!(IsolationArgs::default().flags().is_empty());
    }
}
