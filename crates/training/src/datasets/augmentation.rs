//! Random changes of training samples, the same for a unit's seed on every machine.

use crate::initial::words;

/// What is done to samples that a model is trained on. Samples of evaluations are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// Nothing.
    None,
    /// Black pixels are put around the image, so many on each side; an image of the old size is cut out anywhere, and
    /// mirrored left to right in half of all cases (He et al. 2015, arXiv 1512.03385, section 4.2).
    CropAndFlip {
        /// Pixels on each side.
        padding: usize,
    },
}

impl Augmentation {
    /// Changes `pixels`, whole samples of this shape (channels, height, width) one after the other. What happens to a
    /// sample depends on the seed and its place in the unit.
    pub(super) fn apply(self, pixels: &mut [u8], shape: [usize; 3], seed: u64) {
        let Self::CropAndFlip { padding } = self else { return };
        let size: usize = shape.iter().product();
        let samples = pixels.chunks_exact_mut(size.max(1));
        let draws = words(b"peerless augmentation v1", seed, "crop and flip", samples.len());
        for (sample, draw) in samples.zip(draws) {
            crop_and_flip(sample, shape, padding, Draw::of(draw, padding));
        }
    }
}

/// Where the cut begins in the padded image, and whether it is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Draw {
    top: usize,
    left: usize,
    mirrored: bool,
}

impl Draw {
    /// Of a random word. The remainders favour some offsets by less than one part in 2^24.
    fn of(word: u32, padding: usize) -> Self {
        let offsets = 2 * padding + 1;
        let (mirrored, word) = (word & 1 == 1, word as usize >> 1);
        Self { top: word % offsets, left: word / offsets % offsets, mirrored }
    }
}

fn crop_and_flip(sample: &mut [u8], [_, height, width]: [usize; 3], padding: usize, draw: Draw) {
    let original = sample.to_vec();
    let planes = sample.chunks_exact_mut(height * width).zip(original.chunks_exact(height * width));
    for (plane, original) in planes {
        for (y, row) in plane.chunks_exact_mut(width).enumerate() {
            let source = (y + draw.top).checked_sub(padding).filter(|&source| source < height);
            for (x, pixel) in row.iter_mut().enumerate() {
                let x = if draw.mirrored { width - 1 - x } else { x };
                let column = (x + draw.left).checked_sub(padding).filter(|&column| column < width);
                *pixel = source.zip(column).map_or(0, |(y, x)| original[y * width + x]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDARD: Augmentation = Augmentation::CropAndFlip { padding: 4 };

    #[test]
    fn a_cut_is_shifted_filled_with_black_and_then_mirrored() {
        let original: Vec<u8> = (1..=9).chain(11..=19).collect();
        let changed = |top, left, mirrored| {
            let mut sample = original.clone();
            crop_and_flip(&mut sample, [2, 3, 3], 1, Draw { top, left, mirrored });
            sample
        };
        assert_eq!(changed(1, 1, false), original);
        assert_eq!(changed(1, 1, true)[..9], [3, 2, 1, 6, 5, 4, 9, 8, 7]);
        assert_eq!(changed(0, 1, false)[..9], [0, 0, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(changed(2, 2, false), [5, 6, 0, 8, 9, 0, 0, 0, 0, 15, 16, 0, 18, 19, 0, 0, 0, 0]);
        assert_eq!(changed(2, 2, true)[..9], [0, 6, 5, 0, 9, 8, 0, 0, 0]);
    }

    #[test]
    fn every_offset_is_drawn_and_half_of_all_images_are_mirrored() {
        let draws: Vec<Draw> = words(b"test", 1, "", 20_000).map(|word| Draw::of(word, 4)).collect();
        for offset in 0..9 {
            let near = |count: usize| (1_900..2_550).contains(&count);
            assert!(near(draws.iter().filter(|draw| draw.top == offset).count()), "top {offset}");
            assert!(near(draws.iter().filter(|draw| draw.left == offset).count()), "left {offset}");
        }
        assert!(draws.iter().all(|draw| draw.top < 9 && draw.left < 9));
        assert!((9_700..10_300).contains(&draws.iter().filter(|draw| draw.mirrored).count()));
    }

    #[test]
    fn a_seed_decides_and_samples_of_a_unit_differ() {
        let sample: Vec<u8> = (0..48).collect();
        let unit = |seed| {
            let mut pixels = sample.repeat(8);
            STANDARD.apply(&mut pixels, [3, 4, 4], seed);
            pixels
        };
        assert_eq!(unit(5), unit(5));
        assert_ne!(unit(5), unit(6));
        assert!(unit(5).chunks(48).any(|other| *other != unit(5)[..48]));
        let mut untouched = sample.clone();
        Augmentation::None.apply(&mut untouched, [3, 4, 4], 5);
        assert_eq!(untouched, sample);
    }
}
