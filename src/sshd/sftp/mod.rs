//! The `sftp` subsystem: SFTP version 3 (draft-ietf-secsh-filexfer-02) with the extensions of OpenSSH.
//!
//! Runs on a thread of its own, one request after another, which is the order the client pipelines them in. Names are opaque
//! bytes throughout, as they are for the kernel.

mod attributes;
mod files;
mod server;

use std::path::Path;

use bytes::{Buf, BytesMut};
use thiserror::Error;
use tokio::runtime::Handle;

use self::server::Server;
use super::channel::Stream;
use super::pipe::Pipe;
use crate::ssh::wire::Truncated;

/// Longest packet taken, in bytes: OpenSSH's `SFTP_MAX_MSG_LENGTH`.
const MAX_PACKET: usize = 256 * 1024;

/// Replies are sent together up to this many bytes, while more requests are at hand.
const BATCH_BYTES: usize = 32 * 1024;

/// The client does not speak SFTP; the subsystem ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Error {
    /// A packet is longer than [`MAX_PACKET`], or empty.
    #[error("SFTP packet of {0} bytes")]
    PacketLength(usize),
    /// A packet ended before its last field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The first packet was not `SSH_FXP_INIT`, or a later one was.
    #[error("unexpected SFTP packet of type {0}")]
    Unexpected(u8),
}

impl Error {
    /// The status that sftp-server ends with.
    pub(super) fn exit_status(self) -> u32 {
        match self {
            Self::PacketLength(_) => 11,
            Self::Truncated(_) | Self::Unexpected(_) => 255,
        }
    }
}

/// Serves one client until it sends EOF or goes away. Relative names begin at `home`.
///
/// # Errors
/// [`Error`] when the client breaks the protocol.
pub(super) fn serve(home: &Path, runtime: &Handle, pipe: &Pipe) -> Result<(), Error> {
    let mut server = Server::new(home);
    let mut input = BytesMut::new();
    let mut output = Vec::new();
    loop {
        while let Some(packet) = next_packet(&mut input)? {
            server.handle(&packet, &mut output)?;
            if output.len() >= BATCH_BYTES && !send(runtime, pipe, &mut output) {
                return Ok(());
            }
        }
        if !send(runtime, pipe, &mut output) {
            return Ok(());
        }
        match runtime.block_on(pipe.next()) {
            Some(chunk) => input.extend_from_slice(&chunk),
            None => return Ok(()),
        }
    }
}

/// Takes a whole packet, without its length, off the front.
fn next_packet(input: &mut BytesMut) -> Result<Option<BytesMut>, Error> {
    let Some(length) = input
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes) as usize)
    else {
        return Ok(None);
    };
    if length == 0 || length > MAX_PACKET {
        return Err(Error::PacketLength(length));
    }
    if input.len() < 4 + length {
        input.reserve(4 + length - input.len());
        return Ok(None);
    }
    input.advance(4);
    Ok(Some(input.split_to(length)))
}

/// Sends what has gathered; false when the client has gone.
fn send(runtime: &Handle, pipe: &Pipe, output: &mut Vec<u8>) -> bool {
    output.is_empty()
        || runtime
            .block_on(pipe.send(Stream::Stdout, std::mem::take(output).into()))
            .is_ok()
}
