//! Which host the API is, by partition, FIPS, dual-stack and configuration: what a proxy is asked for tells.

use std::net::TcpListener;
use std::path::Path;

use rustix::process::Signal;

use crate::common::daemon::Daemon;
use crate::common::net::first_line;
use crate::front::file;

/// The first destination that a daemon with these variables and this AWS profile asks a proxy for.
fn asked_for(variables: &[(&str, &str)], profile: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let proxy = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = proxy.local_addr().expect("a bound socket").port();
    let url = format!("http://127.0.0.1:{port}");
    let config = file(directory.path(), "aws", &format!("[default]\n{profile}\n"));
    let mut environment: Vec<(String, String)> = [
        ("HTTPS_PROXY", url.as_str()),
        ("AWS_CONFIG_FILE", config.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    environment.extend(
        variables
            .iter()
            .map(|&(name, value)| (name.into(), value.into())),
    );
    let daemon = launch(directory.path(), &environment);
    let (asking, _) = proxy.accept().expect("a connection");
    let asked = first_line(asking);
    // It would wait for the answer, lest a session is left behind.
    daemon.signal(Signal::KILL);
    asked
}

fn launch(directory: &Path, environment: &[(String, String)]) -> Daemon {
    let key = directory.join("id");
    crate::common::sshd::make_key(&key);
    let identity = key.display().to_string();
    let arguments = ["serve", "i-0123456789abcdef0", "--identity", &identity];
    let arguments = [&arguments[..], &["--json", "--listen", "127.0.0.1:0"]].concat();
    Daemon::launch(&directory.join("home"), &arguments, environment)
}

#[test]
fn region_and_settings_choose_the_host() {
    if !crate::common::have("ssh-keygen") {
        return;
    }
    for (variables, profile, host) in [
        (
            &[("AWS_REGION", "eu-west-1")][..],
            "",
            "ssm.eu-west-1.amazonaws.com",
        ),
        (
            &[("AWS_REGION", "cn-north-1")],
            "",
            "ssm.cn-north-1.amazonaws.com.cn",
        ),
        (
            &[("AWS_REGION", "us-gov-west-1")],
            "",
            "ssm.us-gov-west-1.amazonaws.com",
        ),
        (
            &[],
            "region = ca-central-1",
            "ssm.ca-central-1.amazonaws.com",
        ),
        (
            &[
                ("AWS_REGION", "us-east-1"),
                ("AWS_USE_FIPS_ENDPOINT", "true"),
            ],
            "",
            "ssm-fips.us-east-1.amazonaws.com",
        ),
        (
            &[],
            "region = us-east-2\nuse_fips_endpoint = true",
            "ssm-fips.us-east-2.amazonaws.com",
        ),
        (
            &[
                ("AWS_REGION", "eu-west-1"),
                ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
            ],
            "",
            "ssm.eu-west-1.api.aws",
        ),
        (
            &[],
            "region = eu-west-3\nuse_dualstack_endpoint = true",
            "ssm.eu-west-3.api.aws",
        ),
        (
            &[
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ENDPOINT_URL", "https://all.example"),
            ],
            "",
            "all.example",
        ),
        (
            &[
                ("AWS_REGION", "eu-west-1"),
                ("AWS_ENDPOINT_URL", "https://all.example"),
                ("AWS_ENDPOINT_URL_SSM", "https://vpce-1.ssm.example"),
            ],
            "",
            "vpce-1.ssm.example",
        ),
        (
            &[],
            "region = eu-west-1\nendpoint_url = https://profile.example",
            "profile.example",
        ),
    ] {
        let asked = asked_for(variables, profile);
        assert_eq!(
            asked,
            format!("CONNECT {host}:443 HTTP/1.1"),
            "{variables:?} {profile:?}"
        );
    }
}
