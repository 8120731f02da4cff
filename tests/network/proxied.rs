//! Through TLS and proxies to a real shell, and what is told when that fails.

use std::net::ToSocketAddrs as _;

use rustix::process::Signal;

use crate::common::skip;
use crate::front::file;
use crate::proxy::{API, GATEWAY, LOGIN, Socks, Squid};
use crate::way::{Far, Way, host_name};

/// The way to the names that only Squid knows.
fn named(far: &Far) -> Way {
    let gateway = far.url("https", GATEWAY);
    far.way(&far.url("https", API), Some(&gateway))
}

#[test]
fn a_certificate_of_ones_own_is_trusted_by_api_and_websocket() {
    let Some(far) = Far::start() else { return };
    let (api, gateway) = (far.url("https", "localhost"), far.url("wss", "127.0.0.1"));
    let way = far.way(&api, Some(&gateway));
    let daemon = way.start();
    assert_eq!(far.echo(&daemon, "hi"), "hi");
    let seen = far.front.seen();
    assert!(seen.contains("AmazonSSM.StartSession"), "the API call too");
    assert!(
        seen.contains("Upgrade: websocket"),
        "the websocket went there"
    );
    drop(daemon);

    let distrustful = way.with("AWS_CA_BUNDLE", "");
    let daemon = distrustful.launch();
    let error = daemon.told("error: ");
    assert!(error.contains("TLS with localhost"), "{error}");
    let hint = daemon.told("hint: ");
    assert!(hint.contains("AWS_CA_BUNDLE"), "{hint}");
    drop(daemon);

    let bundle = file(far.directory.path(), "profile.pem", &far.authority.pem);
    let profile = format!("[default]\nca_bundle = {bundle}\n");
    let profile = file(far.directory.path(), "config", &profile);
    let daemon = distrustful.with("AWS_CONFIG_FILE", &profile).start();
    assert_eq!(far.echo(&daemon, "profile"), "profile");
}

#[test]
fn a_bundle_that_cannot_be_read_ends_it() {
    let Some(far) = Far::start() else { return };
    let way = far.way(&far.url("https", "localhost"), None);
    let mut daemon = way
        .with("AWS_CA_BUNDLE", "/nonexistent/bundle.pem")
        .launch();
    let error = daemon.told("error: ");
    assert!(
        error.contains("cannot load trusted certificates"),
        "{error}"
    );
    assert_eq!(daemon.wait().0, 1);
}

#[test]
fn a_proxy_with_a_password_carries_api_and_websocket() {
    let Some(far) = Far::start() else { return };
    let Some(mut squid) = Squid::new(far.directory.path(), None) else {
        return;
    };
    squid.start();
    let proxy = format!("http://{LOGIN}@127.0.0.1:{}", squid.port);
    let mut daemon = named(&far).with("HTTPS_PROXY", &proxy).start();
    assert_eq!(far.echo(&daemon, "through"), "through");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0);
    let port = far.front.port;
    for host in [API, GATEWAY] {
        let line = squid.logged(&format!("CONNECT {host}:{port}"));
        assert!(line.contains("/200 ") && line.contains(" ann "), "{line}");
    }
}

#[test]
fn a_proxy_that_speaks_tls_itself_is_a_proxy_too() {
    let Some(far) = Far::start() else { return };
    let identity = far.authority.identity(&["localhost"]);
    let Some(mut squid) = Squid::new(far.directory.path(), Some(&identity)) else {
        return;
    };
    squid.start();
    let proxy = format!("https://{LOGIN}@localhost:{}", squid.port);
    let mut daemon = named(&far).with("ALL_PROXY", &proxy).start();
    assert_eq!(far.echo(&daemon, "twice"), "twice");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().0, 0);
    squid.logged(&format!("CONNECT {GATEWAY}:{}", far.front.port));
}

#[test]
fn a_socks_proxy_is_given_the_name() {
    let Some(far) = Far::start() else { return };
    let Some(socks) = Socks::start() else { return };
    let host = host_name();
    if host.starts_with("localhost") || (host.as_str(), 80).to_socket_addrs().is_err() {
        return skip("this computer has no name that leads to it");
    }
    let endpoint = far.url("https", &host);
    let proxy = |login| format!("socks5h://{login}@127.0.0.1:{}", socks.port);
    let way = far.way(&endpoint, Some(&endpoint));
    let daemon = way.with("ALL_PROXY", &proxy(LOGIN)).start();
    assert_eq!(far.echo(&daemon, "socks"), "socks");
    drop(daemon);

    let way = far.way(&endpoint, Some(&endpoint));
    let daemon = way.with("ALL_PROXY", &proxy("ann:wrong")).launch();
    let error = daemon.told("error: ");
    assert!(
        error.contains("does not accept the user and the password"),
        "{error}"
    );
}

