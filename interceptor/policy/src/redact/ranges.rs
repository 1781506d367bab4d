//! A part of a body (RFC 9110 section 14), searched together with the bytes around it.
//!
//! A key that a range cuts in two would be found in neither part. So the proxy requests more than
//! the client does, by the length of the longest key on both sides, searches all of it, and gives
//! the client its own range with matching `content-range` and `content-length`. A key across the
//! edge appears as the corresponding part of a placeholder of the key's length.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{HeaderMap, HeaderValue};

use super::{RedactError, digests};

/// The largest position that every origin accepts.
const LARGEST: u64 = i64::MAX as u64;

/// One range, as a client requests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `a-b` or `a-`.
    From {
        /// The first byte.
        first: u64,
        /// The last byte, if given.
        last: Option<u64>,
    },
    /// `-n`: this many bytes at the end.
    Last(u64),
}

/// The widened range that the proxy requests, so that it can search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widened {
    range: Range,
    by: u64,
}

/// How a response answers a widened range.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It contains the part that the client requested.
    Part(Part),
    /// The client's range is beyond the end. Has the whole length, if known.
    Beyond(Option<u64>),
}

/// The position of the client's part within a response.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    first: u64,
    last: u64,
    total: Option<u64>,
    cut: Cut,
}

/// Cuts the part out of a body as it arrives.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut {
    skip: u64,
    left: u64,
    /// The number of bytes after the part that only surround it.
    behind: u64,
    /// The end of the part, held while the bytes after it are read.
    kept: Option<Bytes>,
}

/// The body is not as long as its `content-range` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not as long as its content-range says")]
pub struct WrongLength;

impl Range {
    /// Reads a `range` field. `None` if it is not a single byte range; a server may ignore those.
    pub fn parse(value: &[u8]) -> Option<Range> {
        let text = std::str::from_utf8(value).ok()?;
        let (unit, range) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim_matches([' ', '\t']).split_once('-')?;
        match (first, last) {
            ("", last) => Some(Range::Last(number(last)?)),
            (first, "") => Some(Range::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Range::From { first, last: Some(last) })
            }
        }
    }

    /// Widens it by this many bytes on both sides.
    pub fn widened(self, by: u64) -> Widened {
        Widened { range: self, by }
    }
}

impl Widened {
    /// The `range` field for the origin.
    pub fn value(&self) -> Option<HeaderValue> {
        let text = match self.range {
            Range::From { first, last } => {
                let last =
                    last.map(|last| last.saturating_add(self.by)).filter(|last| *last <= LARGEST);
                let last = last.map(|last| last.to_string()).unwrap_or_default();
                format!("bytes={}-{last}", first.saturating_sub(self.by))
            }
            Range::Last(count) => format!("bytes=-{}", count.saturating_add(self.by).min(LARGEST)),
        };
        HeaderValue::try_from(text).ok()
    }

    /// By how many bytes it is wider, on both sides.
    pub fn margin(&self) -> u64 {
        self.by
    }

    /// How the origin's 206 answers it.
    pub fn find(&self, headers: &HeaderMap) -> Result<Found, RedactError> {
        let mut ranges = headers.get_all(CONTENT_RANGE).iter();
        let (Some(range), None) = (ranges.next(), ranges.next()) else {
            return Err(RedactError::Range);
        };
        let (start, end, total) = content_range(range.as_bytes()).ok_or(RedactError::Range)?;
        let length =
            headers.get(CONTENT_LENGTH).map(|length| number(length.to_str().unwrap_or_default()));
        if length.is_some_and(|length| length != Some(end - start + 1)) {
            return Err(RedactError::Range);
        }
        // If the whole length is unknown, the origin may have stopped before the end, and a key may
        // continue there.
        let at_end = total.is_some_and(|total| end + 1 == total);
        let (first, last) = match self.range {
            Range::From { first, last } => (first, last.map_or(end, |last| last.min(end))),
            Range::Last(0) => return Ok(Found::Beyond(total)),
            Range::Last(count) => (total.ok_or(RedactError::Range)?.saturating_sub(count), end),
        };
        if first > end {
            return if at_end { Ok(Found::Beyond(total)) } else { Err(RedactError::Range) };
        }
        // The surrounding bytes must be there too, as far as the body has them.
        let searched = if at_end { Some(end) } else { end.checked_sub(self.by) };
        let last = searched.map(|searched| last.min(searched)).filter(|last| *last >= first);
        let (Some(last), true) = (last, start <= first.saturating_sub(self.by)) else {
            return Err(RedactError::Range);
        };
        let cut =
            Cut { skip: first - start, left: last - first + 1, behind: end - last, kept: None };
        Ok(Found::Part(Part { first, last, total, cut }))
    }
}

impl Part {
    /// Describes the part in the headers, and returns the cutter.
    pub fn describe(self, headers: &mut HeaderMap) -> Result<Cut, RedactError> {
        let total = self.total.map_or("*".to_owned(), |total| total.to_string());
        let range = format!("bytes {}-{}/{total}", self.first, self.last);
        headers
            .insert(CONTENT_RANGE, HeaderValue::try_from(range).map_err(|_| RedactError::Range)?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.cut.left));
        // They cover more than the part, and would reveal what surrounds it.
        digests::remove(headers);
        Ok(self.cut)
    }
}

