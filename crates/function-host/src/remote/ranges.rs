//! Several ranges of one resource.
//!
//! A gateway, which is what places with a token are, takes many ranges in one request and answers with
//! `multipart/byteranges` (RFC 9110, section 14.6). A bucket, reached by a presigned URL, takes one: S3 answers
//! more than one with the whole object.

use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use peerless_protocol::function::{Failure, FailureKind, Remote};
use ureq::http::header::{CONTENT_RANGE, CONTENT_TYPE};
use ureq::http::{HeaderMap, StatusCode};

use super::{Client, environment, refused};
use crate::failure::failure;

/// Ranges in one request: what gateways take.
const PER_REQUEST: usize = 128;

/// Requests to a bucket at the same time. They wait for the bucket, not for this machine's cores.
const AT_A_TIME: usize = 16;

/// Longest line in front of a part, in bytes.
const MAX_LINE: u64 = 1024;

/// Most lines in front of a part.
const MAX_LINES: usize = 16;

impl Client {
    /// Fills `bytes` with ranges of a resource that has to be `length` bytes long, one behind the other.
    pub(crate) fn read_ranges(
        &self,
        remote: &Remote,
        length: u64,
        ranges: &[Range<u64>],
        bytes: &mut [u8],
    ) -> Result<(), Failure> {
        let per_request = if remote.token.is_some() { PER_REQUEST } else { 1 };
        let requests = requests(ranges, per_request, bytes);
        let threads = if remote.token.is_some() { 1 } else { requests.len().min(AT_A_TIME) };
        if threads <= 1 {
            let mut requests = requests.into_iter();
            return requests.try_for_each(|(ranges, bytes)| self.read_at_once(remote, length, ranges, bytes));
        }
        let next = AtomicUsize::new(0);
        let requests: Vec<_> = requests.into_iter().map(|request| Mutex::new(Some(request))).collect();
        let work = || {
            // Each request is taken by one thread, and a failure ends the thread that has it.
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let taken = request.lock().ok().and_then(|mut request| request.take());
                if let Some((ranges, bytes)) = taken {
                    self.read_at_once(remote, length, ranges, bytes)?;
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            ends.into_iter()
                .try_for_each(|end| end.unwrap_or_else(|_| Err(environment("read", remote, "a thread died"))))
        })
    }

    /// One request.
    fn read_at_once(
        &self,
        remote: &Remote,
        length: u64,
        ranges: &[Range<u64>],
        bytes: &mut [u8],
    ) -> Result<(), Failure> {
        let wanted: Vec<String> = ranges.iter().map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
        let mut response = self.get(remote, &format!("bytes={}", wanted.join(",")))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(match response.status() {
                StatusCode::OK => other(remote, "the server ignores ranges"),
                _ => refused("read", remote, &mut response),
            });
        }
        let boundary = boundary(response.headers());
        let single = text(response.headers(), CONTENT_RANGE.as_str()).map(str::to_owned);
        let mut body = BufReader::new(response.body_mut().as_reader());
        match (ranges, boundary, single) {
            ([range], None, Some(told)) => read_part(&mut body, remote, &told, range, length, bytes),
            (_, Some(boundary), _) => {
                let mut rest = bytes;
                for range in ranges {
                    let (part, behind) = rest.split_at_mut((range.end - range.start) as usize);
                    let told = part_head(&mut body, remote, &boundary)?;
                    read_part(&mut body, remote, &told, range, length, part)?;
                    rest = behind;
                }
                // The rest is the closing line; read, so that the connection can be used again.
                let _ = body.take(MAX_LINE).read_to_end(&mut Vec::new());
                Ok(())
            }
            _ => Err(other(remote, "the answer does not say which ranges it has")),
        }
    }
}

/// The ranges of each request, and where they go.
fn requests<'a>(
    ranges: &'a [Range<u64>],
    per_request: usize,
    mut bytes: &'a mut [u8],
) -> Vec<(&'a [Range<u64>], &'a mut [u8])> {
    let mut requests = Vec::with_capacity(ranges.len().div_ceil(per_request));
    for chunk in ranges.chunks(per_request) {
        let size: u64 = chunk.iter().map(|range| range.end - range.start).sum();
        let (part, behind) = bytes.split_at_mut(size as usize);
        requests.push((chunk, part));
        bytes = behind;
    }
    requests
}

/// The boundary of a multipart answer.
fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = text(headers, CONTENT_TYPE.as_str())?;
    let (kind, parameter) = kind.split_once(';')?;
    let boundary = parameter.trim().strip_prefix("boundary=")?.trim_matches('"');
    kind.trim().eq_ignore_ascii_case("multipart/byteranges").then(|| boundary.to_owned())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads the lines in front of a part; what they say about its range.
