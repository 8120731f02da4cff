//! Connections one after another and many at once.

use std::thread;

use crate::common::world::World;
use crate::raw::Raw;
use crate::seen::Seen;

crate::differential! {
    compared: {
        // Three times would be long.
        one_after_another,
    }
    everywhere: {
        many_at_once,
        without_a_channel,
    }
}

mod max_startups {
    //! An sshd that takes one login at a time, or begins to drop them: directly some fail, through us none does.

    use crate::common::world::World;

    #[test]
    fn all_get_in() {
        for limit in ["MaxStartups 1:100:1", "MaxStartups 2:50:3"] {
            if let Some([_direct, shim]) = World::both(limit) {
                super::all_get_in(&shim);
            }
        }
    }
}

/// How many connections follow each other.
fn count() -> u8 {
    if std::env::var_os("SSMSHIM_FULL").is_some() {
        100
    } else {
        25
    }
}

/// Each with a status of its own.
fn one_after_another(world: &World, seen: &mut Seen) {
    let statuses: Vec<_> = (0..count())
        .map(|n| {
            let output = world.ssh(&[], &format!("exit {n}")).output();
            (output.code, output.stdout, output.stderr)
        })
        .collect();
    seen.note("statuses", format!("{statuses:?}"));
}

fn many_at_once(world: &World, seen: &mut Seen) {
    let outputs: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|n| {
                let run = world.ssh(&[], &format!("cat; echo err {n} >&2; exit {n}"));
                scope.spawn(move || run.stdin(vec![n as u8; 50_000]).output())
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client without a complaint"))
            .collect()
    });
    for (n, output) in outputs.iter().enumerate() {
        seen.output(&format!("client {n}"), output);
    }
}

/// Clients that log in and leave, as those do that only look whether somebody is there.
fn without_a_channel(world: &World, seen: &mut Seen) {
    for n in 0..10 {
        let mut client = Raw::connect(world);
        client.record_until_settled(seen, &format!("client {n}"));
    }
}

/// Ten at once, none of which is to notice how many the target takes.
fn all_get_in(world: &World) {
    thread::scope(|scope| {
        for n in 0..10 {
            let run = world.ssh(&[], &format!("sleep 1; exit {n}"));
            scope.spawn(move || {
                let output = run.output();
                assert_eq!(output.code, n, "{}", output.stderr);
            });
        }
    });
}
