//! The exchange of identification strings (RFC 4253 §4.2).

use super::Error;
use super::Role;

/// What we call ourselves, without the line end: this goes into the exchange hash.
///
/// OpenSSH says `eow@openssh.com` and `no-more-sessions@openssh.com` only to software whose name begins
/// with its own. Between its client and its server we must not be the reason that they are not
/// said: `ssh host yes | head -1` ends by the first.
pub(super) const OURS: &str = concat!("SSH-2.0-OpenSSH_9.9 ssmshim_", env!("CARGO_PKG_VERSION"));

/// Longest identification string, line end included (RFC 4253 §4.2).
const MAX_IDENTIFICATION: usize = 255;

/// Bytes a server may send in lines of its own before it identifies itself; the RFC has no limit.
const MAX_PREAMBLE: usize = 16 * 1024;

/// How many characters of a stranger's words are repeated in an error.
const MAX_SEEN: usize = 80;

/// Reads up to the end of the other end's identification string.
#[derive(Debug)]
pub(super) struct VersionReader {
    role: Role,
    line: Vec<u8>,
    preamble_bytes: usize,
    /// The first line of the preamble, made printable.
    seen: Option<String>,
}

impl VersionReader {
    /// A reader for our `role`: only a client lets the other end say something first.
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            line: Vec::new(),
            preamble_bytes: 0,
            seen: None,
        }
    }

    /// What the other end has said so far instead of identifying itself, its first line made printable.
    pub(super) fn seen(&self) -> Option<String> {
        let unfinished = || Some(printable(&self.line)).filter(|line| !line.is_empty());
        let first = self.seen.clone().filter(|line| !line.is_empty());
        first.or_else(unfinished)
    }

    /// Takes from the front of `input`; gives the identification string, without line end, once it is there.
    ///
    /// # Errors
    /// [`Error::NotSsh`] as soon as the bytes cannot become one, [`Error::UnsupportedVersion`].
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, Error> {
        while !input.is_empty() {
            let end = input.iter().position(|byte| *byte == b'\n');
            let room = MAX_PREAMBLE + 1 - self.line.len();
            let count = end.map_or(input.len(), |end| end + 1).min(room);
            let (head, rest) = input.split_at(count);
            self.line.extend_from_slice(head);
            *input = rest;
            self.check_line()?;
            if self.line.ends_with(b"\n")
                && let Some(identification) = self.end_of_line()?
            {
                return Ok(Some(identification));
            }
        }
        Ok(None)
    }

    /// Refuses a line that can no longer be part of an SSH greeting.
    fn check_line(&self) -> Result<(), Error> {
        let line = &self.line;
        let is_control = |byte: &u8| *byte < 0x20 && !b"\t\r\n\x1b".contains(byte);
        let is_identification = line.starts_with(b"SSH-");
        let may_become_one = b"SSH-".starts_with(line);
        let acceptable = match self.role {
            _ if is_identification => line.len() <= MAX_IDENTIFICATION,
            Role::Server => may_become_one,
            Role::Client => {
                self.preamble_bytes + line.len() <= MAX_PREAMBLE && !line.starts_with(b"HTTP/")
            }
        };
        if acceptable && !line.iter().any(is_control) {
            return Ok(());
        }
        let seen = self.seen.clone().unwrap_or_else(|| printable(line));
        Err(Error::NotSsh { seen })
    }

    fn end_of_line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut line = std::mem::take(&mut self.line);
        self.preamble_bytes += line.len();
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
        if !line.starts_with(b"SSH-") {
            self.seen.get_or_insert_with(|| printable(&line));
            return Ok(None);
        }
        // "1.99" is a server of version 2 that also speaks version 1 (RFC 4253 §5.1).
        if !line.starts_with(b"SSH-2.0-") && !line.starts_with(b"SSH-1.99-") {
            let version = printable(&line);
            return Err(Error::UnsupportedVersion { version });
        }
        Ok(Some(line))
    }
}

