//! Who is asked and how often, with people and sources made for it.

use std::path::Path;

use aws_config::Region;
use aws_credential_types::provider::SharedCredentialsProvider;
use tokio::sync::{Notify, Semaphore};

use super::super::Code;
use super::super::account::Account;
use super::super::cache::Cache;
use super::super::chain::Link;
use super::super::roles::Roles;
use super::*;
use crate::aws::endpoint::Service;
use crate::aws::signed::Endpoint;
use crate::emulator::{Emulator, Issuing, Options};

/// Longer than anything here takes on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);

/// Types the code of the emulator's devices each time it has a permit, and counts the questions.
#[derive(Debug)]
struct Typist {
    permits: Semaphore,
    questions: Mutex<Vec<Question>>,
}

impl Typist {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(permits),
            questions: Mutex::default(),
        })
    }

    fn asked(&self) -> usize {
        lock(&self.questions).len()
    }

    async fn until_asked(&self) {
        until(|| self.asked() > 0).await;
    }
}

impl AskCode for Typist {
    fn ask<'a>(&'a self, question: &'a Question) -> Code<'a> {
        lock(&self.questions).push(question.clone());
        Box::pin(async {
            let permit = self.permits.acquire().await;
            permit.map(tokio::sync::SemaphorePermit::forget).ok();
            Ok(Zeroizing::new("123456".to_owned()))
        })
    }
}

/// Waits until `is_so`, which other tasks bring about.
async fn until(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, so).await.unwrap();
}

fn source(profile: &str, way: Way, person: Arc<Typist>) -> Source {
    let account = Account {
        profile: Some(profile.into()),
        region: None,
    };
    let config = SdkConfig::builder().build();
    let source = Source::new(account.selected(), config, person);
    let plan = Plan {
        files: stamp(),
        refused: None,
        way,
    };
    *source.0.loading.try_lock().unwrap() = Some(plan);
    source
}

/// Roles of which each wants a code of the same device.
fn roles(count: usize, endpoint: &str, home: &Path) -> Way {
    let config = SdkConfig::builder()
        .region(Region::new("eu-central-1"))
        .endpoint_url(endpoint)
        .build();
    let link = |at| Link {
        profile: "admin".into(),
        role_arn: format!("arn:aws:iam::123456789012:role/mfa-{at}"),
        external_id: None,
        session_name: None,
        mfa_serial: Some("arn:aws:iam::123456789012:mfa/ann".into()),
        duration_seconds: None,
    };
    let base = Credentials::new("AKIDUSER", "secret", None, None, "test");
    Way::Roles(Box::new(Roles::new(
        SharedCredentialsProvider::new(base),
        (0..count).map(link).collect(),
        Some(Cache::below(home)),
        Endpoint::new(&config, "eu-central-1", Service::Sts).unwrap(),
    )))
}

async fn emulator(lifetime: Option<Duration>) -> Emulator {
    let issuing = Issuing {
        lifetime,
        ..Issuing::default()
    };
    let options = Options {
        issuing,
        ..Options::default()
    };
    Emulator::start(options).await.unwrap()
}

#[tokio::test]
async fn two_regions_of_a_profile_ask_once() {
    let emulator = emulator(None).await;
    let home = tempfile::tempdir().unwrap();
    let person = Typist::new(0);
    let both = [(), ()].map(|()| {
        let way = roles(1, &emulator.endpoint(), home.path());
        source("two-regions", way, Arc::clone(&person))
    });
    let [first, second] = both.clone().map(|source| {
        let prepare = async move { source.prepare().await };
        tokio::spawn(prepare)
    });
    person.until_asked().await;
    until(|| both.iter().all(Prepare::is_asking)).await;
    person.permits.add_permits(1);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(person.asked(), 1);
    assert!(!both.iter().any(Prepare::is_asking));
}

