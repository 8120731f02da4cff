//! The library without SSH: a local port that leads to a port of a managed machine.
//!
//! ```text
//! cargo run --example port_forward -- i-0123456789abcdef0 5432 [LOCAL_PORT]
//! ```
//!
//! Endpoint, region and credentials come from the usual AWS environment; for a trial without an account
//! start `ssmshim emulator` and export what it prints. Every local connection becomes a smux stream of one
//! SSM session. Mind what SSH would add: Session Manager has no half-close, so the end of either direction
//! ends both.

use anyhow::Context;
use ssmshim::smux::{self, SmuxSession};
use ssmshim::ssm::{Options, Ssm, SsmSession, StartRequest};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let target = args
        .next()
        .context("usage: port_forward TARGET PORT [LOCAL_PORT]")?;
    let port = args.next().context("which port of the target?")?.parse()?;
    let local_port = args.next().map_or(Ok(0), |text| text.parse())?;

    let ssm = Ssm::from_env().await?;
    let request = StartRequest::port_forwarding(target, port);
    let (session, stream) = SsmSession::start(ssm, request, Options::default()).await?;
    let forwarded = forward(stream, local_port).await;
    // On every way out, or the session would stay behind in the service until it times out.
    session.terminate().await;
    forwarded
}

/// Forwards connections until Ctrl-C or the end of the SSM session.
async fn forward(stream: ssmshim::ssm::DataStream, local_port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", local_port)).await?;
    announce(listener.local_addr()?);
    let (smux, driver) = SmuxSession::client(stream, smux::Config::default());
    let mut driver = std::pin::pin!(driver);
    loop {
        tokio::select! {
            ended = &mut driver => return Ok(ended?),
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            accepted = listener.accept() => {
                let (mut local, _) = accepted?;
                let smux = smux.clone();
                tokio::spawn(async move {
                    let mut remote = smux.open().await?;
                    tokio::io::copy_bidirectional(&mut local, &mut remote).await?;
                    anyhow::Ok(())
                });
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "an example may speak")]
fn announce(address: std::net::SocketAddr) {
    println!("forwarding {address}; Ctrl-C ends");
}
