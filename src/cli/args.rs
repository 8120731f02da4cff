//! The command line, as clap reads it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Access, StrictHostKey};
use crate::emulator::fault::Plan;
use crate::emulator::fault::plan::EXAMPLES;
use crate::emulator::{AgentVersion, Pacing, Resend};
use crate::net::Destination;
use crate::telemetry;

/// Where help shows what all commands have: below what is a command's own, and above `--help`.
const AFTER_THE_OTHERS: usize = 900;

/// A local SSH server that fronts AWS Systems Manager Session Manager.
///
/// Start it once; ssh, scp, sftp, rsync, git and IDEs then reach a machine without an open port as
/// 127.0.0.1:2222.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,

    /// What to log, as in `info` or `ssmshim::ssm=debug`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "SSMSHIM_LOG",
        default_value = "warn",
        display_order = AFTER_THE_OTHERS
    )]
    pub(super) log: String,

    /// How to log
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "SSMSHIM_LOG_FORMAT",
        default_value = "text",
        display_order = AFTER_THE_OTHERS
    )]
    pub(super) log_format: telemetry::Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve a target on a local port, in the foreground
    Serve(Box<ServeArgs>),
    /// Serve this very machine through an emulated Session Manager: no account, no configuration
    Demo(DemoArgs),
    /// Check what a connection needs, one by one, and say what to do about what is missing
    ///
    /// Takes the options of `serve`. Without TARGET all is checked that needs none. Status 0: ssh would work.
    #[command(
        mut_arg("target", |target| target.help("The machine to reach, as `serve` takes it; without one, \
            what needs none is checked")),
        mut_arg("json", |json| json.help("Print one JSON object a line; the last is the summary")),
    )]
    Doctor(Box<ServeArgs>),
    /// Connect standard input and output to a target's SSH port: ssh -o ProxyCommand='ssmshim connect %h' …
    ///
    /// ssh writes host names in lower case where it fills in %h; %n is what was typed. With a running `serve` that has
    /// the target up, its SSM session is shared.
    Connect(ConnectArgs),
    /// List the machines that can be reached
    Targets(TargetsArgs),
    /// Run the emulated Session Manager alone
    Emulator(EmulatorArgs),
}

/// What the commands that stay in the foreground have in common.
#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print events on stdout, one JSON object a line; the first is `ready`
    #[arg(long)]
    pub(super) json: bool,
}

/// Whom to ask at AWS, and the file that may say so.
#[derive(Debug, Args)]
pub(super) struct AccountArgs {
    /// AWS profile to use
    #[arg(long, value_name = "NAME", env = "SSMSHIM_PROFILE")]
    pub(super) profile: Option<String>,

    /// AWS region to use
    #[arg(long, value_name = "REGION", env = "SSMSHIM_REGION")]
    pub(super) region: Option<String>,

    /// Configuration file [default: ~/.config/ssmshim/config.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "SSMSHIM_CONFIG")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The machine to reach: an id (i-…, mi-…, ecs:…), a name, tag:Key=Value, a private address, or an alias of
    /// the configuration. Login names select others (`ssh db@…`, `ssh alice+db@…`), and have to where this is missing;
    /// on a terminal it is asked for
    #[arg(env = "SSMSHIM_TARGET")]
    pub(super) target: Option<String>,

    /// Address to listen on [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDR:PORT", env = "SSMSHIM_LISTEN")]
    pub(super) listen: Option<SocketAddr>,

    /// User to log in as on the target [default: what its platform's images have, then the current user]
    #[arg(long, value_name = "NAME", env = "SSMSHIM_USER")]
    pub(super) user: Option<String>,

