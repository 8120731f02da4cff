//! Which machine, when nobody has said: a numbered list, and a question.

use super::super::exit::Exit;
use super::super::output::Output;
use super::super::table;
use crate::config::{Account, Overrides, UsageError};
use crate::daemon;
use crate::report::one_line;
use crate::target::{self, Machine};

/// Questions asked before it is taken that there will be no answer.
const QUESTIONS: usize = 10;

/// Asks the person at the terminal for a machine that is online; `None` when they leave it to login names, or have to:
/// aliases may lead elsewhere when there is nothing to choose from.
pub(super) async fn target(
    overrides: &Overrides,
    has_aliases: bool,
    output: Output,
) -> Result<Option<String>, Exit> {
    let machines = match online(overrides).await {
        Ok(machines) => machines,
        Err(Nothing { why, hint, .. }) if has_aliases => {
            output.warn(&why, hint.as_deref());
            return Ok(None);
        }
        Err(Nothing { why, hint, exit }) => {
            output.error(&why, hint.as_deref());
            return Err(exit);
        }
    };
    output.say(table::numbered(&machines, table::width_of(std::io::stderr())).trim_end());
    for _ in 0..QUESTIONS {
        output.ask(&format!(
            "target (1-{}, a name, or Enter: login names select): ",
            machines.len()
        ));
        let Some(answer) = read_line().await else {
            return Ok(None);
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

/// Why there is nothing to choose from.
struct Nothing {
    why: String,
    hint: Option<String>,
    exit: Exit,
}

/// The machines that are online; at least one.
async fn online(overrides: &Overrides) -> Result<Vec<Machine>, Nothing> {
    let account = Account::resolve(overrides).map_err(|error| Nothing {
        why: one_line(&error),
        hint: error.hint(),
        exit: Exit::Usage,
    })?;
    let failed = |error: &dyn std::error::Error, hint: Option<String>| Nothing {
        why: one_line(error),
        hint,
        exit: Exit::Failed,
    };
    let aws = daemon::aws(account.profile.as_deref(), account.region.as_deref()).await;
    let aws = aws.map_err(|error| failed(&error, error.hint().map(str::to_owned)))?;
    let listing = target::list(&aws, None).await;
    let listing = listing.map_err(|error| failed(&error, error.hint().map(str::to_owned)))?;
    let mut machines = listing.machines;
    machines.retain(Machine::is_online);
    if machines.is_empty() {
        let hint =
            "--region and --profile look elsewhere; `ssmshim targets` also lists those offline";
        return Err(Nothing {
            why: format!("no machine is online in {}", aws.region()),
            hint: Some(hint.to_owned()),
            exit: Exit::Failed,
        });
    }
    Ok(machines)
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
