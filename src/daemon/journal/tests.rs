//! Journals of the living and of the dead, with an emulator that knows which sessions there are.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::sweep::sweep;
use super::*;
use crate::aws::Aws;
use crate::emulator::{self, Emulator};
use crate::ssm::{Journal as _, Ssm};
use crate::upstream::News;

struct World {
    directory: TempDir,
    emulator: Emulator,
    ssm: Ssm,
    aws: Aws,
    place: Place,
}

/// What the emulator tells of everybody.
const ACCOUNT: &str = "000000000000";

impl World {
    async fn start() -> Self {
        let emulator = Emulator::start(emulator::Options::default()).await.unwrap();
        let loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::from_static("eu-central-1"))
            .credentials_provider(Credentials::new("any", "any", None, None, "test"))
            .endpoint_url(emulator.endpoint());
        let ssm = Ssm::from_loader(loader).await.unwrap();
        let place = Place {
            region: ssm.region().to_owned(),
            endpoint: Some(emulator.endpoint()),
            profile: None,
        };
        Self {
            directory: tempfile::tempdir().unwrap(),
            emulator,
            aws: Aws::new(ssm.clone()).unwrap(),
            ssm,
            place,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sessions")
    }

    fn begin(&self) -> Journal {
        let journal = Journal::begin(&self.path(), self.place.clone()).unwrap();
        journal.identify(ACCOUNT.to_owned());
        journal
    }

    /// One who has no sessions, and looks for those of others.
    fn sweeper(&self, account: Option<&str>) -> Record {
        let mut own = Record::new(self.place.clone(), "nobody's".into());
        own.account = account.map(str::to_owned);
        own
    }

    /// Starts a session for the owner of `journal`, who does not hear of it.
    async fn start_unheard(&self, journal: &Journal) -> String {
        let reason = journal.reason();
        let target = self.emulator.target();
        let document = Some("AWS-StartPortForwardingSession");
        let parameters = [("portNumber".to_owned(), "22".to_owned())];
        let started = self
            .ssm
            .start_session(target, document, &parameters, reason.as_deref());
        started.await.unwrap().session_id
    }

    async fn start_session(&self, journal: &Journal) -> String {
        let session_id = self.start_unheard(journal).await;
        journal.started(&session_id);
        session_id
    }

    async fn is_open(&self, reason: &str) -> bool {
        let found = self.ssm.sessions_started_for(reason).await.unwrap();
        !found.is_empty()
    }

    async fn sweep(&self) {
        let own = self.sweeper(Some(ACCOUNT));
        sweep(&self.path(), &own, &self.ssm).await;
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn stop(self) {
        self.emulator.shutdown().await;
    }
}

/// The end of a process that does nothing any more, not even tidy up.
fn kill(journal: Journal) -> Files {
    let files = journal.files.clone();
    let record = journal.lock().record.clone();
    drop(journal);
    // Tidied up or not, the files are there.
    std::fs::write(&files.lock, "").unwrap();
    files.write(&record).unwrap();
    files
}

fn record(files: &Files) -> Record {
    serde_json::from_slice(&std::fs::read(&files.record).unwrap()).unwrap()
}

#[test]
fn it_says_which_sessions_are_open_and_goes_with_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state/sessions");
    let place = Place {
        region: "eu-central-1".into(),
        endpoint: None,
        profile: None,
    };
    let journal = Journal::begin(&path, place).unwrap();
    let files = journal.files.clone();
    let sessions = || record(&files).sessions.into_iter().collect::<Vec<_>>();
    journal.started("a-1");
    journal.started("a-2");
    assert_eq!(sessions(), ["a-1", "a-2"]);
    journal.abandoned("a-1");
    assert_eq!(sessions(), ["a-1", "a-2"]);
    journal.ended("a-2");
    assert_eq!(sessions(), ["a-1"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&files.record), 0o600);
    assert_eq!(mode(&files.lock), 0o600);
    journal.ended("a-1");
    drop(journal);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
}

/// What is started without an answer is somebody else's to end.
#[test]
fn it_stays_while_a_start_has_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place {
        region: "eu-central-1".into(),
        endpoint: None,
        profile: None,
    };
    let after = |calls: fn(&Journal)| {
        let journal = Journal::begin(directory.path(), place.clone()).unwrap();
        calls(&journal);
        let files = journal.files.clone();
        drop(journal);
        let is_there = files.record.exists();
        files.remove();
        is_there
    };
    assert!(after(|journal| journal.starting()));
    assert!(!after(|journal| {
        journal.starting();
        journal.not_started();
        journal.starting();
        journal.started("a-1");
        journal.ended("a-1");
    }));
}

#[test]
fn without_a_place_to_write_there_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions");
    std::fs::write(&path, "in the way").unwrap();
    let place = Place {
        region: "eu-central-1".into(),
        endpoint: None,
        profile: None,
    };
    Journal::begin(&path, place).unwrap_err();
}

