//! Dependencies between the top-level modules point down only.
//!
//! Reads `src/**/*.rs` and compares every path into the crate (`crate::x`, also grouped and inline, and `super::`
//! that climbs out of a module) with the map below, which is the one in the crate's documentation. Comments, strings
//! and `#[cfg(test)]` items do not count. It is a reader of tokens, not a compiler: macros that build paths would
//! escape it, and we have none.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Each top-level module, and where its paths may lead; `a::b` permits only what is in `b`.
const MAP: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "doctor",
            "daemon",
            "target",
            "aws",
            "config",
            "telemetry",
            "emulator",
            "sshd",
            "server",
            "relay",
            "upstream",
            "tunnel",
            "smux",
            "ssm",
            "net",
            "ssh",
            "report",
        ],
    ),
    (
        "doctor",
        &[
            "daemon", "target", "aws", "config", "server", "upstream", "tunnel", "smux", "ssm",
            "net", "ssh", "report",
        ],
    ),
    (
        "daemon",
        &[
            "target", "aws", "config", "emulator", "sshd", "server", "relay", "upstream", "tunnel",
            "smux", "ssm", "net", "ssh", "report",
        ],
    ),
    (
        "server",
        &["relay", "upstream", "tunnel", "ssh", "report", "peer"],
    ),
    // Messages only: it knows neither how they travel nor AWS.
    ("relay", &["upstream", "ssh", "report"]),
    ("upstream", &["tunnel", "smux", "ssm", "ssh", "report"]),
    ("tunnel", &["smux", "ssm", "report"]),
    (
        "emulator",
        &["ssm::protocol", "smux", "sshd", "report", "peer"],
    ),
    ("target", &["aws", "report"]),
    ("aws", &["ssm", "report"]),
    ("sshd", &["ssh", "report", "account"]),
    ("smux", &[]),
    ("ssm", &["net"]),
    ("net", &[]),
    ("ssh", &[]),
    ("config", &["net", "account"]),
    ("telemetry", &[]),
    ("report", &[]),
    ("account", &[]),
    ("peer", &[]),
];

/// Modules that must not know AWS, not even its SDK.
const WITHOUT_AWS: &[&str] = &["server", "relay", "smux", "ssh", "sshd"];

/// Protocol cores: bytes and time in, bytes and events out; no runtime, and no clock of their own.
const PURE: &[&str] = &[
    "ssm::protocol",
    "daemon::fleet::name",
    "upstream::backoff",
    "upstream::lifecycle",
    "smux::frame",
    "smux::queue",
    "smux::session",
    "ssh::wire",
    "ssh::transport",
    "ssh::auth",
    "ssh::memory",
    "emulator::agent::version",
    "emulator::fault::line",
    "emulator::fault::plan",
    "emulator::fault::script",
    "tunnel::single::links",
    "relay::absence",
    "relay::credit",
    "relay::flight",
    "relay::forwards",
    "relay::grammar",
    "relay::ledger",
    "relay::numbering",
    "relay::observer",
    "relay::pair",
    "relay::queue",
    "daemon::control::herald",
    "daemon::control::message",
    "net::destination",
    "net::bypass",
    "net::proxy",
    "net::proxies",
];

/// Where a core names a clock all the same: a constructor that drivers call, and the reason is said there.
const CLOCKS: &[(&str, &str)] = &[("ssm::protocol::data_channel::config", "SystemTime::now")];