#[test]
fn a_plain_endpoint_needs_no_tunnel() {
    let Some(far) = Far::plain() else { return };
    let Some(mut squid) = Squid::new(far.directory.path(), None) else {
        return;
    };
    squid.start();
    let endpoint = far.url("http", API);
    let proxy = |login| format!("http://{login}@127.0.0.1:{}", squid.port);
    let daemon = far
        .way(&endpoint, None)
        .with("HTTP_PROXY", &proxy(LOGIN))
        .start();
    assert_eq!(far.echo(&daemon, "plain"), "plain");
    squid.logged(&format!("POST {endpoint}/"));

    let daemon = far
        .way(&endpoint, None)
        .with("HTTP_PROXY", &proxy("ann:wrong"))
        .launch();
    let error = daemon.told("error: ");
    assert!(
        error.contains("does not accept the user and the password"),
        "{error}"
    );
}

#[test]
fn a_wrong_password_is_named_with_what_to_do() {
    let Some(far) = Far::start() else { return };
    let Some(mut squid) = Squid::new(far.directory.path(), None) else {
        return;
    };
    squid.start();
    for (login, problem) in [
        (
            "ann:wrong-horse@",
            "does not accept the user and the password",
        ),
        ("", "asks for a user and a password"),
    ] {
        let proxy = format!("http://{login}127.0.0.1:{}", squid.port);
        let mut daemon = named(&far).with("https_proxy", &proxy).launch();
        let error = daemon.told("error: ");
        let told = format!("the proxy http://127.0.0.1:{} {problem}", squid.port);
        assert!(error.contains(&told), "{error}");
        let hint = daemon.told("hint: ");
        assert!(hint.contains("http://user:password@host:port"), "{hint}");
        assert_eq!(daemon.wait().0, 1);
        assert!(!daemon.stderr().contains("horse"));
    }
}

#[test]
fn a_proxy_that_is_away_is_waited_for() {
    let Some(far) = Far::start() else { return };
    let Some(mut squid) = Squid::new(far.directory.path(), None) else {
        return;
    };
    let proxy = format!("http://{LOGIN}@127.0.0.1:{}", squid.port);
    let mut daemon = named(&far).with("HTTPS_PROXY", &proxy).launch();
    let error = daemon.told("error: ");
    let told = format!(
        "cannot connect to the proxy http://127.0.0.1:{}",
        squid.port
    );
    assert!(error.contains(&told), "{error}");
    let hint = daemon.told("hint: ");
    assert!(hint.contains("HTTPS_PROXY"), "{hint}");
    squid.start();
    daemon.ready = daemon.next_event();
    assert_eq!(daemon.ready["event"], "ready");
    assert_eq!(far.echo(&daemon, "first"), "first");

    // The session outlives the proxy: it is resumed through the next one.
    squid.stop();
    squid.start();
    assert_eq!(far.echo(&daemon, "second"), "second");
    let starts = far.front.seen().matches("AmazonSSM.StartSession").count();
    assert_eq!(starts, 1, "{}", daemon.stderr());
}

#[test]
fn no_proxy_leads_past_it() {
    let Some(far) = Far::start() else { return };
    let (api, gateway) = (far.url("https", "localhost"), far.url("https", "127.0.0.1"));
    // Nobody is there, so all that is asked of it fails.
    let way = far
        .way(&api, Some(&gateway))
        .with("ALL_PROXY", "http://127.0.0.1:1");
    assert_eq!(far.echo(&way.start(), "loopback"), "loopback");
    let host = host_name();
    if (host.as_str(), 80).to_socket_addrs().is_err() {
        return skip("this computer has no name that leads to it");
    }
    let api = far.url("https", &host);
    let way = far
        .way(&api, Some(&api))
        .with("ALL_PROXY", "http://127.0.0.1:1");
    let way = way.with(
        "NO_PROXY",
        &format!("other.example,{host}:{}", far.front.port),
    );
    assert_eq!(far.echo(&way.start(), "named"), "named");
}

#[test]
fn what_is_no_proxy_is_said_at_once() {
    let Some(far) = Far::start() else { return };
    let way = named(&far).with("HTTPS_PROXY", "gopher://ann:horse-staple@proxy.example");
    let mut daemon = way.launch();
    let error = daemon.told("error: ");
    assert!(
        error.contains("HTTPS_PROXY is not the URL of a proxy"),
        "{error}"
    );
    assert_ne!(daemon.wait().0, 0);
    assert!(!daemon.stderr().contains("staple"));
}
