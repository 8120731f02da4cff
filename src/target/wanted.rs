//! A target that may be tried before all about it is known.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::find::Error;
use super::lookup::{Found, look_up, resolve};
use super::machine::Machine;
use super::selector::Selector;
use crate::aws::Aws;

/// How long an answer to why there can be no session is good for: while a machine is away, a session is tried every few
/// seconds, and each question is several calls.
const GOOD_FOR: Duration = Duration::from_secs(30);

/// What a person typed, and the machine that it means.
///
/// A session can be started to an id at once: what the machine is called and which platform it has is wanted only
/// when somebody logs in, and is asked for beside the start, which saves a round trip to the region.
#[derive(Debug)]
pub struct Wanted {
    aws: Aws,
    id: String,
    machine: OnceCell<Machine>,
    answer: Mutex<Option<Answer>>,
}

/// Why there could be no session, and when that was asked.
#[derive(Debug)]
struct Answer {
    at: Instant,
    error: Option<Arc<Error>>,
}

impl Wanted {
    /// Takes an id as it is, and looks for what has another form.
    ///
    /// # Errors
    /// As [`resolve`]; never for an id.
    pub async fn find(aws: &Aws, text: &str) -> Result<Self, Error> {
        match Selector::parse(text) {
            Selector::Id(id) => Ok(Self {
                aws: aws.clone(),
                id: id.as_str().to_owned(),
                machine: OnceCell::new(),
                answer: Mutex::default(),
            }),
            _ => Ok(Self::of(aws, resolve(aws, text).await?)),
        }
    }

    /// A machine that has been found already.
    pub fn of(aws: &Aws, machine: Machine) -> Self {
        Self {
            aws: aws.clone(),
            id: machine.id.clone(),
            machine: OnceCell::new_with(Some(machine)),
            answer: Mutex::default(),
        }
    }

    /// The machine as far as it is known by now.
    pub fn known(&self) -> Machine {
        let known = self.machine.get().cloned();
        known.unwrap_or_else(|| Machine::unknown(&self.id))
    }

    /// The id to start sessions with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The machine, or one of which nothing is known if AWS may not be asked. `None` if AWS does not tell within
    /// seconds, or of nothing that can be reached: then it is asked again the next time.
    pub async fn machine(&self) -> Option<&Machine> {
        let look = async {
            // Whoever asks why meanwhile waits for this.
            let mut answer = self.answer.lock().await;
            let (machine, error) = match look_up(&self.aws, &self.id).await {
                Ok(Found {
                    is_final: false, ..
                }) => (None, None),
                Ok(Found { machine, .. }) => (Some(machine), None),
                Err(error) => (None, Some(Arc::new(error))),
            };
            let at = Instant::now();
            *answer = Some(Answer { at, error });
            machine.ok_or(())
        };
        self.machine.get_or_try_init(|| look).await.ok()
    }

    /// Why no session could be started just now: the machine is unknown, stopped, not managed, or offline since when.
    /// `None` when AWS does not know either, or may not be asked. Asked twice a minute at the most.
    pub async fn why_absent(&self) -> Option<Arc<Error>> {
        let mut answer = self.answer.lock().await;
        let recent = answer.as_ref().filter(|it| it.at.elapsed() < GOOD_FOR);
        if let Some(recent) = recent {
            return recent.error.clone();
        }
        let mut error = resolve(&self.aws, &self.id).await.err();
        // By now others have told for how long, and what is told again and again is to be the same.
        if let (Some(Error::Offline { last_ping, .. }), true) = (&mut error, answer.is_some()) {
            *last_ping = None;
        }
        let error = error.map(Arc::new);
        *answer = Some(Answer {
            at: Instant::now(),
            error: error.clone(),
        });
        error
    }
}
