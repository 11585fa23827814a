//! Shards: equal parts of the flat vector, so that a sum can be formed and sent in parts.
//!
//! The parts of one run are fixed by the model alone and not by how many peers there are: peers with
//! different views then still speak of the same shards, and only differ about who owns one.

use std::ops::Range;

/// Fewest elements that are worth a shard of their own, 32 KiB: the announcement, signed and checked, then
/// costs a tenth of what sending and adding the elements costs.
const MIN_SHARD_ELEMENTS: u64 = 4096;

/// Most shards. Enough to spread the work of a round over dozens of peers; few enough that the
/// announcements of all shards stay small beside the shards themselves.
pub const MAX_SHARDS: u32 = 64;

/// Bytes of one element of an exact sum.
const ELEMENT_BYTES: u64 = 8;

/// The form of all payloads of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadShape {
    /// Elements of the flat vector.
    pub elements: u64,
    /// Bytes in front of the elements, the same for whole payloads and shards.
    pub header_bytes: u64,
    /// Number of shards, at least one and at most one for each element.
    pub shards: u32,
}

impl PayloadShape {
    /// The form for a model of this size: up to [`MAX_SHARDS`] shards, fewer if they would be too small.
    pub fn new(elements: u64, header_bytes: u64) -> Self {
        let shards = u32::try_from(elements / MIN_SHARD_ELEMENTS).unwrap_or(MAX_SHARDS).clamp(1, MAX_SHARDS);
        Self { elements, header_bytes, shards }
    }

    /// The elements of a shard. Lengths differ by one element at most.
    pub fn range(&self, shard: u32) -> Range<u64> {
        let bound = |index: u32| {
            let product = u128::from(self.elements) * u128::from(index) / u128::from(self.shards.max(1));
            // Not above the number of elements for any shard that exists.
            u64::try_from(product).unwrap_or(u64::MAX)
        };
        bound(shard)..bound(shard.saturating_add(1))
    }

    /// Length of an encoded payload in bytes: of a shard, or of a whole sum.
    pub fn bytes(&self, shard: Option<u32>) -> u64 {
        let elements = match shard {
            Some(shard) => {
                let range = self.range(shard);
                range.end.saturating_sub(range.start)
            }
            None => self.elements,
        };
        self.header_bytes.saturating_add(elements.saturating_mul(ELEMENT_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_each_other_without_gaps_and_are_equal_but_for_one_element() {
        for (elements, shards) in [(1, 1), (5, 3), (64, 64), (65, 64), (61_706, 15), (11_173_962, 64)] {
            let shape = PayloadShape { elements, header_bytes: 16, shards };
            let ranges: Vec<_> = (0..shape.shards).map(|shard| shape.range(shard)).collect();
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, elements));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start), "{elements}");
            let lengths = ranges.iter().map(|range| range.end - range.start);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{elements}");
        }
    }

    #[test]
    fn small_models_have_few_shards() {
        let shards = |elements| PayloadShape::new(elements, 16).shards;
        assert_eq!([0, 10, 8192, 61_706, 11_173_962].map(shards), [1, 1, 2, 15, 64]);
    }

    #[test]
    fn a_shard_has_a_header_of_its_own() {
        let shape = PayloadShape { elements: 640, header_bytes: 16, shards: 64 };
        assert_eq!(shape.bytes(None), 16 + 640 * 8);
        assert_eq!(shape.bytes(Some(63)), 16 + 10 * 8);
    }
}
