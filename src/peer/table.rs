//! The kernel's socket tables as text, `/proc/net/tcp`: always there, and long where there are many connections.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::canonical;

/// The tables of this network namespace; a client's IPv6 socket may speak IPv4.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of an open connection. In others the kernel may have forgotten the owner and shows
/// uid 0 (TIME_WAIT, sockets that no process holds any more).
const ESTABLISHED: &str = "01";
/// Longest line read; real ones have about 150 bytes.
const MAX_LINE_BYTES: usize = 1024;

/// The uid that owns the client's socket, or none when no open connection has these addresses.
///
/// # Errors
/// When the tables cannot be read, as on systems without `/proc`.
pub(super) fn uid(peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    let mut last_error = None;
    for table in TABLES {
        match File::open(table) {
            Ok(file) => {
                if let Some(uid) = find(BufReader::new(file), peer, local)? {
                    return Ok(Some(uid));
                }
            }
            // A kernel without IPv6 lacks the second.
            Err(error) => last_error = Some((table, error)),
        }
    }
    match last_error {
        Some((table, error)) if table == TABLES[0] => Err(error),
        _ => Ok(None),
    }
}

/// The uid of the client's row in `table`: its local address is our `peer`, and the other way
/// round.
fn find(mut table: impl BufRead, peer: SocketAddr, local: SocketAddr) -> io::Result<Option<u32>> {
    let wanted = (canonical(peer), canonical(local));
    // Most rows are of others, and there may be thousands.
    let port = format!(":{:04X} ", peer.port());
    let mut line = Vec::new();
    loop {
        line.clear();
        if read_line(&mut table, &mut line)? == 0 {
            return Ok(None);
        }
        let row = std::str::from_utf8(&line)
            .ok()
            .filter(|line| line.contains(&port))
            .and_then(Row::parse);
        if let Some(row) = row
            && (row.local, row.remote) == wanted
        {
            return Ok(Some(row.uid));
        }
    }
}

/// Reads a line, of which what exceeds [`MAX_LINE_BYTES`] is dropped; returns the bytes consumed.
fn read_line(table: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut consumed = 0;
    loop {
        let chunk = table.fill_buf()?;
        if chunk.is_empty() {
            return Ok(consumed);
        }
        let newline = chunk.iter().position(|byte| *byte == b'\n');
        let length = newline.map_or(chunk.len(), |at| at + 1);
        let room = MAX_LINE_BYTES.saturating_sub(line.len());
        line.extend_from_slice(&chunk[..length.min(room)]);
        table.consume(length);
        consumed += length;
        if newline.is_some() {
            return Ok(consumed);
        }
    }
}

/// What matters of an open connection's row.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    remote: SocketAddr,
    uid: u32,
}

impl Row {
    /// `sl local remote st queues timer retransmits uid …`; none for the headline, for other
    /// states, and for what makes no sense.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = parse_address(fields.next()?)?;
        let remote = parse_address(fields.next()?)?;
        if fields.next()? != ESTABLISHED {
            return None;
        }
        let uid = fields.nth(3)?.parse().ok()?;
        Some(Self { local, remote, uid })
    }
}

/// `ADDRESS:PORT` in hexadecimal. The address is printed as one or four 32-bit numbers in the byte
/// order of the machine, the port as a number.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As printed by Linux 6.1 on x86-64: a listener, both ends of one connection, and the same ports in
    /// TIME_WAIT, where the owner is gone.
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     
   0: 0100007F:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 34713 1 0000000000000000 100 0 0 10 0                     
   1: 0100007F:08AE 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 34901 1 0000000000000000 20 4 30 10 -1                    
   2: 0100007F:9C41 0100007F:08AE 06 00000000:00000000 03:000016F2 00000000     0        0 0 3 0000000000000000                                      
   3: 0100007F:9C40 0100007F:08AE 01 00000000:00000000 02:000AF0D0 00000000  1001        0 34900 2 0000000000000000 20 4 0 10 -1                     
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:08AE 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 34714 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:9C40 00000000000000000000000001000000:08AE 01 00000000:00000000 02:000AF0D0 00000000  1002        0 34902 2 0000000000000000 20 4 0 10 -1
   2: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:08AE 01 00000000:00000000 02:000AF0D0 00000000  1003        0 34903 2 0000000000000000 20 4 0 10 -1
";

    fn lookup(table: &str, peer: &str, local: &str) -> Option<u32> {
        let (peer, local) = (peer.parse().unwrap(), local.parse().unwrap());
        find(table.as_bytes(), peer, local).unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_row_of_the_client_is_found() {
        let cases = [
            (TCP, "127.0.0.1:40000", "127.0.0.1:2222", Some(1001)),
            (
                TCP,
                "[::ffff:127.0.0.1]:40000",
                "[::ffff:127.0.0.1]:2222",
                Some(1001),
            ),
            (TCP, "127.0.0.1:40001", "127.0.0.1:2222", None),
            (TCP, "127.0.0.1:40002", "127.0.0.1:2222", None),
            (TCP, "127.0.0.2:40000", "127.0.0.1:2222", None),
            (TCP6, "[::1]:40000", "[::1]:2222", Some(1002)),
            (TCP6, "127.0.0.1:40002", "127.0.0.1:2222", Some(1003)),
            (TCP6, "[::1]:40002", "[::1]:2222", None),
        ];
        for (table, peer, local, expected) in cases {
            assert_eq!(lookup(table, peer, local), expected, "{peer} -> {local}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn nonsense_is_passed_over() {
        let long = "x".repeat(100_000);
        let table = format!(
            "\n: : :\n1: 0100007F 0100007F:08AE 01\n\
             1: 0100007\u{e9}:9C40 0100007F:08AE 01 0 0 0 5\n{long}\n\
             2: 0100007F:9C40 0100007F:08AE 01 0:0 0:0 0 -1\n\
             3: 0100007F:9C40 0100007F:08AE 01 0:0 0:0 0 4294967296\n{TCP}"
        );
        assert_eq!(
            lookup(&table, "127.0.0.1:40000", "127.0.0.1:2222"),
            Some(1001)
        );
        assert_eq!(lookup("", "127.0.0.1:40000", "127.0.0.1:2222"), None);
    }
}
