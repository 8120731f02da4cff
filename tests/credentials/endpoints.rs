//! Which host roles are assumed at, by partition, FIPS, dual-stack and configuration: what a proxy is asked for tells.

use std::net::TcpListener;

use crate::account::{Account, ROLES};
use crate::common::net::first_line;
use crate::common::until;

/// The SDK assumes the role of `one`, we that of `coded`.
#[test]
fn region_and_settings_choose_the_host_of_sts() {
    let config = format!(
        "{ROLES}\n[profile coded]\nrole_arn = arn:aws:iam::123456789012:role/over\nsource_profile = one\n\
         [profile deep]\nrole_arn = arn:aws:iam::123456789012:role/deep\nsource_profile = coded\n\
         mfa_serial = arn:aws:iam::123456789012:mfa/ann\n"
    );
    let account = Account::new(&config);
    for (region, setting, host) in [
        ("eu-west-1", None, "sts.eu-west-1.amazonaws.com"),
        (
            "us-east-2",
            Some("AWS_USE_FIPS_ENDPOINT"),
            "sts-fips.us-east-2.amazonaws.com",
        ),
        (
            "eu-west-1",
            Some("AWS_USE_DUALSTACK_ENDPOINT"),
            "sts.eu-west-1.api.aws",
        ),
        ("cn-north-1", None, "sts.cn-north-1.amazonaws.com.cn"),
        (
            "us-gov-west-1",
            Some("AWS_USE_FIPS_ENDPOINT"),
            "sts.us-gov-west-1.amazonaws.com",
        ),
    ] {
        for profile in ["one", "deep"] {
            let proxy = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
            proxy
                .set_nonblocking(true)
                .expect("a socket can wait or not");
            let address = proxy.local_addr().expect("a bound socket");
            let url = format!("http://{address}");
            let mut variables = vec![
                ("AWS_ENDPOINT_URL", ""),
                ("HTTPS_PROXY", url.as_str()),
                ("AWS_REGION", region),
            ];
            variables.extend(setting.map(|setting| (setting, "true")));
            let arguments = ["targets", "--profile", profile];
            let terminal = account.attended(&arguments, &variables);
            let (asking, _) = until("a connection to the proxy", || proxy.accept().ok());
            let asked = first_line(asking);
            assert_eq!(
                asked,
                format!("CONNECT {host}:443 HTTP/1.1"),
                "{profile} in {region} with {setting:?}"
            );
            drop(terminal);
        }
    }
}
