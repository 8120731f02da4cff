//! `SSH_MSG_EXT_INFO` (RFC 8308): what an end tells about itself beside negotiation.

use super::algorithm::Named;
use super::{Error, Role};
use crate::ssh::host_key::Scheme;
use crate::ssh::wire::{Reader, WriteExt, msg};

/// The extension that lists the signature algorithms for user authentication (RFC 8308 §3.1).
const SERVER_SIG_ALGS: &str = "server-sig-algs";

/// When the other end may send the message (RFC 8308 §2.4), and what it told.
#[derive(Debug, Default)]
pub(super) struct ExtInfo {
    /// The next message comes right after the first `SSH_MSG_NEWKEYS`.
    is_first_message: bool,
    /// One was sent later, which is allowed right before `SSH_MSG_USERAUTH_SUCCESS` only.
    success_must_follow: bool,
    server_sig_algs: Option<Vec<String>>,
}

impl ExtInfo {
    /// The payload a server sends.
    pub(super) fn of_server() -> Vec<u8> {
        let algorithms: Vec<_> = Scheme::ALL.iter().map(|scheme| scheme.name()).collect();
        let mut payload = vec![msg::EXT_INFO];
        payload
            .put_uint32(1)
            .put_string(SERVER_SIG_ALGS)
            .put_string(algorithms.join(","));
        payload
    }

    /// The signature algorithms the server accepts, when it told.
    pub(super) fn server_sig_algs(&self) -> Option<&[String]> {
        self.server_sig_algs.as_deref()
    }

    /// The first `SSH_MSG_NEWKEYS` of the other end has come.
    pub(super) fn on_first_newkeys(&mut self) {
        self.is_first_message = true;
    }

    /// Checks that message `number` is where it may be, and that it does not show an earlier
    /// `SSH_MSG_EXT_INFO` to have been out of place.
    pub(super) fn on_message(
        &mut self,
        number: u8,
        role: Role,
        authenticated: bool,
    ) -> Result<(), Error> {
        const OUT_OF_PLACE: Error = Error::UnexpectedMessage {
            number: msg::EXT_INFO,
            when: "out of place",
        };
        let is_first_message = std::mem::take(&mut self.is_first_message);
        let success_must_follow = std::mem::take(&mut self.success_must_follow);
        if success_must_follow && number != msg::USERAUTH_SUCCESS {
            return Err(OUT_OF_PLACE);
        }
        if number == msg::EXT_INFO && !is_first_message {
            if role == Role::Server || authenticated {
                return Err(OUT_OF_PLACE);
            }
            self.success_must_follow = true;
        }
        Ok(())
    }

    /// Reads the message. Unknown extensions are ignored (RFC 8308 §2.5); of two the later counts.
    pub(super) fn read(&mut self, payload: &[u8]) -> Result<(), Error> {
        let truncated = Error::truncated(msg::EXT_INFO);
        let mut reader = Reader::new(payload);
        let _number = reader.u8().map_err(&truncated)?;
        let count = reader.u32().map_err(&truncated)?;
        for _ in 0..count {
            let name = reader.string().map_err(&truncated)?;
            let value = reader.string().map_err(&truncated)?;
            if name == SERVER_SIG_ALGS.as_bytes() {
                let names = String::from_utf8_lossy(value);
                self.server_sig_algs = Some(names.split(',').map(str::to_owned).collect());
            }
        }
        Ok(())
    }
}
