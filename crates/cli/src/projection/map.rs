//! Which architecture is best where.

use super::sweep::{Point, Setup};
use crate::model::Architecture;

/// The best of one combination of model, local steps, peers and failure rate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub(crate) model: String,
    pub(crate) local_steps: u32,
    /// None: whatever number is best for each architecture.
    pub(crate) peers: Option<u32>,
    pub(crate) rate: f64,
    pub(crate) quickest: Option<Best>,
    pub(crate) cheapest: Option<Best>,
}

/// An architecture that no other one beats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Best {
    pub(crate) architecture: Architecture,
    pub(crate) peers: u32,
    pub(crate) total_us: f64,
    pub(crate) usd: f64,
    /// How many times as much the best other architecture takes (or costs).
    pub(crate) lead: Option<(Architecture, f64)>,
}

/// For each number of peers, and for whatever number is best. A run that would never end wins nothing.
pub(crate) fn cells(setup: &Setup, points: &[Point]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for model in &setup.models {
        for &local_steps in &setup.local_steps {
            for &rate in &setup.rates {
                for peers in setup.peers.iter().map(|&peers| Some(peers)).chain([None]) {
                    let here: Vec<&Point> = points
                        .iter()
                        .filter(|point| point.model == *model && point.local_steps == local_steps && point.rate == rate)
                        .filter(|point| peers.is_none_or(|peers| point.peers == peers))
                        .collect();
                    let quickest = best(&here, |point| point.outcome.total_us);
                    let cheapest = best(&here, |point| point.outcome.usd());
                    cells.push(Cell { model: model.clone(), local_steps, peers, rate, quickest, cheapest });
                }
            }
        }
    }
    cells
}

fn best(points: &[&Point], value: impl Fn(&Point) -> f64) -> Option<Best> {
    let least = |without: Option<Architecture>| {
        let others = points.iter().filter(|point| Some(point.architecture) != without);
        others.copied().filter(|point| value(point).is_finite()).min_by(|a, b| value(a).total_cmp(&value(b)))
    };
    let first = least(None)?;
    let lead = least(Some(first.architecture)).map(|second| (second.architecture, value(second) / value(first)));
    let (total_us, usd) = (first.outcome.total_us, first.outcome.usd());
    Some(Best { architecture: first.architecture, peers: first.peers, total_us, usd, lead })
}
