//! Units: which work a round consists of, and which samples each unit names.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Digest;
use crate::shard::PayloadShape;
use crate::spec::{MAX_UNITS, RunSpec};

/// What a unit computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    /// The mean gradient over the unit's training samples.
    Gradient,
    /// Loss and number of correct predictions over a slice of the test set.
    Evaluation,
}

/// The units of one round: gradient units come first, evaluation units follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundPlan {
    /// Units 0..gradient_units compute gradients.
    pub gradient_units: u32,
    /// Units gradient_units..total compute the evaluation of the state that the round starts from.
    pub evaluation_units: u32,
}

impl RoundPlan {
    /// The plan of the round that starts from state `round`. Round `spec.rounds` has no gradients:
    /// it only evaluates the final state.
    pub fn new(spec: &RunSpec, round: u64) -> Self {
        let last = round >= spec.rounds;
        let evaluates = last || (round > 0 && round.is_multiple_of(spec.evaluation.every_rounds));
        Self {
            gradient_units: if last { 0 } else { spec.units_per_round },
            evaluation_units: if evaluates { spec.evaluation_units() } else { 0 },
        }
    }

    /// Number of units.
    pub fn total(&self) -> u32 {
        self.gradient_units + self.evaluation_units
    }

    /// Shards that the round's sum can be formed in. Evaluations have no vector: one shard is enough.
    pub fn shards(&self, shape: &PayloadShape) -> u32 {
        if self.gradient_units > 0 { shape.shards } else { 1 }
    }

    /// Every unit of the round.
    pub fn all(&self) -> UnitSet {
        (0..self.total()).collect()
    }

    /// What unit `unit` computes.
    pub fn kind(&self, unit: u32) -> UnitKind {
        if unit < self.gradient_units { UnitKind::Gradient } else { UnitKind::Evaluation }
    }
}

/// A set of units of one round: a bitmap without trailing zero words, so that equal sets are equal.
///
/// Encoded as runs (gap to the run before, length), which are short for what is usual: all units, or a
/// few of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnitSet(Vec<u64>);

impl Serialize for UnitSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut end = 0;
        for unit in self.iter() {
            match runs.last_mut() {
                Some((_, length)) if unit == end => *length += 1,
                _ => runs.push((unit - end, 1)),
            }
            end = unit + 1;
        }
        runs.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for UnitSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Vec::<(u32, u32)>::deserialize(deserializer)?;
        let mut set = Self::new();
        let mut end = 0_u32;
        for (index, (gap, length)) in runs.into_iter().enumerate() {
            // One encoding for each set: a run of nothing, or one that continues another, is none.
            let start = end.checked_add(gap).filter(|_| length > 0 && (gap > 0 || index == 0));
            let bounds = start.and_then(|start| Some((start, start.checked_add(length)?)));
            let (start, after) = bounds.filter(|(_, after)| *after <= 2 * MAX_UNITS).ok_or_else(|| {
                D::Error::custom("a set of units that is not in canonical form or names units that no round has")
            })?;
            (start..after).for_each(|unit| set.insert(unit));
            end = after;
        }
        Ok(set)
    }
}

