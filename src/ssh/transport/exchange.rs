//! The course of a key exchange (RFC 4253 §7 to §9), the first one and every later one.

use std::time::Instant;

use bytes::Bytes;

use super::cipher::{Direction, Protection};
use super::exchange_hash::{KeySource, Letters, Transcript};
use super::ext_info::ExtInfo;
use super::kex::{self, ClientKex, SharedSecret};
use super::negotiation::{Negotiated, Proposal, propose};
use super::packet::Keys;
use super::version;
use super::{Error, Event, Role, Transport};
use crate::ssh::host_key::{self, HostKey};
use crate::ssh::wire::{Reader, WriteExt, msg};

/// How far the key exchange is.
pub(super) enum Exchange {
    /// None is going on.
    Idle,
    /// Our `SSH_MSG_KEXINIT` is out. The other end may send anything until its own comes.
    Proposed { ours: Vec<u8>, sequence: u32 },
    /// Client: our public value is out, the server's is awaited.
    AwaitingReply {
        offers: Offers,
        negotiated: Negotiated,
        kex: ClientKex,
        init: Vec<u8>,
    },
    /// Server: the client's public value is awaited.
    AwaitingInit {
        offers: Offers,
        negotiated: Negotiated,
        wants_ext_info: bool,
    },
    /// The new keys are known. Each is taken into use with the `SSH_MSG_NEWKEYS` of its direction,
    /// and the exchange is complete when both are.
    Changing {
        outgoing: Option<Keys>,
        incoming: Option<Keys>,
    },
}

impl Exchange {
    /// Whether we may send messages of higher layers (RFC 4253 §7.1).
    pub(super) fn permits_sending(&self) -> bool {
        matches!(self, Self::Idle | Self::Changing { outgoing: None, .. })
    }

    /// Whether the other end may.
    pub(super) fn permits_receiving(&self) -> bool {
        matches!(
            self,
            Self::Idle | Self::Proposed { .. } | Self::Changing { incoming: None, .. }
        )
    }

    /// Whether a new one may begin.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }
}

/// The payloads of both `SSH_MSG_KEXINIT`.
pub(super) struct Offers {
    ours: Vec<u8>,
    theirs: Bytes,
}

impl Transport {
    /// Sends our `SSH_MSG_KEXINIT`, unless an exchange is going on.
    pub(super) fn begin_exchange(&mut self) -> Result<(), Error> {
        if !self.exchange.is_idle() {
            return Ok(());
        }
        let is_first = self.session_id.is_empty();
        let role = self.role();
        let ours = propose(&self.config, &self.host_key_algorithms(), role, is_first)?;
        let sequence = self.writer.sequence();
        self.write(&ours)?;
        self.exchange = Exchange::Proposed { ours, sequence };
        Ok(())
    }

    /// Begins an exchange when the keys have protected enough.
    ///
    /// Not before authentication, as OpenSSH does: few peers expect it there.
    pub(super) fn begin_exchange_if_due(&mut self) -> Result<(), Error> {
        let limit = self.config.rekey_bytes;
        let is_due = self.writer.is_rekey_due(limit) || self.reader.is_rekey_due(limit);
        if is_due && self.authenticated && !self.ended {
            self.begin_exchange()?;
        }
        Ok(())
    }

    fn host_key_algorithms(&self) -> Vec<host_key::Algorithm> {
        match self.role() {
            Role::Client => self.config.host_keys.clone(),
            Role::Server => self.host_keys.iter().map(|key| key.algorithm()).collect(),
        }
    }

