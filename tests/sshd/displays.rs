//! X11 forwarding.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ssmshim::ssh::wire::{Reader, WriteExt, msg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::protocol::{Client, OURS, open, string};
use crate::world::{DEADLINE, World, client, finish, have, run, stdout, until};

/// The cookie of the near display, which the far end must never see.
const COOKIE: &str = "00112233445566778899aabbccddeeff";

/// What a client asks with; the display is not there.
const FAKE: &str = "ffeeddccbbaa99887766554433221100";

/// Length of a connection setup with a cookie.
const SETUP: usize = 48;

/// An X11 client as far as the connection setup, with the cookie that xauth has; then it says what it heard.
const X_CLIENT: &str = r#"bash -c '
    n=${DISPLAY#localhost:}; n=${n%.*}
    cookie=$(xauth list $DISPLAY | sed "s/.* //")
    echo $DISPLAY $cookie
    exec 3<>/dev/tcp/127.0.0.1/$((6000 + n))
    printf "l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0" >&3
    printf "$(printf $cookie | sed "s/../\\\\x&/g")" >&3
    cat <&3'"#;

/// Displays are counted per machine: who looks whether one is gone must not meet that of another test.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The cookies of the far end are written to a file of ours instead of the account's.
async fn world() -> World {
    World::start_with(|directory| vec![("XAUTHORITY", directory.join("far").into())]).await
}

/// A world whose `xauth` is `script`.
async fn world_with_xauth(script: &str) -> World {
    let script = format!("#!/bin/sh\n{script}\n");
    World::start_with(move |directory| {
        let bin = directory.join("bin");
        std::fs::create_dir(&bin).unwrap();
        write_script(&bin.join("xauth"), &script);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin).chain(std::env::split_paths(&path));
        vec![
            ("PATH", std::env::join_paths(paths).unwrap()),
            ("WORLD", directory.into()),
        ]
    })
    .await
}

