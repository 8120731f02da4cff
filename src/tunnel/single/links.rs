//! Many SSM sessions seen as one tunnel: what is lost, and what is heard of again. Pure.

use std::collections::BTreeMap;

use super::super::Event;
use crate::ssm::SessionEvent;

/// Names a session within its tunnel, in the order of their starts.
pub(super) type Key = u64;

/// How the link of one session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Silent,
    Lost,
}

/// The links of all sessions that are open.
///
/// The tunnel is lost as soon as one of them is, and back when none is: what is told of one tells of
/// the network, and who waits should not be let into it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<Key, Link>,
    next: Key,
}

impl Links {
    /// Adds the link of a new session.
    pub(super) fn add(&mut self) -> Key {
        let key = self.next;
        self.next += 1;
        self.links.insert(key, Link::Up);
        key
    }

    /// Takes in what has happened to a session; returns what that is for the tunnel.
    pub(super) fn on_event(&mut self, key: Key, event: &SessionEvent) -> Option<Event> {
        let before = self.worst();
        let link = self.links.get_mut(&key)?;
        match event {
            SessionEvent::Lost { reason } => {
                *link = Link::Lost;
                (before != Some(Link::Lost)).then(|| Event::Lost {
                    reason: reason.clone(),
                })
            }
            // One of them speaks for all.
            SessionEvent::Retrying { error, hint, .. } => {
                let mut links = self.links.iter();
                let first = links.find(|(_, link)| **link == Link::Lost);
                first
                    .is_some_and(|(first, _)| *first == key)
                    .then(|| Event::Retrying {
                        error: error.clone(),
                        hint: *hint,
                    })
            }
            SessionEvent::Silent { since } if *link == Link::Up => {
                *link = Link::Silent;
                (before == Some(Link::Up)).then_some(Event::Silent { since: *since })
            }
            SessionEvent::Resumed { .. } | SessionEvent::Heard => {
                *link = Link::Up;
                self.recovery(before)
            }
            SessionEvent::Silent { .. }
            | SessionEvent::ConnectToPortError
            | SessionEvent::Closed { .. } => None,
        }
    }

    /// Takes in that a session is over; returns what that is for the tunnel.
    ///
    /// The end of one that was well ends its stream and nothing else. One that could not be resumed
    /// ends the tunnel if it was the last.
    pub(super) fn on_end(&mut self, key: Key, reason: &str) -> Option<Event> {
        let before = self.worst();
        let link = self.links.remove(&key)?;
        if self.links.is_empty() && link != Link::Up {
            return Some(Event::Over {
                reason: reason.to_owned(),
            });
        }
        self.recovery(before)
    }

    /// What it means that the links, at worst `before`, may have become better.
    fn recovery(&self, before: Option<Link>) -> Option<Event> {
        let after = self.worst().unwrap_or(Link::Up);
        match before? {
            Link::Lost if after != Link::Lost => Some(Event::Resumed),
            Link::Silent if after == Link::Up => Some(Event::Heard),
            _ => None,
        }
    }

    fn worst(&self) -> Option<Link> {
        let rank = |link: &Link| match link {
            Link::Up => 0,
            Link::Silent => 1,
            Link::Lost => 2,
        };
        self.links.values().copied().max_by_key(rank)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn lost(reason: &str) -> SessionEvent {
        SessionEvent::Lost {
            reason: reason.into(),
        }
    }

    fn resumed() -> SessionEvent {
        SessionEvent::Resumed {
            gap: Duration::ZERO,
        }
    }

    fn retrying(error: &str) -> SessionEvent {
        SessionEvent::Retrying {
            attempt: 1,
            error: error.into(),
            hint: None,
        }
    }

    #[test]
    fn the_tunnel_is_lost_while_any_link_is() {
        let mut links = Links::default();
        let (a, b) = (links.add(), links.add());
        let reason = "bye".to_owned();
        assert_eq!(
            links.on_event(b, &lost("bye")),
            Some(Event::Lost { reason })
        );
        assert_eq!(links.on_event(a, &lost("bye, too")), None);
        let error = "a".to_owned();
        assert_eq!(links.on_event(b, &retrying("b")), None);
        assert_eq!(
            links.on_event(a, &retrying("a")),
            Some(Event::Retrying { error, hint: None })
        );
        assert_eq!(links.on_event(a, &resumed()), None);
        assert_eq!(links.on_event(b, &resumed()), Some(Event::Resumed));
    }

    #[test]
    fn silence_of_one_is_silence_until_it_is_heard() {
        let mut links = Links::default();
        let (a, b) = (links.add(), links.add());
        let since = Instant::now();
        let silent = SessionEvent::Silent { since };
        assert_eq!(links.on_event(a, &silent), Some(Event::Silent { since }));
        assert_eq!(links.on_event(b, &silent), None);
        assert_eq!(links.on_event(a, &SessionEvent::Heard), None);
        assert_eq!(links.on_event(b, &SessionEvent::Heard), Some(Event::Heard));
    }

    #[test]
    fn an_end_is_the_tunnels_only_for_the_last_that_is_lost() {
        let mut links = Links::default();
        let (a, b) = (links.add(), links.add());
        assert_eq!(links.on_end(a, "exit"), None);
        links.on_event(b, &lost("bye"));
        let c = links.add();
        assert_eq!(links.on_end(b, "refused"), Some(Event::Resumed));
        links.on_event(c, &lost("bye"));
        let reason = "refused".to_owned();
        assert_eq!(links.on_end(c, "refused"), Some(Event::Over { reason }));
        let d = links.add();
        assert_eq!(links.on_end(d, "exit"), None);
        assert_eq!(links.on_end(d, "exit"), None);
    }
}
