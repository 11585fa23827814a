//! A store on the network, for tests: what is put under a path can be got in ranges.
//!
//! A path says how it misbehaves: `/cut-in-half/` ends each transfer in the middle, `/busy/` turns
//! everybody away, `/full/` takes nothing.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Default)]
struct Contents {
    objects: HashMap<String, Vec<u8>>,
    reads: HashMap<String, u64>,
    bytes_read: HashMap<String, u64>,
}

/// It lives as long as the test.
pub struct Store {
    pub url: String,
    contents: Arc<Mutex<Contents>>,
}

impl Store {
    pub fn start(token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let contents: Arc<Mutex<Contents>> = Arc::default();
        let shared = Arc::clone(&contents);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // A broken connection ends its thread only.
                thread::spawn(move || serve(&stream.unwrap(), &shared, token));
            }
        });
        Self { url, contents }
    }

    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.contents.lock().unwrap().objects.insert(path.to_owned(), bytes.to_vec());
    }

    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.contents.lock().unwrap().objects.get(path).cloned()
    }

    pub fn reads(&self, path: &str) -> u64 {
        self.contents.lock().unwrap().reads.get(path).copied().unwrap_or_default()
    }

    pub fn bytes_read(&self, path: &str) -> u64 {
        self.contents.lock().unwrap().bytes_read.get(path).copied().unwrap_or_default()
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<(usize, usize)>,
    token: Option<String>,
    body: Vec<u8>,
}

fn serve(stream: &TcpStream, contents: &Mutex<Contents>, token: &str) -> io::Result<()> {
    let mut source = BufReader::new(stream);
    while let Some(request) = read(&mut source)? {
        if request.token.as_deref() != Some(token) {
            answer(stream, "401 Unauthorized", b"who are you?")?;
        } else if request.path.starts_with("/busy/") {
            answer(stream, "503 Service Unavailable", b"later")?;
        } else if request.method == "PUT" && request.path.starts_with("/full/") {
            answer(stream, "413 Content Too Large", b"too much")?;
        } else if request.method == "PUT" {
            contents.lock().unwrap().objects.insert(request.path, request.body);
            answer(stream, "204 No Content", b"")?;
        } else {
            send(stream, contents, &request)?;
        }
    }
    Ok(())
}

fn send(mut stream: &TcpStream, contents: &Mutex<Contents>, request: &Request) -> io::Result<()> {
    let object = contents.lock().unwrap().objects.get(&request.path).cloned();
    let Some(object) = object else { return answer(stream, "404 Not Found", b"nothing here") };
    let (first, last) = request.range.unwrap_or((0, object.len() - 1));
    let part = &object[first..=last];
    let cut = request.path.starts_with("/cut-in-half/") && part.len() > object.len() / 4;
    let sent = if cut { part.len() / 2 } else { part.len() };
    {
        let mut contents = contents.lock().unwrap();
        *contents.reads.entry(request.path.clone()).or_default() += 1;
        *contents.bytes_read.entry(request.path.clone()).or_default() += sent as u64;
    }
    write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\r\n", part.len())?;
    stream.write_all(&part[..sent])?;
    if cut { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
}

fn answer(mut stream: &TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

fn read(source: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if source.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let of = |line: &String| {
            line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
        };
        lines.iter().find_map(of)
    };
    let mut start = lines[0].split(' ');
    let (method, target) = (start.next().unwrap().to_owned(), start.next().unwrap());
    let range = header("range").map(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    });
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    source.read_exact(&mut body)?;
    let path = target.split('?').next().unwrap().to_owned();
    let token = header("authorization").and_then(|value| Some(value.strip_prefix("Bearer ")?.to_owned()));
    Ok(Some(Request { method, path, range, token, body }))
}
