//! Which spans were made, so that what comes late does not make them again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::Place;

/// Rounds and units that are remembered: what is late is some rounds late.
const REMEMBERED: usize = 16_384;

/// The spans that were made of the newest rounds.
#[derive(Debug, Default)]
pub struct Made {
    rounds: BTreeMap<Place, Spans>,
    /// In the order in which they came.
    order: VecDeque<Place>,
    units: usize,
}

#[derive(Debug, Default)]
struct Spans {
    round: bool,
    units: BTreeSet<u32>,
}

impl Made {
    /// Whether the span of the round itself was made.
    pub fn has_round(&self, place: Place) -> bool {
        self.rounds.get(&place).is_some_and(|spans| spans.round)
    }

    /// The span of the round is made.
    pub fn round(&mut self, place: Place) {
        self.of(place).round = true;
        self.forget();
    }

    /// The span of a unit is made; whether it is the first time.
    pub fn unit(&mut self, place: Place, unit: u32) -> bool {
        let first = self.of(place).units.insert(unit);
        self.units += usize::from(first);
        self.forget();
        first
    }

    fn of(&mut self, place: Place) -> &mut Spans {
        self.rounds.entry(place).or_insert_with(|| {
            self.order.push_back(place);
            Spans::default()
        })
    }

    fn forget(&mut self) {
        while self.order.len() + self.units > REMEMBERED && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|oldest| self.rounds.remove(&oldest));
            self.units -= oldest.map_or(0, |spans| spans.units.len());
        }
    }
}