#[tokio::test]
async fn the_dead_are_cleaned_up_after_and_the_living_left_alone() {
    let world = World::start().await;
    let (living, dead) = (world.begin(), world.begin());
    world.start_session(&living).await;
    world.start_session(&dead).await;
    let reasons = [&living, &dead].map(|journal| journal.reason.clone());
    world.sweep().await;
    assert!(world.is_open(&reasons[0]).await && world.is_open(&reasons[1]).await);
    kill(dead);
    world.sweep().await;
    assert!(world.is_open(&reasons[0]).await);
    assert!(!world.is_open(&reasons[1]).await);
    assert_eq!(world.files().len(), 2, "those of the living one");
    world.stop().await;
}

/// Killed between the service's answer and the note of it.
#[tokio::test]
async fn a_session_that_was_never_written_down_is_found_by_its_reason() {
    let world = World::start().await;
    let (living, dead) = (world.begin(), world.begin());
    world.start_unheard(&living).await;
    world.start_unheard(&dead).await;
    let reason = dead.reason.clone();
    kill(dead);
    world.sweep().await;
    assert!(!world.is_open(&reason).await);
    assert!(world.is_open(&living.reason).await);
    world.stop().await;
}

#[tokio::test]
async fn what_is_elsewhere_or_cannot_be_read_is_left_alone() {
    let world = World::start().await;
    let elsewhere = Place {
        profile: Some("other".into()),
        ..world.place.clone()
    };
    let other = Journal::begin(&world.path(), elsewhere).unwrap();
    let reason = other.reason.clone();
    world.start_session(&other).await;
    let other = kill(other);

    let garbage = world.begin();
    world.start_session(&garbage).await;
    let garbage = kill(garbage);
    std::fs::write(&garbage.record, "{\"version\":").unwrap();

    let dead = world.begin();
    let settled = dead.reason.clone();
    world.start_session(&dead).await;
    kill(dead);

    world.sweep().await;
    assert!(world.is_open(&reason).await);
    assert!(!world.is_open(&settled).await);
    let here = |path: &Path| path.exists();
    assert!(here(&other.record) && here(&garbage.record));
    assert_eq!(world.files().len(), 4);
    world.stop().await;
}

/// Killed before STS has told the account, and before there was a session whose id tells a name.
#[tokio::test]
async fn a_first_session_that_was_never_written_down_is_found_by_its_reason() {
    let world = World::start().await;
    let begin = || Journal::begin(&world.path(), world.place.clone()).unwrap();
    let (dead, idle) = (begin(), begin());
    world.start_unheard(&dead).await;
    let reason = dead.reason.clone();
    let (dead, idle) = (kill(dead), kill(idle));
    world.sweep().await;
    assert!(!world.is_open(&reason).await);
    assert!(!dead.record.exists());
    // It may have started one in another account.
    assert!(idle.record.exists());
    world.stop().await;
}

/// The same region, endpoint and profile, and other credentials: what is not there may well be open elsewhere.
#[tokio::test]
async fn the_sessions_of_another_account_are_left_to_it() {
    let world = World::start().await;
    let dead = world.begin();
    let session_id = world.start_session(&dead).await;
    let files = kill(dead);
    let stranger = world.sweeper(Some("111111111111"));
    sweep(&world.path(), &stranger, &world.ssm).await;
    assert!(record(&files).sessions.contains(&session_id));
    // Where STS does not answer, who started ours is who started theirs.
    let mut own = world.sweeper(None);
    let living = world.begin();
    own.sessions.insert(world.start_session(&living).await);
    sweep(&world.path(), &own, &world.ssm).await;
    assert!(!files.record.exists());
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_ended_now_is_kept_for_the_next_time() {
    let world = World::start().await;
    let dead = world.begin();
    let session_id = world.start_session(&dead).await;
    let files = kill(dead);
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::from_static("eu-central-1"))
        .credentials_provider(Credentials::new("DENIED", "any", None, None, "test"))
        .endpoint_url(world.emulator.endpoint());
    let denied = Ssm::from_loader(loader).await.unwrap();
    let own = world.sweeper(Some(ACCOUNT));
    sweep(&world.path(), &own, &denied).await;
    assert!(record(&files).sessions.contains(&session_id));
    world.sweep().await;
    assert_eq!(world.files(), [""; 0]);
    world.stop().await;
}

/// A session that was lost while there was no network is ended as soon as there is a new tunnel.
#[tokio::test]
async fn what_this_process_gave_up_is_ended_later() {
    let world = World::start().await;
    let journal = Arc::new(world.begin());
    let given_up = world.start_session(&journal).await;
    let (news, heard) = broadcast::channel(8);
    let sweeping = tokio::spawn(keep_swept(
        Arc::downgrade(&journal),
        world.aws.clone(),
        heard,
        CancellationToken::new(),
    ));
    let kept = world.start_session(&journal).await;
    journal.abandoned(&given_up);
    news.send(News::Up { gap: None }).unwrap();
    // With the news at an end it returns when the last of them has been dealt with.
    drop(news);
    let patience = std::time::Duration::from_secs(20);
    let swept = tokio::time::timeout(patience, sweeping).await;
    swept.unwrap().unwrap();
    assert!(!journal.lock().record.sessions.contains(&given_up));
    assert!(journal.lock().record.sessions.contains(&kept));
    let open = world.ssm.sessions_started_for(&journal.reason).await;
    assert_eq!(open.unwrap(), [kept]);
    world.stop().await;
}
