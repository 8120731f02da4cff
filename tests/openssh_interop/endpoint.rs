//! A minimal SSH server on our connection: one channel that echoes what it is sent.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use ssmshim::ssh::auth::server::Policy;
use ssmshim::ssh::host_key::HostKey;
use ssmshim::ssh::wire::{Reader, WriteExt, msg};
use ssmshim::ssh::{Connection, Error, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const WINDOW: u32 = 2 * 1024 * 1024;

/// A listener whose next connection is served.
pub(crate) struct Endpoint {
    pub(crate) config: ServerConfig,
    listener: TcpListener,
}

impl Endpoint {
    pub(crate) async fn new() -> Self {
        let text = std::fs::read_to_string(crate::key_file("host_cert")).unwrap();
        let host_key = Arc::new(HostKey::from_openssh(&text).unwrap());
        Self {
            config: ServerConfig::new(host_key),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Serves `count` connections one after the other; gives the user names or errors.
    pub(crate) fn serve(
        self,
        count: usize,
        mut policy: impl Policy + Send + 'static,
    ) -> JoinHandle<Vec<Result<String, Error>>> {
        tokio::spawn(async move {
            let mut results = Vec::new();
            for _ in 0..count {
                let (stream, _) = self.listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                results.push(serve(stream, &self.config, &mut policy).await);
            }
            results
        })
    }
}

async fn serve(
    stream: TcpStream,
    config: &ServerConfig,
    policy: &mut impl Policy,
) -> Result<String, Error> {
    let mut connection = Connection::accept(stream, config, policy).await?;
    let mut channel = Channel::default();
    while let Some(message) = connection.recv().await? {
        channel.on_message(&message);
        for answer in channel.answers() {
            connection.send(&answer).await?;
        }
        connection.flush().await?;
    }
    Ok(connection.user().to_owned())
}

/// The one channel, and the answers that are due.
#[derive(Default)]
struct Channel {
    id: u32,
    /// What the client lets us send.
    window: usize,
    pending: VecDeque<u8>,
    consumed: u32,
    eof: bool,
    closed: bool,
    answers: Vec<Vec<u8>>,
}

impl Channel {
    fn on_message(&mut self, message: &[u8]) {
        let mut reader = Reader::new(&message[1..]);
        match message[0] {
            msg::GLOBAL_REQUEST => {
                let _name = reader.string().unwrap();
                if reader.bool().unwrap() {
                    self.answers.push(vec![msg::REQUEST_FAILURE]);
                }
            }
            msg::CHANNEL_OPEN => {
                let _kind = reader.string().unwrap();
                self.id = reader.u32().unwrap();
                self.window = reader.u32().unwrap() as usize;
                let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION];
                confirmation
                    .put_uint32(self.id)
                    .put_uint32(0)
                    .put_uint32(WINDOW)
                    .put_uint32(32 * 1024);
                self.answers.push(confirmation);
            }
            msg::CHANNEL_REQUEST => {
                let _ours = reader.u32().unwrap();
                let _kind = reader.string().unwrap();
                if reader.bool().unwrap() {
                    self.answer(msg::CHANNEL_SUCCESS);
                }
            }
            msg::CHANNEL_DATA => {
                let _ours = reader.u32().unwrap();
                let data = reader.string().unwrap();
                self.pending.extend(data);
                self.consumed += data.len() as u32;
            }
            msg::CHANNEL_WINDOW_ADJUST => {
                let _ours = reader.u32().unwrap();
                self.window += reader.u32().unwrap() as usize;
            }
            msg::CHANNEL_EOF => self.eof = true,
            _ => {}
        }
    }

    fn answer(&mut self, number: u8) {
        let mut answer = vec![number];
        answer.put_uint32(self.id);
        self.answers.push(answer);
    }

    fn answers(&mut self) -> Vec<Vec<u8>> {
        while self.window > 0 && !self.pending.is_empty() {
            let count = self.pending.len().min(self.window).min(32 * 1024);
            let chunk: Vec<u8> = self.pending.drain(..count).collect();
            self.window -= count;
            let mut data = vec![msg::CHANNEL_DATA];
            data.put_uint32(self.id).put_string(chunk);
            self.answers.push(data);
        }
        if self.consumed > WINDOW / 2 {
            let mut adjust = vec![msg::CHANNEL_WINDOW_ADJUST];
            adjust.put_uint32(self.id).put_uint32(self.consumed);
            self.answers.push(adjust);
            self.consumed = 0;
        }
        if self.eof && self.pending.is_empty() && !self.closed {
            self.closed = true;
            let mut status = vec![msg::CHANNEL_REQUEST];
            status
                .put_uint32(self.id)
                .put_string("exit-status")
                .put_bool(false)
                .put_uint32(7);
            self.answers.push(status);
            self.answer(msg::CHANNEL_EOF);
            self.answer(msg::CHANNEL_CLOSE);
        }
        std::mem::take(&mut self.answers)
    }
}
