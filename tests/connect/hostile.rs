//! Who else may come to a daemon's socket, or put one there.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::process::Run;
use crate::common::{DEADLINE, have, skip};
use crate::{Near, Way};

fn knock(near: &Near) -> UnixStream {
    let sockets = near.sockets();
    let stream = UnixStream::connect(&sockets[0]).expect("the daemon listens");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a socket has one");
    stream
}

/// All that the daemon says to `bytes`.
fn answer(near: &Near, bytes: &[u8]) -> Vec<u8> {
    let mut stream = knock(near);
    let _refused_in_the_middle = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    answer
}

fn request(near: &Near) -> Value {
    let (endpoint, target) = near.faulty.names();
    json!({ "version": 1, "target": target, "port": near.ssh_port.parse::<u16>().expect("a port"),
        "place": { "region": "eu-central-1", "endpoint": endpoint, "profile": null }, "identity": "any" })
}

#[test]
fn nonsense_is_turned_away() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let elsewhere = b"{\"answer\":\"elsewhere\"}\n";
    let mut other = request(&near);
    other["version"] = json!(2);
    assert_eq!(answer(&near, format!("{other}\n").as_bytes()), elsewhere);
    other = request(&near);
    other["port"] = json!(1);
    assert_eq!(answer(&near, format!("{other}\n").as_bytes()), elsewhere);
    for nonsense in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n",
        b"\xff\xfe\n",
        &vec![b'x'; 1 << 20],
        // Never a whole line: cut off when its time is over.
        b"{\"version\":",
    ] {
        assert_eq!(
            answer(&near, nonsense),
            b"",
            "{:?}",
            &nonsense[..2.min(nonsense.len())]
        );
    }
    // Who does not keep to frames loses the connection, and nobody else does.
    for frame in [&b"\x02\0\0\0"[..], b"\0\xff\xff\xff", b"\x01\0\0\x01x"] {
        let mut bytes = format!("{}\n", request(&near)).into_bytes();
        bytes.extend_from_slice(frame);
        let said = answer(&near, &bytes);
        assert!(said.starts_with(b"{\"answer\":\"mine\""), "{said:?}");
    }
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    near.until_tidy();
}

/// Hundreds who connect and say nothing are gone after their time, and are not in the way of others.
#[test]
fn the_silent_are_not_in_the_way() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let silent: Vec<_> = (0..200).map(|_| knock(&near)).collect();
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    assert_eq!(near.all_sessions(), 1, "it was shared");
    for mut stream in silent {
        assert!(matches!(stream.read(&mut [0]), Ok(0)), "its time is over");
    }
}

/// A socket that somebody put there who says yes to everything, and then nothing.
#[test]
fn a_liar_is_not_waited_for() {
    let Some(near) = Near::start(Way::Alone) else {
        return;
    };
    std::fs::create_dir_all(near.control()).expect("our own directory");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(near.control(), private).expect("our own directory");
    let listener = UnixListener::bind(near.control().join("liar.sock")).expect("a short path");
    let liar = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it comes");
        drop(stream.write_all(b"{\"answer\":\"mine\",\"hold_seconds\":0}\n\x07\0\0\0"));
        // Until it goes.
        drop(stream.set_read_timeout(Some(Duration::from_secs(60))));
        drop(stream.read_to_end(&mut Vec::new()));
    });
    assert_eq!(near.ssh(&[], "echo works").ok().text(), "works");
    liar.join().expect("it was left");
}

#[test]
fn a_directory_or_socket_of_somebody_else_is_not_used() {
    let Some(near) = Near::start(Way::Shared) else {
        return;
    };
    let open = |mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(near.control(), permissions).expect("our own directory");
    };
    open(0o755);
    let output = near.ssh(&[], "echo works").output();
    assert_eq!(output.text(), "works");
    assert!(
        output.stderr.contains("is open to others (mode 755)"),
        "{}",
        output.stderr
    );
    assert_eq!(near.all_sessions(), 2, "it went alone");
    open(0o700);

    if !rustix::process::geteuid().is_root() || !have("setpriv") {
        return skip("only root can be somebody else");
    }
    let socket = near.sockets().remove(0);
    chown(&socket, Some(12_345), None).expect("root may");
    let output = near.ssh(&[], "echo works").output();
    assert_eq!(output.text(), "works");
    assert!(
        output.stderr.contains("belongs to uid 12345, not to you"),
        "{}",
        output.stderr
    );
    chown(&socket, Some(0), None).expect("root may");

    chown(near.control(), Some(12_345), None).expect("root may");
    let output = near.ssh(&[], "echo works").output();
    assert_eq!(output.text(), "works");
    assert!(
        output.stderr.contains("belongs to uid 12345, not to you"),
        "{}",
        output.stderr
    );
    chown(near.control(), Some(0), None).expect("root may");
    assert_eq!(near.all_sessions(), 4, "it went alone each time");

    // Somebody else who gets as far as the socket.
    let perl = "use IO::Socket::UNIX; $SIG{PIPE} = q(IGNORE); my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; \
                $s->print($ARGV[1], chr(10)); print <$s> // 'nothing'";
    if have("perl") {
        let link = near.path("open.sock");
        std::fs::hard_link(&socket, &link).expect("the same file system");
        let anybody = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&link, anybody.clone()).expect("our own file");
        std::fs::set_permissions(near.path(""), anybody).expect("our own directory");
        let asked = Run::new("setpriv")
            .args([
                "--reuid=12345",
                "--regid=12345",
                "--clear-groups",
                "perl",
                "-e",
                perl,
            ])
            .arg(&link)
            .arg(request(&near).to_string())
            .output();
        assert_eq!(asked.text(), "nothing", "{asked:?}");
    }
}