fn part_head(body: &mut impl BufRead, remote: &Remote, boundary: &str) -> Result<String, Failure> {
    let mut begun = false;
    let mut range = None;
    for _ in 0..MAX_LINES {
        let mut line = String::new();
        let read = body.by_ref().take(MAX_LINE).read_line(&mut line);
        read.map_err(|error| environment("read", remote, error))?;
        let line = line.trim_end();
        if !begun {
            begun = line.strip_prefix("--") == Some(boundary);
        } else if line.is_empty() {
            return range.ok_or_else(|| other(remote, "a part does not say which range it is"));
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case(CONTENT_RANGE.as_str())
        {
            range = Some(value.trim().to_owned());
        }
    }
    Err(other(remote, "a part does not begin"))
}

/// Reads one range, after checking that it is the one that was asked for.
fn read_part(
    body: &mut impl Read,
    remote: &Remote,
    told: &str,
    range: &Range<u64>,
    length: u64,
    bytes: &mut [u8],
) -> Result<(), Failure> {
    let expected = format!("bytes {}-{}/{length}", range.start, range.end - 1);
    if told != expected {
        return Err(other(remote, format!("the answer has {told:?} instead of {expected:?}")));
    }
    body.read_exact(bytes).map_err(|error| environment("read", remote, error))
}

/// Another resource than was meant, or another kind of server.
fn other(remote: &Remote, why: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Input, format!("cannot read {}: {why}", remote.address()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::slice;

    use super::*;

    const FILE: &[u8; 20] = b"0123456789abcdefghij";

    /// A server that gives these answers, one per connection, and the requests' `Range` headers as they came.
    fn server(answers: Vec<String>) -> (Remote, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file?secret", listener.local_addr().unwrap());
        let serve = move |answer: String| {
            let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            stream.write_all(answer.as_bytes()).unwrap();
            head.into_iter().find(|line| line.to_lowercase().starts_with("range:")).unwrap_or_default()
        };
        let served = thread::spawn(move || answers.into_iter().map(serve).collect());
        (Remote { url, token: Some("t0ken".into()) }, served)
    }

    fn multipart(parts: &[(&str, &str)]) -> String {
        let parts: String =
            parts.iter().map(|(range, body)| format!("\r\n--B\r\nContent-Range: {range}\r\n\r\n{body}")).collect();
        let body = format!("{parts}\r\n--B--\r\n");
        let head =
            "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Type: multipart/byteranges; boundary=B";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn read(remote: &Remote, ranges: &[Range<u64>]) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; ranges.iter().map(|range| (range.end - range.start) as usize).sum()];
        Client::new().read_ranges(remote, FILE.len() as u64, ranges, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn many_ranges_come_in_one_answer_in_their_order() {
        let (remote, served) = server(vec![multipart(&[("bytes 10-12/20", "abc"), ("bytes 2-3/20", "23")])]);
        assert_eq!(read(&remote, &[10..13, 2..4]).unwrap(), b"abc23");
        assert!(served.join().unwrap()[0].ends_with("bytes=10-12,2-3"));
    }

    #[test]
    fn other_ranges_than_asked_for_are_refused_and_so_are_other_files() {
        let wrong = [
            vec![("bytes 2-3/20", "23"), ("bytes 10-12/20", "abc")],
            vec![("bytes 10-12/20", "abc"), ("bytes 2-3/21", "23")],
            vec![("bytes 10-12/20", "abc")],
        ];
        for parts in wrong {
            let (remote, _served) = server(vec![multipart(&parts)]);
            let failure = read(&remote, &[10..13, 2..4]).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Input, "{failure:?}");
            assert!(!failure.message.contains("secret"), "{failure:?}");
        }
    }

    #[test]
    fn a_server_without_ranges_is_told_and_an_answer_that_ends_early_is_retried() {
        let (remote, _served) = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0".into()]);
        assert!(read(&remote, slice::from_ref(&(0..1))).unwrap_err().message.contains("ignores ranges"));
        let cut = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/20\r\nContent-Length: 4\r\n\r\n01";
        let (remote, served) = server(vec![cut.into()]);
        let read = thread::spawn(move || read(&remote, slice::from_ref(&(0..4))));
        drop(served.join());
        assert_eq!(read.join().unwrap().unwrap_err().kind, FailureKind::Environment);
    }

    #[test]
    fn a_bucket_is_asked_for_one_range_at_a_time() {
        let single = |range: &Range<u64>| {
            let body = std::str::from_utf8(&FILE[range.start as usize..range.end as usize]).unwrap();
            let (last, size) = (range.end - 1, body.len());
            format!(
                "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nContent-Range: bytes {}-{last}/20\r\nContent-Length: {size}\r\n\r\n{body}",
                range.start
            )
        };
        // One range three times, because the threads ask in any order.
        let ranges = [4..9, 4..9, 4..9];
        let (remote, served) = server(ranges.iter().map(single).collect());
        let remote = Remote { token: None, ..remote };
        assert_eq!(read(&remote, &ranges).unwrap(), b"456784567845678");
        assert!(served.join().unwrap().iter().all(|range| range.ends_with("bytes=4-8")));
    }
}
