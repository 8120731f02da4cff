//! What no ordinary client sends: messages by hand, over our own connection in the client's role.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::keys::PrivateKey;
use ssmshim::ssh::verifier::PinnedKey;
use ssmshim::ssh::wire::{Reader, WriteExt, msg};
use ssmshim::ssh::{ClientConfig, Connection, Credential};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::world::{DEADLINE, World};

/// Our number of the only channel of each test.
pub const OURS: u32 = 42;

pub struct Client {
    connection: Connection<TcpStream>,
    /// The server's number of the channel.
    pub theirs: u32,
}

impl Client {
    pub async fn connect(world: &World) -> Self {
        let stream = TcpStream::connect(world.sshd.addr()).await.unwrap();
        let verifier = Arc::new(PinnedKey::new(world.host_key.public_blob()));
        let key =
            PrivateKey::from_openssh(world.client_key.to_openssh().unwrap().as_bytes()).unwrap();
        let mut config = ClientConfig::new("anybody", verifier);
        config.credentials = vec![Credential::Key {
            key: Arc::new(key),
            certificate: None,
            label: "key".into(),
        }];
        let connection = Connection::connect(stream, config).await.unwrap();
        Self {
            connection,
            theirs: 0,
        }
    }

    /// Connects and opens a session with `window` for its output.
    pub async fn session(world: &World, window: u32) -> Self {
        let mut client = Self::connect(world).await;
        client.send(&open("session", window, b"")).await;
        let confirmation = client.recv().await;
        let mut fields = Reader::new(&confirmation[1..]);
        assert_eq!(
            (confirmation[0], fields.u32().unwrap()),
            (msg::CHANNEL_OPEN_CONFIRMATION, OURS)
        );
        client.theirs = fields.u32().unwrap();
        client
    }

