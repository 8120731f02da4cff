//! The kernel's socket diagnosis (netlink, sock_diag(7)): one question, one answer, however many sockets there are.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// What the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The uid that owns the socket.
    Owner(u32),
    /// There is no open connection with these addresses.
    Nobody,
    /// The kernel cannot be asked this way: not built in, or not allowed.
    Unavailable,
}

/// Whether it has ever given an owner, for IPv4 and for IPv6. It says "not found" for a socket and for a missing
/// module of its own alike; only where it works does that mean the socket.
static WORKS: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

// linux/netlink.h and linux/sock_diag.h
const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 0x01;
const NLMSG_ERROR: u16 = 0x02;
const SOCK_DIAG_BY_FAMILY: u16 = 0x14;

// linux/inet_diag.h: the request (version 2) and the answer, each behind a header.
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const ALL_STATES: u32 = 0xffff_ffff;
const NO_COOKIE: [u8; 8] = [0xff; 8];
const IPPROTO_TCP: u8 = 0x06;
const TCP_ESTABLISHED: u8 = 0x01;
const STATE_AT: usize = HEADER_BYTES + 1;
const PORTS_AT: usize = HEADER_BYTES + 4;
const UID_AT: usize = HEADER_BYTES + 64;

/// The uid that owns the client's socket, whose own address is `peer` and whose other end is `local`.
pub(super) fn uid(peer: SocketAddr, local: SocketAddr) -> Answer {
    let works = &WORKS[usize::from(peer.is_ipv6())];
    let mut answer = [0; 1024];
    let length = match ask(&request(peer, local), &mut answer) {
        Ok(length) => length,
        Err(_) => return Answer::Unavailable,
    };
    let ports = [peer.port().to_be_bytes(), local.port().to_be_bytes()].concat();
    match read(&answer[..length], &ports) {
        Some(Ok(uid)) => {
            works.store(true, Ordering::Relaxed);
            Answer::Owner(uid)
        }
        Some(Err(Errno::NOENT)) if works.load(Ordering::Relaxed) => Answer::Nobody,
        // The answer is about another socket, such as a listener: ours is not there.
        None if works.load(Ordering::Relaxed) => Answer::Nobody,
        Some(Err(_)) | None => Answer::Unavailable,
    }
}

fn ask(request: &[u8], answer: &mut [u8]) -> Result<usize, Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, request, SendFlags::empty())?;
    // The kernel has answered when the question has been sent.
    let (length, _) = recv(&socket, answer, RecvFlags::DONTWAIT)?;
    Ok(length)
}

fn request(peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = match peer {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let mut request = Vec::with_capacity(REQUEST_BYTES);
    request.extend_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port id, which nobody looks at.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family.as_raw() as u8, IPPROTO_TCP, 0, 0]);
    request.extend_from_slice(&ALL_STATES.to_ne_bytes());
    request.extend_from_slice(&peer.port().to_be_bytes());
    request.extend_from_slice(&local.port().to_be_bytes());
    for address in [peer.ip(), local.ip()] {
        let mut field = [0; 16];
        match address {
            IpAddr::V4(ip) => field[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => field = ip.octets(),
        }
        request.extend_from_slice(&field);
    }
    // Any interface.
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&NO_COOKIE);
    request
}

/// The owner in `answer`, or the kernel's error; none when it is about something else than an open connection
/// between `ports`.
fn read(answer: &[u8], ports: &[u8]) -> Option<Result<u32, Errno>> {
    let word = |at: usize| Some(answer.get(at..at + 4)?.try_into().expect("four bytes"));
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().expect("two bytes"));
    match kind {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(word(HEADER_BYTES)?);
            Some(Err(Errno::from_raw_os_error(code.checked_neg()?)))
        }
        SOCK_DIAG_BY_FAMILY => {
            let is_ours = *answer.get(STATE_AT)? == TCP_ESTABLISHED
                && answer.get(PORTS_AT..PORTS_AT + 4)? == ports;
            let uid = u32::from_ne_bytes(word(UID_AT)?);
            is_ours.then_some(Ok(uid))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        let ports = [0x9c, 0x40, 0x08, 0xae];
        let mut answer = vec![0; 88];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[STATE_AT] = TCP_ESTABLISHED;
        answer[PORTS_AT..PORTS_AT + 4].copy_from_slice(&ports);
        answer[UID_AT..UID_AT + 4].copy_from_slice(&1001_u32.to_ne_bytes());
        assert_eq!(read(&answer, &ports), Some(Ok(1001)));
        for end in 0..UID_AT + 4 {
            assert_eq!(read(&answer[..end], &ports), None, "{end}");
        }
        assert_eq!(read(&answer, &[0; 4]), None);
        let mut listener = answer.clone();
        listener[STATE_AT] = 0x0a;
        assert_eq!(read(&listener, &ports), None);

        let mut error = vec![0; 36];
        error[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        error[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(read(&error, &ports), Some(Err(Errno::NOENT)));
        error[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert_eq!(read(&error, &ports), None);
    }

    #[test]
    fn the_request_has_its_size() {
        let address = "[::1]:1".parse().unwrap();
        assert_eq!(request(address, address).len(), REQUEST_BYTES);
    }
}
