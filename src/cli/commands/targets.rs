//! `ssmshim targets`: the machines that can be reached.

use std::time::SystemTime;

use serde::Serialize;

use super::super::args::TargetsArgs;
use super::super::exit::Exit;
use super::super::output::Output;
use super::super::table;
use super::fail;
use crate::config::{Account, File, Overrides};
use crate::daemon;
use crate::report::one_line;
use crate::target::{self, Machine, Ping, printable, timestamp};

/// Prints the list and returns.
pub(in crate::cli) async fn run(arguments: TargetsArgs, output: Output) -> Exit {
    let overrides = Overrides {
        values: File {
            profile: arguments.account.profile,
            region: arguments.account.region,
            ..File::default()
        },
        config: arguments.account.config,
        ..Overrides::default()
    };
    let account = match Account::resolve(&overrides) {
        Ok(account) => account,
        Err(error) => {
            output.error(&one_line(&error), error.hint().as_deref());
            return Exit::Usage;
        }
    };
    let aws = match daemon::aws(account.profile.as_deref(), account.region.as_deref()).await {
        Ok(aws) => aws,
        Err(error) => return fail(output, &error, error.hint()),
    };
    let listing = match target::list(&aws, arguments.filter.as_deref()).await {
        Ok(listing) => listing,
        Err(error) => return fail(output, &error, error.hint()),
    };
    if arguments.json {
        for machine in &listing.machines {
            output.data(&line(machine));
        }
    } else if listing.machines.is_empty() {
        let which = arguments.filter.map_or_else(String::new, |filter| {
            format!(" with `{}`", printable(&filter))
        });
        output.say(&format!("no managed machine{which} in {}", aws.region()));
    } else {
        let width = table::width_of(std::io::stdout());
        output.data(&table::machines(
            &listing.machines,
            width,
            SystemTime::now(),
        ));
    }
    if let Some(error) = &listing.unnamed {
        output.say(&format!(
            "note: EC2 does not tell names: {}",
            one_line(error)
        ));
        if let Some(hint) = error.hint() {
            output.say(&format!("hint: {hint}"));
        }
    }
    if !listing.is_complete {
        output.say("note: there are more; `ssmshim targets tag:Key=Value` asks for fewer");
    }
    Exit::Done
}

/// A machine in JSON. Members are added, never taken away or renamed; what is not known is null.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: &'a str,
    name: Option<&'a str>,
    computer_name: Option<&'a str>,
    ping: Option<&'static str>,
    last_ping: Option<String>,
    platform: Option<String>,
    platform_type: Option<&'a str>,
    agent: Option<&'a str>,
    address: Option<&'a str>,
    dns_name: Option<&'a str>,
}

fn line(machine: &Machine) -> String {
    let line = Line {
        id: &machine.id,
        name: machine.name.as_deref(),
        computer_name: machine.computer_name.as_deref(),
        ping: machine.ping.map(|ping| match ping {
            Ping::Online => "online",
            Ping::ConnectionLost => "connection_lost",
            Ping::Inactive => "inactive",
        }),
        last_ping: machine.last_ping.map(timestamp),
        platform: machine.platform(),
        platform_type: machine.platform_type.as_deref(),
        agent: machine.agent_version.as_deref(),
        address: machine.address.as_deref(),
        dns_name: machine.dns_name.as_deref(),
    };
    // Strings and nulls only: this cannot fail.
    let mut line = serde_json::to_string(&line).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_line_of_json_is_stable() {
        let bare = r#"{"id":"mi-1","name":null,"computer_name":null,"ping":null,"last_ping":null,"platform":null,"platform_type":null,"agent":null,"address":null,"dns_name":null}"#;
        assert_eq!(line(&Machine::unknown("mi-1")), format!("{bare}\n"));
        let machine = Machine {
            name: Some("web \"1\"".into()),
            ping: Some(Ping::ConnectionLost),
            last_ping: Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            platform_name: Some("Amazon Linux".into()),
            platform_version: Some("2023".into()),
            platform_type: Some("Linux".into()),
            agent_version: Some("3.3.0.0".into()),
            address: Some("10.0.0.7".into()),
            ..Machine::unknown("i-1")
        };
        let full = r#"{"id":"i-1","name":"web \"1\"","computer_name":null,"ping":"connection_lost","last_ping":"2023-11-14T22:13:20Z","platform":"Amazon Linux 2023","platform_type":"Linux","agent":"3.3.0.0","address":"10.0.0.7","dns_name":null}"#;
        assert_eq!(line(&machine), format!("{full}\n"));
    }
}