#[tokio::test]
async fn a_second_role_wants_the_next_code() {
    let emulator = emulator(None).await;
    let home = tempfile::tempdir().unwrap();
    let person = Typist::new(2);
    let way = roles(2, &emulator.endpoint(), home.path());
    let source = source("second-role", way, Arc::clone(&person));
    source.prepare().await.unwrap();
    let reasons: Vec<_> = lock(&person.questions)
        .iter()
        .map(|question| question.reason.clone())
        .collect();
    assert_eq!(
        reasons,
        [
            "a code is needed to assume arn:aws:iam::123456789012:role/mfa-0",
            "the next code is needed to assume arn:aws:iam::123456789012:role/mfa-1; each is accepted once",
        ]
    );
}

#[tokio::test]
async fn what_another_has_assumed_expires_like_ones_own() {
    let emulator = emulator(None).await;
    let home = tempfile::tempdir().unwrap();
    let person = Typist::new(2);
    let [first, second] = [(), ()].map(|()| {
        let way = roles(1, &emulator.endpoint(), home.path());
        source("another", way, Arc::clone(&person))
    });
    first.prepare().await.unwrap();
    second.prepare().await.unwrap();
    assert_eq!(person.asked(), 1);
    second.expire();
    second.prepare().await.unwrap();
    let reason = lock(&person.questions)[1].reason.clone();
    assert!(reason.contains("have expired"), "{reason}");
}

/// As with a clock that is wrong: right codes do not help, so no more are asked for.
#[tokio::test]
async fn codes_that_bring_nothing_are_asked_for_once() {
    let emulator = emulator(Some(Duration::from_secs(1))).await;
    let home = tempfile::tempdir().unwrap();
    let person = Typist::new(9);
    let way = roles(1, &emulator.endpoint(), home.path());
    let source = source("wrong-clock", way, Arc::clone(&person));
    for _ in 0..2 {
        let error = source.prepare().await.unwrap_err();
        assert!(error.to_string().contains("as soon as"), "{error}");
        assert_eq!(error.hint(), Some("check the clock of this computer"));
    }
    assert_eq!(person.asked(), 1);
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_is_put_to_the_next() {
    let emulator = emulator(None).await;
    let home = tempfile::tempdir().unwrap();
    let person = Typist::new(0);
    let way = roles(1, &emulator.endpoint(), home.path());
    let source = source("gone", way, Arc::clone(&person));
    let asks = source.clone();
    let gone = tokio::spawn(async move { asks.prepare().await });
    person.until_asked().await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert!(!source.is_asking());
    person.permits.add_permits(1);
    source.prepare().await.unwrap();
    assert_eq!(person.asked(), 2);
}

/// Has credentials once it may go on, and counts how often it was asked.
#[derive(Debug, Default)]
struct Slow {
    runs: AtomicUsize,
    may_go_on: Notify,
}

impl ProvideCredentials for Slow {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.runs.fetch_add(1, Ordering::Relaxed);
        future::ProvideCredentials::new(async {
            self.may_go_on.notified().await;
            Ok(Credentials::new("AKID", "secret", None, None, "test"))
        })
    }
}

/// A process goes on, and a code is used, when whoever caused it has given up.
#[tokio::test]
async fn what_has_begun_is_for_the_next_who_asks() {
    let slow = Arc::new(Slow::default());
    let way = Way::Sdk(SharedCredentialsProvider::from(
        Arc::clone(&slow) as Arc<dyn ProvideCredentials>
    ));
    let source = source("slow", way, Typist::new(0));
    let asks = source.clone();
    let gone = tokio::spawn(async move { asks.prepare().await });
    until(|| slow.runs.load(Ordering::Relaxed) > 0).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    slow.may_go_on.notify_one();
    let credentials = source.provide_credentials().await.unwrap();
    assert_eq!(credentials.access_key_id(), "AKID");
    assert_eq!(slow.runs.load(Ordering::Relaxed), 1);
}
