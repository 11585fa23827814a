//! Frames: one type byte, the length of the body as u32 in little endian, the body.
//!
//! A length is checked against the limit of its type before anything is read, and a buffer grows
//! with what has arrived, never with what was announced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::{CloseReason, MAX_FETCH_BYTES, MAX_MESSAGE_BYTES, Violation};

/// Bytes of a frame before its body.
pub(super) const HEADER_BYTES: usize = 5;
/// Longest piece of a pushed blob in bytes: between two pieces, an answer to a fetch may pass.
pub(super) const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a fetch answer before the range itself.
pub(super) const REPLY_HEAD_BYTES: usize = 8;
/// A buffer grows by at least this much, and else doubles.
const GROWTH_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FrameType {
    Hello = 1,
    Refuse = 2,
    Message = 3,
    BlobBegin = 4,
    BlobData = 5,
    FetchRequest = 6,
    FetchReply = 7,
    FetchRefused = 8,
    Close = 9,
}

impl FrameType {
    fn from_code(code: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Refuse,
            Self::Message,
            Self::BlobBegin,
            Self::BlobData,
            Self::FetchRequest,
            Self::FetchReply,
            Self::FetchRefused,
            Self::Close,
        ]
        .into_iter()
        .find(|frame| *frame as u8 == code)
    }

    /// Longest body in bytes.
    fn limit(self) -> u32 {
        match self {
            Self::Hello | Self::Refuse | Self::Close => 1024,
            Self::Message => MAX_MESSAGE_BYTES as u32,
            Self::BlobBegin => 64,
            Self::BlobData => CHUNK_BYTES as u32,
            Self::FetchRequest | Self::FetchRefused => 128,
            Self::FetchReply => REPLY_HEAD_BYTES as u32 + MAX_FETCH_BYTES as u32,
        }
    }

    pub(super) fn unexpected(self) -> Violation {
        Violation::Unexpected { code: self as u8 }
    }

    pub(super) fn malformed(self) -> Violation {
        Violation::Malformed { code: self as u8 }
    }
}

/// The body of a [`FrameType::Close`]: why the sender closes the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Farewell {
    Goodbye,
    Violation(Violation),
}

/// Why no frame could be read.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<ReadError> for CloseReason {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Violation(violation) => Self::Violated(violation),
            ReadError::Io(error) => error.into(),
        }
    }
}

impl From<io::Error> for CloseReason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Lost("the other end is gone".into()),
            _ => Self::Lost(error.to_string()),
        }
    }
}

impl From<Farewell> for CloseReason {
    fn from(farewell: Farewell) -> Self {
        match farewell {
            Farewell::Goodbye => Self::Goodbye,
            Farewell::Violation(violation) => Self::Accused(violation),
        }
    }
}

pub(super) fn header(frame: FrameType, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [frame as u8, a, b, c, d]
}

/// Reads a frame's header: its type and the length of its body, which is within the type's limit.
pub(super) async fn read_header<R: AsyncRead + Unpin>(reader: &mut R) -> Result<(FrameType, usize), ReadError> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await?;
    let [code, length @ ..] = header;
    let frame = FrameType::from_code(code).ok_or(Violation::UnknownFrame { code })?;
    let (length, limit) = (u32::from_le_bytes(length), frame.limit());
    if length > limit {
        return Err(Violation::TooLong { code, length, limit }.into());
    }
    Ok((frame, length as usize))
}

/// Appends the next `length` bytes to `buffer`, which is not expected to get longer than `ceiling`.
pub(super) async fn read_onto<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut Vec<u8>,
    length: usize,
    ceiling: usize,
) -> io::Result<()> {
    let end = buffer.len() + length;
    while buffer.len() < end {
        if buffer.len() == buffer.capacity() {
            let wanted = (buffer.len() * 2).max(GROWTH_BYTES).min(ceiling.max(end));
            buffer.reserve_exact(wanted - buffer.len());
        }
        let missing = (end - buffer.len()) as u64;
        if (&mut *reader).take(missing).read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads a body of `length` bytes into a buffer of its own.
pub(super) async fn read_body<R: AsyncRead + Unpin>(reader: &mut R, length: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    read_onto(reader, &mut body, length, length).await?;
    Ok(body)
}

/// Reads a value that takes a whole body.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(frame: FrameType, body: &[u8]) -> Result<T, Violation> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(frame.malformed()),
    }
}

/// Encodes a value as a whole frame.
pub(super) fn encode<T: Serialize>(frame: FrameType, value: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(value, bytes).map_err(io::Error::other)?;
    let header = header(frame, bytes.len() - HEADER_BYTES);
    bytes[..HEADER_BYTES].copy_from_slice(&header);
    Ok(bytes)
}

