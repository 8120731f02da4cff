//! Local connection and upstream transport, joined message by message.
//!
//! The endpoint ends the local SSH transport and authentication, upstream begins another; the
//! connection protocol above them (RFC 4254) is passed on as it is. [`Pair`] is the pure core: it
//! keeps the queues, clamps the window credit, and reads along in an [`Observer`]. It outlives its upstream: a
//! ledger of what is unanswered and a list of the client's listeners are what the next one is told. [`Relay`]
//! drives it over two connections.

mod absence;
mod credit;
mod driver;
mod end;
mod flight;
mod forwards;
mod grammar;
mod ledger;
mod numbering;
mod observer;
mod pair;
mod queue;
#[cfg(test)]
mod tests;
mod withdrawn;

pub use credit::Limits;
pub use driver::{Parting, Relay};
pub use observer::{Observer, Traffic};
pub use pair::{Error, Event, Pair, Received};

/// One of the two connections that a relay joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The user's client.
    Local,
    /// The target's sshd.
    Upstream,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Local => Self::Upstream,
            Self::Upstream => Self::Local,
        }
    }
}

/// One value for each side.
#[derive(Debug, Clone, Default)]
struct BySide<T> {
    local: T,
    upstream: T,
}

impl<T> BySide<T> {
    /// `value` for `side`, and `other` for the other side.
    fn new(side: Side, value: T, other: T) -> Self {
        match side {
            Side::Local => Self {
                local: value,
                upstream: other,
            },
            Side::Upstream => Self {
                local: other,
                upstream: value,
            },
        }
    }
}

impl<T> std::ops::Index<Side> for BySide<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Local => &self.local,
            Side::Upstream => &self.upstream,
        }
    }
}

impl<T> std::ops::IndexMut<Side> for BySide<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Local => &mut self.local,
            Side::Upstream => &mut self.upstream,
        }
    }
}
