//! Which process listens on a port of this computer, by the kernel's tables.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The tables of listening and open sockets.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// State of a socket that listens.
const LISTEN: &str = "0A";
/// Bytes of a table that are read: some 100 000 sockets.
const MAX_TABLE_BYTES: u64 = 16 << 20;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// Its short name, without control characters.
    pub(super) name: String,
}

/// The process that is in the way of listening on `address`, if it is one that we may look into.
pub(super) fn holder_of(address: SocketAddr) -> Option<Holder> {
    let inodes: Vec<_> = TABLES
        .iter()
        .filter_map(|table| fs::File::open(table).ok())
        .flat_map(|file| {
            let lines = BufReader::new(file.take(MAX_TABLE_BYTES)).lines();
            let rows = lines.map_while(Result::ok);
            let inodes: Vec<_> = rows.filter_map(|row| listening(&row, address)).collect();
            inodes
        })
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| holds(*pid, &inodes))
        .map(|pid| Holder {
            pid,
            name: name_of(pid),
        })
}

/// The socket's number in a row of a table, if that is of a listener which takes `address`.
fn listening(row: &str, address: SocketAddr) -> Option<u64> {
    let mut fields = row.split_whitespace().skip(1);
    let (ip, port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let is_everywhere = ip.bytes().all(|digit| digit == b'0') || address.ip().is_unspecified();
    let is_meant = state == LISTEN
        && u16::from_str_radix(port, 16) == Ok(address.port())
        && (is_everywhere || ip == written(address.ip()));
    // Queues, timer, retransmissions, uid and timeout come before it.
    is_meant.then(|| fields.nth(5)?.parse().ok())?
}

/// An address as the tables have it: in words of 32 bits, each in the byte order of the machine.
fn written(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (words, _) = bytes.as_chunks();
    let words = words.iter().map(|word| u32::from_ne_bytes(*word));
    words.map(|word| format!("{word:08X}")).collect()
}

fn holds(pid: u32, inodes: &[u64]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    descriptors.flatten().any(|entry| {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        socket_number(&target).is_some_and(|inode| inodes.contains(&inode))
    })
}

fn socket_number(link: &Path) -> Option<u64> {
    let number = link.to_str()?.strip_prefix("socket:[")?;
    number.strip_suffix(']')?.parse().ok()
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A row of the kernel, on a little-endian machine.
    const ROW: &str = "   1: 0100007F:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 79563 1 0";

    #[cfg(target_endian = "little")]
    #[test]
    fn rows_of_listeners_have_a_number() {
        let listening = |row: &str, address: &str| listening(row, address.parse().unwrap());
        for (address, number) in [
            ("127.0.0.1:2222", Some(79563)),
            ("0.0.0.0:2222", Some(79563)),
            ("127.0.0.2:2222", None),
            ("127.0.0.1:2223", None),
            ("[::1]:2222", None),
        ] {
            assert_eq!(listening(ROW, address), number, "{address}");
        }
        assert_eq!(
            listening(&ROW.replace(" 0A ", " 01 "), "127.0.0.1:2222"),
            None
        );
        let v6 = ROW.replacen("0100007F", "00000000000000000000000001000000", 1);
        assert_eq!(listening(&v6, "[::1]:2222"), Some(79563));
        let all = ROW.replacen("0100007F", "00000000", 1);
        assert_eq!(listening(&all, "127.0.0.2:2222"), Some(79563));
    }

    #[test]
    fn odd_rows_are_passed_over() {
        let address = "127.0.0.1:2222".parse().unwrap();
        for odd in [
            "",
            "x",
            "1: 2: 3",
            "  sl  local_address rem_address   st tx_queue",
        ] {
            assert_eq!(listening(odd, address), None, "{odd}");
        }
        assert_eq!(socket_number(Path::new("socket:[12]")), Some(12));
        assert_eq!(socket_number(Path::new("/dev/null")), None);
    }

    #[test]
    fn our_own_listener_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = holder_of(listener.local_addr().unwrap()).unwrap();
        assert_eq!(holder.pid, std::process::id());
    }
}
