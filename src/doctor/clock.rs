//! The clock: signatures carry the time, and AWS takes none that is far off.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http::Request;
use http::header::{DATE, HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::check::{Found, Subject};
use super::examination::{Examination, Step};
use crate::net::{Destination, Stream};

/// What AWS tolerates in a signature.
const TOLERATED: Duration = Duration::from_secs(5 * 60);
/// A clock that is off by so much is not set by anybody, and will be off by more.
const NOTABLE: Duration = Duration::from_secs(60);
/// For an answer to a request that needs none of the service's thoughts.
const ANSWER_LIMIT: Duration = Duration::from_secs(6);

/// Compares the clock with that of the API, over a connection to it.
pub(super) async fn examine(
    examination: &mut Examination<'_>,
    api: Step<(Destination, Option<Stream>)>,
) -> Step<()> {
    examination
        .after(Subject::Clock, api, async |(to, stream)| match stream {
            Some(stream) => match service_time(&to, stream).await {
                Some(theirs) => judge(SystemTime::now(), theirs),
                None => Found::warning((), format!("{to} does not tell the time"), None),
            },
            None => Found::needless((), format_args!("a proxy speaks for {to}")),
        })
        .await
}

/// What the service holds for the time: every answer of HTTP says so, also to a request that is none.
async fn service_time(to: &Destination, stream: Stream) -> Option<SystemTime> {
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request = Request::get("/").header(HOST, to.authority());
        let request = request.body(Empty::<Bytes>::new()).ok()?;
        let mut answer = pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut answer => answer.ok()?,
            // A service that hangs up after its answer has given one all the same.
            _ = connection => answer.await.ok()?,
        };
        let date = answer.headers().get(DATE)?.to_str().ok()?;
        DateTime::from_str(date, Format::HttpDate)
            .ok()?
            .try_into()
            .ok()
    };
    timeout(ANSWER_LIMIT, asked).await.ok().flatten()
}

/// Whether `ours` is near enough to `theirs`, which has whole seconds.
fn judge(ours: SystemTime, theirs: SystemTime) -> Found<()> {
    let (off, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let told = format!(
        "this computer's clock is {} {word} the service's",
        span(off)
    );
    let remedy = Some("set it: sudo timedatectl set-ntp true".to_owned());
    if off >= TOLERATED {
        return Found::failed(
            format!("{told}; AWS takes no signature that is off by 5 min"),
            remedy,
        );
    }
    if off >= NOTABLE {
        return Found::warning((), told, remedy);
    }
    Found::ok(
        (),
        format!("within {} s of the service's", off.as_secs() + 1),
    )
}

/// `12 min`, `1 h 5 min`, or `3 days`.
fn span(off: Duration) -> String {
    let minutes = (off.as_secs() + 30) / 60;
    match minutes {
        0..60 => format!("{minutes} min"),
        60..2880 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} days", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::check::Verdict;
    use super::*;
    use crate::net::Dialler;

    #[tokio::test]
    async fn a_service_that_hangs_up_has_told_the_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Destination::new("127.0.0.1", address.port(), false);
        let stream = Dialler::from_env().reach(&to, &[address]).await.unwrap();
        let serve = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = tcp.read(&mut request).await.unwrap();
            let answer = b"HTTP/1.1 404 x\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\n\
                content-length: 0\r\nconnection: close\r\n\r\n";
            tcp.write_all(answer).await.unwrap();
        };
        let (theirs, ()) = tokio::join!(service_time(&to, stream), serve);
        assert_eq!(
            theirs,
            Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        );
    }

    #[test]
    fn a_clock_is_judged_by_what_aws_takes() {
        let theirs = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for (ours, verdict, words) in [
            (theirs, Verdict::Ok, "within 1 s"),
            (theirs + minutes(2), Verdict::Warning, "2 min ahead of"),
            (theirs - minutes(15), Verdict::Failed, "15 min behind"),
            (theirs + minutes(65), Verdict::Failed, "1 h 5 min ahead of"),
            (UNIX_EPOCH, Verdict::Failed, "19675 days behind"),
        ] {
            let found = judge(ours, theirs);
            assert_eq!(found.verdict, verdict, "{}", found.detail);
            assert!(found.detail.contains(words), "{}", found.detail);
        }
    }
}
