//! Credentials of assumed roles as the AWS CLI keeps them, in `~/.aws/cli/cache`: each reads the other's.
//!
//! The name of a file is the SHA-1 of what was asked for, as JSON; its content is the service's answer.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::account;
use super::chain::Link;
use crate::aws::sts::Assumed;

/// Session tokens have a few KiB at the most.
const FILE_BYTES: u64 = 64 << 10;

/// Files that were written: several at the same time do not write into each other's.
static WRITTEN: AtomicU32 = AtomicU32::new(0);

/// The directory of such files.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
}

/// The part of a file that matters. Other members, such as `AssumedRoleUser`, are for others.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    credentials: Keys,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

impl Cache {
    /// The AWS CLI's own, below `home`.
    pub(super) fn below(home: &Path) -> Self {
        Self {
            directory: home.join(".aws/cli/cache"),
        }
    }

    /// What is kept for `link`, even if it has expired. A file that cannot be read counts as none.
    pub(super) fn load(&self, link: &Link) -> Option<Credentials> {
        let path = self.path(link);
        let mut text = Zeroizing::new(String::new());
        let file = File::open(&path).ok()?;
        file.take(FILE_BYTES).read_to_string(&mut text).ok()?;
        let found = parse(&text);
        if found.is_none() {
            tracing::debug!(path = %path.display(), "holds no credentials");
        }
        found
    }

    /// Keeps `assumed` for `link`, readable by its owner only.
    ///
    /// # Errors
    /// Those of the file system; nothing is half written then.
    pub(super) fn store(&self, link: &Link, assumed: &Assumed) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let path = self.path(link);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("{}-{number}.new", process::id()));
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| file.write_all(text(assumed).as_bytes()))
            .and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _never_there = fs::remove_file(&partial);
        }
        written
    }

    fn path(&self, link: &Link) -> PathBuf {
        self.directory.join(format!("{}.json", key(link)))
    }
}

/// The name under which the AWS CLI keeps the credentials of `link`.
///
/// It hashes the parameters of its call, but for a session name that it made up itself and for the code, in
/// Python's JSON: sorted by name, ASCII only, with blanks after `:` and `,`.
fn key(link: &Link) -> String {
    let texts = [
        ("ExternalId", link.external_id.as_deref()),
        ("RoleArn", Some(link.role_arn.as_str())),
        ("RoleSessionName", link.session_name.as_deref()),
        ("SerialNumber", link.mfa_serial.as_deref()),
    ];
    let duration = link.duration_seconds;
    let duration = duration.map(|seconds| format!("\"DurationSeconds\": {seconds}"));
    let texts = texts
        .into_iter()
        .filter_map(|(name, value)| Some(format!("\"{name}\": {}", quoted(value?))));
    let members: Vec<_> = duration.into_iter().chain(texts).collect();
    sha1(&format!("{{{}}}", members.join(", ")))
}

/// In hexadecimal.
fn sha1(text: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let bytes = hash.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Where the token of an SSO login is, by the name of its session or its start URL.
pub(super) fn sso_token(login: &str) -> Option<PathBuf> {
    let name = format!("{}.json", sha1(login));
    Some(account::home()?.join(".aws/sso/cache").join(name))
}

/// A JSON string of ASCII characters.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;

    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            ' '..='~' => quoted.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(quoted, "\\u{unit:04x}");
                }
            }
        }
    }
    quoted + "\""
}

fn parse(text: &str) -> Option<Credentials> {
    let Kept { credentials: keys } = serde_json::from_str(text).ok()?;
    let expires = time(&keys.expiration)?;
    Some(Credentials::new(
        keys.access_key_id,
        keys.secret_access_key,
        Some(keys.session_token),
        Some(expires),
        "ssmshim",
    ))
}

/// A time as Python writes it: `2026-01-31T12:00:00UTC`, or with `Z` or an offset.
fn time(text: &str) -> Option<SystemTime> {
    let text = match text.strip_suffix("UTC") {
        Some(start) => format!("{start}Z"),
        None => text.to_owned(),
    };
    let time = DateTime::from_str(&text, Format::DateTimeWithOffset).ok()?;
    time.try_into().ok()
}

