//! One client of a daemon's socket: what it wants, and its stream.

use std::future::pending;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::carry::{self, Sink, Source};
use super::directory::{self, check_peer};
use super::herald::{Happening, Herald};
use super::message::{Answer, Failure, Notice, Request, VERSION, plain};
use super::wire::{DecodeError, Frame, Reader, Writer};
use super::{Find, due, now};
use crate::report::one_line;
use crate::upstream::{self, News};

/// How long a client may take to say what it wants.
const ASKING: Duration = Duration::from_secs(2);

/// A client that does not get what it wants.
#[derive(Debug, Error)]
pub(super) enum Misfit {
    /// It is somebody else's.
    #[error(transparent)]
    Stranger(#[from] directory::Error),
    /// It does not say what it wants.
    #[error("it does not ask within {} s", ASKING.as_secs())]
    Silent,
    /// It does not speak as it should, or goes in the middle of it.
    #[error(transparent)]
    Wire(#[from] DecodeError),
}

impl From<io::Error> for Misfit {
    fn from(error: io::Error) -> Self {
        Self::Wire(error.into())
    }
}

/// Serves one client, from its request to its end.
///
/// # Errors
/// Why it was turned away. That its stream ended, for whatever reason, is none.
pub(super) async fn serve(
    stream: UnixStream,
    ways: &dyn Find,
    stop: &CancellationToken,
) -> Result<(), Misfit> {
    check_peer(Path::new("the client"), &stream)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (Reader::new(reader), Writer::new(writer));
    let asked = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        asked = timeout(ASKING, reader.line::<Request>()) => asked,
    };
    let Some(request) = asked.map_err(|_| Misfit::Silent)?? else {
        return Ok(());
    };
    let way = match request.version {
        VERSION => ways.find(&request.demand),
        _ => None,
    };
    let Some(way) = way else {
        return Ok(writer.line(&Answer::Elsewhere).await?);
    };
    let hold_seconds = u32::try_from(way.hold().as_secs()).unwrap_or(u32::MAX);
    writer.line(&Answer::Mine { hold_seconds }).await?;
    let opened = tokio::select! {
        () = stop.cancelled() => Err(upstream::Error::Stopped),
        opened = way.open_stream() => opened,
        // Nothing is due from the client before the stream is open: it has gone, or talks nonsense.
        frame = reader.frame() => {
            frame?;
            return Ok(());
        }
    };
    let writer = Mutex::new(writer);
    let failure = match opened {
        Err(error) => Some(failure(&error, error.hint(), error.is_final())),
        Ok(stream) => {
            writer.lock().await.notice(&Notice::Opened).await?;
            let target = stream.origin.target().to_owned();
            info!(target, "a client opens a connection of its own");
            let (from, to) = (Uplink::new(&mut reader), Downlink(&writer));
            let carried = tokio::select! {
                carried = carry::carry(stream, from, to, stop.cancelled()) => carried,
                told = tell_pauses(way.news(), &writer) => return Ok(told?),
            };
            match carried {
                Err(error) => Some(failure(&error, error.hint(), false)),
                Ok(()) if stop.is_cancelled() => {
                    Some(failure(&upstream::Error::Stopped, None, false))
                }
                Ok(()) => None,
            }
        }
    };
    // A client that was stopped is told when it goes on, and uses nothing until then.
    drop(way);
    let mut writer = writer.into_inner();
    let ended = async {
        writer.notice(&Notice::Ended { failure }).await?;
        writer.finish().await;
        Ok(())
    };
    let leave = async {
        stop.cancelled().await;
        sleep(carry::LAST_WORDS).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = leave => Ok(()),
    }
}

/// Tells the person at the client of pauses that last; returns when the client takes nothing any more.
async fn tell_pauses(
    mut news: broadcast::Receiver<News>,
    writer: &Mutex<Writer<OwnedWriteHalf>>,
) -> io::Result<()> {
    let mut herald = Herald::default();
    loop {
        let told = tokio::select! {
            news = news.recv() => match news {
                Ok(news) => Happening::of_news(news)
                    .and_then(|happened| herald.handle(now(), happened)),
                Err(RecvError::Lagged(_)) => None,
                // The way is over, and so will be the stream.
                Err(RecvError::Closed) => return pending().await,
            },
            () = due(herald.poll_timeout()) => herald.handle_timeout(now()),
        };
        if let Some(text) = told {
            writer
                .lock()
                .await
                .notice(&Notice::Told { text: plain(&text) })
                .await?;
        }
    }
}

/// What a client sends, without the frames.
struct Uplink<'a> {
    reader: &'a mut Reader<OwnedReadHalf>,
    /// What did not fit yet.
    rest: Bytes,
}

impl<'a> Uplink<'a> {
    fn new(reader: &'a mut Reader<OwnedReadHalf>) -> Self {
        let rest = Bytes::new();
        Self { reader, rest }
    }
}

impl Source for Uplink<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.reader.frame().await {
                Ok(Some(Frame::Bytes(bytes))) => self.rest = bytes,
                Ok(Some(Frame::Notice(Notice::Eof))) => return Ok(0),
                Ok(Some(Frame::Notice(_))) => {}
                Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }

    async fn gone(&mut self) {
        while let Ok(Some(_)) = self.reader.frame().await {}
    }
}

/// What a client gets, in frames.
struct Downlink<'a>(&'a Mutex<Writer<OwnedWriteHalf>>);

impl Sink for Downlink<'_> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().await.bytes(bytes).await
    }
}

fn failure(error: &dyn std::error::Error, hint: Option<String>, is_final: bool) -> Failure {
    Failure::new(&one_line(error), hint.as_deref(), is_final)
}
