//! Bytes between somebody here and a stream to the target, until either is done.

use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::smux::Unread;
use crate::upstream::{self, RawStream};

/// Read at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// What may wait for somebody who takes nothing: what an SSH client lets the other side send in two channels.
///
/// A stream of smux has no window. When more waits than its own bound (8 MiB), the whole session is left unread for
/// up to a second, so whoever has stopped is to be gone before that.
const STALLED_BYTES: usize = 4 * 1024 * 1024;

/// How long somebody may take nothing while that much waits.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// How often it is looked at afterwards.
const STALLED_LOOK: Duration = Duration::from_millis(250);

/// What was written just before the order to stop is still passed on within this time.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long the target may take to end the stream after it was told that nobody is here any more. It is the only
/// sign that it has got everything before that.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the reason of an end may take to get from one task to another.
const REASON_PATIENCE: Duration = Duration::from_secs(1);

/// Where bytes for the target come from.
pub(in crate::daemon) trait Source: Send {
    /// Reads some bytes; 0 is their end, after which it is not called again.
    fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// After the end of the bytes: waits until nobody takes what comes back any more.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;
}

/// Where bytes of the target go.
pub(in crate::daemon) trait Sink: Send {
    /// Passes all of `bytes` on.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

/// Why a stream is over before its time.
#[derive(Debug, Error)]
pub enum Error {
    /// The agent could not connect.
    #[error(transparent)]
    Refused(#[from] upstream::Error),
    /// The SSM session is over.
    #[error("the SSM session to {target} is over: {reason}")]
    Over {
        /// The machine.
        target: String,
        /// Why.
        reason: String,
    },
    /// Nobody took what the target sent.
    #[error(
        "the client has taken nothing for {} s while {} MiB of {target} waited for it",
        STALLED_AFTER.as_secs(),
        STALLED_BYTES >> 20
    )]
    Stalled {
        /// The machine.
        target: String,
    },
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(error) => error.hint(),
            Self::Over { .. } => Some(
                "connect again; through `ssmshim serve` clients stay connected and their forwards come back".into(),
            ),
            Self::Stalled { .. } => {
                Some("connect again; a client that is stopped for long goes through `ssmshim serve`".into())
            }
        }
    }
}

/// How a stream came to its end.
enum End {
    /// The target has ended it; all its bytes were passed on.
    Target {
        /// Whether there were any.
        has_spoken: bool,
    },
    /// It broke.
    Broken(io::Error),
    /// What was to be passed on here is not taken.
    Stalled,
    /// Nobody is here any more.
    Gone,
}

/// Carries bytes both ways until the target ends the stream, it breaks, nobody is here any more, or `stop`.
///
/// The agent has no half-close: on FIN it closes its whole connection, and what the target would still have said is
/// lost. So the end of `from` is kept here until somebody is gone for good.
///
/// # Errors
/// See [`enum@Error`]. That somebody is gone is none.
pub(in crate::daemon) async fn carry(
    stream: RawStream,
    mut from: impl Source,
    mut to: impl Sink,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let RawStream { stream, mut origin } = stream;
    let unread = stream.unread();
    let (mut incoming, mut outgoing) = tokio::io::split(stream);
    let down = async {
        let mut has_spoken = false;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = match incoming.read(&mut buffer).await {
                Ok(0) => return End::Target { has_spoken },
                Ok(count) => count,
                Err(error) => return End::Broken(error),
            };
            has_spoken = true;
            tokio::select! {
                biased;
                written = to.write(&buffer[..count]) => if let Err(error) = written {
                    debug!(%error, "nobody takes the bytes");
                    return End::Gone;
                },
                () = stalled(unread.as_ref()) => return End::Stalled,
            }
        }
    };
    let is_at_end = CancellationToken::new();
    let end = {
        let up = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                match from.read(&mut buffer).await {
                    Ok(0) => break,
                    // A stream that takes no more is over, and `down` says why.
                    Ok(count) => {
                        if outgoing.write_all(&buffer[..count]).await.is_err() {
                            return std::future::pending().await;
                        }
                    }
                    Err(error) => {
                        debug!(%error, "nobody sends bytes");
                        return;
                    }
                }
            }
            is_at_end.cancel();
            from.gone().await;
        };
        let mut up = std::pin::pin!(up);
        tokio::select! {
            end = down => end,
            () = &mut up => End::Gone,
            () = stop => {
                last_words(up, &is_at_end).await;
                End::Gone
            }
        }
    };
    match end {
        End::Target { has_spoken: true } => Ok(()),
        End::Target { has_spoken: false } => Ok(origin.check_port().await?),
        End::Gone => {
            let _queued = outgoing.shutdown().await;
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut incoming, &mut nowhere);
            let _too_slow = timeout(FAREWELL, rest).await;
            Ok(())
        }
        End::Stalled => Err(Error::Stalled {
            target: origin.target().to_owned(),
        }),
        End::Broken(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(Error::Stalled {
                target: origin.target().to_owned(),
            })
        }
        End::Broken(error) => Err(Error::Over {
            target: origin.target().to_owned(),
            reason: match timeout(REASON_PATIENCE, origin.over()).await {
                Ok(reason) => reason,
                // Only this stream is.
                Err(_) => error.to_string(),
            },
        }),
    }
}

/// Lets `up`, which passes bytes on, pass on what was written just before the order to stop.
pub(super) async fn last_words(up: impl Future<Output = ()>, is_at_end: &CancellationToken) {
    let said = async {
        tokio::select! {
            () = up => {}
            () = is_at_end.cancelled() => {}
        }
    };
    let _too_slow = timeout(LAST_WORDS, said).await;
}

/// Waits until somebody has taken nothing for too long while too much waits for them.
async fn stalled(unread: Option<&Unread>) {
    let Some(unread) = unread else {
        return std::future::pending().await;
    };
    sleep(STALLED_AFTER).await;
    while unread.bytes() < STALLED_BYTES {
        sleep(STALLED_LOOK).await;
    }
}
