//! Who may use the local endpoint.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{Certificate, PublicKey};
use tokio::task::spawn_blocking;
use tracing::warn;

use super::authorized_keys::AuthorizedKeys;
use crate::peer;
use crate::report::one_line;
use crate::ssh::auth::server::{Policy, Verdict};

/// Lets in the processes of one uid, with any user name and without proof.
///
/// The kernel says whose socket it is ([`crate::peer::uid`]), so nothing else is asked for. Some
/// clients never try to log in without: whatever key or password they show is as good as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The uid let in.
    pub owner: u32,
    /// The uid at the other end; none when it is not known.
    pub peer: Option<u32>,
}

impl Owner {
    fn verdict(self) -> Verdict {
        if self.peer == Some(self.owner) {
            Verdict::Accept
        } else {
            Verdict::Reject
        }
    }
}

impl Policy for Owner {
    fn methods(&self) -> &[&'static str] {
        match self.verdict() {
            // For clients that ask for the methods by one that is not among them.
            Verdict::Accept => &["publickey", "password", "keyboard-interactive"],
            // Nothing helps a stranger. To OpenSSH no method at all means that any may be tried, and nobody is
            // to type a password in vain.
            Verdict::Continue | Verdict::Reject => &["publickey"],
        }
    }

    fn none(&mut self, _user: &str) -> Verdict {
        self.verdict()
    }

    fn any_key(&mut self, _user: &str) -> bool {
        self.verdict() == Verdict::Accept
    }

    fn password(&mut self, _user: &str) -> Verdict {
        self.verdict()
    }

    fn keyboard_interactive(&mut self, _user: &str) -> Verdict {
        self.verdict()
    }

    fn banner(&mut self, _user: &str) -> Option<String> {
        if self.verdict() == Verdict::Accept {
            return None;
        }
        let owner = self.owner;
        Some(match self.peer {
            Some(peer) => format!(
                "ssmshim: this endpoint is for uid {owner}, and you are uid {peer}\r\n\
                 hint: start your own, or have this one started with --access keys\r\n"
            ),
            None => format!(
                "ssmshim: this endpoint is for uid {owner}, and it cannot be seen who you are\r\n\
                 hint: connect from the same machine and network namespace, or have it started \
                 with --access keys\r\n"
            ),
        })
    }
}

/// Lets in whoever holds a key of an authorized_keys file, with any user name.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The keys let in.
    pub authorized: Arc<AuthorizedKeys>,
}

impl Policy for Keys {
    fn methods(&self) -> &[&'static str] {
        &["publickey"]
    }

    fn publickey(&mut self, _user: &str, key: &PublicKey, _algorithm: &str) -> Verdict {
        verdict(self.authorized.contains(key))
    }

    fn certificate(&mut self, user: &str, certificate: &Certificate, _algorithm: &str) -> Verdict {
        verdict(self.authorized.certifies(certificate, user))
    }
}

/// The rule of an endpoint, from which each client gets its policy.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Processes of the uid that runs this one ([`Owner`]).
    Owner,
    /// Holders of a key ([`Keys`]) of the file at this path, which is read again for each client, as by sshd: whoever
    /// is taken off the list does not get in any more.
    Keys(PathBuf),
}

impl Rule {
    /// The policy for the client at `peer` that connected to `local`.
    ///
    /// # Errors
    /// When the kernel does not show its socket table.
    pub async fn of_client(&self, peer: SocketAddr, local: SocketAddr) -> io::Result<Access> {
        Ok(Access::from(match self {
            Self::Owner => Kind::Owner(Owner {
                owner: rustix::process::geteuid().as_raw(),
                peer: peer::uid(peer, local).await?,
            }),
            Self::Keys(path) => Kind::Keys(Keys {
                authorized: Arc::new(listed(path).await),
            }),
        }))
    }
}

/// The keys in the file at `path` as it is now; none when it cannot be used.
async fn listed(path: &Path) -> AuthorizedKeys {
    let path = path.to_owned();
    // The file may be far away.
    let loading = spawn_blocking(move || AuthorizedKeys::load(&path));
    match loading.await {
        Ok(Ok(authorized)) => authorized,
        Ok(Err(error)) => {
            let hint = error.hint();
            warn!(error = one_line(&error), hint, "nobody is let in");
            AuthorizedKeys::default()
        }
        Err(error) => {
            warn!(%error, "nobody is let in");
            AuthorizedKeys::default()
        }
    }
}

/// The policy of the endpoint for one connection.
#[derive(Debug, Clone)]
pub struct Access {
    kind: Kind,
    /// The client cannot cope with being let in before it has shown anything: its first `none` is refused.
    must_be_asked: bool,
}

/// Software that takes it for a failure when it asks for the methods and is let in: Trilead and Ganymed want a list
/// of them, and so does libgit2, which is on libssh2.
const MUST_BE_ASKED: [&str; 3] = ["Trilead", "Ganymed", "libssh2"];

