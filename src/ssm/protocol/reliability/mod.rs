//! What makes the stream reliable: buffers of both directions, round trip and pace.

pub mod acknowledging;
mod doubts;
pub mod incoming;
pub mod outgoing;
pub mod pacer;
pub mod rtt;
