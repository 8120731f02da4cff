use std::sync::Mutex as Plain;

use tokio::sync::{Notify, Semaphore};

use super::*;

/// Answers with what is left of a list, once there is a permit.
struct Script {
    answers: Plain<Vec<&'static str>>,
    asked: Plain<Vec<String>>,
    permits: Semaphore,
    begun: Notify,
}

impl Script {
    fn new(answers: &[&'static str], permits: usize) -> Arc<Self> {
        Arc::new(Self {
            answers: Plain::new(answers.iter().rev().copied().collect()),
            asked: Plain::default(),
            permits: Semaphore::new(permits),
            begun: Notify::new(),
        })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Answer for Script {
    fn answer<'a>(&'a self, inquiry: &'a Inquiry<'a>) -> Answers<'a> {
        Box::pin(async {
            let text = |prompt: &Prompt| prompt.text.clone();
            let prompts: Vec<_> = inquiry.questions.prompts.iter().map(text).collect();
            self.asked.lock().unwrap().push(prompts.join("|"));
            self.begun.notify_one();
            self.permits.acquire().await.unwrap().forget();
            let mut left = self.answers.lock().unwrap();
            let answers = prompts.iter().map(|_| {
                let answer = left.pop().ok_or(Unanswered::GaveUp)?;
                Ok(Zeroizing::new(answer.to_owned()))
            });
            answers.collect()
        })
    }
}

fn questions(prompts: &[(&str, bool)]) -> Questions {
    let prompts = prompts.iter().map(|(text, echo)| Prompt {
        text: (*text).to_owned(),
        echo: *echo,
    });
    Questions {
        prompts: prompts.collect(),
        ..Questions::default()
    }
}

#[test]
fn passwords_are_told_from_codes() {
    let cases = [
        ("Password: ", false, true),
        ("password:", false, true),
        ("(alice@host) Password: ", false, true),
        ("alice's password: ", false, true),
        ("Password for alice@host:", false, true),
        ("UNIX password: ", false, true),
        ("Password: ", true, false),
        ("One-time password (OATH) for `alice': ", false, false),
        ("Verification code: ", false, false),
        ("(alice@host) Verification code: ", false, false),
        ("New password: ", false, false),
        ("Current password: ", false, false),
        ("Password + token: ", false, false),
        ("Passcode: ", false, false),
        ("'s password", false, false),
        ("one time's password", false, false),
        ("", false, false),
        ("(", false, false),
    ];
    for (text, echo, expected) in cases {
        assert_eq!(is_password(&questions(&[(text, echo)])), expected, "{text}");
    }
    assert!(!is_password(&questions(&[
        ("Password: ", false),
        ("Code: ", false)
    ])));
}

#[tokio::test]
async fn a_password_is_asked_for_once_until_it_is_refused() {
    let script = Script::new(&["wrong", "right"], 9);
    let person = Person::new(Arc::clone(&script) as Arc<dyn Answer>);
    let here = Attendance::default();
    let unattended = person.password("alice", None).await;
    assert_eq!(unattended.err(), Some(Unanswered::Unattended));

    let first = person.password("alice", Some(&here)).await.unwrap();
    assert_eq!(first.text.as_str(), "wrong");
    // The same one, asked for in another way, and without anybody there.
    let asked = questions(&[("Password: ", false)]);
    let (answers, again) = person.answers("alice", &asked, None).await.unwrap();
    assert_eq!(answers[0].as_str(), "wrong");
    person.forget("alice", &first).await;
    let second = person.password("alice", Some(&here)).await.unwrap();
    assert_eq!(second.text.as_str(), "right");
    // Whoever used the old one as well does not take the new one away.
    person.forget("alice", &again.unwrap()).await;
    assert_eq!(
        person.password("alice", None).await.unwrap().text.as_str(),
        "right"
    );
    assert_eq!(script.asked(), ["password: ", "password: "]);
    // Another user has another one.
    let nobody = person.password("bob", Some(&here)).await;
    assert_eq!(nobody.err(), Some(Unanswered::GaveUp));
}

#[tokio::test]
async fn several_logins_wait_for_one_answer() {
    let script = Script::new(&["secret"], 0);
    let person = Person::new(Arc::clone(&script) as Arc<dyn Answer>);
    let (one, two) = (Attendance::default(), Attendance::default());
    let logins = async {
        tokio::join!(
            person.password("alice", Some(&one)),
            person.password("alice", Some(&two)),
        )
    };
    let typist = async {
        script.begun.notified().await;
        assert!(one.is_asking() && two.is_asking());
        assert!(person.password("alice", None).await.is_err());
        script.permits.add_permits(1);
    };
    let ((first, second), ()) = tokio::join!(logins, typist);
    assert_eq!(first.unwrap().text.as_str(), "secret");
    assert_eq!(second.unwrap().text.as_str(), "secret");
    assert_eq!(script.asked().len(), 1);
    assert!(!one.is_asking() && !two.is_asking());
}

#[tokio::test]
async fn who_stops_waiting_makes_way_for_the_next() {
    let script = Script::new(&["secret"], 0);
    let person = Person::new(Arc::clone(&script) as Arc<dyn Answer>);
    let gone = Attendance::default();
    tokio::select! {
        _ = person.password("alice", Some(&gone)) => panic!("there is no answer yet"),
        () = script.begun.notified() => {}
    }
    assert!(gone.is_asking(), "it was open when nobody waited any more");
    script.permits.add_permits(1);
    let here = Attendance::default();
    assert!(person.password("alice", Some(&here)).await.is_ok());
    assert_eq!(script.asked().len(), 2);
}

#[tokio::test]
async fn codes_are_asked_for_each_time() {
    let script = Script::new(&["1", "2"], 9);
    let person = Person::new(Arc::clone(&script) as Arc<dyn Answer>);
    let here = Attendance::default();
    let code = questions(&[("Verification code: ", false)]);
    for expected in ["1", "2"] {
        let (answers, kept) = person.answers("alice", &code, Some(&here)).await.unwrap();
        assert_eq!(answers[0].as_str(), expected);
        assert!(kept.is_none());
    }
    let unattended = person.answers("alice", &code, None).await;
    assert_eq!(unattended.err(), Some(Unanswered::Unattended));
    // No question needs nobody.
    assert!(person.answers("alice", &questions(&[]), None).await.is_ok());
}