impl UnitSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a unit; units of `2 * MAX_UNITS` or more are ignored, as no round has them.
    pub fn insert(&mut self, unit: u32) {
        if unit >= 2 * MAX_UNITS {
            return;
        }
        let word = unit as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (unit % 64);
    }

    /// Takes a unit out.
    pub fn remove(&mut self, unit: u32) {
        if let Some(word) = self.0.get_mut(unit as usize / 64) {
            *word &= !(1 << (unit % 64));
        }
        self.trim();
    }

    /// Whether the set has the unit.
    pub fn contains(&self, unit: u32) -> bool {
        self.0.get(unit as usize / 64).is_some_and(|word| word >> (unit % 64) & 1 == 1)
    }

    /// Number of units.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is no unit.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The units in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(index, &word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u32 * 64 + bit)
        })
    }

    /// Whether the sets share no unit.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a & b == 0)
    }

    /// Whether every unit of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }

    /// Units in either set.
    pub fn union(&self, other: &Self) -> Self {
        let (long, short) = if self.0.len() >= other.0.len() { (self, other) } else { (other, self) };
        let mut words = long.0.clone();
        words.iter_mut().zip(&short.0).for_each(|(a, b)| *a |= b);
        Self(words)
    }

    /// Units of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut words = self.0.clone();
        words.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= !b);
        let mut set = Self(words);
        set.trim();
        set
    }

    /// Whether a set from the network is in canonical form and names only units below `total`.
    pub fn is_valid(&self, total: u32) -> bool {
        self.0.last() != Some(&0) && self.0.len() <= total.div_ceil(64) as usize && self.iter().all(|unit| unit < total)
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

impl FromIterator<u32> for UnitSet {
    fn from_iter<I: IntoIterator<Item = u32>>(units: I) -> Self {
        let mut set = Self::new();
        units.into_iter().for_each(|unit| set.insert(unit));
        set
    }
}

/// The test samples of an evaluation unit, as a range of indices into the test set; `index` counts
/// evaluation units from 0.
pub fn evaluation_samples(spec: &RunSpec, index: u32) -> std::ops::Range<u32> {
    let size = spec.evaluation.samples_per_unit;
    let start = index.saturating_mul(size).min(spec.dataset.test_samples);
    start..start.saturating_add(size).min(spec.dataset.test_samples)
}

/// The seed of a unit's own randomness (dropout, augmentation).
pub fn unit_seed(spec: &RunSpec, round: u64, unit: u32) -> u64 {
    seed_from(b"peerless unit v1", &[spec.seed, round, u64::from(unit)])
}

/// The order in which an epoch visits the training set: a Fisher-Yates shuffle driven by BLAKE3's
/// extendable output, so that it is the same on every machine.
#[derive(Debug, Clone)]
pub struct EpochOrder {
    epoch: u64,
    order: Vec<u32>,
}

impl EpochOrder {
    /// Shuffles the training set for `epoch`. Takes about a millisecond for 60,000 samples: keep it
    /// for the units of the same epoch.
    pub fn new(spec: &RunSpec, epoch: u64) -> Self {
        let mut order: Vec<u32> = (0..spec.dataset.train_samples).collect();
        let seed = hash_words(b"peerless epoch v1", &[spec.seed, epoch]);
        let mut random = vec![0; order.len() * 8];
        blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut random);
        for (index, bytes) in random.chunks_exact(8).enumerate().skip(1) {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            // Multiply-shift maps 64 random bits to 0..=index with a bias below 2^-32.
            let other = (u128::from(u64::from_le_bytes(word)) * (index as u128 + 1)) >> 64;
            order.swap(index, other as usize);
        }
        Self { epoch, order }
    }

    /// The epoch that round `round` belongs to.
    pub fn epoch_of(spec: &RunSpec, round: u64) -> u64 {
        round / spec.rounds_per_epoch().max(1)
    }

    /// Which epoch this is.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The training samples of gradient unit `unit` of round `round`, which must be of this epoch;
    /// empty for a unit that the round does not have.
    pub fn samples(&self, spec: &RunSpec, round: u64, unit: u32) -> &[u32] {
        let size = spec.samples_per_unit as usize;
        let round_in_epoch = (round % spec.rounds_per_epoch().max(1)) as usize;
        let start = (round_in_epoch * spec.units_per_round as usize + unit as usize) * size;
        self.order.get(start..start + size).unwrap_or_default()
    }
}

fn hash_words(context: &[u8], words: &[u64]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context);
    words.iter().for_each(|word| {
        hasher.update(&word.to_le_bytes());
    });
    Digest(*hasher.finalize().as_bytes())
}

fn seed_from(context: &[u8], words: &[u64]) -> u64 {
    let digest = hash_words(context, words);
    let mut word = [0; 8];
    word.copy_from_slice(&digest.0[..8]);
    u64::from_le_bytes(word)
}
