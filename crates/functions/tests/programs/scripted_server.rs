//! An HTTP server for tests: runs the scripted function, named by the first argument, once for each
//! task, and prints its own address. Some model names make the server itself misbehave.

#![allow(clippy::unwrap_used, reason = "a test program; its panics are test failures")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{ChildStdout, Command, Stdio};
use std::{env, fs, io, thread};

use peerless_protocol::function::Task;

fn main() {
    let function = env::args_os().nth(1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let function = function.clone();
        // A broken connection ends its thread only.
        thread::spawn(move || serve(&stream.unwrap(), &function.into()));
    }
}

fn serve(stream: &TcpStream, function: &PathBuf) -> io::Result<()> {
    let mut requests = BufReader::new(stream);
    while let Some((head, body)) = request(&mut requests)? {
        if head.starts_with("GET /health") {
            answer(stream, "200 OK", "", b"well")?;
            continue;
        }
        let authorised = env::var("PEERLESS_SCRIPT_TOKEN").map_or(true, |token| {
            head.to_lowercase().contains(&format!("authorization: bearer {token}\r\n").to_lowercase())
        });
        if !authorised {
            answer(stream, "401 Unauthorized", "", b"who are you?")?;
            continue;
        }
        let task: Task = serde_json::from_slice(&body).unwrap();
        match task.spec.model.as_str() {
            "throttle-twice" if mark("throttled-1") || mark("throttled-2") => {
                answer(stream, "429 Too Many Requests", "Retry-After: 0\r\n", b"later")?;
            }
            "throttle" => answer(stream, "503 Service Unavailable", "", b"never")?,
            "missing" => answer(stream, "404 Not Found", "", b"no such thing")?,
            "redirect" => answer(stream, "307 Temporary Redirect", "Location: http://127.0.0.1:1/\r\n", b"")?,
            "cut-once" if mark("cut") => {
                let mut stream = stream;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"invo")?;
                return Ok(());
            }
            _ => run(stream, function, &body)?,
        }
    }
    Ok(())
}

fn run(stream: &TcpStream, function: &PathBuf, task: &[u8]) -> io::Result<()> {
    let mut child = Command::new(function).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[task, b"\n"].concat())?;
    let sent = pass_on(stream, child.stdout.take().unwrap());
    drop(stdin);
    child.kill()?;
    let status = child.wait()?;
    if !sent? {
        answer(stream, "502 Bad Gateway", "", status.to_string().as_bytes())?;
    }
    Ok(())
}

/// Sends the function's line as it comes, since some do not end; false if there is none.
fn pass_on(mut stream: &TcpStream, stdout: ChildStdout) -> io::Result<bool> {
    let mut stdout = BufReader::new(stdout);
    if stdout.fill_buf()?.is_empty() {
        return Ok(false);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        let chunk = stdout.fill_buf()?;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        if !part.is_empty() {
            write!(stream, "{:x}\r\n", part.len())?;
            stream.write_all(part)?;
            stream.write_all(b"\r\n")?;
        }
        if end.is_some() || chunk.is_empty() {
            stream.write_all(b"0\r\n\r\n")?;
            return Ok(true);
        }
        let bytes = part.len();
        stdout.consume(bytes);
    }
}

fn request(source: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        if source.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        let line = head[start..].to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    source.read_exact(&mut body)?;
    Ok(Some((head, body)))
}

fn answer(mut stream: &TcpStream, status: &str, header: &str, body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{header}Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

/// Creates a file; false if it was there.
fn mark(name: &str) -> bool {
    fs::File::create_new(PathBuf::from(env::var_os("PEERLESS_SCRIPT_DIR").unwrap()).join(name)).is_ok()
}
