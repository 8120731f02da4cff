//! Two cores joined in memory, and what the wire between them can do to them.

mod blocking;
mod exchange;
mod messages;
mod openssh;
mod pair;
mod properties;
mod russh;
mod strict;
mod tampering;

use super::*;

/// Both ends of one connection and everything they told.
struct Pair {
    client: End,
    server: End,
    now: Instant,
}

/// One end, and the events it gave so far.
struct End {
    transport: Transport,
    events: Vec<Event>,
}

impl End {
    fn new(transport: Transport) -> Self {
        Self {
            transport,
            events: Vec::new(),
        }
    }

    /// Gives bytes to this end, and the host key check its consent.
    fn receive(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Error> {
        let result = self.transport.handle_input(now, bytes);
        while let Some(event) = self.transport.poll_event() {
            if matches!(event, Event::HostKey { .. }) && result.is_ok() {
                self.transport.accept_host_key(now).unwrap();
            }
            self.events.push(event);
        }
        result
    }

    /// The messages received since the last call; other events are forgotten.
    fn messages(&mut self) -> Vec<Bytes> {
        let events = std::mem::take(&mut self.events);
        let message = |event| match event {
            Event::Message(message) => Some(message),
            _ => None,
        };
        events.into_iter().filter_map(message).collect()
    }

    fn has(&self, event: &Event) -> bool {
        self.events.contains(event)
    }

    /// Sends what [`Transport::send`] would refuse.
    fn write(&mut self, payload: &[u8]) {
        self.transport.write(payload).unwrap();
    }
}

impl Pair {
    fn new(client: Config, server: Config) -> Self {
        let now = Instant::now();
        let key = Arc::new(HostKey::generate().unwrap());
        Self {
            client: End::new(Transport::client(client, now)),
            server: End::new(Transport::server(server, vec![key], now)),
            now,
        }
    }

    /// After the first key exchange, before authentication.
    fn established(config: Config) -> Self {
        let mut pair = Self::new(config.clone(), config);
        pair.run().unwrap();
        assert!(pair.client.has(&Event::Established) && pair.server.has(&Event::Established));
        pair
    }

    /// After authentication.
    fn ready(config: Config) -> Self {
        let mut pair = Self::established(config);
        pair.authenticate();
        pair
    }

    /// Lets the bytes flow until nothing more is to be said.
    fn run(&mut self) -> Result<(), Error> {
        self.run_in_chunks(usize::MAX)
    }

    fn run_in_chunks(&mut self, size: usize) -> Result<(), Error> {
        while self.step(size)? {}
        Ok(())
    }

    /// Delivers what both ends have said so far. False when that was nothing.
    fn step(&mut self, chunk_size: usize) -> Result<bool, Error> {
        let to_server = self.client.transport.output().split();
        let to_client = self.server.transport.output().split();
        for chunk in to_server.chunks(chunk_size) {
            self.server.receive(self.now, chunk)?;
        }
        for chunk in to_client.chunks(chunk_size) {
            self.client.receive(self.now, chunk)?;
        }
        Ok(!to_server.is_empty() || !to_client.is_empty())
    }

    /// Delivers what the client has said so far.
    fn deliver_to_server(&mut self) -> Result<(), Error> {
        let bytes = self.client.transport.output().split();
        self.server.receive(self.now, &bytes)
    }

    /// Delivers what the server has said so far.
    fn deliver_to_client(&mut self) -> Result<(), Error> {
        let bytes = self.server.transport.output().split();
        self.client.receive(self.now, &bytes)
    }

    /// Does what the layer above does at the end of authentication.
    fn authenticate(&mut self) {
        self.server
            .transport
            .send(&[msg::USERAUTH_SUCCESS])
            .unwrap();
        self.server.transport.authenticated();
        self.run().unwrap();
    }

    /// Exchanges identification strings, so that both offers are out and nothing else.
    fn greet(&mut self) {
        let to_server = self.client.transport.output().split();
        let to_client = self.server.transport.output().split();
        self.server.receive(self.now, &to_server).unwrap();
        self.client.receive(self.now, &to_client).unwrap();
    }
}

/// A configuration with one cipher and MAC.
fn only(cipher: Cipher, mac: Mac) -> Config {
    Config {
        kex: vec![Kex::Curve25519],
        ciphers: vec![cipher],
        macs: vec![mac],
        ..Config::default()
    }
}

/// The cipher and MAC combinations that differ.
fn suites() -> Vec<(Cipher, Mac)> {
    let mut suites = Vec::new();
    for cipher in Cipher::ALL {
        let has_mac = matches!(
            cipher,
            Cipher::Aes128Ctr | Cipher::Aes192Ctr | Cipher::Aes256Ctr
        );
        let macs = if has_mac { Mac::ALL } else { &Mac::ALL[..1] };
        suites.extend(macs.iter().map(|mac| (*cipher, *mac)));
    }
    suites
}

/// A channel data message of `size` bytes.
fn data(size: usize, fill: u8) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_DATA, 0, 0, 0, 0];
    message.put_string(vec![fill; size]);
    message
}

/// Asserts that a message was refused for its time.
#[track_caller]
fn assert_unexpected(result: Result<(), Error>, expected: u8) {
    match result {
        Err(Error::UnexpectedMessage { number, .. }) => assert_eq!(number, expected),
        other => panic!("{expected}: {other:?}"),
    }
}

/// Changes the offer that `transport` is about to send, and what it remembers of it.
fn change_offer(transport: &mut Transport, change: impl FnOnce(&mut Vec<u8>)) {
    let Exchange::Proposed { ours, .. } = &mut transport.exchange else {
        panic!("no offer is out");
    };
    let before = ours.clone();
    change(ours);
    let after = ours.clone();
    assert_eq!(before.len(), after.len());
    let output = transport.output();
    let is_offer = |window: &[u8]| window == before;
    let at = output.windows(before.len()).position(is_offer).unwrap();
    output[at..at + after.len()].copy_from_slice(&after);
}

/// Takes the marker of strict key exchange out of the offer.
fn without_strict(transport: &mut Transport) {
    change_offer(transport, |offer| {
        let marker = b"kex-strict-";
        let is_marker = |window: &[u8]| window == marker;
        let at = offer.windows(marker.len()).position(is_marker).unwrap();
        offer[at..at + marker.len()].copy_from_slice(b"kex-loose--");
    });
}
