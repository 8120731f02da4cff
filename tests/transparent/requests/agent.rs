//! Agent forwarding: `auth-agent-req@openssh.com` and the channels that come of it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::process::{Run, Running};
use crate::common::sshd::make_key;
use crate::common::world::World;
use crate::common::{have, until};
use crate::raw::{Heard, Raw};
use crate::seen::Seen;

crate::differential! {
    compared: {}
    everywhere: {
        keys_at_the_far_end,
        keys_two_hops_away,
        signatures_at_the_far_end,
        an_agent_that_refuses,
        asked_for_more_than_once,
        many_connections_to_the_agent,
        the_clients_word_is_the_agents,
        no_agent_unless_asked_for,
    }
}

/// Starts an agent with one key, and returns it with the path of its socket.
fn agent(world: &World, seen: &mut Seen) -> Option<(Running, String)> {
    if !have("ssh-agent") || !have("ssh-add") {
        return None;
    }
    let socket = world.path("agent");
    let mut command = Command::new("ssh-agent");
    command
        .args(["-D", "-a"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let running = Running::start(command);
    until("the agent's socket", || socket.exists().then_some(()));
    let key = world.path("agent_key");
    make_key(&key);
    add(&socket, &key);
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("our own key");
    let print = Run::new("ssh-keygen")
        .args(["-l", "-f"])
        .arg(&key)
        .ok()
        .text();
    let digest = print.split(' ').nth(1).expect("a digest").to_owned();
    seen.hide(public.trim(), "<public key>");
    seen.hide(digest, "<digest>");
    Some((running, socket.display().to_string()))
}

fn add(socket: &Path, key: &Path) {
    Run::new("ssh-add")
        .arg("-q")
        .arg(key)
        .env("SSH_AUTH_SOCK", socket)
        .ok();
}

fn keys_at_the_far_end(world: &World, seen: &mut Seen) {
    let Some((_agent, socket)) = agent(world, seen) else {
        return;
    };
    let agent = format!("IdentityAgent={socket}");
    let options = ["-A", "-o", &agent];
    let output = seen.run("-l", world.ssh(&options, "ssh-add -l; ssh-add -L"));
    assert!(output.text().contains("SHA256"), "{output:?}");
    seen.run(
        "socket",
        world.ssh(&options, "test -S $SSH_AUTH_SOCK && echo socket"),
    );
    // What is done to the forwarded agent is done to ours.
    seen.run("-D", world.ssh(&options, "ssh-add -D; ssh-add -l"));
    seen.run(
        "ours",
        Run::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket),
    );
}

fn keys_two_hops_away(world: &World, seen: &mut Seen) {
    let Some((_agent, socket)) = agent(world, seen) else {
        return;
    };
    let agent = format!("IdentityAgent={socket}");
    let second = format!(
        "ssh -A -o IdentityAgent=$SSH_AUTH_SOCK {} {} ssh-add -l",
        world.target.options("-p").join(" "),
        world.target.host()
    );
    let output = seen.run("two hops", world.ssh(&["-A", "-o", &agent], &second));
    assert!(output.text().contains("SHA256"), "{output:?}");
}

fn signatures_at_the_far_end(world: &World, seen: &mut Seen) {
    let Some((_agent, socket)) = agent(world, seen) else {
        return;
    };
    let agent = format!("IdentityAgent={socket}");
    let command = format!("ssh-add -T {}", world.text("agent_key.pub"));
    let output = seen.run("-T", world.ssh(&["-A", "-o", &agent], &command));
    assert_eq!(output.code, 0, "{output:?}");
}

fn no_agent_unless_asked_for(world: &World, seen: &mut Seen) {
    seen.run("-a", world.ssh(&["-a"], "echo ${SSH_AUTH_SOCK-unset}"));
}

/// `SSH_AGENTC_REQUEST_IDENTITIES`, and `SSH_AGENT_FAILURE` for an answer.
const IDENTITIES: &[u8] = b"\0\0\0\x01\x0b";
const FAILURE: &[u8] = b"\0\0\0\x01\x05";

/// Hears up to the opening of a channel, and returns the server's number of it.
fn offered(client: &mut Raw, seen: &mut Seen, label: &str) -> u32 {
    match client.record(seen, label, |heard| matches!(heard, Heard::Open { .. })) {
        Heard::Open { sender, .. } => sender,
        other => panic!("no channel is offered: {other:?}"),
    }
}

/// Accepts the channel that the server numbers `recipient`, with our number `number`.
fn accept(client: &mut Raw, recipient: u32, number: u32) {
    use ssmshim::ssh::wire::{WriteExt as _, msg};
    client.send(msg::CHANNEL_OPEN_CONFIRMATION, |message| {
        message
            .put_uint32(recipient)
            .put_uint32(number)
            .put_uint32(crate::raw::WINDOW)
            .put_uint32(crate::raw::PACKET);
    });
}

fn the_clients_word_is_the_agents(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.request(channel, "auth-agent-req@openssh.com", true, |_| {});
    client.exec(channel, "ssh-add -l; exit 6");
    let agent = offered(&mut client, seen, "asked");
    accept(&mut client, agent, 8);
    let mut asked = Vec::new();
    while asked.len() < IDENTITIES.len() {
        match client.next() {
            Heard::Data { bytes, .. } => asked.extend(bytes),
            other => panic!("no question: {other:?}"),
        }
    }
    seen.bytes("question", &asked);
    client.data(agent, FAILURE);
    client.record_channels(seen, "end", 1);
    client.record_until_settled(seen, "after");
}

fn an_agent_that_refuses(world: &World, seen: &mut Seen) {
    use ssmshim::ssh::wire::{WriteExt as _, msg};
    let mut client = Raw::connect(world);
    let channel = client.session(7);
    client.request(channel, "auth-agent-req@openssh.com", true, |_| {});
    // Whether it can still say what is wrong, or dies as it writes to the closed socket, is chance.
    client.exec(channel, "ssh-add -l 2>&-; exit 6");
    let agent = offered(&mut client, seen, "asked");
    client.send(msg::CHANNEL_OPEN_FAILURE, |message| {
        message
            .put_uint32(agent)
            .put_uint32(1)
            .put_string("no agent here")
            .put_string("en");
    });
    client.record_channels(seen, "end", 1);
}

fn asked_for_more_than_once(world: &World, seen: &mut Seen) {
    let mut client = Raw::connect(world);
    for number in 7..10 {
        let channel = client.session(number);
        for _ in 0..2 {
            client.request(channel, "auth-agent-req@openssh.com", true, |_| {});
            client.record_until_settled(seen, &number.to_string());
        }
        client.request(channel, "auth-agent-req@openssh.com", false, |_| {});
        client.exec(channel, "test -S \"$SSH_AUTH_SOCK\" && echo socket; exit 6");
        client.record_until_close(seen, "end", number);
        client.close(channel);
    }
}

fn many_connections_to_the_agent(world: &World, seen: &mut Seen) {
    let Some((_agent, socket)) = agent(world, seen) else {
        return;
    };
    let agent = format!("IdentityAgent={socket}");
    let command = "for n in 1 2 3 4 5 6 7 8; do ssh-add -l & done; wait; exit 6";
    let output = seen.run("eight", world.ssh(&["-A", "-o", &agent], command));
    assert_eq!(output.text().lines().count(), 8);
}
