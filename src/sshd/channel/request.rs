//! What a peer may ask for, as typed values: channel types, channel requests, global requests.

use std::fmt;

use super::Error;
use crate::ssh::wire::Reader;

/// What an opened channel is to carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelType {
    /// `session` (RFC 4254 §6.1): a shell, a command or a subsystem.
    Session,
    /// `direct-tcpip` (RFC 4254 §7.2): a TCP connection from here to `host:port`.
    DirectTcpip {
        /// Name or address as the client wrote it.
        host: Vec<u8>,
        /// Port to connect to; more than 16 bits are as impossible as port 0.
        port: u32,
    },
    /// `direct-streamlocal@openssh.com`: a connection from here to a Unix socket.
    DirectStreamlocal {
        /// Path of the socket, opaque bytes.
        path: Vec<u8>,
    },
}

impl fmt::Display for ChannelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("session"),
            Self::DirectTcpip { host, port } => {
                write!(f, "direct-tcpip to {}:{port}", host.escape_ascii())
            }
            Self::DirectStreamlocal { path } => {
                write!(f, "direct-streamlocal to {}", path.escape_ascii())
            }
        }
    }
}

/// A type of [`ChannelType`], or one that is not known here.
pub(super) fn channel_type(
    name: &[u8],
    mut fields: Reader<'_>,
) -> Result<Option<ChannelType>, Error> {
    let kind = match name {
        b"session" => ChannelType::Session,
        b"direct-tcpip" => {
            let (host, port) = (fields.string()?.to_vec(), fields.u32()?);
            let _originator = (fields.string()?, fields.u32()?);
            ChannelType::DirectTcpip { host, port }
        }
        b"direct-streamlocal@openssh.com" => {
            let path = fields.string()?.to_vec();
            let _reserved = (fields.string()?, fields.u32()?);
            ChannelType::DirectStreamlocal { path }
        }
        _ => return Ok(None),
    };
    end(fields)?;
    Ok(Some(kind))
}

/// Size of a terminal (RFC 4254 §6.2); zero means unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width in characters.
    pub columns: u32,
    /// Height in characters.
    pub rows: u32,
    /// Width in pixels.
    pub width_pixels: u32,
    /// Height in pixels.
    pub height_pixels: u32,
}

impl TerminalSize {
    fn read(fields: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self {
            columns: fields.u32()?,
            rows: fields.u32()?,
            width_pixels: fields.u32()?,
            height_pixels: fields.u32()?,
        })
    }
}

/// A request within a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelRequest {
    /// `pty-req` (RFC 4254 §6.2).
    Pty {
        /// Value for `TERM`.
        term: Vec<u8>,
        /// Size at the start.
        size: TerminalSize,
        /// Encoded terminal modes (RFC 4254 §8).
        modes: Vec<u8>,
    },
    /// `shell` (RFC 4254 §6.5).
    Shell,
    /// `exec` (RFC 4254 §6.5): a command for the login shell, opaque bytes.
    Exec(Vec<u8>),
    /// `subsystem` (RFC 4254 §6.5), by name.
    Subsystem(Vec<u8>),
    /// `env` (RFC 4254 §6.4).
    Env {
        /// Name of the variable.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// `window-change` (RFC 4254 §6.7).
    WindowChange(TerminalSize),
    /// `signal` (RFC 4254 §6.9), by name without `SIG`.
    Signal(Vec<u8>),
    /// `break` (RFC 4335 §3).
    Break,
    /// `auth-agent-req@openssh.com`: the processes of the connection may reach the peer's agent.
    AgentForward,
    /// `x11-req` (RFC 4254 §6.3.1).
    X11Forward(X11Request),
    /// `eow@openssh.com`: the peer reads no more of what is sent to it.
    EndOfWrite,
    /// Any other.
    Unknown,
}

/// What is said of a display that is to be forwarded (RFC 4254 §6.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X11Request {
    /// Whether the display takes one connection only.
    pub single_connection: bool,
    /// Name of the authentication protocol.
    pub protocol: Vec<u8>,
    /// What the protocol asks of clients, in hexadecimal.
    pub cookie: Cookie,
    /// Number of the screen.
    pub screen: u32,
}

