//! Which numbers of a channels-last image a convolution's results are made of.

use super::kernels::Rows;

/// A convolution or pooling: kernel, step, spacing and padding, height before width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    /// In front of the first and behind the last row; the same for columns.
    pub(super) padding: [[usize; 2]; 2],
}

impl Window {
    /// Height and width of what comes out of an image of this height and width.
    pub(super) fn output(&self, size: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let padded = size[axis] + self.padding[axis][0] + self.padding[axis][1];
            (padded - self.dilation[axis] * (self.kernel[axis] - 1) - 1) / self.stride[axis] + 1
        })
    }
}

impl Window {
    /// The same with a last window that only begins within the image or its padding in front, as PyTorch counts.
    pub(super) fn output_with_part(&self, size: [usize; 2]) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let [begin, end] = self.padding[axis];
            let extent = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            let count = (size[axis] + begin + end + self.stride[axis] - 1 - extent) / self.stride[axis] + 1;
            if (count - 1) * self.stride[axis] >= size[axis] + begin { count - 1 } else { count }
        })
    }
}

/// Images one after the other: batch, height, width, channels.
pub(super) type Shape = [usize; 4];

/// Images with zeros around them.
#[derive(Debug)]
pub(super) struct Padded<'a> {
    values: std::borrow::Cow<'a, [f32]>,
    shape: Shape,
}

impl<'a> Padded<'a> {
    /// `padding` is as in [`Window`].
    pub(super) fn new(images: &'a [f32], shape: Shape, padding: [[usize; 2]; 2]) -> Self {
        if padding == [[0; 2]; 2] {
            return Self { values: images.into(), shape };
        }
        let [batch, height, width, channels] = shape;
        let [[top, bottom], [left, right]] = padding;
        let padded = [batch, height + top + bottom, width + left + right, channels];
        let mut values = vec![0.0; padded.iter().product()];
        let (row, image) = (width * channels, padded[1] * padded[2] * channels);
        for (source, target) in images.chunks_exact((height * row).max(1)).zip(values.chunks_exact_mut(image.max(1))) {
            let targets = target.chunks_exact_mut(padded[2] * channels).skip(top);
            for (source, target) in source.chunks_exact(row).zip(targets) {
                target[left * channels..][..row].copy_from_slice(source);
            }
        }
        Self { values: values.into(), shape: padded }
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Where in the values this place is.
    pub(super) fn at(&self, [row, column]: [usize; 2]) -> usize {
        (row * self.shape[2] + column) * self.shape[3]
    }

    /// Images with a row for each of `count` rows of windows, `stride` apart, and all that a window has in a column, its
    /// places being `rows`, as channels of that column: a window is one run of numbers then, column by column.
    pub(super) fn stacked(&self, rows: &[usize], count: usize, stride: usize) -> Padded<'static> {
        let [batch, height, width, channels] = self.shape;
        let shape = [batch, count, width, rows.len() * channels];
        let mut values = vec![0.0; shape.iter().product()];
        let mut targets = values.chunks_exact_mut((width * shape[3]).max(1));
        for image in self.values.chunks_exact((height * width * channels).max(1)) {
            for (first, target) in (0..count).map(|row| row * stride).zip(&mut targets) {
                for (index, row) in rows.iter().enumerate() {
                    for channel in 0..channels {
                        // Number by number: with few channels, for which this is, a copy of all is a call for each.
                        let source = image[(first + row) * width * channels + channel..].iter().step_by(channels);
                        let target = target[index * channels + channel..].iter_mut().step_by(shape[3]);
                        target.zip(source).for_each(|(target, source)| *target = *source);
                    }
                }
            }
        }
        Padded { values: values.into(), shape }
    }

    /// Where each window begins: `count` windows per image, `stride` apart.
    pub(super) fn bases(&self, count: [usize; 2], stride: [usize; 2]) -> Vec<usize> {
        let image = self.at([self.shape[1], 0]);
        let mut bases = Vec::with_capacity(self.shape[0] * count[0] * count[1]);
        for sample in 0..self.shape[0] {
            for row in 0..count[0] {
                let first = sample * image + self.at([row * stride[0], 0]);
                bases.extend((0..count[1]).map(|column| first + column * stride[1] * self.shape[3]));
            }
        }
        bases
    }

