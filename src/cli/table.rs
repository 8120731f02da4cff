//! Machines as a table that fits the terminal.

use std::os::fd::AsFd;
use std::time::SystemTime;

use rustix::termios::{isatty, tcgetwinsize};

use crate::target::{Machine, Ping, printable, roughly};

/// Between two columns.
const GAP: usize = 2;
/// No column is cut below this.
const NARROWEST: usize = 6;

/// Columns of the terminal that `stream` leads to; none where it is a file or a pipe, or has no width.
pub(super) fn width_of(stream: impl AsFd) -> Option<usize> {
    let columns = isatty(&stream)
        .then(|| tcgetwinsize(&stream).ok())
        .flatten();
    columns
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
}

/// All that is known of machines, with a header; cut to `width` columns where it is given.
pub(super) fn machines(machines: &[Machine], width: Option<usize>, now: SystemTime) -> String {
    let header = ["ID", "NAME", "PING", "PLATFORM", "AGENT", "ADDRESS"].map(str::to_owned);
    let rows = machines.iter().map(|machine| {
        [
            text(Some(&machine.id)),
            text(machine.name.as_ref().or(machine.computer_name.as_ref())),
            ping(machine, now),
            text(machine.platform().as_ref()),
            text(machine.agent_version.as_ref()),
            text(machine.address.as_ref()),
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    // Names and platforms are cut; what somebody may want to copy is not.
    render(&rows, [1, 3], width)
}

/// Machines to choose from, numbered from 1.
pub(super) fn numbered(machines: &[Machine], width: Option<usize>) -> String {
    let digits = machines.len().to_string().len();
    let rows: Vec<_> = (1..)
        .zip(machines)
        .map(|(number, machine)| {
            [
                format!("{number:>digits$}"),
                text(Some(&machine.id)),
                text(machine.name.as_ref().or(machine.computer_name.as_ref())),
                text(machine.platform().as_ref()),
                text(machine.address.as_ref()),
            ]
        })
        .collect();
    render(&rows, [2, 3], width)
}

fn text(text: Option<&String>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| printable(text))
}

fn ping(machine: &Machine, now: SystemTime) -> String {
    match (machine.ping, machine.last_ping) {
        (Some(Ping::Online), _) => "online".to_owned(),
        (Some(Ping::ConnectionLost), Some(at)) => {
            let ago = now.duration_since(at).unwrap_or_default();
            format!("lost {} ago", roughly(ago))
        }
        (Some(Ping::ConnectionLost), None) => "lost".to_owned(),
        (Some(Ping::Inactive), _) => "inactive".to_owned(),
        (None, _) => "-".to_owned(),
    }
}

/// Aligns `rows`, cutting the columns in `elastic`, the widest first, until they fit.
fn render<const N: usize>(
    rows: &[[String; N]],
    elastic: [usize; 2],
    width: Option<usize>,
) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(limit) = width {
        fit(&mut widths, elastic, limit);
    }
    let mut table = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let cell = cut(cell, width);
            line.push_str(&format!("{cell:<padded$}", padded = width + GAP));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

fn fit<const N: usize>(widths: &mut [usize; N], elastic: [usize; 2], limit: usize) {
    let total = |widths: &[usize; N]| widths.iter().sum::<usize>() + GAP * (N - 1);
    let mut excess = total(widths).saturating_sub(limit);
    while excess > 0 {
        let widest = elastic
            .into_iter()
            .filter(|column| widths[*column] > NARROWEST)
            .max_by_key(|column| widths[*column]);
        let Some(widest) = widest else { return };
        widths[widest] -= 1;
        excess -= 1;
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept = cell.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn fleet() -> Vec<Machine> {
        let web = Machine {
            name: Some("web-1 of the shop in Frankfurt".into()),
            ping: Some(Ping::Online),
            platform_name: Some("Amazon Linux".into()),
            platform_version: Some("2023".into()),
            agent_version: Some("3.3.987.0".into()),
            address: Some("10.0.0.7".into()),
            ..Machine::unknown("i-0123456789abcdef0")
        };
        let node = Machine {
            computer_name: Some("evil\u{1b}]0;x\u{7}".into()),
            ping: Some(Ping::ConnectionLost),
            last_ping: Some(UNIX_EPOCH),
            ..Machine::unknown("mi-0123456789abcdef0")
        };
        vec![web, node]
    }

    #[test]
    fn a_pipe_gets_everything() {
        let now = UNIX_EPOCH + Duration::from_secs(7200);
        assert_eq!(
            machines(&fleet(), None, now),
            "\
ID                    NAME                            PING          PLATFORM           AGENT      ADDRESS
i-0123456789abcdef0   web-1 of the shop in Frankfurt  online        Amazon Linux 2023  3.3.987.0  10.0.0.7
mi-0123456789abcdef0  evil?]0;x?                      lost 2 h ago  -                  -          -
"
        );
    }

    #[test]
    fn a_terminal_gets_what_fits() {
        let now = UNIX_EPOCH + Duration::from_secs(7200);
        let table = machines(&fleet(), Some(80), now);
        assert_eq!(
            table,
            "\
ID                    NAME         PING          PLATFORM    AGENT      ADDRESS
i-0123456789abcdef0   web-1 of t…  online        Amazon Li…  3.3.987.0  10.0.0.7
mi-0123456789abcdef0  evil?]0;x?   lost 2 h ago  -           -          -
"
        );
        assert!(table.lines().all(|line| line.chars().count() <= 80));
        // Where nothing fits, ids stay whole.
        assert!(machines(&fleet(), Some(1), now).contains("mi-0123456789abcdef0"));
    }

    #[test]
    fn a_choice_is_numbered() {
        let list = numbered(&vec![fleet().remove(0); 10], Some(60));
        let lines: Vec<_> = list.lines().collect();
        assert_eq!(
            lines[0],
            " 1  i-0123456789abcdef0  web-1 of th…  Amazon Lin…  10.0.0.7"
        );
        assert!(lines[9].starts_with("10  i-"), "{list}");
    }
}
