//! [`Raw`], the client that says exactly what it is told to: what it hears is written down.

use std::collections::BTreeMap;

pub(crate) use crate::common::raw::{Heard, PACKET, PASSED_WINDOW, Raw, WINDOW};
use crate::seen::Seen;

impl Raw {
    /// Hears messages until one makes `is_last` true or the connection ends, and records them in the order that
    /// means something: data that came in pieces in one, and a command's status after its output. How a
    /// stream is cut, and when sshd hears of its child's death, is chance.
    pub(crate) fn record(
        &mut self,
        seen: &mut Seen,
        label: &str,
        is_last: impl Fn(&Heard) -> bool,
    ) -> Heard {
        let mut all: Vec<Heard> = Vec::new();
        // Statuses, and OpenSSH's word that the command has closed its input, wait here.
        let mut ends: Vec<Heard> = Vec::new();
        let last = loop {
            let heard = self.next();
            if is_last(&heard) || matches!(heard, Heard::End(_)) {
                break heard;
            }
            match heard {
                _ if heard.is_end_of_command() => ends.push(heard),
                Heard::Close(number) => {
                    ends.sort_by_key(Heard::to_text);
                    all.extend(ends.extract_if(.., |end| end.channel() == Some(number)));
                    all.push(heard);
                }
                _ if all.last_mut().is_some_and(|tail| tail.absorb(&heard)) => {}
                _ => all.push(heard),
            }
        };
        if let Heard::Close(number) = last {
            // How another channel's command ended belongs to what is recorded of that channel later.
            let others = ends.extract_if(.., |end| end.channel() != Some(number));
            let others: Vec<_> = others.collect();
            for end in others.into_iter().rev() {
                self.heard.push_front(end);
            }
        }
        ends.sort_by_key(Heard::to_text);
        all.append(&mut ends);
        if !all.last_mut().is_some_and(|tail| tail.absorb(&last)) {
            all.push(last.clone());
        }
        for (index, heard) in all.iter().enumerate() {
            seen.note(&format!("{label} {index}"), heard.to_text());
        }
        last
    }

    /// [`Raw::record`] until our channel `number` is closed.
    pub(crate) fn record_until_close(&mut self, seen: &mut Seen, label: &str, number: u32) {
        self.record(seen, label, |heard| *heard == Heard::Close(number));
    }

    /// Hears messages until `closes` channels are closed or the connection ends, and records them apart for each
    /// channel: its messages in their order, then each of its streams, then how the command ended. How channels
    /// and streams interleave is chance.
    pub(crate) fn record_channels(&mut self, seen: &mut Seen, label: &str, closes: usize) {
        let mut channels: BTreeMap<Option<u32>, [Vec<Heard>; 3]> = BTreeMap::new();
        let mut closed = 0;
        while closed < closes {
            let heard = self.next();
            closed += usize::from(matches!(heard, Heard::Close(_)));
            let has_ended = matches!(heard, Heard::End(_));
            let [messages, streams, ends] = channels.entry(heard.channel()).or_default();
            match heard {
                Heard::Data { .. } | Heard::Extended { .. } => {
                    if !streams.iter_mut().any(|stream| stream.absorb(&heard)) {
                        streams.push(heard);
                    }
                }
                _ if heard.is_end_of_command() => ends.push(heard),
                _ => messages.push(heard),
            }
            if has_ended {
                break;
            }
        }
        for (channel, [messages, mut streams, mut ends]) in channels {
            streams.sort_by_key(Heard::to_text);
            ends.sort_by_key(Heard::to_text);
            let all = messages.iter().chain(&streams).chain(&ends);
            let texts: Vec<_> = all.map(Heard::to_text).collect();
            seen.note(&format!("{label}: channel {channel:?}"), texts.join("\n"));
        }
    }

    /// Asks for something that the server answers at once, and hears all that it said before that.
    pub(crate) fn record_until_settled(&mut self, seen: &mut Seen, label: &str) {
        self.global("keepalive@openssh.com", true, |_| {});
        self.record(seen, label, |heard| *heard == Heard::GlobalFailure);
    }
}
