//! russh, as a client.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{Config, Handle, Handler, Msg, Session};
use russh::keys::{PrivateKeyWithHashAlg, load_secret_key};
use russh::{Channel, ChannelMsg, Sig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::flow::Pattern;
use crate::common::net::{Peer, connect, exchange, free_port, serve, serve_unix};
use crate::common::world::World;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        commands,
        bulk_under_rekey,
        terminal,
        direct_tcpip,
        direct_streamlocal,
        tcpip_forward,
        refusals,
    }
}

/// Trusts everybody, and sends forwarded connections back what they say.
struct Trusting;

impl Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        _key: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(true)
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: russh::client::ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        tokio::spawn(async move {
            let mut stream = channel.into_stream();
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            let _ = stream.write_all(&said).await;
            let _ = stream.shutdown().await;
        });
        Ok(())
    }
}

/// Runs a client to its end, under a deadline.
fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await })
        .expect("in time")
}

async fn log_in(world: &World, config: Config) -> Handle<Trusting> {
    let address = ("127.0.0.1", world.target.port);
    let mut client = russh::client::connect(Arc::new(config), address, Trusting)
        .await
        .expect("a connection");
    let key = load_secret_key(&world.target.identity, None).expect("our own key");
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    let user = world.target.user.clone();
    let result = client.authenticate_publickey(user, key).await;
    assert!(result.expect("an answer").success());
    client
}

/// Sends `stdin` to the command and hears it to the end of its channel: each message that has a meaning of its own.
async fn execute(client: &Handle<Trusting>, seen: &mut Seen, command: &str, stdin: &[u8]) {
    let channel = client.channel_open_session().await.expect("a session");
    channel.exec(true, command).await.expect("an open channel");
    let (mut reader, writer) = channel.split();
    let stdin = stdin.to_vec();
    let fed = tokio::spawn(async move {
        // The command may be over before it has read all.
        let _ = writer.data(&stdin[..]).await;
        let _ = writer.eof().await;
    });
    let (mut stdout, mut stderr, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(message) = reader.wait().await {
        match message {
            ChannelMsg::Data { data } => stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, ext: 1 } => stderr.extend_from_slice(&data),
            ChannelMsg::WindowAdjusted { .. } => {}
            // When the status comes among them is chance.
            other => ends.push(format!("{other:?}")),
        }
    }
    // Where the command was over first, russh waits for a window that nobody opens any more.
    fed.abort();
    ends.sort();
    let label = &command[..command.len().min(40)];
    seen.bytes(&format!("{label}: stdout"), &stdout);
    seen.bytes(&format!("{label}: stderr"), &stderr);
    seen.note(&format!("{label}: ends"), ends.join("\n"));
}

fn commands(world: &World, seen: &mut Seen) {
    run(async {
        let client = log_in(world, Config::default()).await;
        for command in [
            "true",
            "exit 255",
            "echo out; echo err >&2; exit 3",
            "kill -KILL $$",
            "ulimit -c 0; kill -SEGV $$",
            "wc -c; exit 4",
        ] {
            execute(&client, seen, command, b"input").await;
        }
    });
}

/// A key exchange for each 256 KiB, which russh begins, while bytes flow both ways.
fn bulk_under_rekey(world: &World, seen: &mut Seen) {
    run(async {
        let limits = russh::Limits {
            rekey_write_limit: 1 << 18,
            rekey_read_limit: 1 << 18,
            ..russh::Limits::default()
        };
        let config = Config {
            limits,
            ..Config::default()
        };
        let client = log_in(world, config).await;
        execute(&client, seen, "cat; echo end >&2; exit 5", &noise(48)).await;
    });
}

