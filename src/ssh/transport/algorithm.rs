//! The algorithms this transport speaks, by their names in `SSH_MSG_KEXINIT`.

/// An algorithm with its name on the wire.
pub trait Named: Copy + Eq + 'static {
    /// Every algorithm of this kind, in the order a client prefers them.
    const ALL: &'static [Self];

    /// The name in `SSH_MSG_KEXINIT`.
    fn name(self) -> &'static str;

    /// The algorithm of that name, if this transport speaks it.
    fn from_name(name: &[u8]) -> Option<Self> {
        let known = |algorithm: &&Self| algorithm.name().as_bytes() == name;
        Self::ALL.iter().find(known).copied()
    }
}

/// Key exchange methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kex {
    /// `mlkem768x25519-sha256` (draft-ietf-sshm-mlkem-hybrid-kex).
    MlKem768X25519,
    /// `curve25519-sha256` (RFC 8731).
    Curve25519,
    /// `curve25519-sha256@libssh.org`: the same before it was standardised.
    Curve25519Libssh,
    /// `ecdh-sha2-nistp256` (RFC 5656 §4).
    EcdhP256,
    /// `ecdh-sha2-nistp384`.
    EcdhP384,
    /// `ecdh-sha2-nistp521`.
    EcdhP521,
}

impl Named for Kex {
    const ALL: &'static [Self] = &[
        Self::MlKem768X25519,
        Self::Curve25519,
        Self::Curve25519Libssh,
        Self::EcdhP256,
        Self::EcdhP384,
        Self::EcdhP521,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::MlKem768X25519 => "mlkem768x25519-sha256",
            Self::Curve25519 => "curve25519-sha256",
            Self::Curve25519Libssh => "curve25519-sha256@libssh.org",
            Self::EcdhP256 => "ecdh-sha2-nistp256",
            Self::EcdhP384 => "ecdh-sha2-nistp384",
            Self::EcdhP521 => "ecdh-sha2-nistp521",
        }
    }
}

/// Packet ciphers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// `aes128-gcm@openssh.com` (OpenSSH `PROTOCOL` §1.6; RFC 5647): the fastest here.
    Aes128Gcm,
    /// `aes256-gcm@openssh.com`.
    Aes256Gcm,
    /// `chacha20-poly1305@openssh.com` (OpenSSH `PROTOCOL.chacha20poly1305`).
    ChaCha20Poly1305,
    /// `aes128-ctr` (RFC 4344 §4), with a MAC of its own.
    Aes128Ctr,
    /// `aes192-ctr`.
    Aes192Ctr,
    /// `aes256-ctr`.
    Aes256Ctr,
}

impl Named for Cipher {
    const ALL: &'static [Self] = &[
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::Aes128Ctr,
        Self::Aes192Ctr,
        Self::Aes256Ctr,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm@openssh.com",
            Self::Aes256Gcm => "aes256-gcm@openssh.com",
            Self::ChaCha20Poly1305 => "chacha20-poly1305@openssh.com",
            Self::Aes128Ctr => "aes128-ctr",
            Self::Aes192Ctr => "aes192-ctr",
            Self::Aes256Ctr => "aes256-ctr",
        }
    }
}

/// Message authentication codes, for the ciphers without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mac {
    /// `hmac-sha2-256-etm@openssh.com`: over the encrypted packet (OpenSSH `PROTOCOL` §1.5).
    HmacSha256Etm,
    /// `hmac-sha2-512-etm@openssh.com`.
    HmacSha512Etm,
    /// `hmac-sha2-256` (RFC 6668): over the plain packet.
    HmacSha256,
    /// `hmac-sha2-512`.
    HmacSha512,
}

impl Named for Mac {
    const ALL: &'static [Self] = &[
        Self::HmacSha256Etm,
        Self::HmacSha512Etm,
        Self::HmacSha256,
        Self::HmacSha512,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::HmacSha256Etm => "hmac-sha2-256-etm@openssh.com",
            Self::HmacSha512Etm => "hmac-sha2-512-etm@openssh.com",
            Self::HmacSha256 => "hmac-sha2-256",
            Self::HmacSha512 => "hmac-sha2-512",
        }
    }
}

/// Compression of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `none`.
    None,
    /// `zlib@openssh.com`: zlib from the end of authentication on (draft-miller-secsh-compression-delayed).
    ZlibDelayed,
}

impl Named for Compression {
    const ALL: &'static [Self] = &[Self::None, Self::ZlibDelayed];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ZlibDelayed => "zlib@openssh.com",
        }
    }
}
