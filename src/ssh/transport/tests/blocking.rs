//! A blocking loop in the place of the driver.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

/// No test waits longer for the other end.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A blocking connection with a queue before it.
pub(super) struct Blocking<S> {
    pub(super) transport: Transport,
    stream: S,
    queue: VecDeque<Vec<u8>>,
    pub(super) rekeyed: usize,
}

impl<S: Read + Write> Blocking<S> {
    pub(super) fn new(transport: Transport, stream: S) -> Self {
        Self {
            transport,
            stream,
            queue: VecDeque::new(),
            rekeyed: 0,
        }
    }

    pub(super) fn send(&mut self, message: Vec<u8>) {
        self.queue.push_back(message);
    }

    /// The next message; None when the other end says goodbye or goes.
    pub(super) fn receive(&mut self) -> Option<Bytes> {
        loop {
            while let Some(event) = self.transport.poll_event() {
                match event {
                    Event::Message(message) => return Some(message),
                    Event::HostKey { .. } => {
                        self.transport.accept_host_key(Instant::now()).unwrap();
                    }
                    Event::Established => {}
                    Event::Rekeyed => self.rekeyed += 1,
                    Event::Disconnected {
                        reason,
                        description,
                    } => {
                        assert_eq!(reason, reason::BY_APPLICATION, "{description}");
                        return None;
                    }
                }
            }
            while self.transport.can_send()
                && let Some(message) = self.queue.pop_front()
            {
                self.transport.send(&message).unwrap();
            }
            let output = self.transport.output().split();
            self.stream.write_all(&output).unwrap();
            let mut buffer = [0; 64 * 1024];
            let count = self
                .stream
                .read(&mut buffer)
                .expect("the other end is silent");
            if count == 0 {
                return None;
            }
            self.transport
                .handle_input(Instant::now(), &buffer[..count])
                .unwrap();
        }
    }

    pub(super) fn expect(&mut self, number: u8) -> Bytes {
        loop {
            let message = self.receive().expect("the other end is gone");
            if message[0] == number {
                return message;
            }
            let passed_over = [
                msg::GLOBAL_REQUEST,
                msg::CHANNEL_WINDOW_ADJUST,
                msg::USERAUTH_BANNER,
                msg::CHANNEL_SUCCESS,
            ];
            assert!(
                passed_over.contains(&message[0]),
                "{number} expected, got {}",
                message[0]
            );
        }
    }
}

pub(super) fn message(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = vec![number];
    fill(&mut message);
    message
}

/// Echoes what the client sends on its one channel; how often keys were changed.
pub(super) fn echo_server(stream: TcpStream, config: Config, key: Arc<HostKey>) -> usize {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let transport = Transport::server(config, vec![key], Instant::now());
    let mut connection = Blocking::new(transport, stream);
    while let Some(received) = connection.receive() {
        match received[0] {
            msg::SERVICE_REQUEST => {
                connection.send(message(msg::SERVICE_ACCEPT, |m| {
                    m.put_string("ssh-userauth");
                }));
            }
            msg::USERAUTH_REQUEST => {
                connection.transport.send(&[msg::USERAUTH_SUCCESS]).unwrap();
                connection.transport.authenticated();
            }
            msg::GLOBAL_REQUEST => {}
            msg::CHANNEL_OPEN => connection.send(message(msg::CHANNEL_OPEN_CONFIRMATION, |m| {
                m.put_uint32(0)
                    .put_uint32(0)
                    .put_uint32(1 << 30)
                    .put_uint32(32 * 1024);
            })),
            msg::CHANNEL_REQUEST => {
                let mut reader = Reader::new(&received[5..]);
                reader.string().unwrap();
                if reader.bool().unwrap() {
                    connection.send(message(msg::CHANNEL_SUCCESS, |m| {
                        m.put_uint32(0);
                    }));
                }
            }
            msg::CHANNEL_DATA => connection.send(received.to_vec()),
            msg::CHANNEL_EOF => {
                connection.send(message(msg::CHANNEL_REQUEST, |m| {
                    m.put_uint32(0)
                        .put_string("exit-status")
                        .put_bool(false)
                        .put_uint32(7);
                }));
                connection.send(message(msg::CHANNEL_EOF, |m| {
                    m.put_uint32(0);
                }));
                connection.send(message(msg::CHANNEL_CLOSE, |m| {
                    m.put_uint32(0);
                }));
            }
            msg::CHANNEL_WINDOW_ADJUST | msg::CHANNEL_CLOSE => {}
            number => {
                println!("client sent {number}");
                connection.transport.reject_last().unwrap();
            }
        }
    }
    connection.rekeyed
}
