//! Hashes that stand for what was hashed. With 64 bits, two of ten million things are taken for the same with a
//! probability of three in a million.

use std::hash::{DefaultHasher, Hash, Hasher};

pub fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
