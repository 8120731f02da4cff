//! The service's clock, and the signatures that it does not let pass.

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use hyper::header::{HeaderMap, HeaderValue};

use super::{ApiError, Kind};
use crate::emulator::fault::Board;

/// How far a signature's time may be from the service's.
const TOLERATED: Duration = Duration::from_secs(5 * 60);

/// What time it is by the service's clock.
pub(super) fn now(faults: &Board) -> SystemTime {
    let ahead = faults.clock_ahead();
    let by = Duration::from_secs(ahead.unsigned_abs().into());
    let now = SystemTime::now();
    let shifted = match ahead < 0 {
        true => now.checked_sub(by),
        false => now.checked_add(by),
    };
    shifted.unwrap_or(now)
}

/// The `Date` of answers, where it is another one than ours.
pub(crate) fn date(faults: &Board) -> Option<HeaderValue> {
    if faults.clock_ahead() == 0 {
        return None;
    }
    let date = DateTime::from(now(faults)).fmt(Format::HttpDate).ok()?;
    HeaderValue::from_str(&date).ok()
}

/// Refuses a request that was signed at another time than `now`, in AWS's words. One that does not say when it was
/// signed passes: signatures are not checked here.
pub(super) fn check(headers: &HeaderMap, now: SystemTime) -> Result<(), ApiError> {
    let header = headers
        .get("x-amz-date")
        .and_then(|date| date.to_str().ok());
    let Some((text, signed)) = header.and_then(|text| Some((text, read(text)?))) else {
        return Ok(());
    };
    let refused = |message| Err(ApiError::new(Kind::InvalidSignature, message));
    let (earliest, latest) = (now.checked_sub(TOLERATED), now.checked_add(TOLERATED));
    match (earliest, latest) {
        (Some(earliest), _) if signed < earliest => refused(format!(
            "Signature expired: {text} is now earlier than {} ({} - 5 min.)",
            written(earliest),
            written(now)
        )),
        (_, Some(latest)) if signed > latest => refused(format!(
            "Signature not yet current: {text} is still later than {} ({} + 5 min.)",
            written(latest),
            written(now)
        )),
        _ => Ok(()),
    }
}

/// Reads `20260131T120000Z`.
fn read(text: &str) -> Option<SystemTime> {
    let digits = |range: std::ops::Range<usize>| text.get(range);
    let (date, time) = (digits(0..8)?, digits(9..15)?);
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() != 16 || !is_number(date) || !is_number(time) {
        return None;
    }
    let rfc3339 = format!(
        "{}-{}-{}T{}:{}:{}Z",
        digits(0..4)?,
        digits(4..6)?,
        digits(6..8)?,
        digits(9..11)?,
        digits(11..13)?,
        digits(13..15)?
    );
    DateTime::from_str(&rfc3339, Format::DateTime)
        .ok()?
        .try_into()
        .ok()
}

/// Writes `20260131T120000Z`.
fn written(time: SystemTime) -> String {
    super::rfc3339(time).replace(['-', ':'], "")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_signature_of_another_time_is_refused() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let check = |date: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-date", HeaderValue::from_str(date).unwrap());
            check(&headers, now).map_err(|error| error.message().to_owned())
        };
        assert_eq!(written(now), "20231114T221320Z");
        for passes in [
            "20231114T221320Z",
            "20231114T220820Z",
            "20231114T221820Z",
            "nonsense",
            "20239914T221320Z",
        ] {
            assert_eq!(check(passes), Ok(()), "{passes}");
        }
        assert_eq!(read("2023\u{e9}114T22132Z"), None);
        assert_eq!(
            check("20231114T220819Z").unwrap_err(),
            "Signature expired: 20231114T220819Z is now earlier than 20231114T220820Z (20231114T221320Z - 5 min.)"
        );
        assert_eq!(
            check("20231114T221821Z").unwrap_err(),
            "Signature not yet current: 20231114T221821Z is still later than 20231114T221820Z (20231114T221320Z + 5 min.)"
        );
    }
}
