//! PNG (RFC 2083) as far as CIFAR-10 is packed in it: 8 bits, RGB, not interlaced.
//!
//! Own code, because a decoder for all kinds would be in every function for the sake of six files. Checksums are not
//! looked at: what is made of the pixels has a pinned digest.

use std::io::Read;

use flate2::read::ZlibDecoder;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const CHANNELS: usize = 3;

/// The pixels of an image that must have this width and height: row after row, each pixel as red, green and blue.
pub(super) fn decode(file: &[u8], width: usize, height: usize) -> Result<Vec<u8>, String> {
    let compressed = image_data(file, width, height)?;
    let stride = CHANNELS * width;
    let mut rows = Vec::with_capacity(height * (stride + 1));
    let inflated = ZlibDecoder::new(&*compressed).take((height * (stride + 1)) as u64).read_to_end(&mut rows);
    inflated.map_err(|error| format!("its pixels cannot be unpacked: {error}"))?;
    if rows.len() != height * (stride + 1) {
        return Err(format!("it has {} of {} bytes of pixels", rows.len(), height * (stride + 1)));
    }
    let mut pixels = vec![0; height * stride];
    let mut above = vec![0; stride];
    for (coded, row) in rows.chunks_exact(stride + 1).zip(pixels.chunks_exact_mut(stride)) {
        row.copy_from_slice(&coded[1..]);
        unfilter(coded[0], row, &above)?;
        above.copy_from_slice(row);
    }
    Ok(pixels)
}

/// The compressed pixels of all chunks, if the header is as expected.
fn image_data(file: &[u8], width: usize, height: usize) -> Result<Vec<u8>, String> {
    let mut rest = file.strip_prefix(SIGNATURE).ok_or("it is no PNG")?;
    let mut data = Vec::with_capacity(rest.len());
    let mut header = false;
    loop {
        // Length, type, content, checksum.
        let (length, chunk) = rest.split_first_chunk::<4>().ok_or("it ends early")?;
        let length = u32::from_be_bytes(*length) as usize;
        let (kind, chunk) = chunk.split_first_chunk::<4>().ok_or("it ends early")?;
        let (content, chunk) = chunk.split_at_checked(length).ok_or("it ends early")?;
        match kind {
            b"IHDR" => {
                let expected = [(width as u32).to_be_bytes(), (height as u32).to_be_bytes()].concat();
                // 8 bits, RGB, the only compression, the only filtering, no interlacing.
                header = content == [expected.as_slice(), &[8, 2, 0, 0, 0]].concat();
            }
            b"IDAT" => data.extend_from_slice(content),
            b"IEND" if header => return Ok(data),
            b"IEND" => return Err(format!("it is no image of {width}x{height} pixels in 8-bit RGB")),
            _ => {}
        }
        rest = chunk.get(4..).ok_or("it ends early")?;
    }
}

/// Undoes a row's filter (RFC 2083, section 6). `above` is the row before, or zeros.
fn unfilter(filter: u8, row: &mut [u8], above: &[u8]) -> Result<(), String> {
    for index in 0..row.len() {
        let (left, corner) = match index.checked_sub(CHANNELS) {
            Some(before) => (row[before], above[before]),
            None => (0, 0),
        };
        let predicted = match filter {
            0 => 0,
            1 => left,
            2 => above[index],
            3 => ((u16::from(left) + u16::from(above[index])) / 2) as u8,
            4 => paeth(left, above[index], corner),
            other => return Err(format!("it has a row of the unknown filter {other}")),
        };
        row[index] = row[index].wrapping_add(predicted);
    }
    Ok(())
}

fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(above), i16::from(corner));
    let estimate = a + b - c;
    let nearest = [(left, a), (above, b), (corner, c)].into_iter().min_by_key(|(_, value)| (estimate - value).abs());
    nearest.map_or(0, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn chunk(kind: &[u8], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32).to_be_bytes(), kind, content, &[0; 4]].concat()
    }

    fn png(header: &[u8], rows: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(rows).unwrap();
        let data = encoder.finish().unwrap();
        let (first, rest) = data.split_at(data.len() / 2);
        let chunks = [
            chunk(b"IHDR", header),
            chunk(b"tEXt", b"x"),
            chunk(b"IDAT", first),
            chunk(b"IDAT", rest),
            chunk(b"IEND", &[]),
        ];
        [SIGNATURE, &chunks.concat()].concat()
    }

    const HEADER: [u8; 13] = [0, 0, 0, 2, 0, 0, 0, 5, 8, 2, 0, 0, 0];

    /// Each row is 10 more than the one above it, and its second pixel 3 more than its first, by each filter.
    const ROWS: [[u8; 7]; 5] = [
        [0, 1, 2, 3, 4, 5, 6],
        [2, 10, 10, 10, 10, 10, 10],
        [1, 21, 22, 23, 3, 3, 3],
        // Half of (0 + 21), and so on.
        [3, 21, 21, 22, 7, 7, 7],
        // The first pixel from above, the second from the larger neighbour.
        [4, 10, 10, 10, 3, 3, 3],
    ];

    #[test]
    fn every_filter_is_undone() {
        let pixels = decode(&png(&HEADER, &ROWS.concat()), 2, 5).unwrap();
        let expected: Vec<u8> = (0..5).flat_map(|row| (1..=6).map(move |value| 10 * row + value)).collect();
        assert_eq!(pixels, expected);
    }

    #[test]
    fn other_images_and_damaged_ones_are_refused() {
        let rows = ROWS.concat();
        assert_eq!(decode(b"GIF89a", 2, 5).unwrap_err(), "it is no PNG");
        let interlaced = [&HEADER[..12], &[1]].concat();
        assert!(decode(&png(&interlaced, &rows), 2, 5).unwrap_err().contains("8-bit RGB"));
        assert!(decode(&png(&HEADER, &rows), 5, 2).unwrap_err().contains("5x2"));
        assert!(decode(&png(&HEADER, &rows[..34]), 2, 5).unwrap_err().contains("34 of 35 bytes"));
        let unknown = [&[9], &rows[1..]].concat();
        assert!(decode(&png(&HEADER, &unknown), 2, 5).unwrap_err().contains("filter 9"));
        let whole = png(&HEADER, &rows);
        for length in 0..whole.len() - 4 {
            assert!(decode(&whole[..length], 2, 5).is_err(), "{length} bytes were enough");
        }
    }
}
