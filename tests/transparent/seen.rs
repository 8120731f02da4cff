//! What a client saw, in a form that can be compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::common::files::{sha256, sha256_of};
use crate::common::process::{Output, Run};
use crate::common::world::World;

/// The outcome of a case: labelled observations in their order.
///
/// What is different by nature in each run (a directory, a port) is replaced by a name in everything recorded
/// after [`Seen::hide`].
pub(crate) struct Seen {
    records: Vec<Record>,
    hidden: Vec<(String, String)>,
}

#[derive(PartialEq, Eq)]
struct Record {
    label: String,
    text: String,
}

/// The longest text that is kept as it is; of a longer one the beginning and the hash.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// More than that is no text in which a name of ours could have to be hidden.
const MAX_LISTING_BYTES: usize = 1 << 20;

impl Seen {
    /// What `case` sees in `world`.
    pub(crate) fn by(world: &World, case: fn(&World, &mut Self)) -> Self {
        let mut seen = Self {
            records: Vec::new(),
            hidden: Vec::new(),
        };
        seen.hide(world.home().display(), "<home>");
        seen.hide(&world.text("")[..world.text("").len() - 1], "<directory>");
        seen.hide(world.target.port, "<port>");
        case(world, &mut seen);
        assert!(!seen.records.is_empty(), "the case has recorded nothing");
        seen
    }

    /// Replaces `text` by `name` in all that is recorded from now on.
    pub(crate) fn hide(&mut self, text: impl ToString, name: &str) {
        self.hidden.push((text.to_string(), name.to_owned()));
    }

    /// Runs a client to its end and records its status and streams.
    pub(crate) fn run(&mut self, label: &str, run: Run) -> Output {
        let output = run.output();
        self.output(label, &output);
        output
    }

    /// Records the status and streams of a client that has ended.
    pub(crate) fn output(&mut self, label: &str, output: &Output) {
        self.note(&format!("{label}: status"), output.code);
        self.bytes(&format!("{label}: stdout"), &output.stdout);
        // ssh ends its own lines with CR LF, and others may not.
        self.bytes(&format!("{label}: stderr"), output.stderr.as_bytes());
    }

    /// Records a value.
    pub(crate) fn note(&mut self, label: &str, value: impl ToString) {
        let text = self.without_hidden(&value.to_string());
        self.records.push(Record {
            label: self.without_hidden(label),
            text,
        });
    }

    /// Records bytes: as text with escapes while they are few, as a hash when they are many.
    pub(crate) fn bytes(&mut self, label: &str, bytes: &[u8]) {
        if bytes.len() > MAX_LISTING_BYTES {
            let hash = sha256_of(bytes);
            return self.note(label, format!("{} bytes, sha256 {hash}", bytes.len()));
        }
        let text = bytes.escape_ascii().to_string().replace("\\n", "\n");
        let mut text = self.without_hidden(&text);
        if text.len() > MAX_TEXT_BYTES {
            let hash = sha256_of(text.as_bytes());
            let length = text.len();
            text.truncate(MAX_TEXT_BYTES);
            let _ = write!(text, "… {length} characters in all, sha256 {hash}");
        }
        self.note(label, text);
    }

    /// Records a file or the lack of it: mode, size, hash.
    pub(crate) fn file(&mut self, label: &str, path: &Path) {
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        let text = match std::fs::symlink_metadata(path) {
            Err(error) => error.to_string(),
            Ok(metadata) => {
                let kind = metadata.file_type();
                let content = if kind.is_file() {
                    sha256(path)
                } else if kind.is_symlink() {
                    let to = std::fs::read_link(path).expect("a symbolic link");
                    format!("link to {}", to.display())
                } else if kind.is_socket() {
                    "socket".to_owned()
                } else {
                    "directory or other".to_owned()
                };
                let size = if kind.is_file() { metadata.len() } else { 0 };
                format!("mode {:o}, {size} bytes, {content}", metadata.mode())
            }
        };
        self.note(label, text);
    }

    /// Records whatever is below `directory`: names in their order, as [`Seen::file`] does.
    pub(crate) fn tree(&mut self, label: &str, directory: &Path) {
        for path in paths(directory) {
            let name = path.strip_prefix(directory).unwrap_or(&path);
            self.file(&format!("{label}: {}", name.display()), &path);
        }
    }

    /// Records when whatever is below `directory` was last changed: names in the order of [`Seen::tree`].
    pub(crate) fn times(&mut self, label: &str, directory: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        for path in paths(directory) {
            let name = path.strip_prefix(directory).unwrap_or(&path);
            let metadata = std::fs::symlink_metadata(&path).expect("our own file");
            self.note(
                &format!("{label}: {}: changed", name.display()),
                metadata.mtime(),
            );
        }
    }

    fn without_hidden(&self, text: &str) -> String {
        self.hidden
            .iter()
            .fold(text.to_owned(), |text, (hidden, name)| {
                replaced(&text, hidden, name)
            })
    }

    /// # Panics
    /// When `self` is not what `reference` is, with both where they differ.
    pub(crate) fn assert_equals(&self, reference: &Self, way: &str) {
        let mut differences = String::new();
        let count = self.records.len().max(reference.records.len());
        for index in 0..count {
            let (ours, theirs) = (self.records.get(index), reference.records.get(index));
            if ours == theirs {
                continue;
            }
            let _ = writeln!(differences, "directly     {}", shown(theirs));
            let _ = writeln!(differences, "{way}  {}\n", shown(ours));
        }
        assert!(differences.is_empty(), "not the same:\n{differences}");
    }
}

/// `directory` and all that is below it, in the order of their names.
fn paths(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() && !path.is_symlink() {
            let entries = std::fs::read_dir(&path).expect("our own directory");
            let mut entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            entries.sort();
            left.extend(entries.into_iter().rev());
        }
        all.push(path);
    }
    all
}

/// `text` with `name` for each `hidden`. A number is one only where it stands alone: its digits may well be
/// part of a hash.
fn replaced(text: &str, hidden: &str, name: &str) -> String {
    if !hidden.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.replace(hidden, name);
    }
    let is_part = |neighbour: Option<char>| neighbour.is_some_and(|c| c.is_ascii_hexdigit());
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(hidden) {
        let (before, after) = (&rest[..at], &rest[at + hidden.len()..]);
        let last = before.chars().next_back().or(result.chars().next_back());
        result += before;
        result += if is_part(last) || is_part(after.chars().next()) {
            hidden
        } else {
            name
        };
        rest = after;
    }
    result + rest
}

fn shown(record: Option<&Record>) -> String {
    record.map_or_else(
        || "nothing more".to_owned(),
        |record| format!("[{}] {:?}", record.label, record.text),
    )
}
