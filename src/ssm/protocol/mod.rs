//! The data channel protocol of Session Manager: pure, no clock, no socket, no task.
//!
//! One binary WebSocket message is one [`ClientMessage`](message::ClientMessage). Stream messages
//! are numbered, acknowledged one by one and resent until they are; the numbers outlive the
//! WebSocket, which is what makes a resume exact. [`DataChannel`](data_channel::DataChannel) puts
//! the parts together for both ends:
//!
//! | module | what it knows |
//! |---|---|
//! | [`message`] | the 120-byte header, its digest and identifiers |
//! | [`payload`] | payload types and the small JSON bodies |
//! | [`acknowledge`] | the body of an `acknowledge` message |
//! | [`handshake`] | HandshakeRequest, HandshakeResponse, HandshakeComplete |
//! | [`version`] | version numbers as either end compares them, and what they switch on |
//! | [`reliability`] | what was sent and not acknowledged, what came early, round trip, pace |
//! | [`data_channel`] | the whole, as client and as agent |

pub mod acknowledge;
pub mod data_channel;
pub mod handshake;
pub mod message;
pub mod payload;
pub mod reliability;
pub mod version;
