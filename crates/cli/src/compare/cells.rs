//! The matrix: cells, and the command line of each run.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::faults::{Machines, faults};
use super::spec::{CompareSpec, NO_FAULT, name_of};
use crate::commands::train::Planned;

/// Most runs of one comparison.
const MAX_RUNS: usize = 100_000;

/// A combination of values of all axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) topology: String,
    pub(crate) compute: String,
    pub(crate) model: String,
    pub(crate) peers: u16,
    pub(crate) batch_size: u32,
    /// Name of the fault.
    pub(crate) fault: String,
}

impl Cell {
    /// A name for people, and for a folder.
    pub(crate) fn id(&self) -> String {
        let Self { topology, compute, model, peers, batch_size, fault } = self;
        format!("{model}-{topology}-{compute}-p{peers}-b{batch_size}-{fault}")
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Place of its cell in [`Comparison::cells`].
    pub(crate) cell: usize,
    /// Counts from 0.
    pub(crate) repetition: usize,
    /// What `train` is told, without where the run is kept.
    pub(crate) flags: Vec<String>,
    /// Where everything about it is, below the folder of the comparison.
    pub(crate) folder: PathBuf,
}

/// A specification with all that follows from it.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// Its file's name without the ending.
    pub(crate) name: String,
    /// The file's text, for the report.
    pub(crate) text: String,
    pub(crate) spec: CompareSpec,
    pub(crate) cells: Vec<Cell>,
    /// In the order in which they run: repetitions of a cell take turns with those of the others, so that all share
    /// what else the machine does.
    pub(crate) runs: Vec<Run>,
}

impl Comparison {
    /// Reads a specification and checks all its runs by `train`'s own rules.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let spec = CompareSpec::read(path)?;
        let name = name_of(path)?;
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let cells = cells(&spec);
        let runs = runs(&spec, &name, &cells).with_context(|| path.display().to_string())?;
        Ok(Self { name, text, spec, cells, runs })
    }
}

fn cells(spec: &CompareSpec) -> Vec<Cell> {
    let axes = &spec.axes;
    let mut cells = Vec::new();
    for model in &axes.models {
        for fault in spec.fault_names() {
            for &batch_size in &axes.batch_sizes {
                for &peers in &axes.peers {
                    for compute in &axes.compute {
                        for topology in &axes.topologies {
                            let (topology, compute, model) = (topology.clone(), compute.clone(), model.clone());
                            cells.push(Cell { topology, compute, model, peers, batch_size, fault: fault.clone() });
                        }
                    }
                }
            }
        }
    }
    cells
}

fn runs(spec: &CompareSpec, name: &str, cells: &[Cell]) -> anyhow::Result<Vec<Run>> {
    let count = cells.len().saturating_mul(spec.repetitions);
    ensure!(count <= MAX_RUNS, "it has {count} runs, more than {MAX_RUNS}");
    let mut runs = Vec::with_capacity(count);
    for repetition in 0..spec.repetitions {
        for (index, cell) in cells.iter().enumerate() {
            let flags = flags(spec, cell, repetition)
                .with_context(|| format!("{}, {} peers, fault {}", cell.topology, cell.peers, cell.fault))?;
            let folder = Path::new(name).join(cell.id()).join((repetition + 1).to_string());
            runs.push(Run { cell: index, repetition, flags, folder });
        }
    }
    Ok(runs)
}

fn flags(spec: &CompareSpec, cell: &Cell, repetition: usize) -> anyhow::Result<Vec<String>> {
    let own = [
        ("--topology", cell.topology.clone()),
        ("--compute", cell.compute.clone()),
        ("--model", cell.model.clone()),
        ("--peers", cell.peers.to_string()),
        ("--batch-size", cell.batch_size.to_string()),
    ];
    let mut flags: Vec<String> = own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    flags.extend(spec.flags(&cell.topology, &cell.compute));
    let planned = Planned::of(&flags)?;
    if cell.fault == NO_FAULT {
        return Ok(flags);
    }
    let machines = Machines { peers: cell.peers, topology: planned.topology, rounds: planned.rounds };
    if let Some(fault) = spec.faults.get(&cell.fault) {
        for fault in faults(fault, &cell.topology, machines, repetition).context(format!("[faults.{}]", cell.fault))? {
            flags.extend(["--fault".to_owned(), fault.to_string()]);
        }
    }
    Planned::of(&flags)?;
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(text: &str) -> anyhow::Result<Comparison> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("try.toml");
        std::fs::write(&path, text).unwrap();
        Comparison::read(&path)
    }

    #[test]
    fn repetitions_of_all_cells_take_turns() {
        let text = "title = \"t\"\nrepetitions = 2\n[axes]\ntopologies = [\"p2p\", \"parameter-server\"]\npeers = [2]\n\
                    [train]\nrounds = 40\n[faults.dies]\ninject = [\"kill:2@30\"]";
        let comparison = comparison(text).unwrap();
        assert_eq!(comparison.cells.len(), 4);
        let order: Vec<(usize, usize)> = comparison.runs.iter().map(|run| (run.repetition, run.cell)).collect();
        assert_eq!(order, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]);
        assert!(comparison.runs[2].flags.join(" ").ends_with("--rounds 40 --fault kill:2@30"));
        assert_eq!(comparison.runs[7].folder, Path::new("try/lenet5-parameter-server-functions-p2-b64-dies/2"));
    }

    #[test]
    fn what_train_would_refuse_is_refused_before_anything_runs() {
        let axes = "[axes]\ntopologies = [\"p2p\"]\npeers = [2]\n";
        let cases = [
            ("[axes]\ntopologies = [\"star\"]", "star"),
            ("[axes]\ntopologies = [\"p2p\"]\npeers = [0]", "0"),
            (&format!("{axes}[train]\nround = 60"), "--round"),
            ("[axes]\ntopologies = [\"p2p\"]\nmodels = [\"lenet9\"]", "lenet9"),
            (&format!("{axes}[train]\noptimizer = \"lion\""), "lion"),
            (&format!("{axes}[train]\nunits-per-round = 0"), "units_per_round"),
            (&format!("{axes}[faults.x]\ninject = [\"kill:3@30\"]"), "kill:3@30"),
            (&format!("{axes}[faults.x]\ninject = [\"kill:server@30\"]"), "kill:server@30"),
            (&format!("{axes}[topology.p2p]\nboot-s = 3"), "--boot-s"),
            ("[axes]\ntopologies = [\"p2p\"]\ncompute = [\"instance\"]\n[train]\nfunctions = 3", "--compute instance"),
        ];
        for (rest, part) in cases {
            let error = format!("{:#}", comparison(&format!("title = \"t\"\n{rest}")).unwrap_err());
            assert!(error.contains(part) && !error.contains('\n'), "{rest}: {error}");
        }
    }
}
