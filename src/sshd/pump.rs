//! Copies between a channel and what it is connected to: one function for each direction, each with its own end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::channel::Stream;
use super::pipe::Pipe;

/// How much is read at once: what a pipe of Linux holds.
const READ_BYTES: usize = 64 * 1024;

/// How long the last words of a closed channel may take to be written to who reads them slowly.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Writes what comes from the peer, up to EOF, and then shuts the writer down.
///
/// Whatever had come before the channel was closed is still written, for [`LAST_WORDS`].
///
/// # Errors
/// When the writer fails: nobody reads any more.
pub(super) async fn feed(
    pipe: &Pipe,
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let copy = async {
        while let Some(chunk) = pipe.next().await {
            writer.write_all(&chunk).await?;
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    let overdue = async {
        pipe.closed().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        result = copy => result,
        () = overdue => Ok(()),
    }
}

/// Sends what is read, up to EOF, an error, or until nobody reads it any more.
pub(super) async fn drain(pipe: &Pipe, reader: &mut (impl AsyncRead + Unpin), stream: Stream) {
    let mut buffer = BytesMut::new();
    let copy = async {
        loop {
            if buffer.capacity() < READ_BYTES / 2 {
                buffer.reserve(READ_BYTES);
            }
            match reader.read_buf(&mut buffer).await {
                // A terminal whose last process has gone reads as an I/O error.
                Ok(0) | Err(_) => break,
                Ok(length)
                    if pipe
                        .send(stream, compact(&mut buffer, length))
                        .await
                        .is_err() =>
                {
                    break;
                }
                Ok(_) => {}
            }
        }
    };
    tokio::select! {
        () = copy => {}
        () = pipe.unread(stream) => {}
    }
}

/// Takes the `length` bytes that `buffer` holds; few of them as a copy, so that a keystroke does not keep a whole buffer.
fn compact(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length >= READ_BYTES / 8 {
        return buffer.split().freeze();
    }
    let copy = Bytes::copy_from_slice(buffer);
    buffer.clear();
    copy
}
