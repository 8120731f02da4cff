//! Environment variables (RFC 4254 §6.4).

use ssmshim::ssh::wire::WriteExt as _;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        variables,
        variables_of_ssh,
        many_variables,
    }
}

/// What sshd accepts here is `LANG` and `LC_*`.
fn variables(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    let names: [&[u8]; 12] = [
        b"LANG",
        b"LC_",
        b"LC_A",
        b"LC_B",
        b"lc_c",
        b"LC_\xff\xfe",
        b"PATH",
        b"LD_PRELOAD",
        b"",
        b"TERM",
        b"LANGUAGE",
        b"SSH_CONNECTION",
    ];
    for name in names {
        for want_reply in [true, false] {
            client.request(channel, "env", want_reply, |request| {
                let value = format!("{want_reply} \u{e4}\n'\"$(id)");
                request.put_string(name).put_string(value);
            });
            let label = format!("{} {want_reply}", name.escape_ascii());
            client.record_until_settled(seen, &label);
        }
    }
    client.exec(
        channel,
        "env | grep -aE '^(LANG|LC_|lc_|LD_|LANGUAGE|TERM)' | sort | od -An -c",
    );
    client.record_until_close(seen, "environment", 7);
}

fn variables_of_ssh(world: &World, seen: &mut Seen) {
    let command = "echo \"$LC_ONE|$LC_TWO|$LANG|${OTHER-unset}\"";
    let set = [
        "-o",
        "SetEnv=LC_ONE=\"a b\" OTHER=x LANG=C",
        "-o",
        "SendEnv=LC_T*",
    ];
    seen.run(
        "set and sent",
        world.ssh(&set, command).env("LC_TWO", "\u{e4}\t'"),
    );
    seen.run(
        "neither",
        world.ssh(&[], command).env("LC_TWO", "x").env("LANG", "C"),
    );
}

/// Set more than once, and in number: the last value counts.
fn many_variables(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    for number in 0..40 {
        client.request(channel, "env", true, |request| {
            request
                .put_string(format!("LC_N{number}"))
                .put_string("x".repeat(1000));
        });
    }
    for value in ["first", "second", "last"] {
        client.request(channel, "env", true, |request| {
            request.put_string("LC_AGAIN").put_string(value);
        });
    }
    client.record_until_settled(seen, "set");
    client.exec(channel, "env | grep -c '^LC_N'; echo $LC_AGAIN");
    client.record_until_close(seen, "environment", 7);
}
