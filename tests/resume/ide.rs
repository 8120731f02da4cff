//! Remote development across cuts, and across the end of the SSM session.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStdin, ChildStdout};

use crate::common::DEADLINE;
use crate::common::faulty::Faulty;
use crate::common::net::{self, free_port, serve, socks5};
use crate::common::process::{Running, code};
use crate::{ENDINGS, SIDES};

/// `ssh -T -D PORT HOST bash`, fed by a program.
struct Ide {
    ssh: Running,
    shell: ChildStdin,
    output: BufReader<ChildStdout>,
    proxy: u16,
}

impl Ide {
    fn start(faulty: &Faulty) -> Self {
        let proxy = free_port();
        let listener = format!("127.0.0.1:{proxy}");
        let mut ssh = faulty.world.ssh(&["-T", "-D", &listener], "bash").piped();
        let (shell, output) = (ssh.take_stdin(), BufReader::new(ssh.take_stdout()));
        let mut ide = Self {
            ssh,
            shell,
            output,
            proxy,
        };
        assert_eq!(ide.ask("echo here"), "here");
        ide
    }

    /// Has the shell run one more line, and returns its answer of one line.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.shell, "{line}").expect("the shell reads");
        let mut answer = String::new();
        self.output
            .read_line(&mut answer)
            .expect("the shell writes");
        answer.trim_end().to_owned()
    }
}

/// Sends `text` into an echo and reads it back.
fn converse(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("the server reads");
    let mut echo = vec![0; text.len()];
    stream.read_exact(&mut echo).expect("the server answers");
    assert_eq!(echo, text.as_bytes());
}

#[test]
fn an_ide_stays_connected_and_comes_back() {
    let Some(faulty) = Faulty::fast() else { return };
    let server = serve(net::Peer::Echo);
    let mut ide = Ide::start(&faulty);
    let mut stream = socks5(ide.proxy, "127.0.0.1", server);
    for side in SIDES {
        for how in ENDINGS {
            faulty.cut(side, how);
            let label = format!("{side:?} {how:?}");
            converse(&mut stream, &label);
            assert_eq!(ide.ask(&format!("echo '{label}'")), label);
            converse(&mut socks5(ide.proxy, "127.0.0.1", server), &label);
            let beside = faulty.world.ssh(&[], "echo beside").ok();
            assert_eq!(beside.text(), "beside");
        }
    }
    faulty.assert_one_session();

    faulty.inject(r#"{"fault": "terminate", "text": "by the administrator"}"#);
    assert_eq!(code(ide.ssh.wait(DEADLINE)), 255);
    let stderr = ide.ssh.stderr();
    assert!(stderr.contains("ssmshim: "), "{stderr}");
    assert!(!stream.read(&mut [0]).is_ok_and(|count| count > 0));
    let mut ide = Ide::start(&faulty);
    converse(&mut socks5(ide.proxy, "127.0.0.1", server), "again");
    assert_eq!(ide.ask("echo again"), "again");
}
