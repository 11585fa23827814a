//! Aligned copies of a part of a string: the server's strings lie at no particular alignment.

/// Elements that are brought through a computation together: 16 KiB, which stay in the cache.
pub const TILE: usize = 4096;

/// Reads f32 from as many bytes as `elements` need.
pub fn load(elements: &mut [f32], bytes: &[u8]) {
    for (element, bytes) in elements.iter_mut().zip(bytes.as_chunks().0) {
        *element = f32::from_le_bytes(*bytes);
    }
}

/// Writes f32 to as many bytes as they need.
pub fn store(bytes: &mut [u8], elements: &[f32]) {
    for (bytes, element) in bytes.as_chunks_mut().0.iter_mut().zip(elements) {
        *bytes = element.to_le_bytes();
    }
}
