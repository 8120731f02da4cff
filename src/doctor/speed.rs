//! How fast it is: round trip and throughput through an SSH channel.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::check::{Found, Subject};
use super::command::{Command, Outcome, Trouble, ping};
use super::examination::{Examination, Step};
use crate::report::one_line;
use crate::ssh::Connection;

/// Round trips, of which the middle one counts.
const ROUND_TRIPS: usize = 5;
/// The first sample: enough to see how large the next one may be.
const FIRST_BYTES: u64 = 128 << 10;
/// The largest sample.
const MOST_BYTES: u64 = 4 << 20;
/// Samples at most: those that were too short begin too slowly to tell much.
const SAMPLES: usize = 3;
/// How long the last sample should take.
const AIM: Duration = Duration::from_millis(1500);
/// For a sample, whatever the link.
const LIMIT: Duration = Duration::from_secs(10);

/// What the agent sends at most (1 KiB, then 1 ms of pause and the time to send it), in bytes a second: where a
/// download is about that fast, nothing else is in its way.
const PACED: std::ops::Range<f64> = 400_000.0..1_100_000.0;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Down,
    Up,
}

/// Measures all three. Nothing depends on it.
pub(super) async fn examine<IO: AsyncRead + AsyncWrite + Unpin>(
    examination: &mut Examination<'_>,
    connection: Step<Connection<IO>>,
) {
    let mut connection = match connection {
        Ok(connection) => connection,
        Err(because) => return examination.skip_through(Subject::Upload, because),
    };
    let alive: Step<Duration> = examination
        .check(Subject::RoundTrip, round_trip(&mut connection))
        .await;
    // Each channel has a number of its own.
    let mut numbers = 0..;
    for (subject, way) in [(Subject::Download, Way::Down), (Subject::Upload, Way::Up)] {
        let _: Step<()> = examination
            .after(subject, alive, async |round_trip| {
                throughput(&mut connection, way, round_trip, &mut numbers).await
            })
            .await;
    }
    connection.close().await;
}

async fn round_trip<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
) -> Found<Duration> {
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let measured = timeout(LIMIT, async {
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            ping(connection).await?;
            times.push(began.elapsed());
        }
        Ok::<_, Trouble>(())
    });
    match measured.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Found::failed(one_line(&error), None),
        Err(_) if times.is_empty() => {
            return Found::failed(format!("no answer within {} s", LIMIT.as_secs()), None);
        }
        Err(_) => {}
    }
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    let text = format!("{} to sshd and back", milliseconds(middle));
    Found::ok(middle, text)
}

async fn throughput<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
    way: Way,
    round_trip: Duration,
    numbers: &mut impl Iterator<Item = u32>,
) -> Found<()> {
    let mut sample = async |bytes| {
        let number = numbers.next().unwrap_or_default();
        match timeout(LIMIT, measure(connection, way, number, bytes)).await {
            Ok(Ok(took)) => Ok(took.saturating_sub(round_trip_share(way, round_trip))),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("no end within {} s", LIMIT.as_secs())),
        }
    };
    let (mut bytes, mut took) = match sample(FIRST_BYTES).await {
        Ok(took) => (FIRST_BYTES, took),
        Err(reason) => return Found::needless((), reason),
    };
    for _ in 1..SAMPLES {
        let Some(more) = next_size(bytes, took) else {
            break;
        };
        match sample(more).await {
            Ok(longer) => (bytes, took) = (more, longer),
            // What was measured before still holds.
            Err(_) => break,
        }
    }
    Found::ok((), told(way, bytes, took))
}

/// What of a sample is the way there and back rather than the bytes.
fn round_trip_share(way: Way, round_trip: Duration) -> Duration {
    match way {
        // From the first byte to the last.
        Way::Down => Duration::ZERO,
        Way::Up => round_trip,
    }
}

