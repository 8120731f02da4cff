//! File attributes on the wire, and the line of `ls -l` that goes with a name.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ssh::wire::{Reader, Truncated, WriteExt};

const SIZE: u32 = 0x0000_0001;
const UID_GID: u32 = 0x0000_0002;
const PERMISSIONS: u32 = 0x0000_0004;
const TIMES: u32 = 0x0000_0008;
const EXTENDED: u32 = 0x8000_0000;

/// The bits of a mode that can be set; the others are the file type.
pub(super) const MODE_BITS: u32 = 0o7777;

/// The attributes that a client wants set (section 5 of the draft).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) permissions: Option<u32>,
    /// Last access and last modification, in seconds since 1970.
    pub(super) times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(fields: &mut Reader<'_>) -> Result<Self, Truncated> {
        let flags = fields.u32()?;
        let mut attributes = Self::default();
        if flags & SIZE != 0 {
            attributes.size = Some(read_uint64(fields)?);
        }
        if flags & UID_GID != 0 {
            attributes.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(fields.u32()? & MODE_BITS);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((fields.u32()?, fields.u32()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..fields.u32()? {
                let _ignored = (fields.string()?, fields.string()?);
            }
        }
        Ok(attributes)
    }
}

/// Writes the attributes of a file.
pub(super) fn put(output: &mut Vec<u8>, metadata: &Metadata) {
    output.put_uint32(SIZE | UID_GID | PERMISSIONS | TIMES);
    put_uint64(output, metadata.size());
    output
        .put_uint32(metadata.uid())
        .put_uint32(metadata.gid())
        .put_uint32(metadata.mode())
        .put_uint32(seconds(metadata.atime()))
        .put_uint32(seconds(metadata.mtime()));
}

/// Writes the attributes of a file of which nothing is known.
pub(super) fn put_none(output: &mut Vec<u8>) {
    output.put_uint32(0);
}

pub(super) fn read_uint64(fields: &mut Reader<'_>) -> Result<u64, Truncated> {
    Ok(u64::from(fields.u32()?) << 32 | u64::from(fields.u32()?))
}

pub(super) fn put_uint64(output: &mut Vec<u8>, value: u64) {
    output.put_raw(&value.to_be_bytes());
}

/// Seconds since 1970 as version 3 has them: nothing before, and nothing after 2106.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

/// The line of `ls -l` for `name`, as sftp-server writes it, with numbers for user and group, and UTC.
pub(super) fn long_name(name: &[u8], metadata: &Metadata) -> Vec<u8> {
    let mut line = format!(
        "{} {:>3} {:<8} {:<8} {:>8} {} ",
        mode_text(metadata.mode()),
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.size(),
        date_text(metadata.mtime(), SystemTime::now()),
    )
    .into_bytes();
    line.extend_from_slice(name);
    line
}

/// The ten characters of `ls -l`.
fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

/// Day and time for the last half year, day and year otherwise.
fn date_text(time: i64, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    const HALF_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60 / 2);
    let (year, month, day) = civil(time.div_euclid(86_400));
    let name = MONTHS[month];
    let then = u64::try_from(time)
        .ok()
        .and_then(|time| UNIX_EPOCH.checked_add(Duration::from_secs(time)));
    let recent = then.is_some_and(|then| now.duration_since(then).is_ok_and(|age| age < HALF_YEAR));
    if recent {
        let minutes = time.rem_euclid(86_400) / 60;
        format!("{name} {day:>2} {:02}:{:02}", minutes / 60, minutes % 60)
    } else {
        format!("{name} {day:>2} {year:>5}")
    }
}

/// Year, month from 0 and day from 1 of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, usize, i64) {
    // Years are counted from March, which puts the leap day last; an era is 400 years, of 146 097 days.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12;
    (
        year + era * 400 + i64::from(month < 2),
        usize::try_from(month).unwrap_or(0),
        day,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_as_ls_writes_them() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "drwxrwxrwt"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_640, "-rw-r-S---"),
            (0o120_777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    #[test]
    fn dates_as_ls_writes_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1_709_251_200); // 2024-03-01
        for (time, text) in [
            (0, "Jan  1  1970"),
            (-1, "Dec 31  1969"),
            (1_709_164_740, "Feb 28 23:59"),
            (1_709_210_096, "Feb 29 12:34"),
            (1_677_628_800, "Mar  1  2023"),
            (951_782_400, "Feb 29  2000"),
            (4_107_542_400, "Mar  1  2100"),
        ] {
            assert_eq!(date_text(time, now), text, "{time}");
        }
    }

    #[test]
    fn attributes_of_the_wire() {
        let mut bytes = Vec::new();
        bytes.put_uint32(SIZE | PERMISSIONS | TIMES | EXTENDED);
        put_uint64(&mut bytes, 1 << 33);
        bytes.put_uint32(0o100_640).put_uint32(5).put_uint32(6);
        bytes.put_uint32(1).put_string("a@b").put_string("c");
        let expected = Attributes {
            size: Some(1 << 33),
            owner: None,
            permissions: Some(0o640),
            times: Some((5, 6)),
        };
        assert_eq!(Attributes::read(&mut Reader::new(&bytes)), Ok(expected));
        assert_eq!(
            Attributes::read(&mut Reader::new(&bytes[..bytes.len() - 1])),
            Err(Truncated)
        );
    }
}