    /// The numbers of windows with these bases.
    pub(super) fn rows<'b>(&'b self, bases: &'b [usize], runs: &'b Runs) -> Rows<'b> {
        Rows { values: &self.values, bases, offsets: &runs.offsets, run: runs.run }
    }

    /// The numbers of a window whose places are those of `rows` in each of `columns`, with neighbours joined.
    pub(super) fn runs(&self, rows: &[usize], columns: &[usize]) -> Runs {
        let channels = self.shape[3];
        let neighbours = columns.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let (starts, length) = if neighbours { (&columns[..1], columns.len()) } else { (columns, 1) };
        let offsets = rows.iter().flat_map(|&row| starts.iter().map(move |&column| [row, column]));
        Runs { offsets: offsets.map(|place| self.at(place)).collect(), run: length * channels }
    }
}

/// Runs of neighbouring numbers, as in [`Rows`].
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) offsets: Vec<usize>,
    pub(super) run: usize,
}

/// Those results of the gradient at an image that lie `stride` apart, along one axis: each is a sum over the same
/// places of the gradient at the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Phase {
    /// The first of them, and how many there are.
    pub(super) first: usize,
    pub(super) count: usize,
    /// For each place of the sum, rising: the kernel's element, and the place for the first of them.
    pub(super) taps: Vec<(usize, usize)>,
}

/// The phases of an axis, and the padding of the gradient at the output that they need.
pub(super) fn phases(window: &Window, axis: usize, size: usize, output: usize) -> (Vec<Phase>, [usize; 2]) {
    let (stride, dilation) = (window.stride[axis] as isize, window.dilation[axis] as isize);
    let begin = window.padding[axis][0] as isize;
    let taps_of = |first: isize| -> Vec<(usize, isize)> {
        let taps = (0..window.kernel[axis]).rev();
        let distance = |tap: usize| first + begin - tap as isize * dilation;
        taps.filter(|&tap| distance(tap) % stride == 0).map(|tap| (tap, distance(tap) / stride)).collect()
    };
    let phases: Vec<_> = (0..size.min(stride as usize))
        .map(|first| (first, (size - first).div_ceil(stride as usize), taps_of(first as isize)))
        .collect();
    let shifts = phases.iter().flat_map(|(_, count, taps)| taps.iter().map(move |(_, shift)| (*shift, *count)));
    let lowest = shifts.clone().map(|(shift, _)| shift).min().unwrap_or(0).min(0);
    let highest = shifts.map(|(shift, count)| shift + count as isize).max().unwrap_or(0);
    let padding = [-lowest as usize, (highest - output as isize).max(0) as usize];
    let moved = |taps: Vec<(usize, isize)>| taps.into_iter().map(|(tap, shift)| (tap, (shift - lowest) as usize));
    let phases = phases.into_iter().map(|(first, count, taps)| Phase { first, count, taps: moved(taps).collect() });
    (phases.collect(), padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_of_a_stride_of_two_share_the_kernel() {
        let window = Window { kernel: [3; 2], stride: [2; 2], dilation: [1; 2], padding: [[1; 2]; 2] };
        assert_eq!(window.output([5, 8]), [3, 4]);
        let (phases, padding) = phases(&window, 0, 5, 3);
        // Image row 0 was seen by the kernel's row 1 at output 0, row 1 by row 2 at output 0 and by row 0 at output 1.
        let even = Phase { first: 0, count: 3, taps: vec![(1, 0)] };
        let odd = Phase { first: 1, count: 2, taps: vec![(2, 0), (0, 1)] };
        assert_eq!((phases, padding), (vec![even, odd], [0, 0]));
    }

    #[test]
    fn with_a_stride_of_one_the_kernel_is_turned_round() {
        let window = Window { kernel: [3; 2], stride: [1; 2], dilation: [1; 2], padding: [[0; 2]; 2] };
        let (phases, padding) = phases(&window, 1, 6, 4);
        assert_eq!(padding, [2, 2]);
        assert_eq!(phases, [Phase { first: 0, count: 6, taps: vec![(2, 0), (1, 1), (0, 2)] }]);
    }
}
