//! Byte ranges (RFC 9110, section 14).

use std::ops::Range;

/// What a request wants of a resource.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// At least one range; none is empty, all lie in the resource, in the order in which they were asked for.
    Ranges(Vec<Range<u64>>),
}

/// A `Range` header that is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RangeError {
    /// It is not what RFC 9110 says.
    Malformed,
    /// No range lies in the resource.
    Outside,
    /// More ranges than allowed.
    TooMany,
    /// The ranges are more than the whole, so they overlap.
    TooMuch,
}

/// Reads a `Range` header for a resource of `length` bytes. Other units than bytes are ignored, as
/// the RFC asks.
pub(super) fn parse(header: &[u8], length: u64, most: usize) -> Result<Wanted, RangeError> {
    let text = std::str::from_utf8(header).map_err(|_| RangeError::Malformed)?;
    let (unit, set) = text.split_once('=').ok_or(RangeError::Malformed)?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return Ok(Wanted::Whole);
    }
    let mut ranges = Vec::new();
    let mut total = 0_u64;
    let mut given = 0;
    // Empty elements do not count (section 5.6.1.2).
    for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        given += 1;
        if given > most {
            return Err(RangeError::TooMany);
        }
        if let Some(range) = resolve(spec, length)? {
            total = total.saturating_add(range.end - range.start);
            ranges.push(range);
        }
    }
    match (given, ranges.is_empty()) {
        (0, _) => Err(RangeError::Malformed),
        (_, true) => Err(RangeError::Outside),
        _ if total > length => Err(RangeError::TooMuch),
        _ => Ok(Wanted::Ranges(ranges)),
    }
}

/// One range; `None` if it lies outside.
fn resolve(spec: &str, length: u64) -> Result<Option<Range<u64>>, RangeError> {
    let (first, last) = spec.split_once('-').ok_or(RangeError::Malformed)?;
    let range = match (first, last) {
        ("", suffix) => length.saturating_sub(number(suffix)?)..length,
        (first, "") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(RangeError::Malformed);
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Ok(Some(range).filter(|range| range.start < range.end))
}

/// Digits; more than fit stand for the largest number, which lies outside of everything as well.
fn number(text: &str) -> Result<u64, RangeError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RangeError::Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(header: &str) -> Result<Wanted, RangeError> {
        parse(header.as_bytes(), 100, 3)
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        let some = |ranges: &[Range<u64>]| Ok(Wanted::Ranges(ranges.to_vec()));
        let one = |range: Range<u64>| some(&[range]);
        assert_eq!(ranges("bytes=0-9"), one(0..10));
        assert_eq!(ranges("Bytes=90-"), one(90..100));
        assert_eq!(ranges("bytes=-7"), one(93..100));
        assert_eq!(ranges("bytes=-700"), one(0..100));
        assert_eq!(ranges("bytes=95-99999999999999999999999"), one(95..100));
        assert_eq!(ranges("bytes=5-6,, 1-2 ,\t300-400"), some(&[5..7, 1..3]));
        assert_eq!(ranges("items=0-9"), Ok(Wanted::Whole));
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for header in
            ["bytes", "", "bytes=", "bytes=,", "bytes=-", "bytes=9-3", "bytes=a-b", "bytes=1-2;3-4", "bytes=+1-2"]
        {
            assert_eq!(ranges(header), Err(RangeError::Malformed), "{header}");
        }
        for header in ["bytes=100-", "bytes=-0", "bytes=99999999999999999999-", "bytes=100-200,300-"] {
            assert_eq!(ranges(header), Err(RangeError::Outside), "{header}");
        }
        assert_eq!(ranges("bytes=1-1,2-2,3-3,4-4"), Err(RangeError::TooMany));
        assert_eq!(ranges("bytes=0-98,0-98"), Err(RangeError::TooMuch));
        assert_eq!(parse(&[b'b', 0xff, b'='], 100, 3), Err(RangeError::Malformed));
        assert_eq!(parse(b"bytes=0-", 0, 3), Err(RangeError::Outside));
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_lies_in_the_resource(
            header in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                "bytes=[0-9,\\- ]{0,40}".prop_map(String::into_bytes),
            ],
            length in prop_oneof![0_u64..200, any::<u64>()],
        ) {
            if let Ok(Wanted::Ranges(ranges)) = parse(&header, length, 4) {
                prop_assert!((1..=4).contains(&ranges.len()));
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= length));
                prop_assert!(ranges.iter().map(|range| u128::from(range.end - range.start)).sum::<u128>() <= u128::from(length));
            }
        }
    }
}
