//! The way to AWS: names, ports, certificates and proxies.

use serde_json::json;

use crate::common::have;
use crate::common::net::free_port;
use crate::front::{Authority, Front, file};
use crate::patient::{Patient, WEB};
use crate::proxy::{API, GATEWAY, LOGIN, Squid};

#[test]
fn a_name_or_a_port_that_is_not_there_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    // RFC 6761: no resolver knows it.
    let unknown = "https://ssm.nowhere.invalid";
    let report = patient.visit(WEB).at(unknown).report();
    assert_eq!(
        report.with("failed"),
        ["ssm-dns", "ssmmessages-dns"],
        "{report}"
    );
    report.says("ssm-dns", "ssm.nowhere.invalid", "HTTPS_PROXY");
    report.skips("ssm-tcp", "ssm-dns");
    report.skips("clock", "ssm-dns");
    report.skips("StartSession", "ssm-dns");

    let closed = format!("http://127.0.0.1:{}", free_port());
    let report = patient.visit(WEB).at(&closed).report();
    assert_eq!(
        report.with("failed"),
        ["ssm-tcp", "ssmmessages-tcp"],
        "{report}"
    );
    report.says("ssm-tcp", "Connection refused", "check the network");

    // What is no URL leads nowhere.
    let report = patient.visit(WEB).at("localhost").fails(
        "region",
        "the endpoint URL of ssm is no URL",
        "endpoint URL",
    );
    report.skips("proxy", "region");
    report.skips("upload", "region");

    // The gateway alone: all that the API tells is told.
    let report = patient
        .visit(WEB)
        .with("--ssmmessages-endpoint", &closed)
        .fails("ssmmessages-tcp", "Connection refused", "check the network");
    assert_eq!(report.line("TerminateSession")["verdict"], "ok", "{report}");
    report.skips("OpenDataChannel", "ssmmessages-tcp");
    report.skips("sshd", "ssmmessages-tcp");
    assert_eq!(report.line("keys")["verdict"], "ok", "{report}");
}

#[test]
fn a_certificate_that_nobody_trusts_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let authority = Authority::new();
    let identity = authority.identity(&["localhost", "127.0.0.1"]);
    let front = Front::start(patient.emulator.port(), Some(&identity));
    let endpoint = format!("https://localhost:{}", front.port);
    let report = patient.visit(WEB).at(&endpoint).report();
    assert_eq!(
        report.with("failed"),
        ["ssm-tls", "ssmmessages-tls"],
        "{report}"
    );
    report.says("ssm-tls", "UnknownIssuer", "AWS_CA_BUNDLE");
    assert_eq!(report.line("ssm-tcp")["verdict"], "ok", "{report}");
    let bundle = file(&patient.path(""), "bundle.pem", &authority.pem);
    let report = patient
        .visit(WEB)
        .at(&endpoint)
        .with("--ssmmessages-endpoint", &endpoint)
        .env("AWS_CA_BUNDLE", &bundle)
        .report();
    assert_eq!(report.code, 0, "{report}");
    report.says("ssm-tls", "TLS 1.3 with localhost", "");
}

#[test]
fn a_gateway_that_refuses_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    let refusal = json!({ "fault": "gateway", "refusal": { "status": 500 }, "extent": "always" });
    patient.inject(&refusal);
    let report = patient
        .visit(WEB)
        .fails("OpenDataChannel", "status 500", "");
    report.skips("handshake", "OpenDataChannel");
    patient.clear_faults();
    // An agent that says nothing is another thing.
    patient.inject(
        &json!({ "fault": "messages", "from": "agent", "kind": "data",
        "pick": { "probability": 1.0 }, "effect": "drop" }),
    );
    let report = patient.visit(WEB).fails(
        "handshake",
        "did not answer within 10 s",
        "amazon-ssm-agent",
    );
    assert_eq!(report.line("OpenDataChannel")["verdict"], "ok", "{report}");
    report.skips("sshd", "handshake");
}

#[test]
fn a_proxy_that_is_in_the_way_is_named() {
    let Some(patient) = Patient::new() else {
        return;
    };
    if !have("squid") {
        return;
    }
    let authority = Authority::new();
    let identity = authority.identity(&[API, GATEWAY]);
    let front = Front::start(patient.emulator.port(), Some(&identity));
    let bundle = file(&patient.path(""), "bundle.pem", &authority.pem);
    let through = |login: &str, port: u16| {
        patient
            .visit(WEB)
            .at(&format!("https://{API}:{}", front.port))
            .with(
                "--ssmmessages-endpoint",
                &format!("https://{GATEWAY}:{}", front.port),
            )
            .env("AWS_CA_BUNDLE", &bundle)
            .env("HTTPS_PROXY", &format!("http://{login}127.0.0.1:{port}"))
    };
    let gone =
        through("", free_port()).fails("proxy", "cannot connect to the proxy", "HTTPS_PROXY");
    gone.skips("ssm-tls", "proxy");
    gone.skips("clock", "proxy");

    let Some(mut squid) = Squid::new(&patient.path(""), None) else {
        return;
    };
    squid.start();
    let login = format!("{LOGIN}@");
    let report = through(&login, squid.port).report();
    assert_eq!(report.code, 0, "{report}");
    report.says("proxy", "(HTTPS_PROXY) for ssm.shim.example", "");
    report.says("ssm-dns", "the proxy does that", "");
    // Plain requests are the proxy's to make, and nothing of that is in the way.
    let plain = Front::start(patient.emulator.port(), None);
    let report = through(&login, squid.port)
        .at(&format!("http://{API}:{}", plain.port))
        .env(
            "HTTP_PROXY",
            &format!("http://{login}127.0.0.1:{}", squid.port),
        )
        .report();
    assert_eq!(report.code, 0, "{report}");
    report.says("ssm-tls", "is plain", "");
    report.says("clock", "a proxy speaks for", "");
    assert_eq!(report.line("authentication")["verdict"], "ok", "{report}");
    let wrong = through("ann:wrong@", squid.port);
    wrong.fails(
        "proxy",
        "does not accept the user and the password",
        "percent-encoded",
    );
    let none = through("", squid.port);
    none.fails("proxy", "asks for a user and a password", "HTTPS_PROXY");
    squid.stop();

    let configuration = patient.path("squid/squid.conf");
    let text = std::fs::read_to_string(&configuration).expect("Squid has one");
    let text = text.replace("http_access allow known\n", "http_access deny CONNECT\n");
    std::fs::write(&configuration, text).expect("our own file");
    squid.start();
    let forbidden = through(&login, squid.port);
    forbidden.fails(
        "proxy",
        "does not connect to ssm.shim.example",
        "must allow CONNECT",
    );
}
