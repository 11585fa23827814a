//! Answers to GET: the parameters, or ranges of the dataset's files.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use hyper::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::grants::{Permission, Window};
use super::pieces::{Piece, Pieces, Transfer};
use super::ranges::{self, RangeError, Wanted};
use super::refusal::Refusal;
use super::service::Shared;
use super::target::Resource;

const BINARY: &str = "application/octet-stream";

pub(super) fn download(
    shared: &Shared,
    permission: Arc<Permission>,
    resource: Resource<'_>,
    headers: &HeaderMap,
    slot: OwnedSemaphorePermit,
) -> Result<Response<Pieces>, Refusal> {
    let window = readable(shared, &permission, resource)?;
    let wanted = wanted(headers, window.length, shared.limits.ranges)?;
    let transfer = Transfer::new(permission, Arc::clone(&shared.counters), slot);
    match wanted {
        Wanted::Whole if matches!(resource, Resource::Dataset(_)) => {
            // A function that needs all of a dataset had better have it: units need few samples each.
            Err(Refusal::bad_request("of dataset files only ranges are served"))
        }
        Wanted::Whole => respond(StatusCode::OK, BINARY, None, [Piece::File(window)].into(), transfer),
        Wanted::Ranges(ranges) => match &ranges[..] {
            [range] => {
                let content_range = content_range(range, window.length);
                let pieces = [Piece::File(part(&window, range))].into();
                respond(StatusCode::PARTIAL_CONTENT, BINARY, Some(&content_range), pieces, transfer)
            }
            ranges => {
                let boundary = boundary(&window, ranges);
                let kind = format!("multipart/byteranges; boundary={boundary}");
                respond(StatusCode::PARTIAL_CONTENT, &kind, None, multipart(&window, ranges, &boundary), transfer)
            }
        },
    }
}

fn readable(shared: &Shared, permission: &Permission, resource: Resource<'_>) -> Result<Window, Refusal> {
    let forbidden = |message| Refusal::new(StatusCode::FORBIDDEN, message);
    match resource {
        Resource::Parameters => {
            permission.rights.parameters.clone().ok_or_else(|| forbidden("this task reads no parameters"))
        }
        Resource::Dataset(_) if !permission.rights.dataset => Err(forbidden("this task reads no dataset")),
        Resource::Dataset(name) => {
            let unknown = || Refusal::new(StatusCode::NOT_FOUND, "the dataset has no file of this name");
            shared.dataset.get(name).cloned().ok_or_else(unknown)
        }
        Resource::Output => Err(forbidden("outputs are not read here")),
    }
}

fn wanted(headers: &HeaderMap, length: u64, most: usize) -> Result<Wanted, Refusal> {
    let mut given = headers.get_all(RANGE).iter();
    let wanted = match (given.next(), given.next()) {
        (None, _) => return Ok(Wanted::Whole),
        (Some(range), None) => ranges::parse(range.as_bytes(), length, most),
        (Some(_), Some(_)) => return Err(Refusal::bad_request("there are two range headers")),
    };
    wanted.map_err(|error| match error {
        RangeError::Malformed => Refusal::bad_request("the range header is malformed"),
        RangeError::Outside => Refusal::unsatisfiable("no range lies in the resource", length),
        RangeError::TooMany => Refusal::unsatisfiable("these are too many ranges", length),
        RangeError::TooMuch => Refusal::unsatisfiable("the ranges are more than the whole", length),
    })
}

fn part(window: &Window, range: &Range<u64>) -> Window {
    Window { file: Arc::clone(&window.file), offset: window.offset + range.start, length: range.end - range.start }
}

/// `range` is not empty.
fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// A line that the data does not have by accident, and that nobody who wrote the data knew.
fn boundary(window: &Window, ranges: &[Range<u64>]) -> String {
    // The address of an open file differs between processes; no secret, but no author of a dataset guesses it.
    let mut seed = format!("{:p} {}", Arc::as_ptr(&window.file), window.offset);
    for range in ranges {
        let _ = write!(seed, " {range:?}");
    }
    blake3::hash(seed.as_bytes()).to_hex()[..32].to_owned()
}

/// RFC 9110, section 14.6.
fn multipart(window: &Window, ranges: &[Range<u64>], boundary: &str) -> VecDeque<Piece> {
    let mut pieces = VecDeque::with_capacity(2 * ranges.len() + 1);
    for (index, range) in ranges.iter().enumerate() {
        let before = if index == 0 { "" } else { "\r\n" };
        let content_range = content_range(range, window.length);
        let head = format!("{before}--{boundary}\r\nContent-Type: {BINARY}\r\nContent-Range: {content_range}\r\n\r\n");
        pieces.push_back(Piece::Text(Bytes::from(head)));
        pieces.push_back(Piece::File(part(window, range)));
    }
    pieces.push_back(Piece::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    pieces
}

fn respond(
    status: StatusCode,
    kind: &str,
    content_range: Option<&str>,
    pieces: VecDeque<Piece>,
    transfer: Transfer,
) -> Result<Response<Pieces>, Refusal> {
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Refusal::internal("a header cannot be made"));
    let mut response = Response::new(Pieces::transfer(pieces, transfer));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, value(kind)?);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Behind a proxy: what one token may read is nobody else's.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(range) = content_range {
        headers.insert(CONTENT_RANGE, value(range)?);
    }
    Ok(response)
}
