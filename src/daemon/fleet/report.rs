//! What happens to targets, for those who tell people.

use crate::upstream::{Link, News};

/// What happened to one target.
#[derive(Debug, Clone)]
pub struct Report {
    /// The machine's id.
    pub target: String,
    /// The port of its sshd: by another one it is another target.
    pub port: u16,
    /// The id, and what the machine is called: `i-… (web-1)`.
    pub title: String,
    /// What happened.
    pub what: What,
}

impl Report {
    /// Whether it is about the target at the end of `link`.
    pub fn is_of(&self, link: &Link) -> bool {
        (self.target.as_str(), self.port) == (link.target(), link.port())
    }
}

/// What may happen to a target.
#[derive(Debug, Clone)]
pub enum What {
    /// A login name has selected it, and it is being reached.
    Started,
    /// The way to it has changed.
    News(News),
    /// Nobody uses it any more, and its session is being terminated. A login name may select it again.
    Idle,
}