/// A stranger's bytes for a person: printable ASCII, the rest as `.`, at most [`MAX_SEEN`] characters.
pub(super) fn printable(bytes: &[u8]) -> String {
    let shown = bytes.trim_ascii_end().iter().take(MAX_SEEN);
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    shown
        .map(|byte| {
            if printable(byte) {
                char::from(*byte)
            } else {
                '.'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, bytes: &[u8], chunk: usize) -> Result<Option<(Vec<u8>, usize)>, Error> {
        let mut reader = VersionReader::new(role);
        for (index, piece) in bytes.chunks(chunk).enumerate() {
            let mut rest = piece;
            if let Some(line) = reader.read(&mut rest)? {
                let used = index * chunk + piece.len() - rest.len();
                return Ok(Some((line, bytes.len() - used)));
            }
        }
        Ok(None)
    }

    #[test]
    fn greetings_of_the_wild() {
        let cases: [(&[u8], &[u8], usize); 4] = [
            (
                b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
                b"SSH-2.0-OpenSSH_9.2p1 Debian",
                0,
            ),
            (b"SSH-2.0-old\nrest", b"SSH-2.0-old", 4),
            (b"SSH-1.99-Cisco-1.25\r\n\0", b"SSH-1.99-Cisco-1.25", 1),
            (b"Welcome\r\n\r\nSSH-like\r\nSSH-2.0-x\r\n", b"", 0),
        ];
        for (bytes, expected, left) in &cases[..3] {
            for chunk in [1, 2, 7, 1000] {
                let (line, rest) = read(Role::Client, bytes, chunk).unwrap().unwrap();
                assert_eq!((line.as_slice(), rest), (*expected, *left));
            }
        }
        let preamble = b"Welcome\r\n\r\n  SSH-1 was here\r\nSSH-2.0-x\r\n";
        assert_eq!(
            read(Role::Client, preamble, 3).unwrap().unwrap().0,
            b"SSH-2.0-x"
        );
        let refused = read(Role::Client, cases[3].0, 100);
        assert!(
            matches!(refused, Err(Error::UnsupportedVersion { version }) if version == "SSH-like")
        );
    }

    #[test]
    fn strangers_are_named() {
        let cases: [(Role, &[u8], &str); 6] = [
            (
                Role::Server,
                b"GET / HTTP/1.1\r\nHost: x\r\n",
                "GET / HTTP/1.1",
            ),
            (Role::Server, b"hello\r\nSSH-2.0-x\r\n", "hello"),
            (Role::Server, b"\x16\x03\x01\x02\0", "....."),
            (
                Role::Client,
                b"HTTP/1.1 400 Bad Request\r\n",
                "HTTP/1.1 400 Bad Request",
            ),
            (Role::Client, b"\x15\x03\x01", "..."),
            (Role::Client, b"SSH-2.0-\0evil\r\n", "SSH-2.0-.evil"),
        ];
        for (role, bytes, expected) in cases {
            match read(role, bytes, 1000) {
                Err(Error::NotSsh { seen }) => assert_eq!(seen, expected),
                other => panic!("{expected}: {other:?}"),
            }
            assert!(matches!(read(role, bytes, 1), Err(Error::NotSsh { .. })));
        }
    }

    #[test]
    fn greetings_are_bounded() {
        let mut long = b"SSH-2.0-".to_vec();
        long.resize(254, b'x');
        let fits = [&long[..253], b"\r\n"].concat();
        assert!(read(Role::Client, &fits, 10).unwrap().is_some());
        let too_long = [&long[..254], b"\r\n"].concat();
        assert!(matches!(
            read(Role::Client, &too_long, 10),
            Err(Error::NotSsh { .. })
        ));
        let one_line = vec![b'x'; MAX_PREAMBLE + 1];
        assert!(matches!(
            read(Role::Client, &one_line, 999),
            Err(Error::NotSsh { .. })
        ));
        let lines = b"x\r\n".repeat(MAX_PREAMBLE / 3 + 1);
        assert!(matches!(
            read(Role::Client, &lines, 999),
            Err(Error::NotSsh { .. })
        ));
        assert!(matches!(
            read(Role::Client, &lines, 1),
            Err(Error::NotSsh { .. })
        ));
    }

    #[test]
    fn unsupported_versions_are_named() {
        let old = read(Role::Client, b"SSH-1.5-antique\r\n", 4);
        assert!(
            matches!(old, Err(Error::UnsupportedVersion { version }) if version == "SSH-1.5-antique")
        );
    }
}
