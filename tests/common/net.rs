//! Small TCP and Unix socket peers for the forwarding cases.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use super::DEADLINE;

/// What both kinds of stream socket can do.
pub(crate) trait Socket: Read + Write + Send + 'static {
    fn finish_writing(&self);
}

impl Socket for TcpStream {
    fn finish_writing(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Socket for UnixStream {
    fn finish_writing(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// How a [`serve`]d peer behaves.
#[derive(Clone, Copy)]
pub(crate) enum Peer {
    /// Sends back what it gets, as it gets it, and its end of file.
    Echo,
    /// Reads to end of file, then answers with the number of bytes: needs a half-close.
    CountAfterEof,
    /// Greets first and closes at once: a server that speaks first.
    Greet,
}

impl Peer {
    fn talk(self, mut socket: impl Socket) {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0_u64;
        if matches!(self, Self::Greet) {
            let _ = socket.write_all(b"greetings\n");
            socket.finish_writing();
        }
        while let Ok(count) = socket.read(&mut buffer) {
            if count == 0 {
                break;
            }
            total += count as u64;
            if matches!(self, Self::Echo) && socket.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        if matches!(self, Self::CountAfterEof) {
            let _ = write!(socket, "{total}");
        }
        socket.finish_writing();
    }
}

/// Serves `peer` on a loopback port of the kernel's choice, for the life of the test process.
pub(crate) fn serve(peer: Peer) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let port = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || peer.talk(socket));
        }
    });
    port
}

/// Serves `peer` on a Unix socket.
pub(crate) fn serve_unix(peer: Peer, path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket in our own directory");
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            thread::spawn(move || peer.talk(socket));
        }
    });
}

/// Connects to a loopback port, with the deadline on every read and write.
pub(crate) fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .unwrap_or_else(|error| panic!("127.0.0.1:{port}: {error}"));
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a positive time");
    socket
        .set_write_timeout(Some(DEADLINE))
        .expect("a positive time");
    socket
}

/// Connects to a Unix socket, with the deadline on every read and write.
pub(crate) fn connect_unix(path: &Path) -> UnixStream {
    let socket =
        UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a positive time");
    socket
        .set_write_timeout(Some(DEADLINE))
        .expect("a positive time");
    socket
}

/// Sends `bytes`, ends the sending direction, and returns everything that comes back.
pub(crate) fn exchange(mut socket: impl Socket, bytes: &[u8]) -> Vec<u8> {
    socket.write_all(bytes).expect("the peer takes our bytes");
    socket.finish_writing();
    let mut answer = Vec::new();
    socket
        .read_to_end(&mut answer)
        .expect("the peer ends in order");
    answer
}

/// A loopback port that nothing listens on.
///
/// Probed below the kernel's ephemeral range, where no outgoing connection can take it meanwhile, and
/// never the same twice in one process.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 300).expect("below 300") * 64;
    loop {
        let port = 10_240 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The addresses at which anybody listens on `port`, by the kernel's tables, in their order.
pub(crate) fn listening_at(port: u16) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|table| {
            let rows = table.lines().map(str::to_owned);
            rows.collect::<Vec<_>>()
        })
        .filter_map(|row| {
            let mut fields = row.split_whitespace().skip(1);
            let (address, _) = (fields.next()?, fields.next()?);
            let is_listening = fields.next()? == "0A";
            let (address, row_port) = address.split_once(':')?;
            let row_port = u16::from_str_radix(row_port, 16).ok()?;
            (is_listening && row_port == port).then(|| table_address(address))?
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// An address as the kernel prints it: words of 32 bits in the machine's byte order.
fn table_address(text: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = (0..text.len() / 8)
        .map(|n| u32::from_str_radix(&text[8 * n..8 * n + 8], 16).map(u32::to_ne_bytes))
        .collect::<Result<_, _>>()
        .ok()?;
    let bytes = words.concat();
    match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(v4) => Some(v4.into()),
        Err(_) => Some(<[u8; 16]>::try_from(&bytes[..]).ok()?.into()),
    }
}

/// Opens a connection to `host:port` through a SOCKS5 proxy (RFC 1928), the name resolved there.
pub(crate) fn socks5(proxy: u16, host: &str, port: u16) -> TcpStream {
    let mut socket = connect(proxy);
    socket.write_all(&[5, 1, 0]).expect("the proxy reads");
    let mut method = [0; 2];
    socket.read_exact(&mut method).expect("the proxy answers");
    assert_eq!(method, [5, 0], "the proxy wants no password");

    let mut request = vec![5, 1, 0, 3, u8::try_from(host.len()).expect("a short name")];
    request.extend_from_slice(host.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    socket.write_all(&request).expect("the proxy reads");
    let mut reply = [0; 10];
    socket.read_exact(&mut reply).expect("the proxy answers");
    assert_eq!(reply[1], 0, "the proxy reaches {host}:{port}");
    socket
}

/// A TCP link to `port` that carries at most `rate` bytes a second in each direction.
pub(crate) fn paced_link(port: u16, rate: u64) -> u16 {
    fn carry(mut from: TcpStream, mut to: TcpStream, rate: u64) {
        let mut buffer = vec![0; 16 << 10];
        let (mut total, started) = (0, std::time::Instant::now());
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
            total += count as u64;
            super::flow::pace(started, total, rate);
        }
        to.finish_writing();
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
    let link = listener.local_addr().expect("a bound socket").port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else {
                continue;
            };
            let (Ok(from_near), Ok(from_far)) = (near.try_clone(), far.try_clone()) else {
                continue;
            };
            thread::spawn(move || carry(from_near, far, rate));
            thread::spawn(move || carry(from_far, near, rate));
        }
    });
    link
}

/// Calls an operation of Session Manager at an emulator, and returns the HTTP status and the answer.
pub(crate) fn call_ssm(endpoint: &str, operation: &str, body: &str) -> (u16, serde_json::Value) {
    let head = format!(
        "Content-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: AmazonSSM.{operation}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260101/eu-central-1/ssm/aws4_request, \
         SignedHeaders=host, Signature=00\r\n"
    );
    let answer = post(endpoint, &head, body.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
    (status, body)
}

/// Posts `body` to an `http://HOST:PORT` endpoint with extra header lines, and returns the whole answer.
pub(crate) fn post(endpoint: &str, head: &str, body: &[u8]) -> String {
    let host = endpoint.strip_prefix("http://").expect("a plain endpoint");
    let port = host
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .expect("a port");
    call(port, "POST", "/", head, body)
}

/// Makes an HTTP request at a loopback port, and returns the whole answer.
pub(crate) fn call(port: u16, method: &str, path: &str, head: &str, body: &[u8]) -> String {
    let mut socket = connect(port);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{head}\r\n"
    );
    socket
        .write_all(request.as_bytes())
        .expect("the server reads the head");
    // A server may answer and close before it has read a body that it does not want.
    let _ = socket.write_all(body);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The first line that comes from `socket`, without its end: what an HTTP client asks for.
pub(crate) fn first_line(socket: TcpStream) -> String {
    socket
        .set_nonblocking(false)
        .expect("a socket can wait or not");
    socket
        .set_read_timeout(Some(DEADLINE))
        .expect("a positive time");
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}
