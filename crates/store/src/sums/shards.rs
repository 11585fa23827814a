//! Sums in shards: cut, added up and put together again.

use std::sync::Arc;

use peerless_aggregation::add;
use peerless_protocol::{Digest, UnitSet};

use super::{Part, RoundSums, SumsError};
use crate::payload::Payload;

impl RoundSums {
    /// The exact sum of those of `units` that are gradient units in shards, in order; empty if none is. Each
    /// stays available by its digest until it is dropped.
    ///
    /// # Errors
    /// As for [`sum_of`](Self::sum_of).
    pub fn split(&mut self, units: &UnitSet) -> Result<Vec<(Digest, Arc<Payload>)>, SumsError> {
        let units = self.gradient_part(units);
        if units.is_empty() {
            return Ok(Vec::new());
        }
        let whole = self.own.sum(&units)?;
        let cut = |shard| Ok(self.format.shard(shard).encode(&whole.sums()[self.format.range(shard)])?);
        let shards: Vec<Payload> = (0..self.format.shape().shards).map(cut).collect::<Result<_, SumsError>>()?;
        Ok(shards.into_iter().map(|shard| self.keep_shard(shard)).collect())
    }

    /// The sum of one shard of contributions, whose payloads are of this shard or of the whole vector. It
    /// stays available by its digest until it is dropped.
    ///
    /// # Errors
    /// [`SumsError::NotACover`], [`SumsError::MissingPayload`], [`SumsError::OtherShard`] or
    /// [`SumsError::Sum`].
    pub fn combine(&mut self, shard: u32, cover: &[Part]) -> Result<(Digest, Arc<Payload>), SumsError> {
        let cover = self.check_cover(cover)?;
        let mut sum = self.format.shard(shard).zeros();
        for (_, digest) in cover {
            let payload = self.payload(&digest).ok_or(SumsError::MissingPayload { digest })?;
            add(sum.sums_mut(), self.part_of(&payload, digest, shard)?)?;
        }
        Ok(self.keep_shard(sum))
    }

    /// The sums of `shard` in a payload of it or of the whole vector.
    fn part_of<'a>(&self, payload: &'a Payload, digest: Digest, shard: u32) -> Result<&'a [i64], SumsError> {
        let range = self.format.range(shard);
        let (found, expected) = (payload.sums().len(), range.len());
        match payload.sums() {
            sums if found == expected => Ok(sums),
            sums if found == self.format.elements() => Ok(&sums[range]),
            _ => Err(SumsError::OtherShard { digest, shard, found, expected }),
        }
    }

    fn keep_shard(&mut self, shard: Payload) -> (Digest, Arc<Payload>) {
        let (digest, shard) = (shard.digest(), Arc::new(shard));
        self.own_shards.insert(digest);
        self.insert(digest, Arc::clone(&shard));
        (digest, shard)
    }

    pub(super) fn total_of_shards(&mut self, digests: &[Digest]) -> Result<&[i64], SumsError> {
        let shards = self.format.shape().shards;
        if digests.len() != shards as usize {
            return Err(SumsError::NotACover { contributions: digests.len(), reason: "shards are missing" });
        }
        self.included.clear();
        self.included_units = UnitSet::new();
        self.total.clear();
        for (shard, digest) in (0..shards).zip(digests.iter().copied()) {
            let payload = self.payload(&digest).ok_or(SumsError::MissingPayload { digest })?;
            let sums = self.part_of(&payload, digest, shard)?;
            self.total.extend_from_slice(sums);
        }
        Ok(&self.total)
    }
}
