//! An interactive shell on a terminal: size, resize, keys, signals, status.

mod common;

use common::pty::Terminal;
use common::skip;
use common::world::World;

cases! {
    terminal_has_the_size_and_type_of_ours,
    resize_reaches_the_program,
    interrupt_stops_the_program_and_not_the_shell,
    end_of_file_key_ends_the_shell,
    shell_status_is_ours,
    quit_and_suspend_keys_work,
    full_screen_program_runs,
    closed_terminal_hangs_up_the_shell,
    large_paste_arrives_whole,
}

const SIZE: (u16, u16) = (37, 111);

/// A shell without the person's start-up files, and with a prompt to wait for.
const SHELL: &str = "PS1='READY> ' exec bash --norc --noprofile -i";

/// `None` where the far end cannot hand out terminals.
fn shell(world: &World) -> Option<Terminal> {
    if !world.has_terminals() {
        skip("an ordinary user's sshd cannot give a terminal to the group tty here");
        return None;
    }
    let mut terminal = world.terminal(&["-tt"], Some(SHELL), SIZE);
    terminal.expect("READY> ");
    Some(terminal)
}

fn terminal_has_the_size_and_type_of_ours(world: &World) {
    let Some(mut terminal) = shell(world) else {
        return;
    };
    terminal.keys("stty size; echo $TERM; tty\r");
    terminal.expect("37 111");
    terminal.expect("xterm-256color");
    terminal.expect("/dev/pts/");
    terminal.keys("exit\r");
    assert_eq!(terminal.finish(), 0);
}

fn resize_reaches_the_program(world: &World) {
    let Some(mut terminal) = shell(world) else {
        return;
    };
    terminal
        .keys("sh -c 'trap \"stty size\" WINCH; echo st\"\"arted; while :; do sleep 0.1; done'\r");
    terminal.expect("started");
    terminal.resize(50, 80);
    terminal.expect("50 80");

    // The one after it as well; a shell may miss a signal while its handler runs, so it is asked here.
    let Some(mut terminal) = shell(world) else {
        return;
    };
    for size in [(24, 132), (60, 70)] {
        terminal.resize(size.0, size.1);
        let size = format!("{} {}", size.0, size.1);
        terminal.keys(&format!(
            "until [ \"$(stty size)\" = '{size}' ]; do sleep 0.1; done; echo se''en\r"
        ));
        terminal.expect("seen");
    }
}

/// Keys reach the program that is in the foreground, so it says itself that it is.
const PROGRAM: &str = "sh -c 'echo st\"\"arted; exec sleep 1000'";

fn interrupt_stops_the_program_and_not_the_shell(world: &World) {
    let Some(mut terminal) = shell(world) else {
        return;
    };
    terminal.keys(&format!("{PROGRAM}; echo status $?\r"));
    terminal.expect("started");
    terminal.keys("\x03");
    terminal.expect("^C");
    terminal.expect("READY> ");
    terminal.keys("echo alive $((6*7))\r");
    terminal.expect("alive 42");
}

fn end_of_file_key_ends_the_shell(world: &World) {
    let Some(terminal) = shell(world) else { return };
    terminal.keys("\x04");
    assert_eq!(terminal.finish(), 0);
}

fn shell_status_is_ours(world: &World) {
    let Some(terminal) = shell(world) else { return };
    terminal.keys("exit 3\r");
    assert_eq!(terminal.finish(), 3);
}

fn quit_and_suspend_keys_work(world: &World) {
    let Some(mut terminal) = shell(world) else {
        return;
    };
    terminal.keys("sh -c 'echo st\"\"arted; exec cat'\r");
    terminal.expect("started");
    terminal.keys("\x1a");
    terminal.expect("Stopped");
    terminal.expect("READY> ");
    terminal.keys("fg\r");
    terminal.expect("exec cat'");
    // The shell names it before it has the terminal again: it says so itself, after the echo.
    terminal.keys("line\r");
    terminal.expect("line\r\n");
    terminal.expect("line\r\n");
    terminal.keys("\x1c");
    terminal.expect("READY> ");
}

fn full_screen_program_runs(world: &World) {
    if !common::have("vi") {
        return;
    }
    let file = world.text("written");
    let Some(mut terminal) = shell(world) else {
        return;
    };
    terminal.keys(&format!("vi -u NONE {file}\r"));
    terminal.expect("written");
    terminal.keys("ihello from vi\x1b:wq\r");
    terminal.expect("READY> ");
    let text = std::fs::read_to_string(world.path("written")).expect("vi wrote it");
    assert_eq!(text, "hello from vi\n");
}

/// Closing the window is a hang-up, not an orderly end: the far end must not keep the program.
fn closed_terminal_hangs_up_the_shell(world: &World) {
    let fifo = common::files::fifo(world.path("fifo"));
    let Some(terminal) = shell(world) else {
        return;
    };
    // bash itself, between the opening and the start, would put off the signal and then forget it.
    terminal.keys(&format!(
        "exec sh -c 'echo started; exec sleep 1000' > {}\r",
        fifo.display()
    ));
    let mut end = std::fs::File::open(&fifo).expect("the program opens its end");
    let mut started = [0; 8];
    std::io::Read::read_exact(&mut end, &mut started).expect("the program starts");
    drop(terminal);
    // The read ends when the last writer, the far end's program, has gone.
    let ended = std::thread::spawn(move || std::io::Read::read(&mut end, &mut [0; 1]));
    let count = common::flow::join(ended, "far end's program").expect("a pipe reads");
    assert_eq!(count, 0);
}

fn large_paste_arrives_whole(world: &World) {
    let Some(mut terminal) = shell(world) else {
        return;
    };
    let taken = world.text("taken");
    terminal.keys(&format!(
        "sh -c 'stty -echo; echo st\"\"arted; cat > {taken}; echo clo\"\"sed'\r"
    ));
    terminal.expect("started");
    let lines: String = (0..2000)
        .map(|n| format!("line {n} of a paste\r"))
        .collect();
    terminal.keys(&lines);
    terminal.keys("\x04");
    terminal.expect("closed");
    let text = std::fs::read_to_string(world.path("taken")).expect("cat wrote it");
    assert_eq!(text, lines.replace('\r', "\n"));
}
