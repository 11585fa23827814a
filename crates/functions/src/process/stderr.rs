//! What a function says on stderr: passed on to the log, and the end of it kept for errors.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// Lines kept.
const TAIL_LINES: usize = 12;
/// Longest line kept, in bytes; the rest of it is dropped.
const MAX_LINE_BYTES: usize = 512;
/// How long to wait for stderr to end once the function is dead. What the function started may hold
/// it open.
const DRAIN_GRACE: Duration = Duration::from_millis(200);

type Lines = Arc<Mutex<VecDeque<String>>>;

/// Reads a function's stderr until it ends; memory stays bounded whatever is written.
pub(super) struct StderrTail {
    lines: Lines,
    reader: JoinHandle<()>,
}

impl StderrTail {
    pub(super) fn follow(pid: u32, stderr: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Lines::default();
        let reader = tokio::spawn(read(pid, stderr, Arc::clone(&lines)));
        Self { lines, reader }
    }

    /// The last lines of a function that is dead.
    pub(super) async fn last_lines(&mut self) -> String {
        if !self.reader.is_finished() {
            let _still_open = tokio::time::timeout(DRAIN_GRACE, &mut self.reader).await;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for StderrTail {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(pid: u32, mut stderr: impl AsyncRead + Unpin, lines: Lines) {
    let mut chunk = vec![0; 4096];
    let mut line = Vec::new();
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        for &byte in &chunk[..length] {
            if byte == b'\n' {
                keep(pid, &mut line, &lines);
            } else if line.len() < MAX_LINE_BYTES {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        keep(pid, &mut line, &lines);
    }
}

fn keep(pid: u32, line: &mut Vec<u8>, lines: &Lines) {
    // Functions run code that peers may have been handed; control characters stay out of terminals.
    let text: String = String::from_utf8_lossy(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.clear();
    tracing::debug!(function = pid, "{text}");
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == TAIL_LINES {
        lines.pop_front();
    }
    lines.push_back(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut text = "early\n".repeat(1000);
        text.push_str(&"x".repeat(100_000));
        text.push_str("\nlast \x1b[31m words");
        let mut tail = StderrTail::follow(1, std::io::Cursor::new(text.into_bytes()));
        let kept = tail.last_lines().await;
        let kept: Vec<&str> = kept.lines().collect();
        assert_eq!(kept.len(), TAIL_LINES);
        assert_eq!(kept[TAIL_LINES - 2].len(), MAX_LINE_BYTES);
        assert_eq!(kept[TAIL_LINES - 1], "last  [31m words");
    }
}