fn write_script(path: &Path, script: &str) {
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_reach_the_near_display_with_its_cookie() {
    if !have(&["ssh", "xauth", "bash"]) {
        return;
    }
    let _alone = ALONE.lock().await;
    let world = world().await;
    let display = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("127.0.0.1:{}", display.local_addr().unwrap().port() - 6000);
    let near = world.path("near");
    let add = ["add", &name, "MIT-MAGIC-COOKIE-1", COOKIE];
    run(client("xauth").arg("-qf").arg(&near).args(add)).await;
    // For `-X`, ssh has its X server make a cookie for untrusted clients; ours knows one only.
    let untrusted = world.path("untrusted");
    let script = "#!/bin/sh\nif [ $3 = generate ]; then exec xauth -q -f $2 add $4 $5";
    write_script(
        &untrusted,
        &format!("{script} {COOKIE}; fi\nexec xauth \"$@\"\n"),
    );

    for options in [
        vec!["-Y".to_owned()],
        vec![
            "-X".to_owned(),
            "-oForwardX11Trusted=no".to_owned(),
            format!("-oXAuthLocation={}", untrusted.display()),
        ],
    ] {
        let mut command = world.ssh(options.iter().map(String::as_str));
        command.args(["sshd", X_CLIENT]);
        command.env("DISPLAY", &name).env("XAUTHORITY", &near);
        let child = command.spawn().unwrap();
        let (mut socket, _) = timeout(DEADLINE, display.accept()).await.unwrap().unwrap();
        let mut setup = [0; SETUP];
        timeout(DEADLINE, socket.read_exact(&mut setup))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&setup[12..30], b"MIT-MAGIC-COOKIE-1");
        let cookie: String = setup[32..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(cookie, COOKIE);
        socket.write_all(b"welcome").await.unwrap();
        drop(socket);
        let output = finish(child).await;
        let text = String::from_utf8_lossy(&output.stdout);
        let (first, heard) = text.split_once('\n').unwrap();
        let (display, cookie) = first.split_once(' ').unwrap();
        assert_eq!(heard, "welcome", "{output:?}");
        assert!(cookie.len() == 32 && cookie != COOKIE, "{cookie}");
        let port = port(display);
        assert!(port >= 6010, "{display}");
        gone(port).await;
    }
    let none = "echo ${DISPLAY-unset}";
    let text = stdout(world.ssh(["-x", "sshd", none]).env("DISPLAY", &name)).await;
    assert_eq!(text, "unset\n");
}

/// The port of the display called `name`.
fn port(name: &str) -> u16 {
    let number = name.trim_end().strip_prefix("localhost:").unwrap();
    6000 + number.split_once('.').unwrap().0.parse::<u16>().unwrap()
}

/// Waits until nobody listens at `port`; a connection would be offered to the client.
async fn gone(port: u16) {
    until(|| std::net::TcpListener::bind(("127.0.0.1", port)).ok()).await;
}

fn x11_request(single_connection: bool, protocol: &str, cookie: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    fields
        .put_bool(single_connection)
        .put_string(protocol)
        .put_string(cookie)
        .put_uint32(2);
    fields
}

/// Asks for a display and starts a process that says its name, then waits.
async fn open_display(client: &mut Client, single_connection: bool) -> String {
    let request = x11_request(single_connection, "MIT-MAGIC-COOKIE-1", FAKE);
    assert!(client.ask("x11-req", &request).await);
    assert!(!client.ask("x11-req", &request).await);
    assert!(client.ask("exec", &string("echo $DISPLAY; exec cat")).await);
    let data = client.recv().await;
    assert_eq!(data[0], msg::CHANNEL_DATA);
    String::from_utf8(data[9..].to_vec()).unwrap()
}

/// Hears the offer of a channel for `socket`, and refuses it.
async fn refuse(client: &mut Client, mut socket: TcpStream) {
    let offer = client.recv().await;
    let mut expected = vec![msg::CHANNEL_OPEN];
    let theirs = Reader::new(&offer[8..]).u32().unwrap();
    expected
        .put_string("x11")
        .put_uint32(theirs)
        .put_uint32(0x1_0000)
        .put_uint32(0x4000)
        .put_string(socket.local_addr().unwrap().ip().to_string())
        .put_uint32(socket.local_addr().unwrap().port().into());
    assert_eq!(offer[..], expected);
    let session = std::mem::replace(&mut client.theirs, theirs);
    let mut why = Vec::new();
    why.put_uint32(1).put_string("no").put_string("");
    client
        .send_to_channel(msg::CHANNEL_OPEN_FAILURE, &why)
        .await;
    client.theirs = session;
    let read = timeout(DEADLINE, socket.read(&mut [0])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_display_lives_as_long_as_its_session() {
    let _alone = ALONE.lock().await;
    let world = world_with_xauth("cat >/dev/null").await;
    let mut client = Client::session(&world, 1 << 20).await;
    let name = open_display(&mut client, false).await;
    assert!(name.ends_with(".2\n"), "{name}");
    let port = port(&name);
    for host in ["127.0.0.1", "127.0.0.1", "::1"] {
        // Not every machine has the other family.
        if let Ok(socket) = TcpStream::connect((host, port)).await {
            refuse(&mut client, socket).await;
        }
    }
    // Another session, another display.
    let mut other = Client::session(&world, 1 << 20).await;
    let other_port = self::port(&open_display(&mut other, false).await);
    assert_ne!(port, other_port);
    let socket = TcpStream::connect(("127.0.0.1", other_port)).await.unwrap();
    refuse(&mut other, socket).await;
    drop(other);
    gone(other_port).await;

    // The end of the process is not yet that of the session: the client has to close it too.
    client.send_to_channel(msg::CHANNEL_EOF, b"").await;
    client.rest().await;
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    refuse(&mut client, socket).await;
    client.send_to_channel(msg::CHANNEL_CLOSE, b"").await;
    gone(port).await;
    // The connection goes on.
    client.send(&open("session", 0, b"")).await;
    assert_eq!(client.recv().await[0], msg::CHANNEL_OPEN_CONFIRMATION);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_display_for_a_single_connection_takes_no_other() {
    let _alone = ALONE.lock().await;
    let world = world_with_xauth("cat >/dev/null").await;
    let mut client = Client::session(&world, 1 << 20).await;
    let port = port(&open_display(&mut client, true).await);
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let offer = client.recv().await;
    client.theirs = Reader::new(&offer[8..]).u32().unwrap();
    for host in ["127.0.0.1", "::1"] {
        assert!(TcpStream::connect((host, port)).await.is_err());
    }
    // The one that was taken is served.
    let mut ours = Vec::new();
    ours.put_uint32(OURS).put_uint32(1000).put_uint32(1000);
    client
        .send_to_channel(msg::CHANNEL_OPEN_CONFIRMATION, &ours)
        .await;
    client.data(b"hello").await;
    let mut heard = [0; 5];
    let read = timeout(DEADLINE, socket.read_exact(&mut heard)).await;
    assert_eq!((read.unwrap().unwrap(), &heard), (5, b"hello"));
}

/// By its standard input, for arguments are everybody's to read; and what it says is heard.
#[tokio::test(flavor = "multi_thread")]
async fn xauth_is_told_in_private() {
    let _alone = ALONE.lock().await;
    let script = "echo \"$@\" >$WORLD/arguments; cat >$WORLD/commands; echo out; echo err >&2";
    let world = world_with_xauth(script).await;
    for terminal in [false, true] {
        let mut client = Client::session(&world, 1 << 20).await;
        if terminal {
            let mut fields = string("dumb");
            fields.put_raw(&[0; 16]).put_string("");
            assert!(client.ask("pty-req", &fields).await);
        }
        let request = x11_request(false, "MIT-MAGIC-COOKIE-1", FAKE);
        assert!(client.ask("x11-req", &request).await);
        let command = "echo $DISPLAY; env | grep -c $(printf ffeeddcc)";
        assert!(client.ask("exec", &string(command)).await);
        let mut said = Vec::new();
        loop {
            let message = client.recv().await;
            match message[0] {
                msg::CHANNEL_DATA => said.extend_from_slice(&message[9..]),
                msg::CHANNEL_EXTENDED_DATA => assert_eq!(&message[13..], b"err\n"),
                msg::CHANNEL_CLOSE => break,
                _ => {}
            }
        }
        let said = String::from_utf8(said).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        let [.., display, count] = lines[..] else {
            panic!("{said}")
        };
        let before = &lines[..lines.len() - 2];
        assert_eq!(
            before,
            if terminal {
                &["out", "err"][..]
            } else {
                &["out"]
            }
        );
        assert_eq!(count, "0");
        let read = |name| std::fs::read_to_string(world.path(name)).unwrap();
        let unix = display.replace("localhost", "unix");
        assert_eq!(read("arguments"), "-q -\n");
        assert_eq!(
            read("commands"),
            format!("remove {unix}\nadd {unix} MIT-MAGIC-COOKIE-1 {FAKE}\n")
        );
    }
}

/// Nothing is found.
fn nowhere() -> Vec<(&'static str, OsString)> {
    vec![("PATH", "/nowhere".into())]
}

#[tokio::test(flavor = "multi_thread")]
async fn displays_are_refused_for_good_reasons() {
    let _alone = ALONE.lock().await;
    let good = x11_request(false, "MIT-MAGIC-COOKIE-1", FAKE);
    let world = world_with_xauth("cat >/dev/null").await;
    let mut client = Client::session(&world, 1 << 20).await;
    for (protocol, cookie) in [
        ("MIT-MAGIC-COOKIE-1", "00\nadd"),
        ("a b", "00"),
        ("\u{e4}", "00"),
        ("$(id)", "00"),
    ] {
        let bad = x11_request(false, protocol, cookie);
        assert!(!client.ask("x11-req", &bad).await);
    }
    // Nothing is held against who asks again.
    assert!(client.ask("x11-req", &good).await);

    // No xauth, no display.
    let world = World::start_with(|_| nowhere()).await;
    let mut client = Client::session(&world, 1 << 20).await;
    assert!(!client.ask("x11-req", &good).await);
    assert!(client.ask("exec", &string("echo ${DISPLAY-unset}")).await);
    assert_eq!(client.rest().await.0, b"unset\n");
}

/// A process is started though xauth fails; a server that stops does not wait for one that hangs.
#[tokio::test(flavor = "multi_thread")]
async fn an_xauth_that_fails_or_hangs_is_survived() {
    let _alone = ALONE.lock().await;
    let good = x11_request(false, "MIT-MAGIC-COOKIE-1", FAKE);
    for (script, starts) in [
        ("exit 1", true),
        ("kill -9 $$", true),
        ("echo $$ >$WORLD/pid; exec sleep 600", false),
    ] {
        let world = world_with_xauth(script).await;
        let mut client = Client::session(&world, 1 << 20).await;
        assert!(client.ask("x11-req", &good).await);
        assert!(client.ask("exec", &string("echo started")).await);
        if starts {
            assert_eq!(client.rest().await.0, b"started\n", "{script}");
        } else {
            let file = world.path("pid");
            let read = || {
                Some(
                    std::fs::read_to_string(&file)
                        .ok()?
                        .strip_suffix('\n')?
                        .to_owned(),
                )
            };
            let pid = until(read).await;
            timeout(DEADLINE, world.sshd.shutdown()).await.unwrap();
            let mut ask = std::process::Command::new("kill");
            ask.args(["-0", &pid]).stderr(std::process::Stdio::null());
            until(|| (!ask.status().unwrap().success()).then_some(())).await;
        }
    }
}
