//! What was tried to log in, and what came of it.

use std::fmt;

use thiserror::Error;

/// The server refused everything that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationFailed {
    /// The user name.
    pub user: String,
    /// Others that were refused too, where several were tried.
    pub others: Vec<String>,
    /// What was tried, in order.
    pub tried: Vec<Attempt>,
    /// The methods by which the server would still let itself be convinced.
    pub methods_left: Vec<String>,
    /// What the server said when it hung up, if it did.
    pub farewell: Option<String>,
}

/// One thing tried and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The method name (RFC 4252), such as `publickey`.
    pub method: &'static str,
    /// Which key, where the method has several.
    pub label: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an [`Attempt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server accepted it, and let the user in.
    Accepted,
    /// The server refused it.
    Refused,
    /// The server accepted it and wanted more.
    NotEnough,
    /// Whoever holds the secret declined.
    Declined,
    /// Whoever knows the secret was not asked, or did not answer.
    Unanswered(Unanswered),
    /// The passphrases given do not decrypt the key.
    WrongPassphrase,
    /// Keys of this type sign in no way that is known here.
    NoCommonAlgorithm,
    /// The server wants the password changed first, which is not done here.
    PasswordExpired,
}

/// Why there is no answer of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// There is no terminal to ask on.
    #[error("no terminal to ask on")]
    NoTerminal,
    /// There is one, and another program is in its foreground.
    #[error("ssmshim is in the background of its terminal")]
    InBackground,
    /// Whoever was asked gave up.
    #[error("not answered")]
    GaveUp,
    /// Nobody waits for the login, so nobody is asked.
    #[error("not asked while nobody waits")]
    Unattended,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::NotEnough => "accepted, not enough",
            Self::Declined => "not available",
            Self::Unanswered(why) => return why.fmt(f),
            Self::WrongPassphrase => "wrong passphrase",
            Self::NoCommonAlgorithm => "no signature algorithm in common",
            Self::PasswordExpired => "expired",
        })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method)?;
        if let Some(label) = &self.label {
            write!(f, " {label}")?;
        }
        write!(f, " ({})", self.outcome)
    }
}

impl fmt::Display for AuthenticationFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused user `{}`", self.user)?;
        for other in &self.others {
            write!(f, ", `{other}`")?;
        }
        for (index, attempt) in self.tried.iter().enumerate() {
            write!(f, "{}{attempt}", if index == 0 { ": " } else { ", " })?;
        }
        if let Some(farewell) = &self.farewell {
            write!(f, "; it hung up: {farewell}")?;
        } else if !self.methods_left.is_empty() {
            write!(f, "; it accepts {}", self.methods_left.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for AuthenticationFailed {}

impl AuthenticationFailed {
    /// Whether it might have gone well had somebody been asked, and nobody was.
    pub fn needs_person(&self) -> bool {
        self.has(Outcome::Unanswered(Unanswered::Unattended))
    }

    /// Whether the server would take a password or answers to its questions.
    pub fn takes_answers(&self) -> bool {
        let takes = |method: &String| method == "password" || method == "keyboard-interactive";
        self.methods_left.iter().any(takes)
    }

    /// Whether the server accepted something and wanted more.
    pub fn is_half_in(&self) -> bool {
        self.has(Outcome::NotEnough)
    }

    fn has(&self, outcome: Outcome) -> bool {
        self.tried.iter().any(|attempt| attempt.outcome == outcome)
    }

    /// What the user may try next.
    pub fn hint(&self) -> String {
        // Where keys were refused, that nobody could be asked for a password besides is rarely the cause.
        let no_terminal = Outcome::Unanswered(Unanswered::NoTerminal);
        let is_key_of = |outcome| {
            let mut keys = self.tried.iter().filter(|it| it.method == "publickey");
            keys.any(|key| key.outcome == outcome)
        };
        if self.has(no_terminal) && (is_key_of(no_terminal) || !is_key_of(Outcome::Refused)) {
            return "run ssmshim on a terminal, where it can ask, or let it use a key that needs \
                    no answer: `ssh-add KEY`, and SSH_AUTH_SOCK in its environment"
                .to_owned();
        }
        if self.has(Outcome::Unanswered(Unanswered::InBackground)) {
            return "bring ssmshim to the foreground of its terminal (`fg`) to be asked".to_owned();
        }
        let is_late = |farewell: &String| farewell.contains("Too many authentication failures");
        if self.farewell.as_ref().is_some_and(is_late) {
            return "name the right key with --identity FILE, or with --identity FILE.pub if \
                    ssh-agent holds it: it is then offered first"
                .to_owned();
        }
        if !self.others.is_empty() {
            return "name the user with --user, and a key that is accepted there with --identity"
                .to_owned();
        }
        let takes_keys = self.methods_left.iter().any(|method| method == "publickey");
        let mut keys = self
            .tried
            .iter()
            .filter(|attempt| attempt.method == "publickey")
            .peekable();
        if keys.peek().is_none() && takes_keys {
            return "name a private key file, or load a key into ssh-agent with ssh-add".to_owned();
        }
        if keys.any(|attempt| attempt.outcome == Outcome::Refused) {
            return format!(
                "check the user name, and that ~/.ssh/authorized_keys of `{}` on the target holds \
                 the public key",
                self.user
            );
        }
        "check the user name and the login methods of the target's sshd".to_owned()
    }
}