/// The service's answer, as the AWS CLI writes it down.
fn text(assumed: &Assumed) -> Zeroizing<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer<'a> {
        credentials: serde_json::Value,
        assumed_role_user: serde_json::Value,
        response_metadata: &'a serde_json::Value,
    }
    let keys = &assumed.credentials;
    let expires = keys.expiry().unwrap_or(UNIX_EPOCH);
    let expires = DateTime::from(expires).secs();
    let expires = DateTime::from_secs(expires).fmt(Format::DateTime);
    let expires = expires.unwrap_or_default().replace('Z', "UTC");
    let answer = Answer {
        credentials: json!({
            "AccessKeyId": keys.access_key_id(),
            "SecretAccessKey": keys.secret_access_key(),
            "SessionToken": keys.session_token(),
            "Expiration": expires,
        }),
        assumed_role_user: json!({
            "AssumedRoleId": assumed.role_id,
            "Arn": assumed.arn,
        }),
        response_metadata: &json!({ "HTTPStatusCode": 200, "RetryAttempts": 0 }),
    };
    // Strings and numbers only: this cannot fail.
    Zeroizing::new(serde_json::to_string(&answer).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn link() -> Link {
        Link {
            profile: "admin".into(),
            role_arn: "arn:aws:iam::123456789012:role/admin".into(),
            external_id: None,
            session_name: None,
            mfa_serial: Some("arn:aws:iam::123456789012:mfa/ann".into()),
            duration_seconds: None,
        }
    }

    /// Computed by botocore 1.29.27.
    #[test]
    fn keys_are_those_of_the_aws_cli() {
        let full = Link {
            external_id: Some("Zürich \"42\" \u{1f600}".into()),
            session_name: Some("ann".into()),
            duration_seconds: Some(7200),
            ..link()
        };
        assert_eq!(key(&link()), "31791e23b3216a4c8b61cf17a9b2495ad263768a");
        assert_eq!(key(&full), "d140e010c0e993b164454a2ee4b759e6469c07e5");
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::below(home.path());
        assert!(cache.load(&link()).is_none());
        let expires = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let credentials =
            Credentials::new("ASIA", "secret", Some("token".into()), Some(expires), "");
        let assumed = Assumed {
            credentials,
            arn: "arn:aws:sts::123456789012:assumed-role/admin/x".into(),
            role_id: "AROA:x".into(),
        };
        cache.store(&link(), &assumed).unwrap();
        let found = cache.load(&link()).unwrap();
        assert_eq!(found.expiry(), Some(expires));
        assert_eq!(found.session_token(), Some("token"));
        let path = cache.path(&link());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("\"Expiration\":\"2026-09-21T14:13:20UTC\""),
            "{text}"
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert!(cache.load(&link()).is_none());
    }

    #[test]
    fn whoever_writes_it_it_is_whole() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::below(home.path());
        std::thread::scope(|scope| {
            for writer in 1..5 {
                let token = "token".repeat(writer * 100);
                let expires = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
                let cache = &cache;
                scope.spawn(move || {
                    let credentials =
                        Credentials::new("ASIA", "secret", Some(token), Some(expires), "");
                    let assumed = Assumed {
                        credentials,
                        arn: String::new(),
                        role_id: String::new(),
                    };
                    for _ in 0..50 {
                        cache.store(&link(), &assumed).unwrap();
                        assert!(cache.load(&link()).is_some());
                    }
                });
            }
        });
    }

    #[test]
    fn times_are_read_as_anybody_writes_them() {
        let expected = UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        for text in [
            "2026-01-31T12:00:00UTC",
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00+00:00",
            "2026-01-31T14:00:00+02:00",
        ] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        assert_eq!(time("soon"), None);
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(text in "[{}\":,A-Za-z0-9]{0,80}") {
            let _ = parse(&text);
            let _ = time(&text);
        }
    }
}
