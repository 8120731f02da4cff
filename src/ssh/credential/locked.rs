//! Encrypted private keys, opened when they are needed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{PrivateKey, PublicKey};
use tokio::sync::Mutex;
use tracing::warn;
use zeroize::Zeroizing;

use super::pem;
use crate::ssh::auth::client::{Outcome, Prompt, Questions};
use crate::ssh::person::{Answer, Attendance, Inquiry, Topic, Unanswered};

/// Times a passphrase is asked for, as in OpenSSH.
const PASSPHRASE_TRIES: u32 = 3;

/// An encrypted private key. Its passphrase is asked for once, when a server wants the key; the key
/// then stays in memory, and the passphrase does not.
pub struct LockedKey {
    path: PathBuf,
    text: Arc<Zeroizing<String>>,
    public: Option<PublicKey>,
    answer: Arc<dyn Answer>,
    opened: Mutex<Option<Arc<PrivateKey>>>,
}

impl LockedKey {
    pub(super) fn new(
        path: &Path,
        text: Zeroizing<String>,
        public: Option<PublicKey>,
        answer: Arc<dyn Answer>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            text: Arc::new(text),
            public,
            answer,
            opened: Mutex::default(),
        }
    }

    /// The public key, which some formats do not tell without the passphrase.
    pub fn public(&self) -> Option<&PublicKey> {
        self.public.as_ref()
    }

    /// Whether nobody needs to be asked any more.
    pub(in crate::ssh) fn is_open(&self) -> bool {
        self.opened.try_lock().is_ok_and(|opened| opened.is_some())
    }

    /// Whether the key can be expected to open, with somebody waiting for the login or not.
    ///
    /// # Errors
    /// Why not.
    pub(in crate::ssh) fn availability(&self, is_attended: bool) -> Result<(), Unanswered> {
        if self.is_open() {
            return Ok(());
        }
        self.answer.availability()?;
        if is_attended {
            Ok(())
        } else {
            Err(Unanswered::Unattended)
        }
    }

    /// The key, decrypted. Several logins at once wait for one answer.
    ///
    /// # Errors
    /// What came of asking.
    pub(in crate::ssh) async fn open(
        &self,
        attendance: Option<&Attendance>,
    ) -> Result<Arc<PrivateKey>, Outcome> {
        let Some(attendance) = attendance else {
            let opened = self.opened.try_lock().ok();
            let key = opened.and_then(|opened| opened.clone());
            return key.ok_or(Outcome::Unanswered(Unanswered::Unattended));
        };
        let opening = async {
            let mut opened = self.opened.lock().await;
            if let Some(key) = &*opened {
                return Ok(Arc::clone(key));
            }
            let key = Arc::new(self.ask().await?);
            *opened = Some(Arc::clone(&key));
            Ok(key)
        };
        attendance.while_asking(opening).await
    }

    async fn ask(&self) -> Result<PrivateKey, Outcome> {
        let mut questions = Questions {
            prompts: vec![Prompt {
                text: format!("passphrase for {}: ", self.path.display()),
                echo: false,
            }],
            ..Questions::default()
        };
        for _ in 0..PASSPHRASE_TRIES {
            let inquiry = Inquiry {
                topic: Topic::Key { path: &self.path },
                questions: &questions,
            };
            let answers = self.answer.answer(&inquiry).await;
            let passphrase = answers
                .map_err(Outcome::Unanswered)?
                .pop()
                .ok_or(Outcome::Declined)?;
            if let Some(key) = self.decrypt(passphrase).await {
                return self.checked(key);
            }
            "wrong passphrase, try again".clone_into(&mut questions.instruction);
        }
        Err(Outcome::WrongPassphrase)
    }

    /// Decrypts off the runtime, as making a key of a passphrase is slow on purpose.
    async fn decrypt(&self, passphrase: Zeroizing<String>) -> Option<PrivateKey> {
        let text = Arc::clone(&self.text);
        let work = move || pem::decrypt(&text, &passphrase);
        tokio::task::spawn_blocking(work).await.ok().flatten()
    }

    fn checked(&self, key: PrivateKey) -> Result<PrivateKey, Outcome> {
        let is_expected = |public: &PublicKey| public.key_data() == key.public_key().key_data();
        if self.public.as_ref().is_none_or(is_expected) {
            return Ok(key);
        }
        warn!(path = %self.path.display(), "the public key beside this file is not of its key");
        Err(Outcome::Declined)
    }
}
