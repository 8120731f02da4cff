//! One command in an SSH session channel (RFC 4254 §5, §6.5): bytes in, bytes out, its status.

use std::time::Instant;

use bytes::Bytes;
use rand::Rng as _;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ssh::messages::{
    Message, channel_close, channel_eof, channel_failure, global_request, request_failure,
    window_adjust,
};
use crate::ssh::wire::{Reader, WriteExt as _, msg};
use crate::ssh::{self, Connection};

/// What the other end may send before it is granted more: more than any link holds.
const WINDOW: u32 = 2 << 20;
/// The largest message taken, and made.
const PACKET: u32 = 32 << 10;

/// Why a command did not run to its end.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    /// The connection failed.
    #[error(transparent)]
    Ssh(#[from] ssh::Error),
    /// The server opens no session, or runs no command in it.
    #[error("the server {0}")]
    Refused(&'static str),
    /// The server ended the connection.
    #[error("the server has ended the connection")]
    Ended,
}

/// How a command ended, and what it said meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// Its exit status, if it has one.
    pub(super) status: Option<u32>,
    /// Bytes of its standard output.
    pub(super) bytes: u64,
    /// When the first of them came.
    pub(super) first: Option<Instant>,
    /// When the last of them came.
    pub(super) last: Option<Instant>,
}

/// A command that runs.
pub(super) struct Command<'a, IO> {
    connection: &'a mut Connection<IO>,
    /// Our number of the channel.
    number: u32,
    /// The server's number of the channel.
    remote: u32,
    /// What it takes before it grants more.
    window: u64,
    packet: usize,
    /// What was received and not granted again.
    taken: u32,
    outcome: Outcome,
    is_closed: bool,
}

impl<'a, IO: AsyncRead + AsyncWrite + Unpin> Command<'a, IO> {
    /// Starts `command`; `number` is ours for the channel, used once in a connection.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn start(
        connection: &'a mut Connection<IO>,
        number: u32,
        command: &str,
    ) -> Result<Self, Trouble> {
        let mut open = Vec::new();
        open.put_byte(msg::CHANNEL_OPEN)
            .put_string("session")
            .put_uint32(number)
            .put_uint32(WINDOW)
            .put_uint32(PACKET);
        connection.send(&open).await?;
        let (remote, window, packet) = loop {
            let message = receive(connection).await?;
            match Message::parse(&message) {
                Message::OpenConfirmation {
                    recipient,
                    sender,
                    window,
                    max_packet,
                } if recipient == number => break (sender, window, max_packet),
                Message::OpenFailure { recipient } if recipient == number => {
                    return Err(Trouble::Refused("opens no session"));
                }
                _ => answer(connection, &message).await?,
            }
        };
        let mut exec = Vec::new();
        exec.put_byte(msg::CHANNEL_REQUEST)
            .put_uint32(remote)
            .put_string("exec")
            .put_bool(true)
            .put_string(command);
        connection.send(&exec).await?;
        let mut started = Self {
            connection,
            number,
            remote,
            window: window.into(),
            packet: packet.clamp(1, PACKET) as usize,
            taken: 0,
            outcome: Outcome {
                status: None,
                bytes: 0,
                first: None,
                last: None,
            },
            is_closed: false,
        };
        while let Some(message) = started.turn().await? {
            match message.first() {
                Some(&msg::CHANNEL_SUCCESS) => return Ok(started),
                Some(&msg::CHANNEL_FAILURE) => {
                    return Err(Trouble::Refused("runs no command for this user"));
                }
                _ => {}
            }
        }
        Err(Trouble::Refused("runs no command for this user"))
    }

    /// Sends `bytes` random bytes, which no compression makes fewer, and the end.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn feed(&mut self, bytes: usize) -> Result<(), Trouble> {
        let mut noise = vec![0; bytes];
        rand::rng().fill_bytes(&mut noise);
        let mut rest = &noise[..];
        while !rest.is_empty() && !self.is_closed {
            let room = usize::try_from(self.window).unwrap_or(usize::MAX);
            let size = rest.len().min(self.packet).min(room);
            if size == 0 {
                self.turn().await?;
                continue;
            }
            let (chunk, others) = rest.split_at(size);
            let mut message = Vec::with_capacity(9 + size);
            message
                .put_byte(msg::CHANNEL_DATA)
                .put_uint32(self.remote)
                .put_string(chunk);
            self.connection.send(&message).await?;
            self.window -= size as u64;
            rest = others;
        }
        if !self.is_closed {
            self.connection.send(&channel_eof(self.remote)).await?;
            self.connection.flush().await?;
        }
        Ok(())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn finish(mut self) -> Result<Outcome, Trouble> {
        while !self.is_closed {
            self.turn().await?;
        }
        self.connection.flush().await?;
        Ok(self.outcome)
    }

    /// Waits for its first output, or its end.
    ///
    /// # Errors
    /// As [`Command::start`].
    pub(super) async fn spoken(&mut self) -> Result<(), Trouble> {
        while self.outcome.first.is_none() && self.turn().await?.is_some() {}
        Ok(())
    }

    /// Takes one message in, and returns it; none after the channel was closed.
    async fn turn(&mut self) -> Result<Option<Bytes>, Trouble> {
        if self.is_closed {
            return Ok(None);
        }
        let message = loop {
            let message = receive(self.connection).await?;
            if !is_for_another(&message, self.number) {
                break message;
            }
        };
        match Message::parse(&message) {
            Message::WindowAdjust { bytes, .. } => self.window += u64::from(bytes),
            Message::Data { length, .. } => {
                if message.first() == Some(&msg::CHANNEL_DATA) {
                    let now = Instant::now();
                    self.outcome.bytes += u64::from(length);
                    self.outcome.first.get_or_insert(now);
                    self.outcome.last = Some(now);
                }
                self.taken = self.taken.saturating_add(length);
                if self.taken >= WINDOW / 2 {
                    let grant = window_adjust(self.remote, self.taken);
                    self.taken = 0;
                    self.connection.send(&grant).await?;
                }
            }
            Message::Request {
                name: b"exit-status",
                ..
            } => self.outcome.status = exit_status(&message),
            Message::Request {
                want_reply: true, ..
            } => self.connection.send(&channel_failure(self.remote)).await?,
            Message::Close { .. } => {
                self.is_closed = true;
                self.connection.send(&channel_close(self.remote)).await?;
            }
            _ => answer(self.connection, &message).await?,
        }
        Ok(Some(message))
    }
}

