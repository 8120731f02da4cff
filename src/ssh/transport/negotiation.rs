//! `SSH_MSG_KEXINIT`: what each end offers, and what comes of it (RFC 4253 §7.1).

use aws_lc_rs::rand;

use super::algorithm::{Cipher, Compression, Kex, Mac, Named};
use super::cipher::Suite;
use super::version::printable;
use super::{Config, Error, Role};
use crate::ssh::host_key;
use crate::ssh::wire::{Reader, Truncated, WriteExt, msg};

/// Says that the client understands `SSH_MSG_EXT_INFO` (RFC 8308 §2.1).
const EXT_INFO_CLIENT: &str = "ext-info-c";

/// Says that the client does strict key exchange (OpenSSH `PROTOCOL` §1.10).
const STRICT_CLIENT: &str = "kex-strict-c-v00@openssh.com";

/// Says that the server does strict key exchange.
const STRICT_SERVER: &str = "kex-strict-s-v00@openssh.com";

/// Bytes of the random cookie.
const COOKIE_BYTES: usize = 16;

/// Our offer as the payload of an `SSH_MSG_KEXINIT`.
///
/// The markers of extensions belong into the first one of a connection only.
pub(super) fn propose(
    config: &Config,
    host_keys: &[host_key::Algorithm],
    role: Role,
    is_first: bool,
) -> Result<Vec<u8>, Error> {
    let mut cookie = [0; COOKIE_BYTES];
    rand::fill(&mut cookie)?;
    let mut kex = names(&config.kex);
    if is_first {
        kex.extend(match role {
            Role::Client => &[EXT_INFO_CLIENT, STRICT_CLIENT][..],
            Role::Server => &[STRICT_SERVER],
        });
    }
    let ciphers = names(&config.ciphers).join(",");
    let macs = names(&config.macs).join(",");
    let compression = names(&config.compression).join(",");
    let mut payload = vec![msg::KEXINIT];
    payload
        .put_raw(&cookie)
        .put_string(kex.join(","))
        .put_string(names(host_keys).join(","))
        .put_string(&ciphers)
        .put_string(&ciphers)
        .put_string(&macs)
        .put_string(&macs)
        .put_string(&compression)
        .put_string(&compression)
        .put_string("")
        .put_string("")
        .put_bool(false)
        .put_uint32(0);
    Ok(payload)
}

fn names<T: Named>(algorithms: &[T]) -> Vec<&'static str> {
    algorithms
        .iter()
        .map(|algorithm| algorithm.name())
        .collect()
}

/// A comma-separated list of names (RFC 4251 §5).
#[derive(Debug, Clone, Copy)]
struct NameList<'a>(&'a [u8]);

impl<'a> NameList<'a> {
    fn names(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b',')
    }

    fn has(self, name: &str) -> bool {
        self.names().any(|other| other == name.as_bytes())
    }

    /// The first name of the client's list that is also in the server's.
    fn choose<T: Named>(self, kind: &'static str, ours: &[T], role: Role) -> Result<T, Error> {
        let chosen = match role {
            Role::Client => ours.iter().copied().find(|ours| self.has(ours.name())),
            Role::Server => self
                .names()
                .find_map(|name| T::from_name(name).filter(|chosen| ours.contains(chosen))),
        };
        chosen.ok_or_else(|| Error::NoCommonAlgorithm {
            kind,
            offered: printable(self.0),
        })
    }

    /// Whether both lists begin with the same name.
    fn begins_like<T: Named>(self, ours: &[T]) -> bool {
        let first = self.names().next();
        ours.first().map(|algorithm| algorithm.name().as_bytes()) == first
    }
}

/// The offer of the other end.
#[derive(Debug)]
pub(super) struct Proposal<'a> {
    kex: NameList<'a>,
    host_keys: NameList<'a>,
    ciphers: PerDirection<NameList<'a>>,
    macs: PerDirection<NameList<'a>>,
    compression: PerDirection<NameList<'a>>,
    first_packet_follows: bool,
}

/// One of each, for the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PerDirection<T> {
    pub(super) client_to_server: T,
    pub(super) server_to_client: T,
}

