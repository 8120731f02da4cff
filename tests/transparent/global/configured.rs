//! What sshd's administrator configures shows through: banner, forced commands, environment, terminals.

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

macro_rules! configured {
    ($($name:ident: $sshd:expr, $case:ident;)*) => {
        $(
            mod $name {
                use super::$case;
                crate::differential! {
                    sshd: $sshd,
                    compared: { $case }
                    everywhere: {}
                }
            }
        )*
    };
}

configured! {
    banner: "Banner /etc/os-release", greeting;
    forced: "ForceCommand echo \"forced instead of $SSH_ORIGINAL_COMMAND\"; exit 4", commands;
    forced_sftp: "ForceCommand internal-sftp -R", commands;
    greeted: "PrintMotd yes\nPrintLastLog yes", commands;
    accepted: "AcceptEnv *", environment;
    accepted_some: "AcceptEnv COLOUR? A_*", environment;
    accepted_none: "AcceptEnv NOTHING", environment;
    no_terminal: "PermitTTY no", terminal;
    no_x11: "X11Forwarding no", offers;
    x11: "X11Forwarding yes\nX11UseLocalhost yes", offers;
    no_agent: "AllowAgentForwarding no", offers;
    compressed: "Compression no", commands;
    nagle: "TCPKeepAlive no\nIPQoS none\nRekeyLimit 64K", commands;
    by_user: "Match User *\nForceCommand echo matched; exit 5\nMatch all", commands;
}

/// What sshd says to those who log in, which clients show if they are to.
fn greeting(world: &World, seen: &mut Seen) {
    for level in ["QUIET", "ERROR", "INFO"] {
        let options = ["-o", &format!("LogLevel={level}")];
        let output = world.ssh(&options, "echo out; echo err >&2").output();
        seen.note(&format!("{level}: status"), output.code);
        seen.bytes(&format!("{level}: stdout"), &output.stdout);
        seen.note(
            &format!("{level}: stderr"),
            super::without_addition(&output.stderr),
        );
    }
}

fn commands(world: &World, seen: &mut Seen) {
    seen.run("a command", world.ssh(&[], "echo my own; exit 7"));
    seen.run("a shell", world.ssh(&["-T"], "").stdin("exit 9\n"));
    let run = world.sftp("pwd");
    let output = run.output();
    seen.note("sftp: status", output.code);
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    for name in ["subsystem", "exec"] {
        client.request(channel, name, true, |request| {
            request.put_string("nothing known");
        });
        let heard = client.next();
        seen.note(name, heard.to_text());
    }
}

/// Variables that the client sends, and those that arrive.
fn environment(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    let variables: [(&[u8], &[u8]); 7] = [
        (b"COLOUR1", b"red"),
        (b"COLOUR", b"blue"),
        (b"A_", b""),
        (b"A_BINARY", b"\xff\xfe"),
        (b"LC_ALL", b"C.UTF-8"),
        (b"LD_NOTHING", b"of use"),
        (b"", b"without a name"),
    ];
    for (n, (name, value)) in variables.into_iter().enumerate() {
        client.request(channel, "env", true, |request| {
            request.put_string(name).put_string(value);
        });
        let heard = client.next();
        seen.note(&format!("variable {n}"), heard.to_text());
    }
    client.request(channel, "exec", true, |request| {
        request.put_string("env | grep -aE '^(COLOUR|A_|LC_|LD_)' | sort");
    });
    client.record_until_close(seen, "arrives", 0);
}

fn terminal(world: &World, seen: &mut Seen) {
    let output = world
        .ssh(&["-tt", "-o", "LogLevel=INFO"], "tty; exit 3")
        .output();
    seen.note("status", output.code);
    seen.bytes("stdout", &output.stdout);
    let said = super::without_addition(&output.stderr);
    seen.note("stderr", said);
}

/// X11 and agents, asked for as messages; whether the command gets to know of one.
fn offers(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    client.request(channel, "auth-agent-req@openssh.com", true, |_| {});
    let heard = client.next();
    seen.note("agent", heard.to_text());
    client.request(channel, "x11-req", true, |request| {
        request
            .put_bool(false)
            .put_string("MIT-MAGIC-COOKIE-1")
            .put_string("0123456789abcdef0123456789abcdef")
            .put_uint32(0);
    });
    let heard = client.next();
    seen.note("X11", heard.to_text());
    client.request(channel, "exec", true, |request| {
        // The numbers of display and socket are chance.
        request.put_string("echo ${DISPLAY:+display} ${SSH_AUTH_SOCK:+agent}");
    });
    client.record_until_close(seen, "command", 0);
}
