//! Roles of the machine or container that ssmshim runs on, told by small HTTP servers such as AWS has there.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::account::Account;

/// A server on a port of this machine that answers by path, and remembers what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        // It lives as long as the test's process, blocked on a port that nobody knows.
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let request = read(&socket);
                let line = request.lines().next().unwrap_or_default();
                let answer = answer(line);
                heard.lock().expect("no panic under the lock").push(request);
                let (status, body) = match answer {
                    Some(body) => ("200 OK", body),
                    None => ("404 Not Found", String::new()),
                };
                let length = body.len();
                let _gone = write!(
                    &socket,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n\
                     connection: close\r\n\r\n{body}"
                );
            }
        });
        Self {
            url: format!("http://{address}"),
            asked,
        }
    }

    fn asked(&self) -> String {
        let asked = self.asked.lock().expect("no panic under the lock");
        asked.join("\n").to_ascii_lowercase()
    }
}

/// The head of a request; the bodies are empty.
fn read(socket: &TcpStream) -> String {
    let mut head = String::new();
    let mut reader = BufReader::new(socket.take(64 << 10));
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|count| count > 0) {}
    head
}

/// Credentials as both services write them.
fn keys() -> String {
    r#"{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAMACHINE", "SecretAccessKey": "secret",
        "Token": "token", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z"}"#
        .to_owned()
}

#[test]
fn an_instance_has_its_role() {
    let metadata = Server::start(|line| {
        if line.starts_with("PUT /latest/api/token ") {
            Some("session".into())
        } else if line.contains("/security-credentials/web ")
            || line.contains("/security-credentials-extended/web ")
        {
            Some(keys())
        } else if line.contains("/security-credentials") {
            Some("web".into())
        } else {
            None
        }
    });
    let account = Account::new(
        "[profile machine]\nrole_arn = arn:aws:iam::123456789012:role/machine\ncredential_source = Ec2InstanceMetadata\n",
    );
    let variables = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url.as_str()),
    ];
    account.lists(&[], &variables);
    let asked = metadata.asked();
    assert!(
        asked.contains("x-aws-ec2-metadata-token: session"),
        "IMDSv2: {asked}"
    );
    account.lists(&["--profile", "machine"], &variables);
    account.until_called("DescribeInstanceInformation", "assumed-role/machine/");

    let deaf = Server::start(|_| None);
    let variables = [
        variables[0],
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", deaf.url.as_str()),
    ];
    let output = account.targets(&["--profile", "machine"], &variables);
    assert_eq!(output.code, 1, "{output:?}");
    let hint = "hint: see that the instance has a role; in a container the hop limit must be 2: aws ec2 \
                modify-instance-metadata-options --http-put-response-hop-limit 2 --instance-id …\n";
    assert!(
        output
            .stderr
            .starts_with("error: the metadata of this instance gives no credentials"),
        "{output:?}"
    );
    assert!(output.stderr.ends_with(hint), "{output:?}");
}

#[test]
fn a_container_has_its_role() {
    let agent = Server::start(|line| line.starts_with("GET /role ").then(keys));
    let account = Account::new("[profile plain]\nregion = eu-west-1\n");
    let url = format!("{}/role", agent.url);
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc"),
    ];
    account.lists(&[], &variables);
    assert!(
        agent.asked().contains("authorization: basic abc"),
        "{}",
        agent.asked()
    );
    // A profile that says nothing about credentials leaves them to the container.
    account.lists(&["--profile", "plain"], &variables);
}
