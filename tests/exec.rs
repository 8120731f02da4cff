//! A remote command behaves as over plain ssh: status, streams, environment, bytes.

mod common;

use std::io::{Read, Write};

use common::files::write_file;
use common::flow::CHUNK;
use common::world::World;

cases! {
    status_passes_through,
    death_by_signal_is_255,
    unknown_command_is_127,
    stdout_and_stderr_stay_apart,
    every_byte_value_passes,
    input_of_every_size_comes_back,
    input_ends_where_it_ends,
    command_may_leave_its_input_unread,
    command_may_close_its_output_early,
    reader_may_go_away,
    endless_input_ends_with_the_command,
    locale_variables_pass_and_others_do_not,
    no_terminal_without_asking,
    command_runs_in_the_login_shell,
    long_command_line,
    background_child_does_not_hold_the_channel,
    many_sessions_on_one_connection,
}

fn status_passes_through(world: &World) {
    let output = world.ssh(&[], "echo quiet >&2; uname -a; exit 7").output();
    assert_eq!(output.code, 7, "{output:?}");
    assert!(output.text().starts_with("Linux "), "{output:?}");
    assert_eq!(output.stderr, "quiet\n");
    for status in [0, 1, 2, 126, 200, 255] {
        let output = world.ssh(&[], &format!("exit {status}")).output();
        assert_eq!(output.code, status, "{output:?}");
    }
}

/// OpenSSH turns the exit-signal of a remote command into its own status 255.
fn death_by_signal_is_255(world: &World) {
    for signal in ["TERM", "KILL", "SEGV"] {
        let output = world
            .ssh(&[], &format!("echo before; kill -{signal} $$; echo after"))
            .output();
        assert_eq!(output.code, 255, "{output:?}");
        assert_eq!(output.text(), "before");
    }
}

fn unknown_command_is_127(world: &World) {
    let output = world.ssh(&[], "exec /no/such/program").output();
    assert_eq!(output.code, 127, "{output:?}");
    assert!(output.stderr.contains("/no/such/program"), "{output:?}");
}

fn stdout_and_stderr_stay_apart(world: &World) {
    let output = world
        .ssh(&[], "echo out; echo err >&2; echo out; echo err >&2")
        .ok();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\nout\n");
    assert_eq!(output.stderr, "err\nerr\n");

    let bulk = "head -c 3000000 /dev/zero & head -c 3000001 /dev/zero >&2; wait";
    let output = world.ssh(&[], bulk).ok();
    assert_eq!(output.stdout.len(), 3_000_000);
    let zeros = output.stderr.bytes().filter(|byte| *byte == 0).count();
    assert_eq!(zeros, 3_000_001);
}

fn every_byte_value_passes(world: &World) {
    let bytes: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
    let output = world.ssh(&[], "cat").stdin(bytes.clone()).ok();
    assert!(output.stdout == bytes, "what comes back differs");
}

/// Sizes around the boundaries of every layer: message payload 1024, smux frame and SSH packet 32 KiB.
fn input_of_every_size_comes_back(world: &World) {
    let sizes = [
        0,
        1,
        1023,
        1024,
        1025,
        32_767,
        32_768,
        32_769,
        65_535,
        65_536,
        (2 << 20) + 1,
    ];
    let whole = vec![b'x'; sizes[sizes.len() - 1]];
    for size in sizes {
        let output = world.ssh(&[], "cat").stdin(&whole[..size]).ok();
        assert_eq!(output.stdout.len(), size);
    }
}

fn input_ends_where_it_ends(world: &World) {
    let file = world.path("input");
    write_file(&file, 5 * CHUNK + 3, 1);
    let bytes = std::fs::read(&file).expect("our own file");
    let output = world.ssh(&[], "sha256sum").stdin(bytes).ok();
    assert_eq!(
        output.text(),
        format!("{}  -", common::files::sha256(&file))
    );
}

