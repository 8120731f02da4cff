//! A byte stream to the target's port as it is: for those who bring their own SSH client.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;
use tracing::debug;

use super::refusals::Refusals;
use super::{Error, Upstream};
use crate::report::one_line;
use crate::tunnel::{self, Stream, Tunnel};

/// Between attempts to open a stream: that the tunnel is gone may not be known yet, or a session for the stream not to be
/// had.
const OPEN_PAUSE: Duration = Duration::from_millis(250);

/// One connection to the target's port, and the tunnel that it is in.
///
/// It survives each loss of the link without losing a byte, and ends with the SSM session.
pub struct RawStream {
    /// The bytes of the connection.
    pub stream: Stream,
    /// What there is to say of its end.
    pub origin: Origin,
}

/// Where a [`RawStream`] comes from.
pub struct Origin {
    tunnel: Arc<Tunnel>,
    refusals: Refusals,
}

impl RawStream {
    /// Opens a stream. The agent connects to the port afterwards; when it cannot, the stream ends at once.
    ///
    /// # Errors
    /// As [`Tunnel::open`].
    pub async fn open(tunnel: Arc<Tunnel>) -> Result<Self, tunnel::Error> {
        let refusals = Refusals::of(&tunnel);
        Ok(Self {
            stream: tunnel.open().await?,
            origin: Origin { tunnel, refusals },
        })
    }
}

impl Origin {
    /// The machine at the other end.
    pub fn target(&self) -> &str {
        self.tunnel.target()
    }

    /// Whether a stream that ended without a byte did so because nothing listens on the port.
    ///
    /// # Errors
    /// [`Error::NoSshd`], if that is so.
    pub async fn check_port(&mut self) -> Result<(), Error> {
        self.refusals.check(&self.tunnel).await
    }

    /// Waits until the tunnel is gone, and says why.
    pub async fn over(&self) -> String {
        self.tunnel.over().await
    }
}

impl Upstream {
    /// Opens a byte stream to the target's port, once the tunnel is up and has a link, trying again as long as that may
    /// help. It counts among nothing else: no transport is taken for it, and nobody logs in.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub async fn open_stream(&self) -> Result<RawStream, Error> {
        self.held(async |last_failure, _| {
            loop {
                let tunnel = self.shared.link.tunnel(last_failure).await?;
                match RawStream::open(tunnel).await {
                    Ok(stream) => {
                        self.shared.has_served.store(true, Ordering::Relaxed);
                        return Ok(stream);
                    }
                    Err(error) if error.is_final() => return Err(error.into()),
                    Err(error) => {
                        debug!(reason = one_line(&error), "trying to open a stream again");
                        *last_failure = Some(error.into());
                    }
                }
                sleep(OPEN_PAUSE).await;
            }
        })
        .await
    }
}
