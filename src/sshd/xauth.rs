//! `xauth`, which keeps the cookies of displays.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::channel::Stream;
use super::pipe::Pipe;
use super::pump;
use super::terminal::Terminal;

/// How long it may take: longer than it waits for somebody else's lock, which is twenty seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// Finds the program in `search_path`.
pub(super) fn find(search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .map(|directory| directory.join("xauth"))
        .find(|path| path.is_file())
}

/// Runs `xauth`, whose environment is set, and gives it `commands`.
///
/// By its standard input: its arguments are everybody's to read. What it says goes where the words of the session's process will go.
///
/// # Errors
/// When it does not run. That it fails it says itself.
pub(super) async fn run(
    mut xauth: Command,
    commands: &[u8],
    pipe: &Pipe,
    terminal: Option<&Terminal>,
) -> io::Result<()> {
    let output = || {
        let Some(terminal) = terminal else {
            return Ok(Stdio::piped());
        };
        terminal.slave.as_fd().try_clone_to_owned().map(Stdio::from)
    };
    xauth
        .args(["-q", "-"])
        .stdin(Stdio::piped())
        .stdout(output()?)
        .stderr(output()?)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = xauth.spawn()?;
    // Closes our handles of the terminal.
    drop(xauth);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // It may have ended before; then it has said why.
            let _ = stdin.write_all(commands).await;
        }
    };
    let out = async {
        if let Some(mut stdout) = stdout {
            pump::drain(pipe, &mut stdout, Stream::Stdout).await;
        }
    };
    let err = async {
        if let Some(mut stderr) = stderr {
            pump::drain(pipe, &mut stderr, Stream::Stderr).await;
        }
    };
    let all = async { tokio::join!(tell, out, err, child.wait()).3 };
    tokio::time::timeout(LIMIT, all).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_in_the_search_path_is_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("xauth");
        let search = std::env::join_paths(["/nowhere".as_ref(), directory.path()]).unwrap();
        assert_eq!(find(&search), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(find(&search), Some(path));
    }
}
