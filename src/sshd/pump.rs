//! Copies between a channel and what it is connected to: one function for each direction, each with its own end.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::channel::Stream;
use super::pipe::Pipe;

/// How much is read at once: what a pipe of Linux holds.
const READ_BYTES: usize = 64 * 1024;

/// How long the last words of a lost connection may take to be written to who reads them slowly.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Writes what comes from the peer, up to EOF, and then shuts the writer down.
///
/// Whatever had come before the channel was closed is still written, however long that takes, as under sshd; where the
/// connection is lost, for [`LAST_WORDS`].
///
/// # Errors
/// When the writer fails: nobody reads any more.
pub(super) async fn feed(
    pipe: &Pipe,
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    feed_within(pipe, writer, async {
        tokio::time::sleep(LAST_WORDS).await;
    })
    .await
}

/// As [`feed`], with `grace` after the loss of the connection.
async fn feed_within(
    pipe: &Pipe,
    writer: &mut (impl AsyncWrite + Unpin),
    grace: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let copy = async {
        while let Some(chunk) = pipe.next().await {
            writer.write_all(&chunk).await?;
            writer.flush().await?;
        }
        writer.shutdown().await
    };
    let overdue = async {
        pipe.gone().await;
        grace.await;
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

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::sshd::channel::{Core, Forwarded};
    use crate::sshd::pipe::{PipeEnd, pipe};

    const SAID: &[u8] = b"more than the reader takes at once";

    /// A channel that has been told [`SAID`], and what holds a byte of it until it is read.
    fn told() -> (PipeEnd, Pipe, DuplexStream, DuplexStream) {
        let id = Core::default().open(&Forwarded::Agent).unwrap();
        let (end, pipe) = pipe(id, &Default::default());
        let (writer, reader) = duplex(1);
        end.push(Bytes::from_static(SAID));
        (end, pipe, writer, reader)
    }

    #[tokio::test]
    async fn what_came_before_the_close_is_written_to_the_slowest_reader() {
        let (end, pipe, mut writer, mut reader) = told();
        end.eof();
        end.close();
        let mut fed = pin!(feed_within(&pipe, &mut writer, ready(())));
        assert!((&mut fed).now_or_never().is_none(), "given up");
        let mut read = Vec::new();
        let (fed, count) = tokio::join!(fed, reader.read_to_end(&mut read));
        assert_eq!((fed.unwrap(), count.unwrap()), ((), SAID.len()));
        assert_eq!(read, SAID);
    }

    #[tokio::test]
    async fn a_lost_connection_waits_for_no_reader() {
        let (end, pipe, mut writer, _reader) = told();
        let mut fed = pin!(feed_within(&pipe, &mut writer, ready(())));
        assert!((&mut fed).now_or_never().is_none());
        drop(end);
        fed.await.unwrap();
    }
}
