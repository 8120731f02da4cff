//! A plain Port session: one TCP connection at a time, its bytes as they are.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, BufReader, SimplexStream, WriteHalf, copy_buf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Dial, Input, Pipe};

/// Buffer of the direction to the client.
const COPY_BYTES: usize = 32 * 1024;

/// How one connection ended.
enum End {
    /// The target closed it.
    TargetClosed,
    TargetFailed(io::Error),
    /// The client closed it.
    Disconnected,
    /// The session is over.
    InputEnded,
}

/// Carries the session's bytes to and from the target, dialled at once.
///
/// With `redial` (documents of type LocalPortForwarding, for clients too old for smux) the end of
/// the connection is not the end of the session: the client's next bytes open another. Without,
/// the target's end is the session's (sheet §6.5).
///
/// # Errors
/// The text for the user.
pub(in crate::emulator::agent) async fn run(
    mut pipe: Pipe,
    dial: &Dial,
    redial: bool,
) -> Result<(), String> {
    let mut target = connect(dial).await?;
    let mut first = None;
    loop {
        let end = carry(&mut pipe.input, &mut pipe.output, target, first).await;
        match end {
            End::InputEnded => return Ok(()),
            End::TargetClosed if !redial => return Ok(()),
            End::TargetFailed(error) if !redial => {
                return Err(format!("Connection to the port failed: {error}"));
            }
            End::TargetClosed | End::TargetFailed(_) | End::Disconnected => {}
        }
        first = loop {
            match pipe.input.recv().await {
                Some(Input::Data(data)) => break Some(data),
                Some(Input::Disconnect) => {}
                None => return Ok(()),
            }
        };
        target = connect(dial).await?;
    }
}

async fn connect(dial: &Dial) -> Result<TcpStream, String> {
    dial.connect()
        .await
        .map_err(|error| format!("Unable to connect to specified port: {error}"))
}

/// Carries one connection, beginning with what made the agent dial.
async fn carry(
    input: &mut mpsc::Receiver<Input>,
    output: &mut WriteHalf<SimplexStream>,
    mut target: TcpStream,
    first: Option<Bytes>,
) -> End {
    let (from_target, mut to_target) = target.split();
    let mut from_target = BufReader::with_capacity(COPY_BYTES, from_target);
    let up = async {
        let mut next = first.map(Input::Data);
        loop {
            if next.is_none() {
                next = input.recv().await;
            }
            match next.take() {
                Some(Input::Data(data)) => {
                    if let Err(error) = to_target.write_all(&data).await {
                        return End::TargetFailed(error);
                    }
                }
                Some(Input::Disconnect) => return End::Disconnected,
                None => return End::InputEnded,
            }
        }
    };
    let down = async {
        match copy_buf(&mut from_target, output).await {
            Ok(_) => End::TargetClosed,
            Err(error) => End::TargetFailed(error),
        }
    };
    tokio::select! {
        end = up => end,
        end = down => end,
    }
}