fn terminal(world: &World, seen: &mut Seen) {
    run(async {
        let client = log_in(world, Config::default()).await;
        let mut channel = client.channel_open_session().await.expect("a session");
        let modes = [(russh::Pty::ECHO, 0), (russh::Pty::VERASE, 8)];
        let pty = channel.request_pty(true, "vt220", 99, 41, 990, 410, &modes);
        pty.await.expect("an open channel");
        let command = "echo $TERM; stty size; read line; stty size; echo $line; exit 6";
        channel.exec(true, command).await.expect("an open channel");
        let mut output = Vec::new();
        let mut is_told = false;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => output.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => seen.note("status", exit_status),
                _ => {}
            }
            if !is_told && output.ends_with(b"41 99\r\n") {
                is_told = true;
                channel
                    .window_change(77, 22, 770, 220)
                    .await
                    .expect("an open channel");
                channel.data(&b"word\n"[..]).await.expect("an open channel");
            }
        }
        seen.bytes("output", &output);
        // Nobody is there to hear it any more, which harms nobody.
        let _ = channel.signal(Sig::TERM).await;
    });
}

async fn echoed(channel: Channel<Msg>, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(channel.into_stream());
    let bytes = bytes.to_vec();
    let sent = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        let _ = writer.shutdown().await;
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.expect("the end");
    sent.await.expect("no panic");
    answer
}

fn direct_tcpip(world: &World, seen: &mut Seen) {
    let ports = [
        serve(Peer::Echo),
        serve(Peer::CountAfterEof),
        free_port(),
        1,
    ];
    run(async {
        let client = log_in(world, Config::default()).await;
        for port in ports {
            let opened =
                client.channel_open_direct_tcpip("127.0.0.1", port.into(), "192.0.2.7", 4711);
            match opened.await {
                Ok(channel) => seen.bytes("answer", &echoed(channel, &noise(20)).await),
                Err(error) => seen.note("refused", format!("{error:?}")),
            }
        }
    });
}

fn direct_streamlocal(world: &World, seen: &mut Seen) {
    serve_unix(Peer::Echo, &world.path("echo"));
    run(async {
        let client = log_in(world, Config::default()).await;
        for name in ["echo", "none"] {
            match client
                .channel_open_direct_streamlocal(world.text(name))
                .await
            {
                Ok(channel) => seen.bytes(name, &echoed(channel, &noise(20)).await),
                // The reason; its text is no part of the error.
                Err(error) => seen.note(name, format!("{error:?}")),
            }
        }
    });
}

fn tcpip_forward(world: &World, seen: &mut Seen) {
    run(async {
        let client = log_in(world, Config::default()).await;
        let port = client.tcpip_forward("127.0.0.1", 0).await.expect("a port");
        let port = u16::try_from(port).expect("a port");
        for _ in 0..3 {
            let answer = tokio::task::spawn_blocking(move || exchange(connect(port), &noise(4)));
            seen.bytes("answer", &answer.await.expect("no panic"));
        }
        let again = client.tcpip_forward("127.0.0.1", port.into()).await;
        seen.note("taken", format!("{again:?}"));
        let cancelled = client.cancel_tcpip_forward("127.0.0.1", port.into()).await;
        seen.note("cancelled", format!("{cancelled:?}"));
        let gone = std::net::TcpStream::connect(("127.0.0.1", port));
        seen.note("nobody", gone.is_err());
    });
}

fn refusals(world: &World, seen: &mut Seen) {
    run(async {
        let client = log_in(world, Config::default()).await;
        let x11 = client.channel_open_x11("127.0.0.1", 4711).await;
        seen.note("x11", format!("{:?}", x11.map(|_| "opened")));
        let mut channel = client.channel_open_session().await.expect("a session");
        let asked = channel.request_subsystem(true, "no-such-subsystem").await;
        asked.expect("an open channel");
        let answer = loop {
            match channel.wait().await {
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                answer => break answer,
            }
        };
        seen.note("subsystem", format!("{answer:?}"));
        execute(&client, seen, "echo still", b"").await;
    });
}

/// Incompressible bytes, in units of 64 KiB.
fn noise(chunks: u64) -> Vec<u8> {
    let pattern = Pattern::new(37);
    (0..chunks).flat_map(|index| pattern.chunk(index)).collect()
}