    pub(super) fn on_kexinit(&mut self, sequence: u32, theirs: Bytes) -> Result<(), Error> {
        let role = self.role();
        let proposal = Proposal::parse(&theirs).map_err(Error::truncated(msg::KEXINIT))?;
        if self.session_id.is_empty() {
            self.strict = proposal.is_strict(role);
            if self.strict && sequence != 0 {
                return Err(Error::UnexpectedMessage {
                    number: msg::KEXINIT,
                    when: "after another message, in a strict key exchange",
                });
            }
        }
        self.begin_exchange()?;
        let Exchange::Proposed { ours, .. } = std::mem::replace(&mut self.exchange, Exchange::Idle)
        else {
            return Err(unexpected(msg::KEXINIT));
        };
        let negotiated = proposal.negotiate(&self.config, &self.host_key_algorithms(), role)?;
        let wants_ext_info = self.session_id.is_empty() && proposal.wants_ext_info();
        self.ignore_guess = negotiated.ignore_guess;
        let offers = Offers { ours, theirs };
        self.exchange = match role {
            Role::Client => {
                let (kex, init) = ClientKex::begin(negotiated.kex)?;
                let mut payload = vec![msg::KEX_ECDH_INIT];
                payload.put_string(&init);
                self.write(&payload)?;
                Exchange::AwaitingReply {
                    offers,
                    negotiated,
                    kex,
                    init,
                }
            }
            Role::Server => Exchange::AwaitingInit {
                offers,
                negotiated,
                wants_ext_info,
            },
        };
        Ok(())
    }

    /// Server: the client's public value.
    pub(super) fn on_kex_init(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Exchange::AwaitingInit {
            offers,
            negotiated,
            wants_ext_info,
        } = std::mem::replace(&mut self.exchange, Exchange::Idle)
        else {
            return Err(unexpected(msg::KEX_ECDH_INIT));
        };
        let [init] = fields(payload)?;
        let (reply, secret) = kex::respond(negotiated.kex, init)?;
        let is_chosen = |key: &&_| HostKey::algorithm(key) == negotiated.host_key;
        let key = self.host_keys.iter().map(AsRef::as_ref).find(is_chosen);
        // Negotiation chose among these keys.
        let key = key.ok_or(Error::Crypto)?;
        let transcript = Transcript {
            client_version: &self.peer_version,
            server_version: version::OURS.as_bytes(),
            client_kexinit: &offers.theirs,
            server_kexinit: &offers.ours,
            host_key: key.public_blob(),
            init,
            reply: &reply,
        };
        let hash = transcript.hash(kex::hash(negotiated.kex), &secret);
        let signature = key.sign(hash.as_ref()).map_err(|_| Error::Crypto)?;
        let mut payload = vec![msg::KEX_ECDH_REPLY];
        payload
            .put_string(key.public_blob())
            .put_string(&reply)
            .put_string(&signature);
        self.write(&payload)?;
        self.change_keys(&negotiated, &secret, hash.as_ref())?;
        self.send_newkeys()?;
        if wants_ext_info {
            self.write(&ExtInfo::of_server())?;
        }
        Ok(())
    }

    /// Client: the server's public value, host key, and signature.
    pub(super) fn on_kex_reply(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Exchange::AwaitingReply {
            offers,
            negotiated,
            kex,
            init,
        } = std::mem::replace(&mut self.exchange, Exchange::Idle)
        else {
            return Err(unexpected(msg::KEX_ECDH_REPLY));
        };
        let [host_key, reply, signature] = fields(payload)?;
        let secret = kex.finish(reply)?;
        let transcript = Transcript {
            client_version: version::OURS.as_bytes(),
            server_version: &self.peer_version,
            client_kexinit: &offers.ours,
            server_kexinit: &offers.theirs,
            host_key,
            init: &init,
            reply,
        };
        let hash = transcript.hash(kex::hash(negotiated.kex), &secret);
        host_key::verify(host_key, negotiated.host_key, hash.as_ref(), signature)?;
        let is_first = self.session_id.is_empty();
        if is_first {
            self.peer_host_key = host_key.to_vec();
        } else if self.peer_host_key != host_key {
            return Err(Error::HostKeyChanged);
        }
        self.change_keys(&negotiated, &secret, hash.as_ref())?;
        if is_first {
            let blob = host_key.to_vec();
            self.push(Event::HostKey { blob });
            return Ok(());
        }
        self.send_newkeys()
    }

