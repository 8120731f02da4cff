//! Commands, shells and terminals.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::world::{World, client, finish, have, noise, run, run_with, stdout, until};

#[tokio::test(flavor = "multi_thread")]
async fn exit_statuses_pass() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    for (command, status) in [
        ("true", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("no-such-command-here", 127),
    ] {
        assert_eq!(
            run(&mut world.ssh(["sshd", command])).await.status.code(),
            Some(status),
            "{command}"
        );
    }
    let killed = run(&mut world.ssh(["-v", "sshd", "kill -TERM $$"])).await;
    assert_eq!(killed.status.code(), Some(255));
    let log = String::from_utf8(killed.stderr).unwrap();
    assert!(log.contains("exit-signal"), "{log}");
    world.sshd.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_stay_apart_and_bytes_as_they_are() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let output = run(&mut world.ssh(["sshd", r"printf 'out\377\000'; printf 'err\376' >&2"])).await;
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\xff\x00"[..], &b"err\xfe"[..])
    );

    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let command = [OsStr::new("sshd"), OsStr::from_bytes(b"printf '\xff\xfe'")];
    assert_eq!(run(&mut world.ssh(command)).await.stdout, b"\xff\xfe");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_that_of_a_login() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let mut command = world.ssh([
        "sshd",
        "pwd; eval echo ~$(id -un); echo $HOME; echo $LC_TEST; echo ${NOT_ACCEPTED-unset}; echo $SSH_CONNECTION; echo $SSH_CLIENT; echo $USER-$LOGNAME; echo $0; echo ${CARGO_MANIFEST_DIR-unset}",
    ]);
    let text = stdout(command.env("LC_TEST", "a b").env("NOT_ACCEPTED", "x")).await;
    let lines: Vec<&str> = text.lines().collect();
    let [
        pwd,
        of_account,
        home,
        test,
        refused,
        connection,
        client,
        user,
        shell,
        ours,
    ] = lines[..]
    else {
        panic!("{text}")
    };
    assert_eq!(
        (pwd, test, refused, ours),
        (of_account, "a b", "unset", "unset")
    );
    assert_eq!(world.path(""), Path::new(home));
    let port = world.sshd.addr().port().to_string();
    assert!(
        connection.starts_with("127.0.0.1 ") && connection.ends_with(&format!(" 127.0.0.1 {port}")),
        "{connection}"
    );
    assert!(
        client.starts_with("127.0.0.1 ") && client.ends_with(&format!(" {port}")),
        "{client}"
    );
    let (user, logname) = user.split_once('-').unwrap();
    assert!(!user.is_empty() && user == logname);
    assert!(!shell.starts_with('/'), "{shell}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_without_a_terminal_is_a_login_shell() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let output = run_with(
        &mut world.ssh(["-T", "sshd"]),
        b"echo \"name $0\"\nexit 3\n",
    )
    .await;
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("name -"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_passes_through_cat_both_ways() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let bytes = noise(64 << 20);
    let output = run_with(&mut world.ssh(["sshd", "cat"]), &bytes).await;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_bytes_shrink_under_way() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let bytes = noise(12 << 20);
    let options = ["-C", "-o", "RekeyLimit=1M", "sshd", "cat"];
    let output = run_with(&mut world.ssh(options), &bytes).await;
    assert!(output.status.success() && output.stdout == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_process_keeps_its_output_and_no_more() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    // Its output is waited for, as under sshd.
    let output = run(&mut world.ssh(["sshd", "(sleep 0.3; echo late) & exit 4"])).await;
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(4), &b"late\n"[..])
    );
    // Without our streams it is not waited for.
    let start = Instant::now();
    let output =
        run(&mut world.ssh(["sshd", "sleep 30 >/dev/null 2>&1 </dev/null & echo $!"])).await;
    assert!(output.status.success() && start.elapsed() < Duration::from_secs(20));
    let pid: u32 = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists() || !cfg!(target_os = "linux"));
    run(client("kill").arg(pid.to_string())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_to_a_process_that_closed_its_input_is_not_held_up() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let mut command = world.ssh(["sshd", "exec <&-; echo done"]);
    let output = run_with(&mut command, &noise(8 << 20)).await;
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"done\n"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_never_reads_holds_nobody_up() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let socket = world.path("master");
    let control = format!("ControlPath={}", socket.display());
    let mut master = world
        .ssh(["-M", "-N", "-o", &control, "sshd"])
        .spawn()
        .unwrap();
    until(|| socket.exists().then_some(())).await;
    let mut stalled = world.ssh(["-o", &control, "sshd", "echo started; sleep 60"]);
    let mut stalled = stalled.stdin(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stalled.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    let mut stdin = stalled.stdin.take().unwrap();
    // Far more than pipe and window hold: the write stops.
    let feed = tokio::spawn(async move { stdin.write_all(&noise(16 << 20)).await });
    let unread = {
        let mut unread = world.ssh(["-o", &control, "sshd", "cat /dev/zero"]);
        unread.spawn().unwrap()
    };
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(
            stdout(&mut world.ssh(["-o", &control, "sshd", "echo quick"])).await,
            "quick\n"
        );
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
    assert!(!feed.is_finished());
    feed.abort();
    drop(unread);
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_name_type_size_and_modes() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (mut master, slave) = pty_process::open().unwrap();
    master.resize(pty_process::Size::new(33, 99)).unwrap();
    let mut command = pty_process::Command::new("ssh");
    command = command
        .arg("-F")
        .arg(world.config())
        .arg("-t")
        .arg("sshd")
        .env("TERM", "vt220")
        .kill_on_drop(true);
    command = command.arg(
        "stty size; echo $TERM; test -t 0 && test \"$(tty)\" = \"$SSH_TTY\" && echo same; cat",
    );
    let mut child = command.spawn(slave).unwrap();

    let mut text = String::new();
    read_until(&mut master, &mut text, "same\r\n").await;
    assert_eq!(text, "33 99\r\nvt220\r\nsame\r\n");
    text.clear();
    // Echo is on; an interrupt reaches the foreground.
    master.write_all(b"typed\n").await.unwrap();
    read_until(&mut master, &mut text, "typed\r\ntyped\r\n").await;
    master.write_all(b"\x03").await.unwrap();
    let status = tokio::time::timeout(crate::world::DEADLINE, child.wait())
        .await
        .unwrap()
        .unwrap();
    // The shell was interrupted with it, or says 130.
    assert!(matches!(status.code(), Some(130 | 255)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_follows_its_window() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let (mut master, slave) = pty_process::open().unwrap();
    master.resize(pty_process::Size::new(24, 80)).unwrap();
    let mut command = pty_process::Command::new("ssh");
    command = command
        .arg("-F")
        .arg(world.config())
        .arg("-t")
        .arg("sshd")
        .kill_on_drop(true);
    command =
        command.arg("trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done");
    let mut child = command.spawn(slave).unwrap();
    let mut text = String::new();
    read_until(&mut master, &mut text, "ready\r\n").await;
    master
        .resize(pty_process::Size::new_with_pixel(50, 132, 1320, 800))
        .unwrap();
    text.clear();
    read_until(&mut master, &mut text, "50 132\r\n").await;
    let status = tokio::time::timeout(crate::world::DEADLINE, child.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_hangs_up_when_the_client_goes() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let mark = world.path("hung-up");
    let script = format!(
        "trap 'echo hup > {}; exit' HUP; echo ready; while :; do sleep 0.05; done",
        mark.display()
    );
    let mut child = world.ssh(["-tt", "sshd", &script]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).await.unwrap();
    assert_eq!(line, "ready\r\n");
    child.kill().await.unwrap();
    until(|| std::fs::read(&mark).ok().filter(|text| text == b"hup\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_terminal_arrive() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let output = run(&mut world.ssh(["-tt", "sshd", "seq 20000; exit 6"])).await;
    assert_eq!(output.status.code(), Some(6));
    let lines = output.stdout.split(|byte| *byte == b'\n').count();
    assert_eq!(lines, 20001);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let stranger = ssmshim::ssh::host_key::HostKey::generate().unwrap();
    world.write_key("stranger", &stranger);
    let identity = format!("IdentityFile={}", world.path("stranger").display());
    // The file's own identity comes after it on the command line, so it must go.
    std::fs::remove_file(world.path("id")).unwrap();
    let output = run(&mut world.ssh(["-o", &identity, "sshd", "true"])).await;
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied (publickey)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_connections_and_processes() {
    if !have(&["ssh"]) {
        return;
    }
    let world = World::start().await;
    let mut child = world
        .ssh(["sshd", "echo $$; exec sleep 600"])
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    let address = world.sshd.addr();
    tokio::time::timeout(crate::world::DEADLINE, world.sshd.shutdown())
        .await
        .unwrap();
    let output = finish(child).await;
    assert_eq!(
        (output.status.code(), output.status.signal()),
        (Some(255), None)
    );
    let process = std::path::PathBuf::from(format!("/proc/{}/cmdline", line.trim()));
    until(|| {
        std::fs::read(&process)
            .map_or(true, |command| command.is_empty())
            .then_some(())
    })
    .await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

/// Reads from a terminal until `text` ends with `end`.
async fn read_until(terminal: &mut pty_process::Pty, text: &mut String, end: &str) {
    let read = async {
        let mut buffer = [0; 4096];
        while !text.ends_with(end) {
            let length = terminal
                .read(&mut buffer)
                .await
                .unwrap_or_else(|error| panic!("{error} after {text:?}"));
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    let ended = tokio::time::timeout(crate::world::DEADLINE, read).await;
    assert!(ended.is_ok(), "{text:?}");
}