    pub async fn send(&mut self, message: &[u8]) {
        timeout(DEADLINE, self.connection.send(message))
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn send_to_channel(&mut self, number: u8, fields: &[u8]) {
        let theirs = self.theirs;
        let mut message = Vec::new();
        message.put_byte(number).put_uint32(theirs).put_raw(fields);
        self.send(&message).await;
    }

    pub async fn data(&mut self, data: &[u8]) {
        let mut fields = Vec::new();
        fields.put_string(data);
        self.send_to_channel(msg::CHANNEL_DATA, &fields).await;
    }

    pub async fn request(&mut self, name: &str, want_reply: bool, fields: &[u8]) {
        let mut request = Vec::new();
        request
            .put_string(name)
            .put_bool(want_reply)
            .put_raw(fields);
        self.send_to_channel(msg::CHANNEL_REQUEST, &request).await;
    }

    /// Asks for something and returns whether it was granted.
    pub async fn ask(&mut self, name: &str, fields: &[u8]) -> bool {
        self.request(name, true, fields).await;
        match self.recv().await[0] {
            msg::CHANNEL_SUCCESS => true,
            msg::CHANNEL_FAILURE => false,
            other => panic!("message {other}"),
        }
    }

    pub async fn recv(&mut self) -> Bytes {
        self.next().await.expect("a message")
    }

    async fn next(&mut self) -> Option<Bytes> {
        timeout(DEADLINE, self.connection.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// What comes up to the server's CLOSE: output, the requests by name and fields, and how many EOFs.
    pub async fn rest(&mut self) -> (Vec<u8>, Vec<(String, Vec<u8>)>, usize) {
        let (mut output, mut requests, mut ends) = (Vec::new(), Vec::new(), 0);
        loop {
            let message = self.recv().await;
            let mut fields = Reader::new(&message[1..]);
            assert_eq!(fields.u32().unwrap(), OURS);
            match message[0] {
                msg::CHANNEL_DATA => output.extend_from_slice(fields.string().unwrap()),
                msg::CHANNEL_EOF => ends += 1,
                msg::CHANNEL_REQUEST => {
                    let name = String::from_utf8(fields.string().unwrap().to_vec()).unwrap();
                    assert!(!fields.bool().unwrap());
                    requests.push((name, fields.rest().to_vec()));
                }
                msg::CHANNEL_WINDOW_ADJUST => {}
                msg::CHANNEL_CLOSE => return (output, requests, ends),
                other => panic!("message {other}"),
            }
        }
    }

    /// Reads until the server takes its leave, and returns the reason.
    async fn farewell(&mut self) -> u32 {
        while self.next().await.is_some() {}
        self.connection.farewell().unwrap().reason
    }
}

pub fn open(kind: &str, window: u32, fields: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message
        .put_byte(msg::CHANNEL_OPEN)
        .put_string(kind)
        .put_uint32(OURS)
        .put_uint32(window)
        .put_uint32(32768);
    message.put_raw(fields);
    message
}

pub fn string(text: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    fields.put_string(text);
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_process_group_and_come_back() {
    let world = World::start().await;
    let mut client = Client::session(&world, 1 << 20).await;
    assert!(
        client
            .ask(
                "exec",
                &string("sh -c 'echo $$; sleep 60'; echo not reached")
            )
            .await
    );
    assert_eq!(client.recv().await[0], msg::CHANNEL_DATA);
    client
        .request("signal", false, &string("NO-SUCH-SIGNAL"))
        .await;
    client.request("signal", false, &string("TERM")).await;
    let (output, requests, ends) = client.rest().await;
    assert_eq!((output, ends), (Vec::new(), 1));
    let mut expected = string("TERM");
    expected.put_bool(false).put_string("").put_string("");
    assert!(
        requests.contains(&("exit-signal".to_owned(), expected)),
        "{requests:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_follows_even_a_client_that_closes_early() {
    let world = World::start().await;
    let mut client = Client::session(&world, 1 << 20).await;
    assert!(
        client
            .ask(
                "exec",
                &string("exec >&- 2>&-; read line; sleep 0.2; exit 9")
            )
            .await
    );
    // Output ends before the process does.
    assert_eq!(client.recv().await[0], msg::CHANNEL_EOF);
    client.data(b"go\n").await;
    client.send_to_channel(msg::CHANNEL_EOF, b"").await;
    client.send_to_channel(msg::CHANNEL_CLOSE, b"").await;
    let (_, requests, ends) = client.rest().await;
    assert_eq!(
        (requests, ends),
        (vec![("exit-status".to_owned(), vec![0, 0, 0, 9])], 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_write_stops_the_writer() {
    let world = World::start().await;
    let mut client = Client::session(&world, 1 << 20).await;
    assert!(client.ask("exec", &string("yes")).await);
    assert_eq!(client.recv().await[0], msg::CHANNEL_DATA);
    client.request("eow@openssh.com", false, b"").await;
    let (_, requests, ends) = client.rest().await;
    // OpenSSH says no EOF to one who reads no more.
    assert_eq!((requests[0].0.as_str(), ends), ("exit-signal", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_thing_runs_in_a_session_and_nothing_unknown() {
    let world = World::start().await;
    let mut client = Client::session(&world, 1 << 20).await;
    let mut variable = string("PATH");
    variable.put_string("/nowhere");
    let mut terminal = string("dumb");
    terminal.put_raw(&[0; 16]).put_string("");
    assert!(!client.ask("env", &variable).await);
    assert!(!client.ask("unheard-of", b"any").await);
    assert!(!client.ask("subsystem", &string("netconf")).await);
    assert!(!client.ask("break", &[0; 4]).await);
    assert!(client.ask("pty-req", &terminal).await);
    assert!(!client.ask("pty-req", &terminal).await);
    assert!(client.ask("exec", &string("cat")).await);
    assert!(!client.ask("exec", &string("cat")).await);
    assert!(!client.ask("shell", b"").await);
    assert!(client.ask("break", &[0; 4]).await);
    assert!(client.ask("window-change", &[0; 16]).await);
    // Too late for these.
    assert!(!client.ask("auth-agent-req@openssh.com", b"").await);
    assert!(!client.ask("x11-req", &[0; 13]).await);
    client.send_to_channel(msg::CHANNEL_CLOSE, b"").await;
    // The terminal hangs up.
    let (_, requests, _) = client.rest().await;
    assert_eq!(requests[0].0, "exit-signal");
    // Other channels come, other requests are answered.
    for (name, want_reply) in [
        ("keepalive@openssh.com", true),
        ("unheard-of", false),
        ("unheard-of", true),
    ] {
        let mut message = Vec::new();
        message
            .put_byte(msg::GLOBAL_REQUEST)
            .put_string(name)
            .put_bool(want_reply)
            .put_raw(b"any");
        client.send(&message).await;
        if want_reply {
            assert_eq!(client.recv().await[..], [msg::REQUEST_FAILURE]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opens_fail_with_the_words_of_sshd() {
    let world = World::start().await;
    let mut client = Client::connect(&world).await;
    let path = world.path("nobody");
    let mut socket = string(path.to_str().unwrap());
    socket.put_string("").put_uint32(0);
    for (kind, fields, reason) in [
        ("tun@openssh.com", Vec::new(), "open failed"),
        ("direct-streamlocal@openssh.com", socket, "open failed"),
    ] {
        client.send(&open(kind, 0, &fields)).await;
        let mut expected = vec![msg::CHANNEL_OPEN_FAILURE];
        expected
            .put_uint32(OURS)
            .put_uint32(2)
            .put_string(reason)
            .put_string("");
        assert_eq!(client.recv().await[..], expected[..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_overruns_a_window_is_disconnected() {
    let world = World::start().await;
    let mut client = Client::session(&world, 0).await;
    assert!(client.ask("exec", &string("sleep 60")).await);
    let chunk = vec![0; 32 * 1024];
    // The first 64 KiB and more disappear in the pipe; it cannot hold what follows.
    let mut message = Vec::new();
    message
        .put_byte(msg::CHANNEL_DATA)
        .put_uint32(client.theirs)
        .put_string(&chunk);
    for _ in 0..100 {
        // It may have left before all of this is sent; its last word is then lost with the connection.
        if client.connection.send(&message).await.is_err() {
            return;
        }
    }
    assert_eq!(client.farewell().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_after_no_more_sessions_ends_the_connection() {
    let world = World::start().await;
    let mut client = Client::session(&world, 0).await;
    let mut message = Vec::new();
    message
        .put_byte(msg::GLOBAL_REQUEST)
        .put_string("no-more-sessions@openssh.com")
        .put_bool(true);
    client.send(&message).await;
    assert_eq!(client.recv().await[..], [msg::REQUEST_SUCCESS]);
    client.send(&open("session", 0, b"")).await;
    assert_eq!(client.farewell().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_window_holds_the_writer_and_nobody_else() {
    let world = World::start().await;
    let mut client = Client::session(&world, 100_000).await;
    assert!(
        client
            .ask("exec", &string("head -c 5000000 /dev/zero; exit 3"))
            .await
    );
    let mut received = 0;
    while received < 100_000 {
        let message = client.recv().await;
        assert_eq!(message[0], msg::CHANNEL_DATA);
        received += message.len() - 9;
    }
    assert_eq!(received, 100_000);
    // Nothing more comes now.
    assert!(
        timeout(Duration::from_millis(200), client.connection.recv())
            .await
            .is_err()
    );
    client
        .send_to_channel(msg::CHANNEL_WINDOW_ADJUST, &u32::to_be_bytes(10_000_000))
        .await;
    let (output, requests, _) = client.rest().await;
    assert_eq!(output.len() + received, 5_000_000);
    assert!(requests.contains(&("exit-status".to_owned(), vec![0, 0, 0, 3])));
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_ends_with_a_status() {
    let world = World::start().await;
    for (packet, status) in [
        (&b"\0\0\0\x05\x01\0\0\0\x03"[..], 0),
        (b"GET / HTTP/1.1\r\n\r\n", 11),
        (b"\0\0\0\x01\x03", 255),
    ] {
        let mut client = Client::session(&world, 1 << 20).await;
        assert!(client.ask("subsystem", &string("sftp")).await);
        client.data(packet).await;
        client.send_to_channel(msg::CHANNEL_EOF, b"").await;
        let (output, requests, ends) = client.rest().await;
        assert_eq!(
            output.starts_with(b"\0\0") && output.get(4..9) == Some(b"\x02\0\0\0\x03"),
            status == 0
        );
        assert_eq!(
            (requests, ends),
            (vec![("exit-status".to_owned(), vec![0, 0, 0, status])], 1)
        );
    }
}