    /// Derives the keys of both directions.
    fn change_keys(
        &mut self,
        negotiated: &Negotiated,
        secret: &SharedSecret,
        hash: &[u8],
    ) -> Result<(), Error> {
        if self.session_id.is_empty() {
            self.session_id = hash.to_vec();
        }
        let role = self.role();
        let (ours, theirs) = match role {
            Role::Client => (Letters::CLIENT_TO_SERVER, Letters::SERVER_TO_CLIENT),
            Role::Server => (Letters::SERVER_TO_CLIENT, Letters::CLIENT_TO_SERVER),
        };
        let source = |letters| KeySource {
            algorithm: kex::hash(negotiated.kex),
            secret,
            hash,
            session_id: &self.session_id,
            letters,
        };
        let outgoing = negotiated.suites.outgoing(role);
        let incoming = negotiated.suites.incoming(role);
        let outgoing = Keys {
            protection: Protection::new(outgoing, Direction::Outgoing, &source(ours))?,
            compression: negotiated.compression.outgoing(role),
        };
        let incoming = Keys {
            protection: Protection::new(incoming, Direction::Incoming, &source(theirs))?,
            compression: negotiated.compression.incoming(role),
        };
        self.exchange = Exchange::Changing {
            outgoing: Some(outgoing),
            incoming: Some(incoming),
        };
        Ok(())
    }

    /// Sends `SSH_MSG_NEWKEYS`, the last packet under the old keys.
    ///
    /// # Errors
    /// [`Error::NotReady`] when there are no new keys to change to.
    pub(super) fn send_newkeys(&mut self) -> Result<(), Error> {
        let Exchange::Changing { outgoing, .. } = &mut self.exchange else {
            return Err(Error::NotReady);
        };
        let keys = outgoing.take().ok_or(Error::NotReady)?;
        self.write(&[msg::NEWKEYS])?;
        self.writer.rekey(keys, self.strict, self.authenticated);
        Ok(())
    }

    /// The last packet of the other end under the old keys.
    pub(super) fn on_newkeys(&mut self, now: Instant, payload: &[u8]) -> Result<(), Error> {
        let Exchange::Changing { incoming, .. } = &mut self.exchange else {
            return Err(unexpected(msg::NEWKEYS));
        };
        let keys = incoming.take().ok_or(unexpected(msg::NEWKEYS))?;
        if payload.len() != 1 {
            return Err(Error::InvalidMessage {
                number: msg::NEWKEYS,
                problem: "longer than its fields",
            });
        }
        if self.reader.is_unprotected() {
            self.ext_info.on_first_newkeys();
        }
        self.reader.rekey(keys, self.strict, self.authenticated);
        self.complete_exchange(now);
        Ok(())
    }

    /// Ends the exchange if both directions have their new keys.
    pub(super) fn complete_exchange(&mut self, now: Instant) {
        if !matches!(
            self.exchange,
            Exchange::Changing {
                outgoing: None,
                incoming: None
            }
        ) {
            return;
        }
        self.exchange = Exchange::Idle;
        self.keys_since = now;
        let is_first = !std::mem::replace(&mut self.established, true);
        self.push(if is_first {
            Event::Established
        } else {
            Event::Rekeyed
        });
    }
}

/// The strings a key exchange message consists of.
fn fields<const N: usize>(payload: &[u8]) -> Result<[&[u8]; N], Error> {
    let number = payload[0];
    let mut reader = Reader::new(&payload[1..]);
    let mut strings = [&[][..]; N];
    for string in &mut strings {
        *string = reader.string().map_err(Error::truncated(number))?;
    }
    if !reader.is_empty() {
        return Err(Error::InvalidMessage {
            number,
            problem: "longer than its fields",
        });
    }
    Ok(strings)
}

fn unexpected(number: u8) -> Error {
    Error::UnexpectedMessage {
        number,
        when: "out of turn",
    }
}
