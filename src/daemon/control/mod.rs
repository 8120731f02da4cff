//! How `ssmshim connect` uses the SSM session of a daemon that runs already.
//!
//! Each daemon listens on a Unix socket ([`directory`]). Both ends look who is at the other one: only processes of the same
//! user get on. Whoever gets on can open a TCP connection to the port that the daemon leads to, and nothing else; who
//! may log in there, the sshd decides.
//!
//! ```text
//! client: {"version":1,"target":"web","port":22,"place":{…},"identity":"…"}     one line
//! daemon: {"answer":"mine","hold_seconds":30}  or  {"answer":"elsewhere"}        one line
//!         frames from here on (see `wire`)
//! daemon: notice opened                  within hold_seconds; before that nobody sends bytes
//! both:   bytes
//! client: notice eof                     no more bytes from here; those of the target still come
//! daemon: notice told                    something for the person, such as a pause
//! daemon: notice ended                   after the last byte, with the reason if there is one
//! ```
//!
//! A client that closes has gone, and its stream is ended. A daemon that closes without `ended` was killed.
//!
//! Everything is bounded: lines and frames by `wire`, a client that is slow to ask by [`ASKING`], clients by
//! [`CLIENTS`], and one that ceases to read by [`carry`].

pub(super) mod carry;
pub(super) mod client;
pub(super) mod directory;
pub(super) mod herald;
pub(super) mod message;
mod wire;

use std::future::pending;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use thiserror::Error;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use self::carry::{Sink, Source};
use self::directory::{Directory, check_peer};
use self::herald::{Happening, Herald};
use self::message::{Answer, Failure, Notice, Request, VERSION, Wanted, plain};
use self::wire::{DecodeError, Frame, Reader, Writer};
use crate::report::one_line;
use crate::upstream::{self, News, Visit};

/// How long a client may take to say what it wants.
const ASKING: Duration = Duration::from_secs(2);

/// Clients at the same time. Others wait to be accepted, and after a second go their own way.
const CLIENTS: usize = 256;

/// How long accepting pauses when the system is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Knows the ways that a daemon has.
pub(super) trait Find: Send + Sync {
    /// The way to the machine that is wanted, if there is one already. It is in use as long as the client is here.
    fn find(&self, wanted: &Wanted) -> Option<Visit>;
}

/// A daemon's socket, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    directory: Directory,
    name: String,
}

impl Control {
    /// Listens, and removes the sockets of dead daemons. Without a place for a socket there is none, and that is
    /// said: `connect` then goes its own way.
    pub(super) async fn open() -> Option<Self> {
        let opened = Directory::create().and_then(|directory| {
            let (listener, name) = directory.listen()?;
            Ok(Self {
                listener,
                directory,
                name,
            })
        });
        match opened {
            Ok(control) => {
                control.directory.sweep().await;
                Some(control)
            }
            Err(error) => {
                warn!(
                    error = one_line(&error),
                    "no socket for `ssmshim connect`, which will start SSM sessions of its own"
                );
                None
            }
        }
    }

    /// Serves clients until `stop`; returns when all are gone.
    pub(super) async fn run(self, ways: Arc<dyn Find>, stop: CancellationToken) {
        let clients = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let accepted = async {
                // Never closed, so there is a place in the end.
                let place = Arc::clone(&places).acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (ways, stop) = (Arc::clone(&ways), stop.clone());
            clients.spawn(async move {
                if let Err(error) = serve(stream, &*ways, &stop).await {
                    debug!(
                        error = one_line(&error),
                        "a client of the socket is turned away"
                    );
                }
                drop(place);
            });
        }
        clients.close();
        clients.wait().await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.directory.remove(&self.name);
    }
}

/// A client that does not get what it wants.
#[derive(Debug, Error)]
enum Misfit {
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

/// Serves one client.
async fn serve(
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
        VERSION => ways.find(&request.wanted),
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
    // A client that was stopped is told when it goes on.
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

/// Waits until `at`, or for ever.
pub(super) async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// The clock of the runtime, which tests may hold.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
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
