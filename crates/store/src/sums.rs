//! In-store aggregation: the exact sums of one round.
//!
//! A gradient that a function wrote is read once: hashed while it is in the cache, then added to this
//! peer's own sum. Its file stays until the round is over, so that the exact sum of any subset of the
//! peer's units can still be formed when contributions of several peers overlap.
//!
//! Sums of other peers are added to the total as they arrive, before it is known whether the cover
//! will use them: integers are invertible, so one that turns out not to belong is subtracted again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerless_aggregation::{SumError, add, subtract};
use peerless_protocol::{Digest, RoundPlan, UnitSet};
use thiserror::Error;

use crate::error::FileError;
use crate::payload::{Payload, PayloadError, PayloadFormat};

mod gradients;
#[cfg(feature = "redis")]
mod redis;
mod shards;

pub use gradients::{GradientFiles, UnitGradients};
#[cfg(feature = "redis")]
pub use redis::{OnChange, RedisGradients, RedisOutput, RedisOutputError, RedisOutputs, RedisState, check_redis};

/// A sum that cannot be formed. Sums formed before are unchanged.
#[derive(Debug, Error)]
pub enum SumsError {
    /// Bytes received are not a payload of the run.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A gradient file could not be opened or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A gradient file is not as long as the model; the function may have died while writing.
    #[error("the gradient of unit {unit} in {} has {found} bytes instead of {expected}", path.display())]
    GradientLength {
        /// The unit.
        unit: u32,
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        found: u64,
        /// Bytes of every gradient of the run.
        expected: u64,
    },
    /// A gradient file does not hold what the function reported.
    #[error("the gradient of unit {unit} has digest {}, but the function reported {}", found.short(), expected.short())]
    GradientDigest {
        /// The unit.
        unit: u32,
        /// Digest of the file.
        found: Digest,
        /// Digest reported.
        expected: Digest,
    },
    /// Two invocations computed the same unit with different results.
    #[error("unit {unit} was computed twice with different results ({} and {}): these functions are not deterministic", first.short(), second.short())]
    NotDeterministic {
        /// The unit.
        unit: u32,
        /// Digest of the gradient that is in the sum.
        first: Digest,
        /// Digest of the other one.
        second: Digest,
    },
    /// The round has no gradient unit of this number.
    #[error("unit {unit} is none of the round's {gradient_units} gradient units")]
    UnknownUnit {
        /// The unit.
        unit: u32,
        /// Gradient units of the round.
        gradient_units: u32,
    },
    /// A sum was asked for that contains units that this peer has not computed.
    #[error("unit {unit} is not among the gradients that this peer holds")]
    MissingUnit {
        /// The first such unit.
        unit: u32,
    },
    /// Gradients that were in a database alone are gone, and the units forgotten: they have to be computed again.
    #[error("the database has lost the gradients of {} units of this peer", units.len())]
    Lost {
        /// The units.
        units: UnitSet,
    },
    /// A gradient or sum cannot be added.
    #[error(transparent)]
    Sum(#[from] SumError),
    /// A payload is as long as neither the model nor one of its shards.
    #[error("a payload has {found} elements, but the model has {expected}, and no shard as many")]
    ForeignPayload {
        /// Elements of the payload.
        found: usize,
        /// Elements of the model.
        expected: usize,
    },
    /// Payloads would take more memory than they may.
    #[error("payloads take more than {limit} bytes")]
    Memory {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The total of a cover needs a payload that is not here.
    #[error("payload {} is not here", digest.short())]
    MissingPayload {
        /// Its digest.
        digest: Digest,
    },
    /// A payload is of another shard than is to be added up.
    #[error("payload {} has {found} elements, shard {shard} has {expected}", digest.short())]
    OtherShard {
        /// Digest of the payload.
        digest: Digest,
        /// The shard.
        shard: u32,
        /// Elements of the payload.
        found: usize,
        /// Elements of the shard.
        expected: usize,
    },
    /// The contributions do not hold every gradient unit exactly once.
    #[error("{contributions} contributions are no cover: {reason}")]
    NotACover {
        /// Contributions given.
        contributions: usize,
        /// Why not.
        reason: &'static str,
    },
}

/// A contribution's units and the digest of its payload.
pub type Part = (UnitSet, Digest);

/// What the sum of a whole round is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cover {
    /// Sums over the whole vector that hold every gradient unit exactly once.
    Parts(Vec<Part>),
    /// The total of each shard, in order.
    Shards(Vec<Digest>),
}

/// The sums of the round that is under way.
#[derive(Debug)]
pub struct RoundSums {
    format: PayloadFormat,
    memory_limit: u64,
    gradient_units: u32,
    /// The units that this peer has computed.
    own: Box<dyn UnitGradients>,
    /// Own sums that were asked for, by their units.
    own_digests: BTreeMap<UnitSet, Digest>,
    /// Shards that were formed here: of own sums and of totals.
    own_shards: BTreeSet<Digest>,
    /// Own sums that were asked for and sums received.
    payloads: BTreeMap<Digest, Arc<Payload>>,
    /// Bytes of `payloads`.
    payload_bytes: u64,
    /// The sum of `included`. Keyed by units too, because different units can have equal sums.
    total: Vec<i64>,
    included: BTreeSet<Part>,
    included_units: UnitSet,
}

impl RoundSums {
    /// Sums for a run; payloads that would together take more than `memory_limit` bytes are refused.
    /// [`begin`](Self::begin) starts a round.
    pub fn new(format: PayloadFormat, memory_limit: u64) -> Self {
        Self::with_gradients(format, memory_limit, Box::new(GradientFiles::new(format)))
    }