impl<T: Copy> PerDirection<T> {
    /// What we send with.
    pub(super) fn outgoing(&self, role: Role) -> T {
        match role {
            Role::Client => self.client_to_server,
            Role::Server => self.server_to_client,
        }
    }

    /// What the other end sends with.
    pub(super) fn incoming(&self, role: Role) -> T {
        match role {
            Role::Client => self.server_to_client,
            Role::Server => self.client_to_server,
        }
    }

    fn try_map<U>(
        self,
        mut map: impl FnMut(T) -> Result<U, Error>,
    ) -> Result<PerDirection<U>, Error> {
        Ok(PerDirection {
            client_to_server: map(self.client_to_server)?,
            server_to_client: map(self.server_to_client)?,
        })
    }
}

impl<'a> Proposal<'a> {
    /// Reads the payload of an `SSH_MSG_KEXINIT`.
    ///
    /// # Errors
    /// [`Truncated`] when it ends early. What may follow is of the future and is left alone.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(payload);
        let _number = reader.u8()?;
        let _cookie = reader.take(COOKIE_BYTES)?;
        let mut list = || reader.string().map(NameList);
        let mut proposal = Self {
            kex: list()?,
            host_keys: list()?,
            ciphers: PerDirection {
                client_to_server: list()?,
                server_to_client: list()?,
            },
            macs: PerDirection {
                client_to_server: list()?,
                server_to_client: list()?,
            },
            compression: PerDirection {
                client_to_server: list()?,
                server_to_client: list()?,
            },
            first_packet_follows: false,
        };
        let _languages = (list()?, list()?);
        proposal.first_packet_follows = reader.bool()?;
        let _reserved = reader.u32()?;
        Ok(proposal)
    }

    /// Whether the other end, whose role is not `role`, does strict key exchange.
    pub(super) fn is_strict(&self, role: Role) -> bool {
        self.kex.has(match role {
            Role::Client => STRICT_SERVER,
            Role::Server => STRICT_CLIENT,
        })
    }

    /// Whether the other end, a client, understands `SSH_MSG_EXT_INFO`.
    pub(super) fn wants_ext_info(&self) -> bool {
        self.kex.has(EXT_INFO_CLIENT)
    }

    /// Finds what both ends can do; the client's order decides.
    ///
    /// # Errors
    /// [`Error::NoCommonAlgorithm`]
    pub(super) fn negotiate(
        &self,
        config: &Config,
        host_keys: &[host_key::Algorithm],
        role: Role,
    ) -> Result<Negotiated, Error> {
        let kex = self.kex.choose("key exchange", &config.kex, role)?;
        let host_key = self.host_keys.choose("host key", host_keys, role)?;
        let ciphers = self
            .ciphers
            .try_map(|theirs| theirs.choose("cipher", &config.ciphers, role))?;
        let suite = |cipher: Cipher, macs: NameList<'_>| {
            let mac = match cipher {
                Cipher::Aes128Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => None,
                Cipher::Aes128Ctr | Cipher::Aes192Ctr | Cipher::Aes256Ctr => {
                    Some(macs.choose::<Mac>("MAC", &config.macs, role)?)
                }
            };
            Ok::<_, Error>(Suite { cipher, mac })
        };
        let guess_is_right =
            self.kex.begins_like(&config.kex) && self.host_keys.begins_like(host_keys);
        Ok(Negotiated {
            kex,
            host_key,
            suites: PerDirection {
                client_to_server: suite(ciphers.client_to_server, self.macs.client_to_server)?,
                server_to_client: suite(ciphers.server_to_client, self.macs.server_to_client)?,
            },
            compression: self
                .compression
                .try_map(|theirs| theirs.choose("compression", &config.compression, role))?,
            ignore_guess: self.first_packet_follows && !guess_is_right,
        })
    }
}

/// What both ends will use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Negotiated {
    pub(super) kex: Kex,
    pub(super) host_key: host_key::Algorithm,
    pub(super) suites: PerDirection<Suite>,
    pub(super) compression: PerDirection<Compression>,
    /// Whether the next packet of the other end is a wrong guess, to be ignored (RFC 4253 §7).
    pub(super) ignore_guess: bool,
}