impl Cut {
    /// Takes bytes that the search has passed, and returns the client's share. The end of the part
    /// waits until the bytes after it are read, so that the origin's connection can be reused.
    pub fn push(&mut self, mut data: Bytes) -> Result<Bytes, WrongLength> {
        let skipped = self.skip.min(data.len() as u64);
        self.skip -= skipped;
        drop(data.split_to(usize::try_from(skipped).unwrap_or(data.len())));
        let part = data.split_to(data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX)));
        self.left -= part.len() as u64;
        self.behind = self.behind.checked_sub(data.len() as u64).ok_or(WrongLength)?;
        if self.left == 0 && self.behind > 0 && !part.is_empty() {
            self.kept = Some(part);
            return Ok(Bytes::new());
        }
        if self.left == 0 && self.behind == 0 && part.is_empty() {
            return Ok(self.kept.take().unwrap_or_default());
        }
        Ok(part)
    }

    /// The body has ended.
    pub fn finish(&mut self) -> Result<Bytes, WrongLength> {
        if self.left > 0 || self.skip > 0 {
            return Err(WrongLength);
        }
        Ok(self.kept.take().unwrap_or_default())
    }

    /// The number of bytes still to be returned.
    pub fn left(&self) -> u64 {
        self.left + self.kept.as_ref().map_or(0, |kept| kept.len() as u64)
    }
}

/// Whether a part is the whole body: then its ends cut no key, and it is searched as it arrives.
pub fn is_whole(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(CONTENT_RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return false };
    let Some((0, last, Some(total))) = content_range(range.as_bytes()) else { return false };
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    last + 1 == total
        && lengths.all(|length| length.to_str().is_ok_and(|text| number(text) == Some(total)))
}