    /// The same with the gradients of own units in another place than their files.
    pub fn with_gradients(format: PayloadFormat, memory_limit: u64, own: Box<dyn UnitGradients>) -> Self {
        Self {
            format,
            memory_limit,
            gradient_units: 0,
            own,
            own_digests: BTreeMap::new(),
            own_shards: BTreeSet::new(),
            payloads: BTreeMap::new(),
            payload_bytes: 0,
            total: Vec::new(),
            included: BTreeSet::new(),
            included_units: UnitSet::new(),
        }
    }

    /// What all payloads of the run have in common.
    pub fn format(&self) -> &PayloadFormat {
        &self.format
    }

    /// Ends the round under way and starts one with this plan: forgets own sums with their payloads and
    /// the total, and removes the gradient files. Payloads of others stay until they are dropped, since
    /// those of a peer that is ahead belong to the new round.
    ///
    /// # Errors
    /// [`SumsError::File`] if a gradient file cannot be removed; the round is started all the same.
    pub fn begin(&mut self, plan: &RoundPlan) -> Result<(), SumsError> {
        self.gradient_units = plan.gradient_units;
        let own = std::mem::take(&mut self.own_digests).into_values();
        own.chain(std::mem::take(&mut self.own_shards)).for_each(|digest| self.remove(&digest));
        self.included.clear();
        self.included_units = UnitSet::new();
        self.own.clear()
    }

    /// Gradient units of the round.
    pub fn gradient_units(&self) -> u32 {
        self.gradient_units
    }

    /// Units whose gradients this peer has added.
    pub fn own_units(&self) -> &UnitSet {
        self.own.units()
    }

    /// Adds the gradient in `path` (f32, little-endian, as long as the flat vector) to this peer's own
    /// sum and keeps the file for the rest of the round. A unit that is already in is not added again,
    /// and the second file is removed.
    ///
    /// The file is read, not mapped: a function that truncates it then causes an error here and not a
    /// SIGBUS.
    ///
    /// # Errors
    /// [`SumsError::GradientLength`], [`SumsError::GradientDigest`], [`SumsError::NotDeterministic`],
    /// [`SumsError::UnknownUnit`], [`SumsError::Sum`] or [`SumsError::File`]; the sum is unchanged.
    pub fn add_unit(&mut self, unit: u32, path: &Path, digest: Digest) -> Result<(), SumsError> {
        if unit >= self.gradient_units {
            let gradient_units = self.gradient_units;
            return Err(SumsError::UnknownUnit { unit, gradient_units });
        }
        self.own.add(unit, path, digest)
    }