#[test]
fn dependencies_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut parsed = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a readable source file");
        let module = module_of(file.strip_prefix(&root).expect("a file below src"));
        parsed.push((file, Source::read(&module, &text)));
    }
    let tests: BTreeSet<_> = parsed
        .iter()
        .flat_map(|(_, source)| source.test_modules.clone())
        .collect();
    let mut violations = Vec::new();
    for (file, source) in &parsed {
        let in_test = |test: &Vec<String>| source.module.starts_with(test);
        if !tests.iter().any(in_test) && !is_named_as_tests(&source.module) {
            let file = file.strip_prefix(&root).expect("a file below src");
            violations.extend(
                source
                    .violations()
                    .into_iter()
                    .map(|v| format!("src/{}:{v}", file.display())),
            );
        }
    }
    assert!(files.len() > 10, "src was not found");
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// `smux/mod.rs` is `smux`, `smux/frame.rs` is `smux::frame`, `lib.rs` and `main.rs` are the root.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let is_root = module.len() == 1 && (module[0] == "lib" || module[0] == "main");
    if is_root || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// `tests.rs` and `x_tests.rs`, which may be declared with `#[path]`.
fn is_named_as_tests(module: &[String]) -> bool {
    module
        .last()
        .is_some_and(|last| last == "tests" || last.ends_with("_tests"))
}

/// What one file says about its dependencies.
struct Source {
    module: Vec<String>,
    /// Paths from the crate's root: line and segments.
    uses: Vec<(usize, Vec<String>)>,
    /// Mentions of crates and clocks that some modules must do without.
    mentions: Vec<(usize, String)>,
    /// Modules declared here that exist only in tests.
    test_modules: Vec<Vec<String>>,
}

struct Violation {
    line: usize,
    text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

impl Source {
    fn read(module: &[String], text: &str) -> Self {
        let mut source = Self {
            module: module.to_vec(),
            uses: Vec::new(),
            mentions: Vec::new(),
            test_modules: Vec::new(),
        };
        let tokens = source.without_tests(&tokenize(text));
        source.find_uses(&tokens);
        source.find_mentions(&tokens);
        source
    }

    fn violations(&self) -> Vec<Violation> {
        // The root only names its modules and exports from them.
        let Some(own) = self.module.first() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| name == own) else {
            let text = format!("module `{own}` is not on the map in tests/layering.rs");
            return vec![Violation { line: 1, text }];
        };
        for (line, path) in &self.uses {
            let joined = path.join("::");
            let is_allowed = path.first() == Some(own)
                || allowed.iter().any(|allowed| is_within(&joined, allowed));
            if !is_allowed {
                let text = format!("`{own}` may not use `{joined}`");
                found.push(Violation { line: *line, text });
            }
        }
        let module = self.module.join("::");
        let is_pure = PURE.iter().any(|pure| is_within(&module, pure));
        for (line, mention) in &self.mentions {
            let is_wrong = if mention.starts_with("aws_") {
                WITHOUT_AWS.contains(&own.as_str())
            } else {
                is_pure && !CLOCKS.contains(&(&module, mention))
            };
            if is_wrong {
                let text = format!("`{module}` may not use `{mention}`");
                found.push(Violation { line: *line, text });
            }
        }
        found
    }

    /// Leaves out items under `#[cfg(test)]`, and remembers the modules among them.
    fn without_tests<'a>(&mut self, tokens: &[Token<'a>]) -> Vec<Token<'a>> {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
            if !starts_with(&tokens[at..], &attribute) {
                kept.push(tokens[at]);
                at += 1;
                continue;
            }
            at += attribute.len();
            let end = at + item_length(&tokens[at..]);
            if let Some(name) = module_name(&tokens[at..end]) {
                self.test_modules
                    .push([&self.module[..], &[name.to_owned()]].concat());
            }
            at = end;
        }
        kept
    }

    fn find_uses(&mut self, tokens: &[Token<'_>]) {
        let mut inline = InlineModules::default();
        for (at, token) in tokens.iter().enumerate() {
            inline.step(&tokens[at..]);
            let previous = at.checked_sub(1).map_or("", |before| tokens[before].text);
            // `pub(in crate::x)` says who may look in, not who is used; `a::super` does not exist.
            if previous == "in" || previous == "::" {
                continue;
            }
            let rest = match token.text {
                // The binary's own root is not the library's.
                "crate" | "ssmshim" => &tokens[at + 1..],
                "super" => {
                    let climbs = count_supers(&tokens[at..]);
                    if climbs != self.module.len() + inline.depth() {
                        continue;
                    }
                    &tokens[at + 2 * climbs - 1..]
                }
                _ => continue,
            };
            let mut paths = Vec::new();
            path_tails(rest, &mut Vec::new(), &mut paths);
            self.uses
                .extend(paths.into_iter().map(|path| (token.line, path)));
        }
    }

    fn find_mentions(&mut self, tokens: &[Token<'_>]) {
        for (at, token) in tokens.iter().enumerate() {
            let text = token.text;
            let mention = if text == "tokio" || (text.starts_with("aws_") && text != "aws_lc_rs") {
                text.to_owned()
            } else if ["Instant", "SystemTime"].contains(&text)
                && starts_with(&tokens[at + 1..], &["::", "now"])
            {
                format!("{text}::now")
            } else {
                continue;
            };
            self.mentions.push((token.line, mention));
        }
    }
}

/// Whether `path` is `parent` or inside it.
fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len()
        && tokens
            .iter()
            .zip(texts)
            .all(|(token, text)| token.text == *text)
}