/// Asks sshd for nothing in particular and waits for the answer.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn ping<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
) -> Result<(), Trouble> {
    let request = global_request("keepalive@openssh.com", |_| {});
    connection.send(&request).await?;
    connection.flush().await?;
    loop {
        let message = receive(connection).await?;
        if Message::parse(&message) == Message::GlobalReply {
            return Ok(());
        }
        answer(connection, &message).await?;
    }
}

async fn receive<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
) -> Result<Bytes, Trouble> {
    connection.recv().await?.ok_or(Trouble::Ended)
}

/// Whether the message belongs to another channel than `number`, such as one of a command that took too long. Every
/// message from `CHANNEL_OPEN_CONFIRMATION` to `CHANNEL_FAILURE` begins with its recipient (RFC 4254 §5).
fn is_for_another(message: &[u8], number: u32) -> bool {
    let is_for_channel = message
        .first()
        .is_some_and(|kind| (msg::CHANNEL_OPEN_CONFIRMATION..=msg::CHANNEL_FAILURE).contains(kind));
    is_for_channel && message.get(1..5) != Some(&number.to_be_bytes()[..])
}

/// Declines what the server asks of us; announcements need no answer.
async fn answer<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
    message: &[u8],
) -> Result<(), Trouble> {
    if let Message::GlobalRequest {
        want_reply: true, ..
    } = Message::parse(message)
    {
        connection.send(&request_failure()).await?;
    }
    Ok(())
}

/// The status in a request `exit-status` (RFC 4254 §6.10).
fn exit_status(message: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(message);
    let _number = reader.u8().ok()?;
    let _recipient = reader.u32().ok()?;
    let _name = reader.string().ok()?;
    let _want_reply = reader.bool().ok()?;
    reader.u32().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_command_still_says_is_not_taken_for_this_one() {
        let (close, adjust) = (channel_close(0), window_adjust(1, 9));
        for (message, number, is_other) in [
            (&close[..], 1, true),
            (&close[..], 0, false),
            (&adjust[..], 1, false),
            (&request_failure()[..], 1, false),
            (&global_request("x", |_| {})[..], 1, false),
            (&[msg::CHANNEL_DATA, 0], 0, true),
            (&[], 0, false),
        ] {
            assert_eq!(is_for_another(message, number), is_other, "{message:?}");
        }
    }
}