    /// Private key to log in with, or the public part of one that ssh-agent holds; may be repeated, or
    /// several with `:` between. The other keys of ssh-agent follow, then one pushed by EC2 Instance Connect
    /// [default: ~/.ssh/id_*, after those]
    #[arg(
        long,
        value_name = "FILE",
        env = "SSMSHIM_IDENTITY",
        value_delimiter = ':'
    )]
    pub(super) identity: Vec<PathBuf>,

    /// OpenSSH certificate of one of those keys, or of one of ssh-agent; may be repeated, or several with `:`
    /// between [default:
    /// KEY-cert.pub beside each key]
    #[arg(
        long,
        value_name = "FILE",
        env = "SSMSHIM_CERTIFICATE",
        value_delimiter = ':'
    )]
    pub(super) certificate: Vec<PathBuf>,

    /// Port of the target's sshd [default: 22]
    #[arg(long, value_name = "PORT", env = "SSMSHIM_SSH_PORT")]
    pub(super) ssh_port: Option<u16>,

    #[command(flatten)]
    pub(super) account: AccountArgs,

    /// Where the data channel is opened instead of at AWS's public host: a VPC endpoint's URL
    #[arg(long, value_name = "URL", env = "SSMSHIM_SSMMESSAGES_ENDPOINT")]
    pub(super) ssmmessages_endpoint: Option<Destination>,

    /// Who may log in here: processes of the owner, or holders of listed keys [default: owner]
    #[arg(long, env = "SSMSHIM_ACCESS")]
    pub(super) access: Option<Access>,

    /// With `--access keys`: who [default: ~/.ssh/authorized_keys]
    #[arg(long, value_name = "FILE", env = "SSMSHIM_AUTHORIZED_KEYS")]
    pub(super) authorized_keys: Option<PathBuf>,

    /// Host key of the local endpoint, made when missing [default: host_key in the state directory]
    #[arg(long, value_name = "FILE", env = "SSMSHIM_HOST_KEY")]
    pub(super) host_key: Option<PathBuf>,

    /// Host keys of targets [default: known_hosts in the state directory]
    #[arg(long, value_name = "FILE", env = "SSMSHIM_KNOWN_HOSTS")]
    pub(super) known_hosts: Option<PathBuf>,

    /// Whether an unknown host key of the target is accepted [default: accept-new]
    #[arg(long, value_name = "MODE", env = "SSMSHIM_STRICT_HOST_KEY")]
    pub(super) strict_host_key: Option<StrictHostKey>,

    /// Seconds that a client waits for the target before it is told that there is none [default: 30]
    #[arg(long, value_name = "SECONDS", env = "SSMSHIM_HOLD")]
    pub(super) hold: Option<u64>,

    /// Seconds that a target which a login name has selected is kept after its last connection [default: 600]
    #[arg(long, value_name = "SECONDS", env = "SSMSHIM_IDLE")]
    pub(super) idle: Option<u64>,

    /// Allow --listen on an address that other machines can reach; needs `--access keys`
    #[arg(long)]
    pub(super) allow_remote_clients: bool,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct ConnectArgs {
    /// The machine to reach: an id (i-…, mi-…, ecs:…), a name, tag:Key=Value, a private address, or an alias of
    /// the configuration
    pub(super) target: String,

    /// Port there, as in `ssmshim connect %h %p`; wins over --ssh-port
    pub(super) port: Option<u16>,

    /// Port of the target's sshd [default: 22]
    #[arg(long, value_name = "PORT", env = "SSMSHIM_SSH_PORT")]
    pub(super) ssh_port: Option<u16>,

    #[command(flatten)]
    pub(super) account: AccountArgs,

    /// Where the data channel is opened instead of at AWS's public host: a VPC endpoint's URL
    #[arg(long, value_name = "URL", env = "SSMSHIM_SSMMESSAGES_ENDPOINT")]
    pub(super) ssmmessages_endpoint: Option<Destination>,

    /// Seconds to wait for the target [default: 30]
    #[arg(long, value_name = "SECONDS", env = "SSMSHIM_HOLD")]
    pub(super) hold: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct TargetsArgs {
    /// Show only machines with this in their id, name or address, or with the tag tag:Key=Value
    pub(super) filter: Option<String>,

    /// Print one JSON object a line
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) account: AccountArgs,
}

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Address to listen on
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "SSMSHIM_LISTEN",
        default_value = "127.0.0.1:2222"
    )]
    pub(super) listen: SocketAddr,

    #[command(flatten)]
    pub(super) emulated: EmulatedArgs,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Args)]
