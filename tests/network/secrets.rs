//! Nothing secret is written down, at any level.

use rustix::process::Signal;

use crate::proxy::{API, GATEWAY, LOGIN, PASSWORD, Squid};
use crate::way::Far;

const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLETOKEN";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[test]
fn a_trace_of_everything_holds_no_secret() {
    let Some(far) = Far::start() else { return };
    let Some(mut squid) = Squid::new(far.directory.path(), None) else {
        return;
    };
    squid.start();
    let gateway = far.url("https", GATEWAY);
    for format in ["text", "json"] {
        let proxy = format!("http://{LOGIN}@127.0.0.1:{}", squid.port);
        let mut way = far
            .way(&far.url("https", API), Some(&gateway))
            .with("HTTPS_PROXY", &proxy)
            .with("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .with("AWS_SESSION_TOKEN", SESSION_TOKEN)
            .with("RUST_LOG", "trace");
        way.arguments
            .extend(["--log", "trace", "--log-format", format].map(str::to_owned));
        let mut daemon = way.start();
        assert_eq!(far.echo(&daemon, "traced"), "traced");
        // A resume has secrets of its own.
        squid.stop();
        squid.start();
        assert_eq!(far.echo(&daemon, "resumed"), "resumed");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().0, 0);

        let told = format!("{}{}", daemon.stdout(), daemon.stderr());
        assert!(told.contains("DEBUG"), "it is all there is: {told}");
        let secrets = secrets(&far.front.seen());
        for secret in &secrets {
            let line = told.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{secret} stands in {line:?}");
        }
    }
}

/// Everything that must not be told: what we know, and what passed on the wire.
fn secrets(wire: &str) -> Vec<String> {
    let between = |start: &str, end: char| -> Vec<String> {
        wire.match_indices(start)
            .filter_map(|(at, _)| wire[at + start.len()..].split(end).next())
            .filter(|text| text.len() >= 8)
            .map(str::to_owned)
            .collect()
    };
    let tokens = [
        between("\"TokenValue\":\"", '"'),
        between("\"TokenValue\": \"", '"'),
    ]
    .concat();
    let urls = between("\"StreamUrl\":\"", '"');
    let signatures = between("Signature=", '\r');
    assert!(
        !tokens.is_empty() && !urls.is_empty() && signatures.len() >= 2,
        "{wire}"
    );
    // The host of a stream URL is no secret, what follows is.
    let paths = urls.iter().filter_map(|url| url.splitn(4, '/').nth(3));
    let encoded = [PASSWORD, "open%40sesame", "YW5uOm9wZW5Ac2VzYW1lOjc="];
    let known = [
        SECRET_KEY,
        SESSION_TOKEN,
        "Authorization: ",
        "AWS4-HMAC-SHA256",
    ];
    [encoded.as_slice(), &known]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .chain(paths.map(str::to_owned))
        .chain(tokens)
        .chain(signatures)
        .collect()
}
