//! A transport that is sought while the client still logs in.

use std::future::pending;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::SemaphorePermit;

use crate::upstream::{self, Transport, Upstream};

/// What comes of seeking a transport.
pub(super) type Leased = Result<Transport, upstream::Error>;

/// A transport of the usual target, on its way or there.
pub(super) struct Early<'a> {
    upstream: &'a Upstream,
    stage: Stage<'a>,
    /// Given back as soon as it is not sought early any more.
    _permit: SemaphorePermit<'a>,
}

enum Stage<'a> {
    Seeking(BoxFuture<'a, Leased>),
    Over(Box<Leased>),
}

impl<'a> Early<'a> {
    /// Begins to seek, as far as [`Early::progress`] is awaited.
    pub(super) fn seek(upstream: &'a Upstream, permit: SemaphorePermit<'a>) -> Self {
        Self {
            upstream,
            stage: Stage::Seeking(upstream.lease().boxed()),
            _permit: permit,
        }
    }

    /// Goes on seeking. Never ends, so that something else has to.
    pub(super) async fn progress(early: &mut Option<Self>) {
        if let Some(early) = early
            && let Stage::Seeking(lease) = &mut early.stage
        {
            let leased = lease.await;
            early.stage = Stage::Over(Box::new(leased));
        }
        pending().await
    }

    /// What comes of it, if it is a transport of `upstream`, and otherwise of seeking one there.
    pub(super) fn lease_of(early: Option<Self>, upstream: &'a Upstream) -> BoxFuture<'a, Leased> {
        match early {
            Some(early) if early.upstream.is_same(upstream) => match early.stage {
                Stage::Seeking(lease) => lease,
                Stage::Over(leased) => std::future::ready(*leased).boxed(),
            },
            elsewhere => {
                Self::abandon(elsewhere);
                upstream.lease().boxed()
            }
        }
    }

    /// Seeks no longer; what was found is for others.
    pub(super) fn abandon(early: Option<Self>) {
        if let Some(Self {
            upstream,
            stage: Stage::Over(leased),
            _permit: _,
        }) = early
            && let Ok(unused) = *leased
        {
            upstream.give_back(unused);
        }
    }
}