/// Writes frames and knows whether the last one was written whole, so that a farewell is never
/// written into the middle of another frame.
pub(super) struct FrameWriter<W> {
    stream: W,
    /// Bytes written to all connections, before encryption.
    sent: Arc<AtomicU64>,
    between_frames: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Adds what it writes to `sent`.
    pub(super) fn new(stream: W, sent: &Arc<AtomicU64>) -> Self {
        Self { stream, sent: Arc::clone(sent), between_frames: true }
    }

    /// Writes and flushes whole frames, given as the concatenation of `head` and `body`.
    pub(super) async fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        self.between_frames = false;
        let mut bytes = bytes::Buf::chain(head, body);
        self.stream.write_all_buf(&mut bytes).await?;
        self.stream.flush().await?;
        self.sent.fetch_add((head.len() + body.len()) as u64, Ordering::Relaxed);
        self.between_frames = true;
        Ok(())
    }

    /// Says why the connection ends, if that can be said, and ends the sending half.
    pub(super) async fn finish(mut self, farewell: &Farewell) -> io::Result<()> {
        if self.between_frames {
            let frame = encode(FrameType::Close, farewell)?;
            self.write(&frame, &[]).await?;
        }
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// Reads frames until the bytes are used up or refused; returns what was read and why it ended.
    async fn read_all(mut bytes: &[u8]) -> (Vec<(FrameType, Vec<u8>)>, ReadError) {
        let mut frames = Vec::new();
        loop {
            let read = async {
                let (frame, length) = read_header(&mut bytes).await?;
                Ok((frame, read_body(&mut bytes, length).await?))
            };
            match read.await {
                Ok(frame) => frames.push(frame),
                Err(error) => return (frames, error),
            }
        }
    }

    #[test]
    fn a_written_frame_is_read_back() {
        let mut bytes = Vec::new();
        let sent = Arc::default();
        block_on(FrameWriter::new(&mut bytes, &sent).write(&header(FrameType::Message, 5), b"hello")).unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
        let (frames, end) = block_on(read_all(&bytes));
        assert_eq!(frames, [(FrameType::Message, b"hello".to_vec())]);
        assert!(matches!(end, ReadError::Io(_)));
    }

    #[test]
    fn an_unknown_type_is_refused_by_its_code() {
        let (_, end) = block_on(read_all(&[77, 0, 0, 0, 0]));
        assert!(matches!(end, ReadError::Violation(Violation::UnknownFrame { code: 77 })), "{end}");
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_the_body_comes() {
        let bytes = header(FrameType::Message, MAX_MESSAGE_BYTES + 1);
        let (_, end) = block_on(read_all(&bytes));
        assert!(matches!(end, ReadError::Violation(Violation::TooLong { code: 3, .. })), "{end}");
    }

    #[test]
    fn memory_grows_with_what_arrives_and_not_with_what_is_announced() {
        let mut buffer = Vec::new();
        let arrived = vec![1; 20 << 10];
        let error = block_on(read_onto(&mut &arrived[..], &mut buffer, 1 << 30, 1 << 30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(buffer.capacity() <= 2 * arrived.len(), "{} bytes for {}", buffer.capacity(), arrived.len());
    }

    #[test]
    fn a_buffer_never_outgrows_its_ceiling() {
        let mut buffer = Vec::new();
        let bytes = vec![1; 100_000];
        block_on(read_onto(&mut &bytes[..], &mut buffer, bytes.len(), bytes.len())).unwrap();
        assert_eq!((buffer.len(), buffer.capacity()), (bytes.len(), bytes.len()));
    }

    #[test]
    fn a_farewell_is_not_written_into_a_broken_frame() {
        let mut bytes = Vec::new();
        let mut writer = FrameWriter::new(&mut bytes, &Arc::default());
        writer.between_frames = false;
        block_on(writer.finish(&Farewell::Goodbye)).unwrap();
        assert!(bytes.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            block_on(read_all(&bytes));
        }

        #[test]
        fn arbitrary_bodies_of_known_types_never_panic(
            code in 0u8..12,
            body in prop::collection::vec(any::<u8>(), 0..1100),
        ) {
            let mut bytes = vec![code];
            bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&body);
            let (frames, _) = block_on(read_all(&bytes));
            for (frame, body) in frames {
                let _ = decode::<Farewell>(frame, &body);
                let _ = decode::<super::super::super::Refusal>(frame, &body);
            }
        }
    }
}