#[derive(Debug, Clone)]
enum Kind {
    Owner(Owner),
    Keys(Keys),
}

impl From<Kind> for Access {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            must_be_asked: false,
        }
    }
}

impl From<Owner> for Access {
    fn from(owner: Owner) -> Self {
        Kind::Owner(owner).into()
    }
}

impl From<Keys> for Access {
    fn from(keys: Keys) -> Self {
        Kind::Keys(keys).into()
    }
}

impl Access {
    /// Whether the client will probably be let in, so that work for it may begin.
    pub fn is_promising(&self) -> bool {
        match &self.kind {
            Kind::Owner(owner) => owner.verdict() == Verdict::Accept,
            Kind::Keys(_) => false,
        }
    }

    fn policy(&mut self) -> &mut dyn Policy {
        match &mut self.kind {
            Kind::Owner(owner) => owner,
            Kind::Keys(keys) => keys,
        }
    }
}

impl Policy for Access {
    fn methods(&self) -> &[&'static str] {
        match &self.kind {
            Kind::Owner(owner) => owner.methods(),
            Kind::Keys(keys) => keys.methods(),
        }
    }

    fn meet(&mut self, version: &str) {
        let software = version.strip_prefix("SSH-2.0-").unwrap_or(version);
        self.must_be_asked = MUST_BE_ASKED.iter().any(|name| software.starts_with(name));
    }

    fn none(&mut self, user: &str) -> Verdict {
        if std::mem::take(&mut self.must_be_asked) {
            return Verdict::Reject;
        }
        self.policy().none(user)
    }

    fn any_key(&mut self, user: &str) -> bool {
        self.policy().any_key(user)
    }

    fn publickey(&mut self, user: &str, key: &PublicKey, algorithm: &str) -> Verdict {
        self.policy().publickey(user, key, algorithm)
    }

    fn certificate(&mut self, user: &str, certificate: &Certificate, algorithm: &str) -> Verdict {
        self.policy().certificate(user, certificate, algorithm)
    }

    fn password(&mut self, user: &str) -> Verdict {
        self.policy().password(user)
    }

    fn keyboard_interactive(&mut self, user: &str) -> Verdict {
        self.policy().keyboard_interactive(user)
    }

    fn banner(&mut self, user: &str) -> Option<String> {
        self.policy().banner(user)
    }
}

fn verdict(is_welcome: bool) -> Verdict {
    if is_welcome {
        Verdict::Accept
    } else {
        Verdict::Reject
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_is_let_in_without_proof() {
        for (peer, expected) in [
            (Some(1000), Verdict::Accept),
            (Some(1001), Verdict::Reject),
            (Some(0), Verdict::Reject),
            (None, Verdict::Reject),
        ] {
            let mut access = Owner { owner: 1000, peer };
            assert_eq!(access.none("anything"), expected, "{peer:?}");
            assert_eq!(access.password("anything"), expected, "{peer:?}");
            assert_eq!(access.keyboard_interactive("anything"), expected);
            let is_refused = expected == Verdict::Reject;
            assert_eq!(access.banner("anything").is_some(), is_refused, "{peer:?}");
            assert_eq!(access.any_key("anything"), !is_refused, "{peer:?}");
            // An empty list would have OpenSSH try all it knows.
            assert!(access.methods().contains(&"publickey"), "{peer:?}");
            assert_eq!(access.methods().contains(&"password"), !is_refused);
        }
    }

    #[test]
    fn software_that_must_be_asked_is_asked_once() {
        let owner = Owner {
            owner: 1000,
            peer: Some(1000),
        };
        for (version, first) in [
            ("SSH-2.0-OpenSSH_9.2p1", Verdict::Accept),
            ("SSH-2.0-libssh2_1.10.0", Verdict::Reject),
            ("SSH-2.0-TrileadSSH2Java_213", Verdict::Reject),
        ] {
            let mut access = Access::from(owner);
            access.meet(version);
            assert_eq!(access.none("anything"), first, "{version}");
            assert_eq!(access.none("anything"), Verdict::Accept, "{version}");
        }
    }

    #[test]
    fn keys_need_a_key() {
        let text = include_str!("../../keys/ed25519.pub");
        let key = PublicKey::from_openssh(text).unwrap();
        let other = PublicKey::from_openssh(include_str!("../../keys/user_ca.pub")).unwrap();
        let mut access = Keys {
            authorized: Arc::new(AuthorizedKeys::parse(text)),
        };
        assert_eq!(access.none("anything"), Verdict::Reject);
        assert_eq!(access.password("anything"), Verdict::Reject);
        assert_eq!(access.keyboard_interactive("anything"), Verdict::Reject);
        assert_eq!(access.publickey("x", &key, "ssh-ed25519"), Verdict::Accept);
        assert_eq!(
            access.publickey("x", &other, "ssh-ed25519"),
            Verdict::Reject
        );
        assert_eq!(access.methods(), ["publickey"]);
    }
}
