//! One AWS for each profile and region that targets are in, with its journal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::super::journal::{self, Journal, Place};
use crate::aws::{self, Aws};
use crate::config::{self, Serve};
use crate::ssm::Ssm;
use crate::upstream::News;

/// News kept for a sweep that takes its time; those that are missed count as one.
const NEWS: usize = 16;

/// AWS as one profile in one region sees it.
pub(super) struct Account {
    pub(super) aws: Aws,
    /// For sessions.
    pub(super) ssm: Ssm,
    pub(super) journal: Option<Arc<Journal>>,
    /// What happens to targets of this account, for the sweep.
    pub(super) news: broadcast::Sender<News>,
}

/// Those in use. No more than the configuration has: a login name cannot say which.
#[derive(Default)]
pub(super) struct Accounts {
    open: Mutex<BTreeMap<Key, Arc<OnceCell<Arc<Account>>>>>,
}

/// Profile and region, as the configuration has them.
type Key = (Option<String>, Option<String>);

impl Accounts {
    /// The account that `config` names. What others have left behind there is ended in `tasks`, until `stop`.
    ///
    /// # Errors
    /// As [`aws`](super::super::aws()).
    pub(super) async fn open(
        &self,
        config: &Serve,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Arc<Account>, aws::Error> {
        let key = (config.profile.clone(), config.region.clone());
        let account = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(key).or_default())
        };
        // Who wants the same one waits, and nobody else does.
        let opened = account.get_or_try_init(|| Self::begin(config, tasks, stop));
        opened.await.cloned()
    }

    async fn begin(
        config: &Serve,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Arc<Account>, aws::Error> {
        let aws = super::super::aws(config.profile.as_deref(), config.region.as_deref()).await?;
        let ssm = aws.ssm().clone();
        let ssm = match &config.ssmmessages_endpoint {
            Some(endpoint) => ssm.with_message_endpoint(endpoint.clone()),
            None => ssm,
        };
        let account = Arc::new(Account {
            journal: journal(place(config, &ssm)),
            aws,
            ssm,
            news: broadcast::Sender::new(NEWS),
        });
        if let Some(journal) = &account.journal {
            let (journal, aws) = (Arc::downgrade(journal), account.aws.clone());
            let news = account.news.subscribe();
            tasks.spawn(journal::keep_swept(journal, aws, news, stop.clone()));
        }
        Ok(account)
    }
}

/// Where the sessions of `ssm` are.
pub(in crate::daemon) fn place(config: &Serve, ssm: &Ssm) -> Place {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Place {
        region: ssm.region().to_owned(),
        endpoint: variable("AWS_ENDPOINT_URL_SSM").or_else(|| variable("AWS_ENDPOINT_URL")),
        profile: config.profile.clone().or_else(|| variable("AWS_PROFILE")),
    }
}

/// A journal of the sessions at `place`, if one can be kept.
pub(in crate::daemon) fn journal(place: Place) -> Option<Arc<Journal>> {
    let directory = config::state_directory().ok()?.join("sessions");
    match Journal::begin(&directory, place) {
        Ok(journal) => Some(Arc::new(journal)),
        Err(error) => {
            warn!(
                %error,
                path = %directory.display(),
                "cannot write down which SSM sessions are open; if ssmshim is killed, they end by themselves when \
                 they have idled for long enough"
            );
            None
        }
    }
}
