//! What was tried to log in, and what came of it.

use std::fmt;

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
    /// The server refused it.
    Refused,
    /// The server accepted it and wanted more.
    NotEnough,
    /// Whoever holds the secret declined, or could not be asked.
    Declined,
    /// Keys of this type sign in no way that is known here.
    NoCommonAlgorithm,
    /// The server wants the password changed first, which is not done here.
    PasswordExpired,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::NotEnough => "accepted, not enough",
            Self::Declined => "not available",
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
    /// What the user may try next.
    pub fn hint(&self) -> String {
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
