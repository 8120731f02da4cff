//! As much of the connection protocol (RFC 4254) as a client needs to run a command.

use std::time::Duration;

use ssmshim::ssh::Connection;
use ssmshim::ssh::wire::{Reader, WriteExt, msg};
use tokio::net::TcpStream;

const WINDOW: u32 = 2 * 1024 * 1024;
const PACKET: usize = 32 * 1024;
const DEADLINE: Duration = Duration::from_secs(60);

/// What a command gave.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) status: Option<u32>,
}

/// Runs `command` on a session channel with `input` for it to read.
pub(crate) async fn exec(
    connection: &mut Connection<TcpStream>,
    command: &str,
    input: &[u8],
) -> Output {
    tokio::time::timeout(DEADLINE, run(connection, command, input))
        .await
        .expect("the command ends in time")
}

async fn run(connection: &mut Connection<TcpStream>, command: &str, mut input: &[u8]) -> Output {
    let mut open = vec![msg::CHANNEL_OPEN];
    open.put_string("session")
        .put_uint32(0)
        .put_uint32(WINDOW)
        .put_uint32(PACKET as u32);
    connection.send(&open).await.unwrap();
    let confirmation = skip_to(connection, msg::CHANNEL_OPEN_CONFIRMATION).await;
    let mut reader = Reader::new(&confirmation[1..]);
    let _ours = reader.u32().unwrap();
    let channel = reader.u32().unwrap();
    let mut window = reader.u32().unwrap() as usize;

    let mut request = vec![msg::CHANNEL_REQUEST];
    request
        .put_uint32(channel)
        .put_string("exec")
        .put_bool(true)
        .put_string(command);
    connection.send(&request).await.unwrap();

    let mut output = Output::default();
    let mut unacknowledged = 0;
    let mut eof_sent = false;
    loop {
        while !input.is_empty() && window > 0 {
            let (chunk, rest) = input.split_at(input.len().min(window).min(PACKET));
            let mut data = vec![msg::CHANNEL_DATA];
            data.put_uint32(channel).put_string(chunk);
            connection.send(&data).await.unwrap();
            window -= chunk.len();
            input = rest;
        }
        if input.is_empty() && !eof_sent {
            eof_sent = true;
            send(connection, msg::CHANNEL_EOF, channel).await;
        }
        let message = connection
            .recv()
            .await
            .unwrap()
            .expect("an open connection");
        let mut reader = Reader::new(&message[1..]);
        match message[0] {
            msg::CHANNEL_DATA => {
                let _ours = reader.u32().unwrap();
                let data = reader.string().unwrap();
                output.stdout.extend_from_slice(data);
                unacknowledged += data.len() as u32;
                if unacknowledged > WINDOW / 2 {
                    let mut adjust = vec![msg::CHANNEL_WINDOW_ADJUST];
                    adjust.put_uint32(channel).put_uint32(unacknowledged);
                    connection.send(&adjust).await.unwrap();
                    unacknowledged = 0;
                }
            }
            msg::CHANNEL_WINDOW_ADJUST => {
                let _ours = reader.u32().unwrap();
                window += reader.u32().unwrap() as usize;
            }
            msg::CHANNEL_REQUEST => {
                let _ours = reader.u32().unwrap();
                if reader.string().unwrap() == b"exit-status" {
                    let _want_reply = reader.bool().unwrap();
                    output.status = Some(reader.u32().unwrap());
                }
            }
            msg::CHANNEL_CLOSE => {
                send(connection, msg::CHANNEL_CLOSE, channel).await;
                connection.flush().await.unwrap();
                return output;
            }
            msg::CHANNEL_FAILURE => panic!("the command was refused"),
            _ => {}
        }
    }
}

async fn skip_to(connection: &mut Connection<TcpStream>, number: u8) -> bytes::Bytes {
    loop {
        let message = connection
            .recv()
            .await
            .unwrap()
            .expect("an open connection");
        if message[0] == number {
            return message;
        }
    }
}

async fn send(connection: &mut Connection<TcpStream>, number: u8, channel: u32) {
    let mut message = vec![number];
    message.put_uint32(channel);
    connection.send(&message).await.unwrap();
}