    /// The exact sum of those of `units` that are gradient units, with its digest; `None` if none is.
    /// The payload stays available by its digest until it is dropped. Costs a pass for the digest when
    /// `units` are all that this peer has computed, and reads the gradient files again otherwise.
    ///
    /// # Errors
    /// [`SumsError::MissingUnit`], [`SumsError::Lost`], or an error of reading a file again.
    pub fn sum_of(&mut self, units: &UnitSet) -> Result<Option<(Digest, Arc<Payload>)>, SumsError> {
        let units = self.gradient_part(units);
        if units.is_empty() {
            return Ok(None);
        }
        if let Some(digest) = self.own_digests.get(&units)
            && let Some(payload) = self.payloads.get(digest)
        {
            return Ok(Some((*digest, Arc::clone(payload))));
        }
        let payload = self.own.sum(&units)?;
        let digest = payload.digest();
        self.own_digests.insert(units, digest);
        self.insert(digest, Arc::clone(&payload));
        Ok(Some((digest, payload)))
    }

    fn insert(&mut self, digest: Digest, payload: Arc<Payload>) {
        let bytes = payload.as_bytes().len() as u64;
        if self.payloads.insert(digest, payload).is_none() {
            self.payload_bytes += bytes;
        }
    }

    fn remove(&mut self, digest: &Digest) {
        if let Some(payload) = self.payloads.remove(digest) {
            self.payload_bytes = self.payload_bytes.saturating_sub(payload.as_bytes().len() as u64);
        }
    }

    /// Keeps another peer's sum, already checked against its announced `digest`
    /// ([`PayloadBuffer::finish`](crate::PayloadBuffer::finish)), until it is dropped.
    ///
    /// # Errors
    /// [`SumsError::ForeignPayload`] or [`SumsError::Memory`]; the payload is then not kept.
    pub fn hold(&mut self, digest: Digest, payload: Payload) -> Result<(), SumsError> {
        let (found, expected) = (payload.sums().len(), self.format.elements());
        if self.format.of_length(payload.as_bytes().len()).is_none() {
            return Err(SumsError::ForeignPayload { found, expected });
        }
        if self.payloads.contains_key(&digest) {
            return Ok(());
        }
        let after = self.payload_bytes.saturating_add(payload.as_bytes().len() as u64);
        if after > self.memory_limit {
            let limit = self.memory_limit;
            return Err(SumsError::Memory { limit });
        }
        self.insert(digest, Arc::new(payload));
        Ok(())
    }

    /// Adds a payload that is held to the total, before it is known whether the cover will use it. Does
    /// nothing if one of its units is in there already.
    ///
    /// # Errors
    /// [`SumsError::MissingPayload`] or [`SumsError::Sum`]; the total is unchanged.
    pub fn accumulate(&mut self, units: &UnitSet, digest: Digest) -> Result<(), SumsError> {
        let units = self.gradient_part(units);
        if units.is_empty() || !units.is_disjoint(&self.included_units) {
            return Ok(());
        }
        let payload = self.payload(&digest).ok_or(SumsError::MissingPayload { digest })?;
        self.include((units, digest), payload.sums())
    }

    /// Forgets payloads, own and received ones. Where they are being sent they stay readable.
    pub fn drop_payloads(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.remove(digest);
            self.own_shards.remove(digest);
        }
        self.own_digests.retain(|_, digest| !digests.contains(digest));
    }

