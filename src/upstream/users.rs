//! Who to log in as: one name, or several of which the target decides.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Users on the target, the likeliest first.
///
/// Which one the target has accepted is remembered, so that only the first logins cost several tries.
#[derive(Debug)]
pub struct Users {
    names: Vec<String>,
    accepted: AtomicUsize,
}

impl Users {
    /// `likeliest`, and then `others`; one that is there already is tried once.
    pub fn new(likeliest: impl Into<String>, others: impl IntoIterator<Item = String>) -> Self {
        let mut names = vec![likeliest.into()];
        for other in others {
            if !names.contains(&other) {
                names.push(other);
            }
        }
        Self {
            names,
            accepted: AtomicUsize::new(0),
        }
    }

    /// In the order in which they are tried: the one accepted last, then the others. Never empty.
    pub(super) fn in_order(&self) -> Vec<&str> {
        let accepted = self.accepted.load(Ordering::Relaxed);
        let mut order: Vec<(usize, &str)> =
            (0..).zip(self.names.iter().map(String::as_str)).collect();
        order.sort_by_key(|(place, _)| *place != accepted);
        order.into_iter().map(|(_, name)| name).collect()
    }

    /// Remembers that the target has accepted `user`.
    pub(super) fn accepted(&self, user: &str) {
        if let Some(place) = self.names.iter().position(|name| name == user) {
            self.accepted.store(place, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accepted_one_is_tried_first() {
        let names = ["ec2-user", "admin", "ec2-user", "me"].map(str::to_owned);
        let users = Users::new("ubuntu", names);
        assert_eq!(users.in_order(), ["ubuntu", "ec2-user", "admin", "me"]);
        users.accepted("admin");
        users.accepted("nobody");
        assert_eq!(users.in_order(), ["admin", "ubuntu", "ec2-user", "me"]);
        assert_eq!(Users::new("root", []).in_order(), ["root"]);
    }
}
