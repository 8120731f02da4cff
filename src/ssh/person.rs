//! People who are asked while a login is under way, and what is remembered of their answers.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use zeroize::Zeroizing;

pub use super::auth::client::Unanswered;
use super::auth::client::{Prompt, Questions};

/// What somebody is asked.
#[derive(Debug, Clone, Copy)]
pub struct Inquiry<'a> {
    /// What it is about.
    pub topic: Topic<'a>,
    /// The questions, one answer each. Their words may be the server's, free of control characters
    /// but line ends and tabs.
    pub questions: &'a Questions,
}

/// What an [`Inquiry`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic<'a> {
    /// Logging in as a user.
    Login {
        /// The user name on the target.
        user: &'a str,
    },
    /// Decrypting a private key.
    Key {
        /// Its file.
        path: &'a Path,
    },
}

/// The answers of an [`Answer`].
pub type Answers<'a> =
    Pin<Box<dyn Future<Output = Result<Vec<Zeroizing<String>>, Unanswered>> + Send + 'a>>;

/// Answers questions, such as the person at a terminal.
///
/// The time it takes does not count against the deadline of a login. When the future is dropped,
/// nobody waits for the answer any more.
pub trait Answer: Send + Sync {
    /// One answer to each of the questions.
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a>;

    /// Whether anybody could answer now: what takes an answer is not offered otherwise.
    ///
    /// # Errors
    /// Why not.
    fn availability(&self) -> Result<(), Unanswered> {
        Ok(())
    }
}

/// Nobody: where there is no terminal.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Answer for Nobody {
    fn answer<'a>(&'a self, _inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        Box::pin(std::future::ready(Err(Unanswered::NoTerminal)))
    }

    fn availability(&self) -> Result<(), Unanswered> {
        Err(Unanswered::NoTerminal)
    }
}

/// Somebody waits for a login, and so people may be asked.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    is_asking: Arc<AtomicBool>,
}

impl Attendance {
    /// Whether a question is open, or was when the login was given up.
    pub fn is_asking(&self) -> bool {
        self.is_asking.load(Ordering::Relaxed)
    }

    /// Runs `question`, which somebody answers.
    pub(super) async fn while_asking<T>(&self, question: impl Future<Output = T>) -> T {
        self.is_asking.store(true, Ordering::Relaxed);
        let answer = question.await;
        // Not when dropped: whoever gives up waiting wants to know for what.
        self.is_asking.store(false, Ordering::Relaxed);
        answer
    }
}

/// Somebody with a password, or with answers that only fit once.
///
/// A password is asked for once and kept in memory until a server refuses it. Other answers are
/// not kept. Several logins at once wait for one answer.
pub struct Person {
    answer: Arc<dyn Answer>,
    passwords: Mutex<Passwords>,
}

/// The passwords kept, one for each user name that was tried.
#[derive(Default)]
struct Passwords {
    kept: BTreeMap<String, Password>,
    /// How many there have been.
    generation: u64,
}

/// A password, and which one it is: somebody may have typed another one meanwhile.
#[derive(Clone)]
pub(super) struct Password {
    pub(super) text: Arc<Zeroizing<String>>,
    generation: u64,
}

impl Person {
    /// Asks by way of `answer`.
    pub fn new(answer: Arc<dyn Answer>) -> Self {
        Self {
            answer,
            passwords: Mutex::default(),
        }
    }

    /// The password of `user`: the one kept, or, with somebody there, a new one.
    pub(super) async fn password(
        &self,
        user: &str,
        attendance: Option<&Attendance>,
    ) -> Result<Password, Unanswered> {
        let question = Questions {
            prompts: vec![Prompt {
                text: "password: ".to_owned(),
                echo: false,
            }],
            ..Questions::default()
        };
        self.password_by(user, &question, attendance).await
    }

    async fn password_by(
        &self,
        user: &str,
        questions: &Questions,
        attendance: Option<&Attendance>,
    ) -> Result<Password, Unanswered> {
        let Some(attendance) = attendance else {
            // Somebody may be typing it.
            let passwords = self.passwords.try_lock();
            let kept = passwords.ok().and_then(|all| all.kept.get(user).cloned());
            return kept.ok_or(Unanswered::Unattended);
        };
        let asked = async {
            let mut passwords = self.passwords.lock().await;
            if let Some(kept) = passwords.kept.get(user) {
                return Ok(kept.clone());
            }
            let mut answers = self.ask(user, questions).await?;
            let text = Arc::new(answers.pop().ok_or(Unanswered::GaveUp)?);
            passwords.generation += 1;
            let generation = passwords.generation;
            let password = Password { text, generation };
            passwords.kept.insert(user.to_owned(), password.clone());
            Ok(password)
        };
        attendance.while_asking(asked).await
    }

    /// Whether anything can be expected of a login as `user`, which somebody waits for or not.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn availability(&self, user: &str, is_attended: bool) -> Result<(), Unanswered> {
        let passwords = self.passwords.try_lock();
        if passwords.is_ok_and(|all| all.kept.contains_key(user)) {
            return Ok(());
        }
        self.answer.availability()?;
        if is_attended {
            Ok(())
        } else {
            Err(Unanswered::Unattended)
        }
    }

    /// Forgets a password that was refused, unless another one has taken its place.
    pub(super) async fn forget(&self, user: &str, refused: &Password) {
        let mut passwords = self.passwords.lock().await;
        if let Some(kept) = passwords.kept.get(user)
            && kept.generation == refused.generation
        {
            passwords.kept.remove(user);
        }
    }

    /// Answers what the server asks of `user`. A password that it asks for in this way is the same
    /// as that of [`Person::password`], and comes with the answers.
    pub(super) async fn answers(
        &self,
        user: &str,
        questions: &Questions,
        attendance: Option<&Attendance>,
    ) -> Result<(Vec<Zeroizing<String>>, Option<Password>), Unanswered> {
        if is_password(questions) {
            let password = self.password_by(user, questions, attendance).await?;
            let answer = Zeroizing::new(password.text.to_string());
            return Ok((vec![answer], Some(password)));
        }
        if *questions == Questions::default() {
            return Ok((Vec::new(), None));
        }
        let attendance = attendance.ok_or(Unanswered::Unattended)?;
        let answers = attendance.while_asking(self.ask(user, questions)).await?;
        Ok((answers, None))
    }

    async fn ask(
        &self,
        user: &str,
        questions: &Questions,
    ) -> Result<Vec<Zeroizing<String>>, Unanswered> {
        let topic = Topic::Login { user };
        self.answer.answer(&Inquiry { topic, questions }).await
    }
}

/// Whether the only question is for the password of the account, which fits again, and not for a
/// code, which does not.
pub(super) fn is_password(questions: &Questions) -> bool {
    let [prompt] = questions.prompts.as_slice() else {
        return false;
    };
    let text = prompt.text.to_ascii_lowercase();
    // sshd with PAM on some systems puts `(user@host) ` before what PAM says.
    let text = match text.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or("", |(_, rest)| rest),
        None => &text,
    };
    let text = text.trim().trim_end_matches(':').trim_end();
    let of_somebody = |text: &str| {
        let whose = text.strip_suffix("'s password");
        let whose = whose.or_else(|| text.strip_prefix("password for "));
        whose.is_some_and(|whose| !whose.is_empty() && !whose.contains(' '))
    };
    !prompt.echo && (matches!(text, "password" | "unix password") || of_somebody(text))
}

#[cfg(test)]
#[path = "person_tests.rs"]
mod tests;
