//! What an administrator can refuse or force.

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

/// An sshd that allows nothing of its own accord.
mod refusing {
    use super::*;

    crate::differential! {
        sshd: "AllowAgentForwarding no\nAllowTcpForwarding no\nAllowStreamLocalForwarding no\nPermitTTY no\nAcceptEnv NONE",
        compared: { everything_is_refused, ssh_says_so }
        everywhere: {}
    }

    fn everything_is_refused(world: &World, seen: &mut Seen) {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        for (name, fields) in [
            (
                "pty-req",
                &b"\0\0\0\x05vt100\0\0\0\x50\0\0\0\x18\0\0\0\0\0\0\0\0\0\0\0\0"[..],
            ),
            ("env", b"\0\0\0\x04LANG\0\0\0\x01C"),
            ("auth-agent-req@openssh.com", b""),
            ("x11-req", b"\0\0\0\0\x01x\0\0\0\x01x\0\0\0\0"),
        ] {
            client.request(channel, name, true, |request| {
                request.put_raw(fields);
            });
            client.record_until_settled(seen, name);
        }
        client.global("tcpip-forward", true, |request| {
            request.put_string("localhost").put_uint32(0);
        });
        client.record_until_settled(seen, "tcpip-forward");
        client.global("streamlocal-forward@openssh.com", true, |request| {
            request.put_string(world.text("socket"));
        });
        client.record_until_settled(seen, "streamlocal-forward");
        client.open("direct-tcpip", 8, |message| {
            message
                .put_string("127.0.0.1")
                .put_uint32(9)
                .put_string("127.0.0.1")
                .put_uint32(9);
        });
        client.record_until_settled(seen, "direct-tcpip");
        client.exec(channel, "echo alive; tty; exit 3");
        client.record_until_close(seen, "exec", 7);
    }

    fn ssh_says_so(world: &World, seen: &mut Seen) {
        let options = ["-tt", "-o", "LogLevel=INFO"];
        let output = seen.run("-tt", world.ssh(&options, "tty; echo alive"));
        assert!(!output.stderr.is_empty());
    }
}

/// A command that the key or the configuration forces.
mod forced {
    use super::*;

    crate::differential! {
        sshd: "ForceCommand echo forced: \"$SSH_ORIGINAL_COMMAND\"; tty > /dev/null && echo terminal; exit 5",
        compared: { commands_are_replaced, signals_are_refused }
        everywhere: {}
    }

    fn commands_are_replaced(world: &World, seen: &mut Seen) {
        for command in ["", "whatever 'it is' \u{e4}", "exit 0"] {
            let output = seen.run(command, world.ssh(&["-T"], command));
            assert_eq!(output.code, 5);
        }
        if world.has_terminals() {
            seen.run("-tt", world.ssh(&["-tt"], "whatever"));
        }
        seen.run("-s", world.ssh(&["-s"], "sftp"));
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.exec(channel, b"\xff\xfe 'bytes'");
        client.record_until_close(seen, "raw", 7);
    }

    fn signals_are_refused(world: &World, seen: &mut Seen) {
        let mut client = Raw::connect(world);
        let channel = client.session(7);
        client.exec(channel, "whatever");
        client.request(channel, "signal", true, |request| {
            request.put_string("TERM");
        });
        client.record_until_close(seen, "signal", 7);
    }
}