/// How large the next sample is, for it to take as long as it should; none where this one took about so long, or
/// cannot be larger.
fn next_size(bytes: u64, took: Duration) -> Option<u64> {
    if took >= AIM / 2 {
        return None;
    }
    let times = AIM.as_secs_f64() / took.as_secs_f64().max(0.001);
    // A factor of at most 1500: no float is out of range.
    let size = (bytes as f64 * times) as u64;
    Some(size.min(MOST_BYTES)).filter(|size| *size > bytes)
}

/// Sends or fetches `bytes` and says how long it took.
///
/// # Errors
/// Why that is not known, for a person.
async fn measure<IO: AsyncRead + AsyncWrite + Unpin>(
    connection: &mut Connection<IO>,
    way: Way,
    number: u32,
    bytes: u64,
) -> Result<Duration, String> {
    let text = match way {
        Way::Down => format!("head -c {bytes} /dev/urandom"),
        // The first line comes when the login shell has started.
        Way::Up => "echo && cat >/dev/null".to_owned(),
    };
    let trouble = |error: Trouble| one_line(&error);
    let mut command = Command::start(connection, number, &text)
        .await
        .map_err(trouble)?;
    if way == Way::Up {
        command.spoken().await.map_err(trouble)?;
    }
    let began = Instant::now();
    if way == Way::Up {
        let bytes = usize::try_from(bytes).unwrap_or_default();
        command.feed(bytes).await.map_err(trouble)?;
    }
    let outcome = command.finish().await.map_err(trouble)?;
    let ended = began.elapsed();
    match (way, outcome) {
        (
            Way::Up,
            Outcome {
                status: Some(0), ..
            },
        ) => Ok(ended),
        (
            Way::Down,
            Outcome {
                bytes: came,
                first: Some(first),
                last: Some(last),
                ..
            },
        ) if came == bytes => Ok(last.saturating_duration_since(first)),
        (_, Outcome { status, .. }) => {
            let status = status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
            Err(format!("`{text}` does not work there ({status})"))
        }
    }
}

/// The rate, and what explains it.
fn told(way: Way, bytes: u64, took: Duration) -> String {
    let rate = bytes as f64 / took.as_secs_f64().max(0.001);
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let text = format!(
        "{:.2} MiB/s ({:.1} MiB in {:.1} s)",
        mib(rate),
        mib(bytes as f64),
        took.as_secs_f64()
    );
    if way == Way::Down && PACED.contains(&rate) {
        return format!(
            "{text}, which is what the SSM agent sends: 1 KiB each millisecond at most"
        );
    }
    text
}

fn milliseconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1000.0;
    match milliseconds < 10.0 {
        true => format!("{milliseconds:.1} ms"),
        false => format!("{milliseconds:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_sample_takes_about_as_long_as_meant() {
        let millis = Duration::from_millis;
        assert_eq!(next_size(100, millis(1500)), None);
        assert_eq!(next_size(100_000, millis(150)), Some(1_000_000));
        assert_eq!(next_size(FIRST_BYTES, Duration::ZERO), Some(MOST_BYTES));
        assert_eq!(next_size(100, millis(740)), Some(202));
        assert_eq!(next_size(100, millis(750)), None);
        assert_eq!(next_size(MOST_BYTES, millis(1)), None);
    }

    #[test]
    fn pacing_explains_a_download_and_nothing_else() {
        let second = Duration::from_secs(1);
        let paced = told(Way::Down, 750_000, second);
        assert_eq!(
            paced,
            "0.72 MiB/s (0.7 MiB in 1.0 s), which is what the SSM agent sends: 1 KiB each millisecond at most"
        );
        assert_eq!(
            told(Way::Up, 750_000, second),
            "0.72 MiB/s (0.7 MiB in 1.0 s)"
        );
        assert!(told(Way::Down, 4 << 20, second).starts_with("4.00 MiB/s (4.0 MiB in 1.0 s)"));
        assert_eq!(milliseconds(Duration::from_micros(1230)), "1.2 ms");
        assert_eq!(milliseconds(Duration::from_micros(51_230)), "51 ms");
    }
}
