//! Interactive shells over many cuts.

use std::fs;
use std::time::Duration;

use ssmshim::emulator::fault::plan::Amount;

use crate::common::faulty::Faulty;
use crate::common::pty::Terminal;
use crate::common::skip;
use crate::{ENDINGS, SIDES, full_size, report_times};

/// Cuts that a shell has to outlive.
fn cuts() -> u64 {
    if full_size() { 50 } else { 12 }
}

const SHELL: &str = "PS1='READY> ' exec bash --norc --noprofile -i";

fn shell(faulty: &Faulty) -> Option<Terminal> {
    if !faulty.world.has_terminals() {
        skip("an ordinary user's sshd cannot give a terminal to the group tty here");
        return None;
    }
    let mut terminal = faulty.world.terminal(&["-tt"], Some(SHELL), (24, 80));
    terminal.expect("READY> ");
    Some(terminal)
}

/// A counter runs on while client and agent are cut by turns; no line is lost or doubled.
#[test]
fn a_counter_runs_through() {
    let Some(faulty) = Faulty::fast() else { return };
    let Some(mut terminal) = shell(&faulty) else {
        return;
    };
    let stop = faulty.world.path("stop");
    terminal.keys(&format!(
        "i=0; echo be\"\"gin; until [ -e {} ]; do i=$((i+1)); echo \"line $i.\"; sleep 0.01; done; echo e\"\"nd $i.\r",
        stop.display()
    ));
    terminal.expect("begin");
    for side in SIDES {
        for how in ENDINGS {
            faulty
                .faults()
                .cut_every(side, how, Amount::Time(Duration::from_millis(400)));
        }
    }
    faulty.until(|counters| counters.client_cuts >= cuts() && counters.agent_cuts >= cuts());
    faulty.faults().clear();
    fs::write(&stop, "").expect("our own directory");
    let mut shown = terminal.expect("\r\nend ");
    shown.truncate(shown.len() - "end ".len());
    let last = terminal.expect(".");
    let lines: Vec<_> = shown.lines().filter(|line| !line.is_empty()).collect();
    for (number, line) in (1..).zip(&lines) {
        assert_eq!(*line, format!("line {number}."));
    }
    assert_eq!(last, format!("{}.", lines.len()));
    terminal.keys("exit 3\r");
    assert_eq!(terminal.finish(), 3);
    faulty.assert_one_session();
}

/// What is typed while there is no socket arrives once, and in order.
#[test]
fn what_is_typed_meanwhile_arrives_once() {
    let Some(faulty) = Faulty::fast() else { return };
    let Some(mut terminal) = shell(&faulty) else {
        return;
    };
    let typed = faulty.world.path("typed");
    terminal.keys(&format!(
        "stty -echo; echo be\"\"gin; cat > {}; echo e\"\"nd\r",
        typed.display()
    ));
    terminal.expect("begin");
    let ways = ENDINGS.into_iter().cycle();
    let mut away = Vec::new();
    let mut expected = String::new();
    for (round, how) in (0..cuts()).zip(ways) {
        let side = SIDES[usize::from(round % 4 == 3)];
        terminal.keys(&format!("before cut {round}\r"));
        away.push(faulty.cut(side, how));
        terminal.keys(&format!("after cut {round}\r"));
        expected.push_str(&format!("before cut {round}\nafter cut {round}\n"));
    }
    terminal.keys("\x04");
    terminal.expect("end");
    let found = fs::read_to_string(&typed).expect("the far end wrote it");
    assert!(found == expected, "{found}");
    report_times("a socket replaced", away);
    terminal.keys("exit\r");
    assert_eq!(terminal.finish(), 0);
    faulty.assert_one_session();
}