/// How deep in `mod x { … }` blocks of the file a token is.
#[derive(Default)]
struct InlineModules {
    braces: usize,
    opened_at: Vec<usize>,
}

impl InlineModules {
    fn step(&mut self, tokens: &[Token<'_>]) {
        match tokens[0].text {
            "mod" if tokens.get(2).is_some_and(|token| token.text == "{") => {
                self.opened_at.push(self.braces)
            }
            "{" => self.braces += 1,
            "}" => {
                self.braces = self.braces.saturating_sub(1);
                if self.opened_at.last() == Some(&self.braces) {
                    self.opened_at.pop();
                }
            }
            _ => {}
        }
    }

    fn depth(&self) -> usize {
        self.opened_at.len()
    }
}

fn count_supers(tokens: &[Token<'_>]) -> usize {
    let mut count = 1;
    while starts_with(&tokens[2 * count - 1..], &["::", "super"]) {
        count += 1;
    }
    count
}

/// Follows `::a::{b, c::d}` and collects the paths it names; returns the tokens it took.
fn path_tails(tokens: &[Token<'_>], path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> usize {
    let depth = path.len();
    let mut at = 0;
    while starts_with(&tokens[at..], &["::"]) {
        let Some(next) = tokens.get(at + 1) else {
            break;
        };
        if next.text == "{" {
            at += 2;
            while let Some(token) = tokens.get(at) {
                match token.text {
                    "}" => {
                        at += 1;
                        break;
                    }
                    text if is_word(text) => {
                        path.push(text.to_owned());
                        at += 1;
                        at += path_tails(&tokens[at..], path, paths);
                        path.pop();
                        // An alias is not part of the path.
                        if starts_with(&tokens[at..], &["as"]) {
                            at += 2;
                        }
                    }
                    _ => at += 1,
                }
            }
            path.truncate(depth);
            return at;
        }
        if !is_word(next.text) {
            break;
        }
        path.push(next.text.to_owned());
        at += 2;
    }
    if !path.is_empty() {
        paths.push(path.clone());
    }
    path.truncate(depth);
    at
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_' || first == '*')
}

/// Tokens of the item at the front, further attributes included.
fn item_length(tokens: &[Token<'_>]) -> usize {
    let mut at = 0;
    while starts_with(&tokens[at..], &["#", "["]) {
        at += 1 + group_length(&tokens[at + 1..]);
    }
    let is_use = tokens[at..].iter().take(6).any(|token| token.text == "use");
    let is_field = !tokens[at..].iter().take(6).any(|token| {
        [
            "fn",
            "mod",
            "use",
            "impl",
            "struct",
            "enum",
            "const",
            "static",
            "type",
            "trait",
            "let",
            "macro_rules",
        ]
        .contains(&token.text)
    });
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "," if is_field => return at + 1,
            "}" | ")" | "]" => return at,
            "{" if !is_use => return at + group_length(&tokens[at..]),
            "(" | "[" | "{" => at += group_length(&tokens[at..]),
            _ => at += 1,
        }
    }
    at
}

/// Tokens from an opening bracket to the one that closes it.
fn group_length(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn module_name<'a>(item: &[Token<'a>]) -> Option<&'a str> {
    let at = item.iter().take(6).position(|token| token.text == "mod")?;
    Some(item.get(at + 1)?.text)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Words, `::`, and single punctuation characters; without comments, literals and lifetimes.
fn tokenize(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let (length, is_token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = literal(rest) {
            (length, false)
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_');
            (end.unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        let (text, after) = rest.split_at(length);
        if is_token {
            tokens.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Length of the comment at the front; comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of the string, byte string, raw string, character or lifetime at the front, if there is one.
fn literal(text: &str) -> Option<usize> {
    let unprefixed = ["br", "cr", "b", "c", "r"]
        .into_iter()
        .find_map(|prefix| {
            text.strip_prefix(prefix)
                .filter(|rest| rest.starts_with(['"', '\'', '#']))
        })
        .unwrap_or(text);
    let prefix = &text[..text.len() - unprefixed.len()];
    let hashes = unprefixed.len() - unprefixed.trim_start_matches('#').len();
    if prefix.ends_with('r') && unprefixed[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &unprefixed[hashes + 1..];
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix.len() + hashes + 1 + length);
    }
    let quote = unprefixed
        .chars()
        .next()
        .filter(|first| ['"', '\''].contains(first))?;
    let body = &unprefixed[1..];
    if quote == '\'' && !body.starts_with('\\') && body.chars().nth(1) != Some('\'') {
        // A lifetime, or a label.
        let end = body.find(|next: char| !next.is_alphanumeric() && next != '_');
        return Some(prefix.len() + 1 + end.unwrap_or(body.len()));
    }
    let mut escaped = false;
    let end = body.find(|next| {
        let ends = next == quote && !escaped;
        escaped = next == '\\' && !escaped;
        ends
    });
    Some(prefix.len() + 1 + end.map_or(body.len(), |at| at + 1))
}

/// What the checker says to `text` in `module`, as "line: what".
fn check(module: &str, text: &str) -> Vec<String> {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    let source = Source::read(&module, text);
    source
        .violations()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_checker_sees_every_way_to_name_a_module() {
    let cases = [
        (
            "smux",
            "use crate::ssm::api;",
            "1: `smux` may not use `ssm::api`",
        ),
        (
            "smux",
            "\n\nfn f() { crate::ssh::g() }",
            "3: `smux` may not use `ssh::g`",
        ),
        (
            "ssh",
            "use crate::{ssh::a, smux::{b, c as d}};",
            "1: `ssh` may not use `smux::b`",
        ),
        (
            "ssh",
            "use crate::{ssh as me, config};",
            "1: `ssh` may not use `config`",
        ),
        (
            "ssm",
            "use crate::tunnel::*;",
            "1: `ssm` may not use `tunnel::*`",
        ),
        (
            "relay",
            "use crate::ssm::protocol::X;",
            "1: `relay` may not use `ssm::protocol::X`",
        ),
        (
            "relay",
            "use aws_sdk_ssm::Client;",
            "1: `relay` may not use `aws_sdk_ssm`",
        ),
        (
            "emulator::agent",
            "use crate::ssm::{protocol::x, api};",
            "1: `emulator` may not use `ssm::api`",
        ),
        (
            "smux",
            "use super::ssm::X;",
            "1: `smux` may not use `ssm::X`",
        ),
        (
            "smux::driver",
            "use super::super::{ssm};",
            "1: `smux` may not use `ssm`",
        ),
        (
            "smux",
            "mod a { mod b {} use super::super::ssh::X; }",
            "1: `smux` may not use `ssh::X`",
        ),
        (
            "tunnel",
            "fn f(x: &crate::server::X) {}",
            "1: `tunnel` may not use `server::X`",
        ),
        (
            "upstream",
            "pub(crate) use crate::telemetry;",
            "1: `upstream` may not use `telemetry`",
        ),
        (
            "server",
            "let c = 'c'; crate::config::X",
            "1: `server` may not use `config::X`",
        ),
        (
            "smux",
            "fn f<'a>(x: &'a str) { crate::ssm::X }",
            "1: `smux` may not use `ssm::X`",
        ),
        (
            "smux",
            "let s = \"\\\"\"; /* a /* b */ c */ crate::ssm::X",
            "1: `smux` may not use `ssm::X`",
        ),
        (
            "smux",
            "#[cfg(test)] fn a<A, B>(x: [u8; 3]) {} use crate::ssm;",
            "1: `smux` may not use `ssm`",
        ),
        (
            "smux::session",
            "use tokio::sync::Notify;",
            "1: `smux::session` may not use `tokio`",
        ),
        (
            "ssm::protocol::x",
            "let now = Instant::now();",
            "1: `ssm::protocol::x` may not use `Instant::now`",
        ),
        (
            "ssm::protocol::data_channel",
            "let now = Instant::now();",
            "1: `ssm::protocol::data_channel` may not use `Instant::now`",
        ),
        (
            "misc",
            "",
            "1: module `misc` is not on the map in tests/layering.rs",
        ),
    ];
    for (module, text, expected) in cases {
        assert_eq!(
            check(module, text).first().map(String::as_str),
            Some(expected),
            "{text}"
        );
    }
    let group = check("ssh", "use crate::{smux::{b, c as d}, ssm, ssh::x};");
    assert_eq!(group.len(), 3, "{group:?}");
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let cases = [
        (
            "tunnel",
            "use crate::{smux::SmuxSession, ssm::session::SsmSession};",
        ),
        (
            "cli::commands::serve",
            "use crate::{config::X, telemetry, daemon::Y};",
        ),
        (
            "emulator",
            "use crate::ssm::protocol::{a, b}; use crate::sshd::X;",
        ),
        (
            "relay",
            "use crate::ssh::wire::msg; use crate::relay::queue;",
        ),
        (
            "smux",
            "//! [`crate::ssm`]\n/// crate::ssm\n/* crate::ssm */",
        ),
        (
            "smux",
            "let s = \"crate::ssm\"; let r = r#\"\"crate::ssm\"#; let b = b\"crate::ssm\";",
        ),
        (
            "smux",
            "#[cfg(test)] mod tests { use crate::ssm::X; fn f() {} }",
        ),
        ("smux", "#[cfg(test)] #[allow(x)] use crate::{ssm::X, ssh};"),
        ("smux", "struct S { #[cfg(test)] a: crate::ssm::X, b: u8 }"),
        ("smux", "pub(in crate::ssm) fn f() {}"),
        (
            "smux::frame",
            "use super::session::X; mod a { use super::super::Config; }",
        ),
        (
            "smux::driver",
            "use tokio::time::Instant; fn f() { Instant::now(); }",
        ),
        ("ssh::kex", "use aws_lc_rs::agreement;"),
    ];
    for (module, text) in cases {
        assert_eq!(check(module, text), [""; 0], "{text}");
    }
}

#[test]
fn modules_that_exist_only_in_tests_are_known() {
    let source = Source::read(
        &["smux".to_owned()],
        "#[cfg(test)]\nmod session_tests;\nmod frame;",
    );
    assert_eq!(source.test_modules, [["smux", "session_tests"]]);
    assert_eq!(module_of(Path::new("smux/mod.rs")), ["smux"]);
    assert_eq!(
        module_of(Path::new("smux/session_tests.rs")),
        ["smux", "session_tests"]
    );
    assert_eq!(module_of(Path::new("telemetry.rs")), ["telemetry"]);
    assert!(module_of(Path::new("main.rs")).is_empty());
}