fn command_may_leave_its_input_unread(world: &World) {
    let output = world
        .ssh(&[], "echo done; exit 3")
        .stdin(vec![0; 20 << 20])
        .output();
    assert_eq!(
        (output.code, output.text().as_str()),
        (3, "done"),
        "{}",
        output.stderr
    );
}

/// The far end's EOF is one direction only: what is sent after it must still arrive.
fn command_may_close_its_output_early(world: &World) {
    let taken = world.text("taken");
    let command = format!("echo bye; exec >&- 2>&-; cat > {taken}");
    let output = world.ssh(&[], &command).stdin(vec![7; 3 << 20]).ok();
    assert_eq!(output.text(), "bye");
    assert_eq!(
        std::fs::metadata(world.path("taken"))
            .expect("the command made it")
            .len(),
        3 << 20
    );
}

/// `ssh HOST yes | head -1`: the far end is told that nobody reads, and stops.
fn reader_may_go_away(world: &World) {
    let mut client = world.ssh(&[], "yes").piped();
    let mut stdout = client.take_stdout();
    let mut line = [0; 2];
    stdout.read_exact(&mut line).expect("the first line");
    assert_eq!(&line, b"y\n");
    drop(stdout);
    client.wait(common::DEADLINE);
}

/// `yes | ssh HOST head -1`: the command's end is the end, whatever is still to be sent.
fn endless_input_ends_with_the_command(world: &World) {
    let mut client = world.ssh(&[], "head -c 2; exit 4").piped();
    let mut stdin = client.take_stdin();
    let endless = std::thread::spawn(move || while stdin.write_all(&[b'y'; 1 << 16]).is_ok() {});
    let status = client.wait(common::DEADLINE);
    assert_eq!(status.code(), Some(4), "{}", client.stderr());
    common::flow::join(endless, "endless input");
}

fn locale_variables_pass_and_others_do_not(world: &World) {
    let set = "SetEnv=LC_SSMSHIM=\"a b\" LANG=C FORBIDDEN=x";
    let command = "echo \"$LC_SSMSHIM|$LANG|${FORBIDDEN-unset}\"";
    assert_eq!(world.ssh(&["-o", set], command).ok().text(), "a b|C|unset");
}

fn no_terminal_without_asking(world: &World) {
    assert_eq!(
        world.ssh(&[], "tty; test -t 1 || echo none").ok().text(),
        "not a tty\nnone"
    );
}

fn command_runs_in_the_login_shell(world: &World) {
    let output = world
        .ssh(
            &[],
            "echo $0; pwd; eval echo ~$(id -un); id -un; echo $SSH_CONNECTION",
        )
        .ok();
    let text = output.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with("sh"), "{lines:?}");
    assert_eq!(lines[1], lines[2], "a session starts at home: {lines:?}");
    assert_eq!(lines[3], common::world::user());
    assert_eq!(lines[4].split(' ').count(), 4, "{lines:?}");
}

fn long_command_line(world: &World) {
    let word = "x".repeat(100_000);
    assert_eq!(
        world.ssh(&[], &format!("echo {word} | wc -c")).ok().text(),
        "100001"
    );
}

/// As with sshd, the session ends with the command when what it leaves behind has let go of the streams.
fn background_child_does_not_hold_the_channel(world: &World) {
    let output = world
        .ssh(&[], "sleep 300 > /dev/null 2>&1 < /dev/null & echo $!")
        .ok();
    let pid: i32 = output.text().parse().expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it still runs");
}

fn many_sessions_on_one_connection(world: &World) {
    let socket = world.text("control");
    let master = world.master(&socket);
    let sessions: Vec<_> = (0..20)
        .map(|n| {
            let command = format!("head -c {} /dev/zero | wc -c; exit {n}", n * 10_000);
            let run = world.ssh(&["-S", &socket], &command);
            std::thread::spawn(move || run.output())
        })
        .collect();
    for (n, session) in sessions.into_iter().enumerate() {
        let output = session.join().expect("no panic");
        assert_eq!(output.code, i32::try_from(n).expect("small"), "{output:?}");
        assert_eq!(output.text(), (n * 10_000).to_string());
    }
    drop(master);
}