/// An X11 authentication cookie, which no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Cookie(pub Vec<u8>);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Reads the fields of the channel request called `name`.
pub(super) fn channel_request(
    name: &[u8],
    mut fields: Reader<'_>,
) -> Result<ChannelRequest, Error> {
    let request = match name {
        b"pty-req" => ChannelRequest::Pty {
            term: fields.string()?.to_vec(),
            size: TerminalSize::read(&mut fields)?,
            modes: fields.string()?.to_vec(),
        },
        b"shell" => ChannelRequest::Shell,
        b"exec" => ChannelRequest::Exec(fields.string()?.to_vec()),
        b"subsystem" => ChannelRequest::Subsystem(fields.string()?.to_vec()),
        b"env" => ChannelRequest::Env {
            name: fields.string()?.to_vec(),
            value: fields.string()?.to_vec(),
        },
        b"window-change" => ChannelRequest::WindowChange(TerminalSize::read(&mut fields)?),
        b"signal" => ChannelRequest::Signal(fields.string()?.to_vec()),
        b"break" => {
            let _milliseconds = fields.u32()?;
            ChannelRequest::Break
        }
        b"auth-agent-req@openssh.com" => ChannelRequest::AgentForward,
        b"x11-req" => ChannelRequest::X11Forward(X11Request {
            single_connection: fields.bool()?,
            protocol: fields.string()?.to_vec(),
            cookie: Cookie(fields.string()?.to_vec()),
            screen: fields.u32()?,
        }),
        b"eow@openssh.com" => ChannelRequest::EndOfWrite,
        _ => return Ok(ChannelRequest::Unknown),
    };
    end(fields)?;
    Ok(request)
}

/// A request to the connection as a whole (RFC 4254 §4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GlobalRequest {
    /// `tcpip-forward` (RFC 4254 §7.1).
    TcpipForward {
        /// Address to listen at, as the client wrote it.
        address: Vec<u8>,
        /// Port to listen at; 0 asks for any.
        port: u32,
    },
    /// `cancel-tcpip-forward` (RFC 4254 §7.1).
    CancelTcpipForward {
        /// Address of the request that is taken back.
        address: Vec<u8>,
        /// Port that is in use.
        port: u32,
    },
    /// `streamlocal-forward@openssh.com`.
    StreamlocalForward {
        /// Path of the socket to listen at.
        path: Vec<u8>,
    },
    /// `cancel-streamlocal-forward@openssh.com`.
    CancelStreamlocalForward {
        /// Path of the request that is taken back.
        path: Vec<u8>,
    },
    /// `no-more-sessions@openssh.com`.
    NoMoreSessions,
    /// Any other, `keepalive@openssh.com` among them: a failure is answer enough.
    Unknown,
}

/// Reads the fields of the global request called `name`.
pub(super) fn global_request(name: &[u8], mut fields: Reader<'_>) -> Result<GlobalRequest, Error> {
    let request = match name {
        b"tcpip-forward" => GlobalRequest::TcpipForward {
            address: fields.string()?.to_vec(),
            port: fields.u32()?,
        },
        b"cancel-tcpip-forward" => GlobalRequest::CancelTcpipForward {
            address: fields.string()?.to_vec(),
            port: fields.u32()?,
        },
        b"streamlocal-forward@openssh.com" => GlobalRequest::StreamlocalForward {
            path: fields.string()?.to_vec(),
        },
        b"cancel-streamlocal-forward@openssh.com" => GlobalRequest::CancelStreamlocalForward {
            path: fields.string()?.to_vec(),
        },
        b"no-more-sessions@openssh.com" => GlobalRequest::NoMoreSessions,
        _ => return Ok(GlobalRequest::Unknown),
    };
    end(fields)?;
    Ok(request)
}

fn end(fields: Reader<'_>) -> Result<(), Error> {
    if fields.is_empty() {
        Ok(())
    } else {
        Err(Error::TrailingBytes)
    }
}
