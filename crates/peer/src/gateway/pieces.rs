//! The body of an answer: text, parts of files, or both in turns.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::counters::Counters;
use super::grants::{Permission, Window};

/// Bytes read from a file at a time.
const READ_BYTES: u64 = 256 << 10;

/// One part of a body.
pub(super) enum Piece {
    Text(Bytes),
    File(Window),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(window) => window.length,
        }
    }
}

/// What a body of files holds until its end.
pub(super) struct Transfer {
    /// Once it is over, nothing more is sent.
    permission: Arc<Permission>,
    counters: Arc<Counters>,
    _slot: OwnedSemaphorePermit,
}

impl Transfer {
    pub fn new(permission: Arc<Permission>, counters: Arc<Counters>, slot: OwnedSemaphorePermit) -> Self {
        Self { permission, counters, _slot: slot }
    }
}

/// A body in pieces.
pub(super) struct Pieces {
    waiting: VecDeque<Piece>,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    transfer: Option<Transfer>,
}

impl Pieces {
    pub fn text(text: &'static str) -> Self {
        Self::new([Piece::Text(Bytes::from_static(text.as_bytes()))].into(), None)
    }

    pub fn empty() -> Self {
        Self::new(VecDeque::new(), None)
    }

    pub fn transfer(pieces: VecDeque<Piece>, transfer: Transfer) -> Self {
        Self::new(pieces, Some(transfer))
    }

    fn new(waiting: VecDeque<Piece>, transfer: Option<Transfer>) -> Self {
        let left = waiting.iter().map(Piece::length).sum();
        Self { waiting, left, reading: None, transfer }
    }

    fn deliver(&mut self, bytes: Bytes) -> Frame<Bytes> {
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if let Some(transfer) = &self.transfer {
            transfer.counters.sent(bytes.len());
        }
        Frame::data(bytes)
    }

    /// Begins to read the next part of a file.
    fn read(&mut self, mut window: Window) {
        let length = window.length.min(READ_BYTES);
        let (file, offset) = (Arc::clone(&window.file), window.offset);
        (window.offset, window.length) = (offset + length, window.length - length);
        if window.length > 0 {
            self.waiting.push_front(Piece::File(window));
        }
        self.reading = Some(tokio::task::spawn_blocking(move || {
            // At most READ_BYTES.
            let mut buffer = vec![0; length as usize];
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.into())
        }));
    }

    fn is_over(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.permission.is_over())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                let bytes = read.map_err(io::Error::other).and_then(|read| read);
                return Poll::Ready(Some(bytes.map(|bytes| self.deliver(bytes))));
            }
            match self.waiting.pop_front() {
                None => return Poll::Ready(None),
                Some(_) if self.is_over() => {
                    return Poll::Ready(Some(Err(io::Error::other("the attempt is over"))));
                }
                Some(Piece::Text(text)) => return Poll::Ready(Some(Ok(self.deliver(text)))),
                Some(Piece::File(window)) => self.read(window),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
