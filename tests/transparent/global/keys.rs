//! What the line of the key in the target's `authorized_keys` says of those who log in with it.

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

macro_rules! keys {
    ($($name:ident: $options:literal;)*) => {
        $(
            mod $name {
                use super::session;
                crate::differential! {
                    sshd: concat!("PermitUserEnvironment yes\n# authorized_keys: ", $options),
                    compared: { session }
                    everywhere: {}
                }
            }
        )*
    };
}

keys! {
    restricted: "restrict";
    restricted_but_terminal: "restrict,pty,permitopen=\"localhost:1\"";
    forced: "command=\"echo forced instead of $SSH_ORIGINAL_COMMAND; exit 4\"";
    environment: "environment=\"COLOUR=red\",environment=\"LANG=C\"";
    no_forwarding: "no-port-forwarding,no-X11-forwarding,no-agent-forwarding,no-pty";
    listen: "permitlisten=\"localhost:9\",permitopen=\"127.0.0.1:9\"";
}

fn session(world: &World, seen: &mut Seen) {
    let command = "echo \"$COLOUR|$LANG|$SSH_ORIGINAL_COMMAND\"; exit 7";
    seen.run("a command", world.ssh(&[], command));
    let output = world
        .ssh(&["-tt", "-o", "LogLevel=INFO"], "tty > /dev/null; echo $?")
        .output();
    seen.note("terminal: status", output.code);
    seen.bytes("terminal: stdout", &output.stdout);
    seen.note("terminal: stderr", super::without_addition(&output.stderr));
    let mut client = Raw::connect(world);
    let channel = client.session(0);
    client.request(channel, "auth-agent-req@openssh.com", true, |_| {});
    let heard = client.next();
    seen.note("agent", heard.to_text());
    for (number, host) in (10..).zip(["localhost", "127.0.0.1"]) {
        client.open("direct-tcpip", number, |open| {
            open.put_string(host)
                .put_uint32(1)
                .put_string("127.0.0.1")
                .put_uint32(1);
        });
        let heard = client.next();
        seen.note(&format!("to {host}"), heard.to_text());
    }
    client.global("tcpip-forward", true, |request| {
        request.put_string("localhost").put_uint32(0);
    });
    let heard = client.next();
    // The port is chance.
    seen.note(
        "from any port",
        heard
            .to_text()
            .split_whitespace()
            .next()
            .unwrap_or_default(),
    );
}
