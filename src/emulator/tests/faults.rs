//! Faults, as a foreign client meets them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::foreign_client::{Client, End, OUTPUT, Ticket, resume, start};
use super::{
    DEADLINE, Emulator, Pacing, authorization, call, call_with, echo, emulator, exchange, server,
};
use crate::emulator::Peer;
use crate::emulator::fault::plan::{Amount, Ending};
use crate::emulator::fault::{Counters, Fault};

const SSH: &str = "AWS-StartSSHSession";

/// Injects a fault given as JSON.
fn inject(emulator: &Emulator, fault: Value) {
    let fault: Fault = serde_json::from_value(fault).unwrap();
    emulator.faults().inject(fault).unwrap();
}

async fn until(emulator: &Emulator, reached: impl Fn(&Counters) -> bool) -> Counters {
    let faults = emulator.faults();
    let wait = tokio::time::timeout(DEADLINE, faults.wait_until(reached)).await;
    wait.unwrap_or_else(|_| panic!("{:?}", emulator.faults().counters()))
}

/// A session with an echo behind it, ready to be used.
async fn echoing(emulator: &Emulator) -> (Client, Ticket) {
    let ticket = start(emulator, SSH, server(echo).await).await;
    let mut client = Client::open(&ticket).await;
    client.shake_hands("1.2.764.0").await;
    client.send(OUTPUT, b"before").await;
    assert_eq!(client.receive_output(6).await, b"before");
    (client, ticket)
}

#[tokio::test]
async fn a_client_is_cut_as_asked() {
    let emulator = emulator(Pacing::Off).await;
    let (mut client, ticket) = echoing(&emulator).await;
    for (how, end) in [
        (Ending::Reset, End::Reset),
        (Ending::Fin, End::Fin),
        (Ending::Bye, End::Close(1000, "Bye".into())),
    ] {
        assert_eq!(emulator.faults().cut(Peer::Client, how), 1);
        assert_eq!(client.end().await, end, "{how:?}");
        client
            .reopen(&resume(&emulator, &ticket.session_id).await)
            .await;
        client.send(OUTPUT, b"after").await;
        assert_eq!(client.receive_output(5).await, b"after");
    }
    let counters = emulator.faults().counters();
    assert_eq!((counters.client_cuts, counters.resumes), (3, 3));
    assert_eq!((counters.sessions, counters.resume_calls), (1, 3));
    emulator.shutdown().await;
}
