//! SIGINT, SIGTERM and SIGHUP: the first asks to stop, the second does not ask. Whoever is started by `nohup` is not
//! asked by SIGHUP at all.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the program.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    heeds_hangup: bool,
}

impl Signals {
    /// From here on the signals come here instead of killing the process.
    ///
    /// SIGHUP is caught even where it is ignored: processes that we start would inherit that otherwise.
    pub(super) fn install() -> io::Result<Self> {
        let heeds_hangup = !is_hangup_ignored();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            heeds_hangup,
        })
    }

    /// Waits for one that a person has sent on purpose: not for SIGHUP, which comes by itself and maybe twice.
    pub(super) async fn force(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv(), if self.heeds_hangup => {}
        }
    }
}

/// Whether this process was started to stay when its terminal goes. Only Linux tells, in `/proc/self/status`.
fn is_hangup_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Reads `SigIgn` of proc_pid_status(5), a mask in hexadecimal digits with signal 1 as the lowest bit.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status =
            |mask: &str| format!("SigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert!(ignores_hangup(&status("0000000000000001")));
        assert!(ignores_hangup(&status("ffffffffffffffff")));
        assert!(!ignores_hangup(&status("0000000000001000")));
        assert!(!ignores_hangup(&status("nonsense")));
        assert!(!ignores_hangup(""));
    }
}