/// `bytes 0-9/100` or `bytes 0-9/*`: first, last, whole length.
fn content_range(value: &[u8]) -> Option<(u64, u64, Option<u64>)> {
    let text = std::str::from_utf8(value).ok()?;
    let (unit, rest) = text.split_once(' ')?;
    let (range, total) = rest.trim_matches([' ', '\t']).split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    let sound = first <= last && last < LARGEST && total.is_none_or(|total| last < total);
    (sound && unit.eq_ignore_ascii_case("bytes")).then_some((first, last, total))
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BY: u64 = 100;

    fn headers(range: &str, length: Option<u64>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).unwrap());
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        headers
    }

    fn found(asked: &str, range: &str) -> Result<Found, RedactError> {
        Range::parse(asked.as_bytes()).unwrap().widened(BY).find(&headers(range, None))
    }

    fn shown(asked: &str, range: &str) -> String {
        match found(asked, range) {
            Ok(Found::Part(part)) => {
                let mut headers = headers(range, None);
                let cut = part.describe(&mut headers).unwrap();
                let range = headers[CONTENT_RANGE].to_str().unwrap().to_owned();
                format!(
                    "{range} skip {} length {}",
                    cut.skip,
                    headers[CONTENT_LENGTH].to_str().unwrap()
                )
            }
            Ok(Found::Beyond(total)) => format!("beyond {total:?}"),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn one_range_of_bytes_is_read_and_nothing_else() {
        for (text, widened) in [
            ("bytes=0-9", Some("bytes=0-109")),
            ("bytes=150-", Some("bytes=50-")),
            ("BYTES=1000-1000", Some("bytes=900-1100")),
            ("bytes= 5-6 ", Some("bytes=0-106")),
            ("bytes=-7", Some("bytes=-107")),
            ("bytes=0-18446744073709551615", Some("bytes=0-")),
            ("bytes=-18446744073709551615", Some("bytes=-9223372036854775807")),
            ("bytes=0-1,5-6", None),
            ("bytes=9-8", None),
            ("bytes=-", None),
            ("bytes=", None),
            ("bytes=+1-2", None),
            ("bytes=1--2", None),
            ("items=0-1", None),
            ("bytes=0-18446744073709551616", None),
            ("", None),
        ] {
            let value = Range::parse(text.as_bytes()).and_then(|range| range.widened(BY).value());
            assert_eq!(value.as_ref().map(|value| value.to_str().unwrap()), widened, "{text}");
        }
    }

    #[test]
    fn the_requested_part_is_cut_out_of_the_answer() {
        for (asked, came, expected) in [
            ("bytes=0-9", "bytes 0-109/1000", "bytes 0-9/1000 skip 0 length 10"),
            ("bytes=500-509", "bytes 400-609/1000", "bytes 500-509/1000 skip 100 length 10"),
            ("bytes=950-", "bytes 850-999/1000", "bytes 950-999/1000 skip 100 length 50"),
            ("bytes=950-2000", "bytes 850-999/1000", "bytes 950-999/1000 skip 100 length 50"),
            ("bytes=-20", "bytes 880-999/1000", "bytes 980-999/1000 skip 100 length 20"),
            ("bytes=-5000", "bytes 0-999/1000", "bytes 0-999/1000 skip 0 length 1000"),
            // If the whole length is unknown, there may be more after any end.
            ("bytes=5-", "bytes 0-999/*", "bytes 5-899/* skip 5 length 895"),
            ("bytes=5-", "bytes 0-104/*", "Range"),
            ("bytes=850-900", "bytes 750-999/*", "bytes 850-899/* skip 100 length 50"),
            ("bytes=-20", "bytes 880-999/*", "Range"),
            ("bytes=50-60", "bytes 0-160/*", "bytes 50-60/* skip 50 length 11"),
            // More bytes before it than requested do no harm.
            ("bytes=500-509", "bytes 0-999/1000", "bytes 500-509/1000 skip 500 length 10"),
            // The origin stops early: the last bytes pass once the bytes after them arrive.
            ("bytes=0-899", "bytes 0-499/1000", "bytes 0-399/1000 skip 0 length 400"),
            ("bytes=1000-", "bytes 900-999/1000", "beyond Some(1000)"),
            ("bytes=-0", "bytes 900-999/1000", "beyond Some(1000)"),
            ("bytes=1050-1060", "bytes 950-999/*", "Range"),
            // The surrounding bytes are missing.
            ("bytes=500-509", "bytes 500-509/1000", "Range"),
            ("bytes=500-509", "bytes 450-609/1000", "Range"),
            ("bytes=0-9", "bytes 0-50/1000", "Range"),
            ("bytes=500-509", "bytes 400-450/1000", "Range"),
            // Invalid ranges.
            ("bytes=0-9", "bytes 9-0/1000", "Range"),
            ("bytes=0-9", "bytes 0-1000/1000", "Range"),
            ("bytes=0-9", "bytes 0-18446744073709551615/*", "Range"),
            ("bytes=0-9", "bytes */1000", "Range"),
            ("bytes=0-9", "lines 0-109/1000", "Range"),
            ("bytes=0-9", "0-109", "Range"),
        ] {
            assert_eq!(shown(asked, came), expected, "{asked} {came}");
        }
        let asked = Range::parse(b"bytes=0-9").unwrap().widened(BY);
        assert!(asked.find(&headers("bytes 0-109/1000", Some(111))).is_err(), "a different length");
        assert!(asked.find(&HeaderMap::new()).is_err());
        let mut twice = headers("bytes 0-109/1000", None);
        twice.append(CONTENT_RANGE, HeaderValue::from_static("bytes 0-109/1000"));
        assert!(asked.find(&twice).is_err());
    }

    #[test]
    fn a_part_that_covers_the_whole_body_is_whole() {
        assert!(
            is_whole(&headers("bytes 0-99/100", Some(100)))
                && is_whole(&headers("bytes 0-0/1", None))
        );
        for (range, length) in [
            ("bytes 0-99/101", Some(100)),
            ("bytes 1-99/100", Some(99)),
            ("bytes 0-99/*", Some(100)),
            ("bytes 0-99/100", Some(50)),
            ("lines 0-99/100", Some(100)),
        ] {
            assert!(!is_whole(&headers(range, length)), "{range}");
        }
        assert!(!is_whole(&HeaderMap::new()));
    }

    #[test]
    fn a_body_of_another_length_than_it_says_is_an_error() {
        let cut = || Cut { skip: 2, left: 3, behind: 1, kept: None };
        assert_eq!(cut().push(Bytes::from_static(b"0123456")), Err(WrongLength));
        let mut short = cut();
        short.push(Bytes::from_static(b"0123")).unwrap();
        assert_eq!(short.finish(), Err(WrongLength));
    }

    proptest! {
        #[test]
        fn the_part_is_whole_however_it_comes(
            skip in 0_u64..50, left in 1_u64..50, behind in 0_u64..50,
            sizes in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let size = u8::try_from(skip + left + behind).unwrap();
            let body: Vec<u8> = (0..size).collect();
            let mut cut = Cut { skip, left, behind, kept: None };
            let (mut got, mut at, mut sizes) = (Vec::new(), 0, sizes.iter().cycle());
            while at < body.len() {
                let end = body.len().min(at + sizes.next().unwrap());
                let due = cut.left();
                let out = cut.push(Bytes::copy_from_slice(&body[at..end])).unwrap();
                prop_assert_eq!(cut.left() + out.len() as u64, due);
                got.extend_from_slice(&out);
                at = end;
            }
            got.extend(cut.finish().unwrap());
            let first = usize::try_from(skip).unwrap();
            prop_assert_eq!(&got[..], &body[first..][..usize::try_from(left).unwrap()]);
        }

        #[test]
        fn no_content_range_does_any_harm(
            asked in "bytes=[0-9]{0,20}-[0-9]{0,20}",
            came in "bytes [0-9]{1,20}-[0-9]{1,20}/([0-9]{1,20}|\\*)",
        ) {
            if let Some(range) = Range::parse(asked.as_bytes()) {
                let widened = range.widened(BY);
                prop_assert!(widened.value().is_some());
                let _ = widened.find(&headers(&came, None));
            }
        }
    }
}
