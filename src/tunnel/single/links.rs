//! Many SSM sessions seen as one tunnel: what is lost, and what is heard of again. Pure.

use std::collections::BTreeMap;
use std::mem;
use std::time::Instant;

use super::super::Event;
use crate::ssm::SessionEvent;

/// Names a session within its tunnel, in the order of their starts.
pub(super) type Key = u64;

/// How a link is doing: that of one session, or the tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Link {
    #[default]
    Up,
    /// Since then.
    Silent(Instant),
    Lost,
}

/// The links of all sessions that are open, and what was told of them.
///
/// The tunnel is lost as soon as one of them is, and back when none is: what is told of one tells of
/// the network, and who waits should not be let into it meanwhile. It is silent when all of them are:
/// each has a process of its own in the agent, and one that hangs says nothing of the others.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<Key, Link>,
    next: Key,
    told: Link,
}

impl Links {
    /// Adds the link of a new session; returns what that is for the tunnel.
    pub(super) fn add(&mut self) -> (Key, Vec<Event>) {
        let key = self.next;
        self.next += 1;
        self.links.insert(key, Link::Up);
        (key, self.news(""))
    }

    /// Takes in what has happened to a session; returns what that is for the tunnel.
    pub(super) fn on_event(&mut self, key: Key, event: &SessionEvent) -> Vec<Event> {
        let Some(link) = self.links.get_mut(&key) else {
            return Vec::new();
        };
        match event {
            SessionEvent::Lost { reason } => {
                *link = Link::Lost;
                return self.news(reason);
            }
            SessionEvent::Silent { since } if *link == Link::Up => *link = Link::Silent(*since),
            SessionEvent::Resumed { .. } | SessionEvent::Heard => *link = Link::Up,
            // One of them speaks for all.
            SessionEvent::Retrying { error, hint, .. } if self.first_lost() == Some(key) => {
                return vec![Event::Retrying {
                    error: error.clone(),
                    hint: hint.clone(),
                }];
            }
            SessionEvent::Retrying { .. }
            | SessionEvent::Silent { .. }
            | SessionEvent::ConnectToPortError
            | SessionEvent::Closed { .. } => {}
        }
        self.news("")
    }

    /// Takes in that a session is over; returns what that is for the tunnel.
    ///
    /// The end of one that was well ends its stream and nothing else. One that could not be resumed
    /// ends the tunnel if it was the last.
    pub(super) fn on_end(&mut self, key: Key, reason: &str) -> Vec<Event> {
        let ended = self.links.remove(&key);
        if self.links.is_empty() && ended.is_some_and(|link| link != Link::Up) {
            return vec![Event::Over {
                reason: reason.to_owned(),
            }];
        }
        self.news("")
    }

    /// What is to be told of a change, which counts as told then; a loss is for `reason`.
    fn news(&mut self, reason: &str) -> Vec<Event> {
        let present = self.present();
        let reason = || reason.to_owned();
        match (mem::replace(&mut self.told, present), present) {
            (Link::Up, Link::Up)
            | (Link::Silent(_), Link::Silent(_))
            | (Link::Lost, Link::Lost) => Vec::new(),
            (_, Link::Lost) => vec![Event::Lost { reason: reason() }],
            (Link::Up, Link::Silent(since)) => vec![Event::Silent { since }],
            (Link::Lost, Link::Silent(since)) => vec![Event::Resumed, Event::Silent { since }],
            (Link::Silent(_), Link::Up) => vec![Event::Heard],
            (Link::Lost, Link::Up) => vec![Event::Resumed],
        }
    }

    /// How the tunnel is doing.
    fn present(&self) -> Link {
        if self.first_lost().is_some() {
            return Link::Lost;
        }
        let silences = self.links.values().map(|link| match link {
            Link::Silent(since) => Some(*since),
            _ => None,
        });
        let all: Option<Vec<Instant>> = silences.collect();
        let last = all.and_then(|all| all.into_iter().max());
        last.map_or(Link::Up, Link::Silent)
    }

    fn first_lost(&self) -> Option<Key> {
        let mut links = self.links.iter();
        let lost = links.find(|(_, link)| **link == Link::Lost);
        lost.map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    /// Two links that are well.
    fn two() -> (Links, Key, Key) {
        let mut links = Links::default();
        let (a, nothing) = links.add();
        assert_eq!(nothing, []);
        let b = links.add().0;
        (links, a, b)
    }

    #[test]
    fn the_tunnel_is_lost_while_any_link_is() {
        let (mut links, a, b) = two();
        let reason = "bye".to_owned();
        assert_eq!(links.on_event(b, &lost("bye")), [Event::Lost { reason }]);
        assert_eq!(links.on_event(a, &lost("bye, too")), []);
        let error = "a".to_owned();
        assert_eq!(links.on_event(b, &retrying("b")), []);
        assert_eq!(
            links.on_event(a, &retrying("a")),
            [Event::Retrying { error, hint: None }]
        );
        assert_eq!(links.add().1, []);
        assert_eq!(links.on_event(a, &resumed()), []);
        assert_eq!(links.on_event(b, &resumed()), [Event::Resumed]);
    }

    #[test]
    fn the_tunnel_is_silent_while_all_links_are() {
        let (mut links, a, b) = two();
        let since = Instant::now();
        let later = since + Duration::from_secs(1);
        let silent = |since| SessionEvent::Silent { since };
        assert_eq!(links.on_event(a, &silent(later)), []);
        let last = Event::Silent { since: later };
        assert_eq!(links.on_event(b, &silent(since)), [last]);
        assert_eq!(links.on_event(a, &SessionEvent::Heard), [Event::Heard]);
        assert_eq!(links.on_event(b, &SessionEvent::Heard), []);
    }

    #[test]
    fn silence_ends_with_a_new_link_and_begins_with_the_end_of_the_last_that_is_well() {
        let (mut links, a, b) = two();
        let since = Instant::now();
        let silent = SessionEvent::Silent { since };
        assert_eq!(links.on_event(a, &silent), []);
        assert_eq!(links.on_end(b, "exit"), [Event::Silent { since }]);
        let (c, events) = links.add();
        assert_eq!(events, [Event::Heard]);
        // What was lost comes back while the other one is still silent.
        let reason = "bye".to_owned();
        assert_eq!(links.on_event(c, &lost("bye")), [Event::Lost { reason }]);
        let both = [Event::Resumed, Event::Silent { since }];
        assert_eq!(links.on_end(c, "refused"), both);
        let reason = "silent".to_owned();
        assert_eq!(links.on_end(a, "silent"), [Event::Over { reason }]);
    }

    #[test]
    fn an_end_is_the_tunnels_only_for_the_last_that_is_lost() {
        let (mut links, a, b) = two();
        assert_eq!(links.on_end(a, "exit"), []);
        links.on_event(b, &lost("bye"));
        let c = links.add().0;
        assert_eq!(links.on_end(b, "refused"), [Event::Resumed]);
        links.on_event(c, &lost("bye"));
        let reason = "refused".to_owned();
        assert_eq!(links.on_end(c, "refused"), [Event::Over { reason }]);
        let (mut links, d, _) = two();
        assert_eq!(links.on_end(d, "exit"), []);
        assert_eq!(links.on_end(d, "exit"), []);
    }
}