#[command(after_long_help = fault_help())]
pub(super) struct EmulatorArgs {
    /// Loopback address to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8022")]
    pub(super) listen: SocketAddr,

    /// The machines, as a JSON list [default: one, which is this machine]
    #[arg(long, value_name = "FILE")]
    pub(super) instances: Option<PathBuf>,

    /// Where keys pushed by EC2 Instance Connect are kept for a minute: AuthorizedKeysFile DIR/%u
    #[arg(long, value_name = "DIR")]
    pub(super) pushed_keys: Option<PathBuf>,

    /// Which version of amazon-ssm-agent the emulated agents are, with the ways and the lacks that it had, such as
    /// 2.3.722.0 (no multiplexing) or 3.1.1511.0
    #[arg(long, value_name = "VERSION", default_value_t)]
    pub(super) agent_version: AgentVersion,

    /// Seconds for which STS and SSO give credentials [default: what is asked for]
    #[arg(long, value_name = "SECONDS")]
    pub(super) credential_lifetime: Option<u64>,

    /// The code that every MFA device shows
    #[arg(long, value_name = "CODE", default_value = "123456")]
    pub(super) mfa_code: String,

    #[command(flatten)]
    pub(super) emulated: EmulatedArgs,

    #[command(flatten)]
    pub(super) faults: FaultArgs,

    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What goes wrong.
#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// What goes wrong, as JSON or a file of it; may be repeated. More at any time by HTTP:
    /// the endpoint's /faults
    #[arg(long, value_name = "FILE|JSON", value_parser = read_plan)]
    fault: Vec<Plan>,

    /// Repeats the chances of a run [default: a random one, told at /faults]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl FaultArgs {
    /// All of it as one plan; `--seed` wins over those of files.
    pub(super) fn plan(self) -> Plan {
        let seed = self.fault.iter().rev().find_map(|plan| plan.seed);
        Plan {
            seed: self.seed.or(seed),
            faults: self
                .fault
                .into_iter()
                .flat_map(|plan| plan.faults)
                .collect(),
        }
    }
}

/// What can go wrong, an example of each kind.
fn fault_help() -> String {
    let mut help = "Faults, one of each kind:\n".to_owned();
    for (example, meaning) in EXAMPLES {
        help.push_str(&format!("\n  {meaning}\n      {example}\n"));
    }
    help
}

fn read_plan(argument: &str) -> Result<Plan, String> {
    let json = if argument.trim_start().starts_with('{') {
        argument.to_owned()
    } else {
        std::fs::read_to_string(argument)
            .map_err(|error| format!("{error}; JSON begins with a brace, a file is read"))?
    };
    json.parse()
        .map_err(|error: serde_json::Error| error.to_string())
}

#[derive(Debug, Args)]
pub(super) struct EmulatedArgs {
    /// Whether the emulated agent pauses 1 ms after each message, as the real one does
    #[arg(long, default_value = "off")]
    pub(super) pacing: PacingArg,

    /// How the emulated agent makes losses good [default: as the real one when it paces itself, else all at once]
    #[arg(long)]
    resend: Option<ResendArg>,
}

impl EmulatedArgs {
    /// An agent that is faster than the real one would take minutes to make losses good in the real one's way.
    pub(super) fn resend(&self) -> Resend {
        let natural = match self.pacing {
            PacingArg::Real => ResendArg::Head,
            PacingArg::Off => ResendArg::Backlog,
        };
        self.resend.unwrap_or(natural).into()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum PacingArg {
    /// As the real agent: about 0.7 MB/s to the client
    Real,
    /// As fast as this machine
    Off,
}

impl From<PacingArg> for Pacing {
    fn from(argument: PacingArg) -> Self {
        match argument {
            PacingArg::Real => Self::Real,
            PacingArg::Off => Self::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ResendArg {
    /// As the real agent: ten lost messages a second
    Head,
    /// All at once
    Backlog,
}

impl From<ResendArg> for Resend {
    fn from(argument: ResendArg) -> Self {
        match argument {
            ResendArg::Head => Self::HeadOnly,
            ResendArg::Backlog => Self::Backlog,
        }
    }
}
