//! Port sessions: TCP connections to one port, carried by a session.

mod basic;
mod dial;
mod mux;

use bytes::Bytes;
use tokio::io::{SimplexStream, WriteHalf};
use tokio::sync::mpsc;

use crate::ssm::protocol::payload::Flag;

pub(super) use basic::run as run_basic;
pub(super) use dial::Dial;
pub(super) use mux::run as run_mux;

/// What the client sent, in its order.
#[derive(Debug)]
pub(super) enum Input {
    Data(Bytes),
    /// The client closed its connection (basic sessions only).
    Disconnect,
}

/// A Port session's side of its data channel.
pub(super) struct Pipe {
    /// From the client.
    pub(super) input: mpsc::Receiver<Input>,
    /// To the client: bytes, which the data channel cuts into messages.
    pub(super) output: WriteHalf<SimplexStream>,
    /// Flags to the client. They overtake no byte written before, and bytes written after do not
    /// overtake them.
    pub(super) flags: mpsc::Sender<Flag>,
}
