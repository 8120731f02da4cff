//! The client's half: finds the daemon that has a way to the target, and carries a stream through it.

use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::carry::{Sink, Source, last_words};
use super::directory::{Directory, Knock};
use super::message::{Answer, Demand, Failure, Notice, Request, VERSION, plain};
use super::wire::{DecodeError, Frame, Reader, Writer};
use crate::report::one_line;

/// How long a daemon may take to say whether the target is its own. It needs no time for that; one that is stopped or
/// overwhelmed is passed over.
const ANSWER: Duration = Duration::from_secs(1);

/// How long all of them together may take, before none is waited for any more.
const ANSWERS: Duration = Duration::from_secs(3);

/// A daemon that holds a client back for a while says so later than it means to by no more than this.
const GRACE: Duration = Duration::from_secs(5);

/// Read at once.
const CHUNK_BYTES: usize = 32 * 1024;

/// A daemon that has a way to the target.
#[derive(Debug)]
pub(in crate::daemon) struct Way {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
    hold: Duration,
}

/// Why a stream through a daemon is over.
#[derive(Debug, Error)]
pub enum Error {
    /// The daemon says why.
    #[error("{error}")]
    Told {
        /// In its words.
        error: String,
        /// What the user may do about it, in its words.
        hint: Option<String>,
    },
    /// It has ended without a word.
    #[error("the ssmshim daemon that carried the connection is gone")]
    Gone,
    /// It has not opened the stream, nor said why.
    #[error("the running ssmshim daemon does not answer")]
    Unanswered,
}

impl Error {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Told { hint, .. } => hint.clone(),
            Self::Gone => {
                Some("connect again; without a daemon that starts an SSM session of its own".into())
            }
            Self::Unanswered => Some("see what it says, or stop it".into()),
        }
    }
}

/// Why a daemon that has a way to the target has no stream to it.
#[derive(Debug)]
pub(in crate::daemon) struct Refusal {
    /// What it says.
    pub(in crate::daemon) error: Error,
    /// Whether another way is worth a try.
    pub(in crate::daemon) is_final: bool,
}

/// Asks the daemons of this user for a way to what is wanted.
pub(in crate::daemon) async fn ask(demand: &Demand) -> Option<Way> {
    timeout(ANSWERS, ask_all(demand)).await.ok().flatten()
}

async fn ask_all(demand: &Demand) -> Option<Way> {
    let (directories, refused) = Directory::existing();
    for error in refused {
        warn!(
            error = one_line(&error),
            "not asking the daemons there for their SSM sessions"
        );
    }
    for directory in directories {
        for name in directory.sockets() {
            let stream = match directory.knock(&name).await {
                Ok(Knock::Opened(stream)) => stream,
                Ok(Knock::Dead) => continue,
                Err(error) => {
                    warn!(error = one_line(&error), "a socket is not used");
                    continue;
                }
            };
            match timeout(ANSWER, Way::request(stream, demand)).await {
                Ok(Ok(Some(way))) => return Some(way),
                Ok(Ok(None)) => {}
                Ok(Err(error)) => debug!(error = one_line(&error), name, "no answer"),
                Err(_) => debug!(name, "a daemon does not answer in time"),
            }
        }
    }
    None
}

impl Way {
    async fn request(stream: UnixStream, demand: &Demand) -> Result<Option<Self>, DecodeError> {
        let (reader, writer) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(reader), Writer::new(writer));
        let request = Request {
            version: VERSION,
            demand: demand.clone(),
        };
        writer.line(&request).await?;
        Ok(match reader.line().await? {
            Some(Answer::Mine { hold_seconds }) => Some(Self {
                reader,
                writer,
                hold: Duration::from_secs(hold_seconds.into()),
            }),
            Some(Answer::Elsewhere) | None => None,
        })
    }

    /// Waits until the stream is open.
    ///
    /// # Errors
    /// Why it is not.
    pub(in crate::daemon) async fn opened(&mut self) -> Result<(), Refusal> {
        let lost = |error, is_final| Refusal { error, is_final };
        let frame = timeout(self.hold.saturating_add(GRACE), self.reader.frame()).await;
        match frame.map_err(|_| lost(Error::Unanswered, true))? {
            Ok(Some(Frame::Notice(Notice::Opened))) => Ok(()),
            Ok(Some(Frame::Notice(Notice::Ended {
                failure: Some(failure),
            }))) => {
                let is_final = failure.is_final;
                Err(lost(failure.into(), is_final))
            }
            // It was just stopped or killed.
            _ => Err(lost(Error::Gone, true)),
        }
    }

    /// Carries bytes both ways until the daemon ends the stream, nobody is here any more, or `stop`; `tell` is given what
    /// the daemon has to say meanwhile.
    ///
    /// # Errors
    /// Why the stream is over, unless that was the wish of either end.
    pub(in crate::daemon) async fn carry(
        self,
        mut from: impl Source,
        mut to: impl Sink,
        tell: impl Fn(&str),
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let Self {
            mut reader,
            mut writer,
            ..
        } = self;
        let down = async {
            loop {
                match reader.frame().await {
                    Ok(Some(Frame::Bytes(bytes))) => {
                        if let Err(error) = to.write(&bytes).await {
                            debug!(%error, "nobody takes the bytes");
                            return Ok(());
                        }
                    }
                    Ok(Some(Frame::Notice(Notice::Told { text }))) => tell(&plain(&text)),
                    Ok(Some(Frame::Notice(Notice::Ended { failure }))) => {
                        return failure.map_or(Ok(()), |failure| Err(failure.into()));
                    }
                    Ok(Some(Frame::Notice(Notice::Opened | Notice::Eof))) => {}
                    Ok(None) => return Err(Error::Gone),
                    Err(error) => {
                        debug!(error = one_line(&error), "the daemon breaks off");
                        return Err(Error::Gone);
                    }
                }
            }
        };
        let is_at_end = CancellationToken::new();
        let up = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            let mut said = Ok(());
            while said.is_ok() {
                said = match from.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => writer.bytes(&buffer[..count]).await,
                };
            }
            // If the daemon takes no more, it is over, and `down` says why.
            let _gone = writer.notice(&Notice::Eof).await;
            is_at_end.cancel();
            from.gone().await;
        };
        let mut up = std::pin::pin!(up);
        tokio::select! {
            ended = down => ended,
            () = &mut up => Ok(()),
            () = stop => {
                last_words(up, &is_at_end).await;
                Ok(())
            }
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Told {
            error: plain(&failure.error),
            hint: failure.hint.as_deref().map(plain),
        }
    }
}
