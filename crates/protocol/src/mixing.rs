//! The one mixing function for hashes and jitter that need no secrecy.

/// Turns a counter or a combination of numbers into 64 bits that look random: one step of SplitMix64
/// (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014) from the state
/// `z`. The same on every machine.
pub fn split_mix(z: u64) -> u64 {
    let z = z.wrapping_add(SPLIT_MIX_STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the state of a SplitMix64 generator grows by with each number.
pub const SPLIT_MIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_published_sequence_for_seed_1234567() {
        let numbers: Vec<u64> =
            (0..3).map(|n| split_mix(1_234_567_u64.wrapping_add(SPLIT_MIX_STEP.wrapping_mul(n)))).collect();
        assert_eq!(numbers, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
