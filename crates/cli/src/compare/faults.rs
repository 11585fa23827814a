//! From named faults to the faults of one run.

use anyhow::{Context, anyhow, bail};
use peerless_protocol::{SPLIT_MIX_STEP, split_mix};
use toml::Value;

use super::spec::{Deaths, FaultSpec};
use crate::train::fault::{Action, Fault};
use crate::train::topology::TopologyKind;

/// Most deaths in a run.
const MAX_DEATHS: usize = 10_000;

/// The machines of a run that can die.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machines {
    /// Peers or workers.
    pub(crate) peers: u16,
    /// Whether there is a server besides, and whether who dies is replaced without a fault that says so.
    pub(crate) topology: TopologyKind,
    /// Rounds of the run.
    pub(crate) rounds: u64,
}

/// The faults of one run.
pub(crate) fn faults(
    spec: &FaultSpec,
    topology: &str,
    machines: Machines,
    repetition: usize,
) -> anyhow::Result<Vec<Fault>> {
    match (&spec.inject, &spec.deaths) {
        (Some(Value::Array(list)), _) => parse(list),
        (Some(Value::Table(table)), _) => match table.get(topology) {
            Some(Value::Array(list)) => parse(list),
            _ => bail!("inject has no list for the topology {topology}; an empty one says that nothing happens"),
        },
        (_, Some(deaths)) => Ok(random(deaths, machines, repetition)),
        _ => Ok(Vec::new()),
    }
}

fn parse(list: &[Value]) -> anyhow::Result<Vec<Fault>> {
    let one = |value: &Value| {
        let text = value.as_str().ok_or_else(|| anyhow!("{value} in inject is no text such as \"kill:1@30\""))?;
        text.parse::<Fault>().map_err(|error| anyhow!("{error}")).with_context(|| format!("fault {text:?}"))
    };
    list.iter().map(one).collect()
}

/// Deaths with exponentially distributed distances. Whoever is dead is not killed again, and the last peer is spared:
/// without any the run would be over, which is not what is compared.
fn random(deaths: &Deaths, machines: Machines, repetition: usize) -> Vec<Fault> {
    let mut state = split_mix(deaths.seed).wrapping_add(repetition as u64);
    let mut uniform = || {
        state = state.wrapping_add(SPLIT_MIX_STEP);
        (split_mix(state) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut faults = Vec::new();
    let mut back_at = vec![0; usize::from(machines.peers)];
    let mut at = 0.0;
    while faults.len() < MAX_DEATHS {
        at += -deaths.mean_rounds_between * (1.0 - uniform()).ln();
        // Drawn in any case, so that the peers' deaths are the same with and without a server.
        let (strikes_server, pick) = (uniform() < 1.0 / f64::from(machines.peers + 1), uniform());
        if at >= machines.rounds as f64 {
            break;
        }
        let round = at as u64;
        if strikes_server && machines.topology == TopologyKind::ParameterServer {
            faults.push(Fault { action: Action::KillServer, round });
            continue;
        }
        let alive: Vec<usize> = (0..back_at.len()).filter(|&peer| back_at[peer] <= round).collect();
        if alive.len() < 2 {
            continue;
        }
        let victim = alive[((pick * alive.len() as f64) as usize).min(alive.len() - 1)];
        let peer = victim + 1;
        faults.push(Fault { action: Action::Kill { peer }, round });
        // No round passes without all workers of an all-reduce, which are replaced after their boot.
        if machines.topology == TopologyKind::AllReduce {
            continue;
        }
        let back = round.saturating_add(deaths.restart_after_rounds);
        back_at[victim] = back;
        if back < machines.rounds {
            faults.push(Fault { action: Action::Restart { peer }, round: back });
        }
    }
    faults.sort_by_key(|fault| fault.round);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINES: Machines = Machines { peers: 4, topology: TopologyKind::P2p, rounds: 400 };

    fn deaths(mean_rounds_between: f64) -> FaultSpec {
        let deaths = Deaths { mean_rounds_between, restart_after_rounds: 30, seed: 7 };
        FaultSpec { inject: None, deaths: Some(deaths) }
    }

    fn inject(text: &str) -> FaultSpec {
        toml::from_str(text).unwrap()
    }

    fn texts(spec: &FaultSpec, topology: &str) -> Vec<String> {
        let faults = faults(spec, topology, MACHINES, 0).unwrap();
        faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn a_list_is_for_all_topologies_and_a_table_for_each() {
        assert_eq!(texts(&inject("inject = [\"kill:1@30\"]"), "p2p"), ["kill:1@30"]);
        let table = inject("[inject]\np2p = [\"kill:1@30\"]\nparameter-server = [\"kill:server@30\"]");
        assert_eq!(texts(&table, "parameter-server"), ["kill:server@30"]);
        let error = faults(&table, "all-reduce", MACHINES, 0).unwrap_err();
        assert!(error.to_string().contains("all-reduce"), "{error}");
        for text in ["inject = [\"hug:1@3\"]", "inject = [3]"] {
            assert!(faults(&inject(text), "p2p", MACHINES, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn random_deaths_are_the_same_for_a_seed_and_others_in_each_repetition() {
        let all = |repetition| faults(&deaths(40.0), "p2p", MACHINES, repetition).unwrap();
        assert_eq!(all(3), all(3));
        assert_ne!(all(3), all(4));
        let kills: usize =
            (0..50).map(|repetition| all(repetition).iter().filter(|fault| is_kill(fault)).count()).sum();
        assert!((300..700).contains(&kills), "{kills} deaths in 50 times 400 rounds with 40 between two");
    }

    #[test]
    fn one_peer_always_lives() {
        for repetition in 0..100 {
            let mut dead = std::collections::BTreeSet::new();
            for fault in faults(&deaths(5.0), "p2p", MACHINES, repetition).unwrap() {
                match fault.action {
                    Action::Kill { peer } => assert!(dead.insert(peer)),
                    Action::Restart { peer } => assert!(dead.remove(&peer)),
                    _ => panic!("{fault}"),
                }
                assert!(dead.len() < 4 && fault.round < 400);
            }
        }
    }

    #[test]
    fn a_server_dies_as_often_as_any_other_machine() {
        let machines = Machines { topology: TopologyKind::ParameterServer, ..MACHINES };
        let all = |repetition| faults(&deaths(20.0), "parameter-server", machines, repetition).unwrap();
        let faults: Vec<Fault> = (0..100).flat_map(all).collect();
        let kills = faults.iter().filter(|fault| is_kill(fault)).count();
        let servers = faults.iter().filter(|fault| fault.action == Action::KillServer).count();
        assert!((0.1..0.3).contains(&(servers as f64 / (kills + servers) as f64)), "{servers} of {kills}");
    }

    #[test]
    fn workers_of_an_all_reduce_are_replaced_without_being_told() {
        let machines = Machines { topology: TopologyKind::AllReduce, ..MACHINES };
        let faults = faults(&deaths(20.0), "all-reduce", machines, 1).unwrap();
        assert!(faults.len() > 5 && faults.iter().all(is_kill), "{faults:?}");
    }

    fn is_kill(fault: &Fault) -> bool {
        matches!(fault.action, Action::Kill { .. })
    }
}