    /// A payload by digest, to be served to other peers.
    pub fn payload(&self, digest: &Digest) -> Option<Arc<Payload>> {
        self.payloads.get(digest).map(Arc::clone)
    }

    /// The sum of the whole round from a cover. Contributions without gradient units are passed over. `None`
    /// for a round without gradient units.
    ///
    /// # Errors
    /// [`SumsError::NotACover`], [`SumsError::MissingPayload`], [`SumsError::OtherShard`] or
    /// [`SumsError::Sum`].
    pub fn total(&mut self, cover: &Cover) -> Result<Option<&[i64]>, SumsError> {
        match cover {
            Cover::Parts(parts) => self.total_of_parts(parts),
            Cover::Shards(digests) => self.total_of_shards(digests).map(Some),
        }
    }

    fn total_of_parts(&mut self, cover: &[Part]) -> Result<Option<&[i64]>, SumsError> {
        let cover = self.check_cover(cover)?;
        let Some(first) = cover.first() else {
            return Ok(None);
        };
        let missing = |digest: &Digest| SumsError::MissingPayload { digest: *digest };
        if cover.len() == 1 {
            let payload = self.payloads.get(&first.1);
            return Ok(Some(payload.ok_or(missing(&first.1))?.sums()));
        }
        if let Some((_, digest)) = cover.iter().find(|part| !self.payloads.contains_key(&part.1)) {
            return Err(missing(digest));
        }
        self.regroup(cover)?;
        Ok(Some(&self.total))
    }

    /// Brings the total from the contributions that are in it to those of `cover`.
    fn regroup(&mut self, cover: BTreeSet<Part>) -> Result<(), SumsError> {
        let extra: Vec<Part> = self.included.difference(&cover).cloned().collect();
        let extra_present = extra.iter().all(|part| self.payloads.contains_key(&part.1));
        if extra.len() >= self.included.len() || !extra_present {
            self.included.clear();
            self.included_units = UnitSet::new();
        } else {
            for part in extra {
                self.exclude(&part)?;
            }
        }
        for part in cover {
            if !self.included.contains(&part)
                && let Some(payload) = self.payloads.get(&part.1).map(Arc::clone)
            {
                self.include(part, payload.sums())?;
            }
        }
        Ok(())
    }

    fn include(&mut self, part: Part, sums: &[i64]) -> Result<(), SumsError> {
        if self.included.is_empty() {
            self.total.clear();
            self.total.extend_from_slice(sums);
        } else {
            add(&mut self.total, sums)?;
        }
        self.included_units = self.included_units.union(&part.0);
        self.included.insert(part);
        Ok(())
    }

    fn exclude(&mut self, part: &Part) -> Result<(), SumsError> {
        let digest = part.1;
        let payload = self.payloads.get(&digest);
        let payload = payload.ok_or(SumsError::MissingPayload { digest })?;
        subtract(&mut self.total, payload.sums())?;
        self.included_units = self.included_units.difference(&part.0);
        self.included.remove(part);
        Ok(())
    }

    /// The gradient parts of a cover; errors unless they hold every gradient unit exactly once.
    fn check_cover(&self, cover: &[Part]) -> Result<BTreeSet<Part>, SumsError> {
        let contributions = cover.len();
        let not_a_cover = |reason| SumsError::NotACover { contributions, reason };
        let mut units = UnitSet::new();
        let mut parts = BTreeSet::new();
        for (part, digest) in cover {
            let part = self.gradient_part(part);
            if part.is_empty() {
                continue;
            }
            if !part.is_disjoint(&units) {
                return Err(not_a_cover("they overlap"));
            }
            units = units.union(&part);
            parts.insert((part, *digest));
        }
        if units.len() < self.gradient_units {
            return Err(not_a_cover("units are missing"));
        }
        Ok(parts)
    }

    fn gradient_part(&self, units: &UnitSet) -> UnitSet {
        units.iter().take_while(|&unit| unit < self.gradient_units).collect()
    }
}
