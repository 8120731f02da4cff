//! Which machine, when nobody has said: a numbered list, and a question.

use super::super::exit::Exit;
use super::super::output::Output;
use super::super::table;
use super::fail;
use crate::config::{Account, Overrides, UsageError};
use crate::daemon;
use crate::report::one_line;
use crate::target::{self, Machine};

/// Questions asked before it is taken that there will be no answer.
const QUESTIONS: usize = 10;

/// Asks the person at the terminal for a machine that is online; `None` when they leave it to login names.
pub(super) async fn target(overrides: &Overrides, output: Output) -> Result<Option<String>, Exit> {
    let account = match Account::resolve(overrides) {
        Ok(account) => account,
        Err(error) => {
            output.error(&one_line(&error), error.hint().as_deref());
            return Err(Exit::Usage);
        }
    };
    let aws = daemon::aws(account.profile.as_deref(), account.region.as_deref()).await;
    let aws = aws.map_err(|error| fail(output, &error, error.hint()))?;
    let listing = target::list(&aws, None).await;
    let mut machines = listing
        .map_err(|error| fail(output, &error, error.hint()))?
        .machines;
    machines.retain(Machine::is_online);
    if machines.is_empty() {
        output.error(
            &format!("no machine is online in {}", aws.region()),
            Some(
                "--region and --profile look elsewhere; `ssmshim targets` also lists those offline",
            ),
        );
        return Err(Exit::Failed);
    }
    output.say(table::numbered(&machines, table::width_of(std::io::stderr())).trim_end());
    for _ in 0..QUESTIONS {
        output.ask(&format!(
            "target (1-{}, a name, or Enter: login names select): ",
            machines.len()
        ));
        let Some(answer) = read_line().await else {
            break;
        };
        match choice(&answer, machines.len()) {
            Choice::Place(place) => return Ok(machines.get(place).map(|chosen| chosen.id.clone())),
            Choice::Text(text) => return Ok(Some(text)),
            Choice::None => return Ok(None),
            Choice::Wrong => {}
        }
    }
    let error = UsageError::NoTarget;
    output.error(&one_line(&error), error.hint().as_deref());
    Err(Exit::Usage)
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// A machine of the list, from 0.
    Place(usize),
    /// A target in its own words.
    Text(String),
    /// No machine.
    None,
    /// A number that is not on the list.
    Wrong,
}

fn choice(answer: &str, count: usize) -> Choice {
    let answer = answer.trim();
    match answer.parse::<usize>() {
        Ok(number) if (1..=count).contains(&number) => Choice::Place(number - 1),
        Ok(_) => Choice::Wrong,
        Err(_) if answer.is_empty() => Choice::None,
        Err(_) => Choice::Text(answer.to_owned()),
    }
}

/// A line from the terminal; `None` at its end.
async fn read_line() -> Option<String> {
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let count = std::io::stdin().read_line(&mut line).unwrap_or_default();
        (count > 0).then_some(line)
    });
    read.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_or_a_target() {
        assert_eq!(choice("1\n", 3), Choice::Place(0));
        assert_eq!(choice(" 3 ", 3), Choice::Place(2));
        assert_eq!(choice("web-1\n", 3), Choice::Text("web-1".into()));
        for none in ["", "\n"] {
            assert_eq!(choice(none, 3), Choice::None, "{none:?}");
        }
        for wrong in ["0", "4", "18446744073709551615"] {
            assert_eq!(choice(wrong, 3), Choice::Wrong, "{wrong}");
        }
    }
}
