//! Asks AWS about machines; what the answers mean is decided by the pure parts.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::info;

use super::find::{Error, find};
use super::machine::{Machine, merge};
use super::selector::{Id, Selector};
use crate::aws::{self, Aws};

/// Time to ask about an id that can be tried without an answer.
const ASIDE: Duration = Duration::from_secs(5);

/// Time for EC2 to tell the state of an instance that Systems Manager does not reach, and for STS to tell the
/// account. Where only Systems Manager has an endpoint, they never do.
const OTHERS_ASIDE: Duration = Duration::from_secs(3);

/// Ids in one filter of EC2: the most there may be.
const IDS: usize = 200;

/// Makes what a person typed into one machine that a session can be started to.
///
/// An id about which AWS may not be asked, or does not answer within 5 s, is returned as it is: whether it
/// exists shows when a session is started.
///
/// # Errors
/// Why there is no such machine, or none that can be reached now.
pub async fn resolve(aws: &Aws, wanted: &str) -> Result<Machine, Error> {
    let found = look_up(aws, wanted).await?;
    Ok(found.machine)
}

/// What [`look_up`] has found.
pub(super) struct Found {
    pub(super) machine: Machine,
    /// Whether AWS has told, or may not. Otherwise it may tell more another time.
    pub(super) is_final: bool,
}

impl Found {
    fn told(machine: Machine) -> Self {
        Self {
            machine,
            is_final: true,
        }
    }

    fn unseen(id: &Id, is_final: bool) -> Self {
        let machine = Machine::unknown(id.as_str());
        Self { machine, is_final }
    }
}

/// As [`resolve`].
///
/// # Errors
/// As [`resolve`].
pub(super) async fn look_up(aws: &Aws, wanted: &str) -> Result<Found, Error> {
    // A person who is asked for credentials takes longer than the calls below may. That there are none is told by
    // whatever call needs them first.
    let _told_later = aws.prepare().await;
    let selector = Selector::parse(wanted);
    let lookup = Lookup {
        aws,
        wanted,
        is_id: matches!(selector, Selector::Id(_)),
    };
    let found = match &selector {
        Selector::Id(id) => match timeout(ASIDE, lookup.by_id(id)).await {
            Ok(Err(Error::Api { source, .. })) => {
                info!(
                    id = wanted,
                    reason = crate::report::one_line(&source),
                    "tried unseen"
                );
                let is_final = matches!(source, aws::Error::AccessDenied { .. });
                Ok(Found::unseen(id, is_final))
            }
            Ok(found) => found.map(Found::told),
            Err(_) => {
                info!(id = wanted, reason = "no answer in time", "tried unseen");
                Ok(Found::unseen(id, false))
            }
        },
        _ => lookup.by_description(&selector).await.map(Found::told),
    };
    match found {
        // A wrong profile is the likeliest cause, and its account tells.
        Err(Error::Unknown { wanted, region, .. }) => Err(Error::Unknown {
            wanted,
            region,
            account: lookup.account().await,
            flags: aws.ssm().flags(),
        }),
        found => found,
    }
}

/// The managed machines, and what there is to say of the list.
#[derive(Debug)]
pub struct Listing {
    /// Those online first, then by name and id.
    pub machines: Vec<Machine>,
    /// Whether these are all.
    pub is_complete: bool,
    /// Why EC2 did not tell names and addresses, if it did not.
    pub unnamed: Option<aws::Error>,
}

/// The machines that Systems Manager knows and that `filter` lets through: a part of the id, name or
/// address, or `tag:Key=Value`.
///
/// # Errors
/// As of DescribeInstanceInformation. That EC2 may not be asked for names is none.
pub async fn list(aws: &Aws, filter: Option<&str>) -> Result<Listing, aws::Error> {
    let selector = filter.map(Selector::parse);
    let tag = match &selector {
        Some(Selector::Tag { key, value }) => Some((format!("tag:{key}"), value.as_str())),
        _ => None,
    };
    let filters: Vec<_> = tag
        .iter()
        .map(|(key, value)| (key.as_str(), *value))
        .collect();
    let managed = aws.describe_managed(&filters).await?;
    let ids: Vec<String> = managed
        .items
        .iter()
        .map(|machine| machine.id.clone())
        .filter(|id| id.starts_with("i-"))
        .collect();
    let mut instances = Vec::new();
    let mut unnamed = None;
    for ids in ids.chunks(IDS) {
        match aws.describe_instances(&[("instance-id", ids)]).await {
            Ok(listed) => instances.extend(listed.items),
            Err(error) => {
                unnamed = Some(error);
                break;
            }
        }
    }
    let mut machines = merge(managed.items, &instances);
    if let (Some(filter), None) = (filter, &tag) {
        machines.retain(|machine| machine.matches(filter));
    }
    machines.sort_by_cached_key(|machine| {
        let name = machine.name.as_ref().or(machine.computer_name.as_ref());
        (
            !machine.is_online(),
            name.is_none(),
            name.cloned(),
            machine.id.clone(),
        )
    });
    Ok(Listing {
        machines,
        is_complete: managed.is_complete,
        unnamed,
    })
}

struct Lookup<'a> {
    aws: &'a Aws,
    wanted: &'a str,
    /// Whether what is wanted is an id, which can be tried unseen.
    is_id: bool,
}

impl Lookup<'_> {
    async fn by_id(&self, id: &Id) -> Result<Machine, Error> {
        let text = id.as_str();
        let (Id::Instance(_) | Id::Node(_)) = id else {
            return match self.aws.is_connected(text).await {
                Ok(true) => Ok(Machine::unknown(text)),
                Ok(false) => Err(Error::Offline {
                    title: text.to_owned(),
                    task: id
                        .task()
                        .map(|(cluster, task)| self.describe_task(cluster, task)),
                    last_ping: None,
                }),
                Err(error) => Err(self.failed(error)),
            };
        };
        let managed = self
            .aws
            .describe_managed(&[("InstanceIds", text)])
            .await
            .map_err(|error| self.failed(error))?;
        match managed.items.into_iter().next() {
            Some(managed) => self.vouch(managed.into()).await,
            None => self.unlisted(id).await,
        }
    }

    /// An id that is not on the list, which may be some minutes behind.
    async fn unlisted(&self, id: &Id) -> Result<Machine, Error> {
        let text = id.as_str();
        if self.may_be_connected(text).await {
            return Ok(Machine::unknown(text));
        }
        if let Some(instance) = self.in_ec2(text).await {
            return self.vouch(instance).await;
        }
        Err(Error::Unknown {
            wanted: text.to_owned(),
            region: self.aws.region().to_owned(),
            account: None,
            flags: String::new(),
        })
    }

    /// By tag, address or name: the tags of managed machines first, which is one call.
    async fn by_description(&self, selector: &Selector) -> Result<Machine, Error> {
        let tag = match selector {
            Selector::Tag { key, value } => Some((format!("tag:{key}"), value)),
            Selector::Name(name) => Some(("tag:Name".to_owned(), name)),
            _ => None,
        };
        let mut machines = Vec::new();
        if let Some((key, value)) = &tag {
            machines = self.managed(&[(key, value)]).await?;
            if let Selector::Name(name) = selector {
                // The list has no tags, but these have this one.
                for machine in &mut machines {
                    machine.name = Some(name.clone());
                }
            }
        }
        if machines.is_empty() {
            machines = self.all(selector).await?;
        }
        let found = find(self.wanted, selector, &machines, self.aws.region())?;
        self.vouch(found.clone()).await
    }

    /// Managed machines whatever they are called, and what EC2 finds by the selector.
    async fn all(&self, selector: &Selector) -> Result<Vec<Machine>, Error> {
        let (filter, value) = match selector {
            Selector::Tag { key, value } => (format!("tag:{key}"), value.clone()),
            Selector::Address(address) => ("private-ip-address".to_owned(), address.to_string()),
            Selector::Name(name) if name.contains('.') => {
                ("private-dns-name".to_owned(), name.clone())
            }
            Selector::Name(name) => ("tag:Name".to_owned(), name.clone()),
            Selector::Id(id) => ("instance-id".to_owned(), id.as_str().to_owned()),
        };
        let values = [value];
        let filters = [(filter.as_str(), &values[..])];
        let instances = async {
            let instances = self.aws.describe_instances(&filters).await;
            instances.map_or_else(
                |error| {
                    info!(reason = crate::report::one_line(&error), "EC2 is not asked");
                    Vec::new()
                },
                |listed| listed.items,
            )
        };
        // A tag was asked for already, and no managed machine has it.
        if let Selector::Tag { .. } = selector {
            return Ok(merge(Vec::new(), &instances.await));
        }
        let (managed, instances) = tokio::join!(self.aws.describe_managed(&[]), instances);
        let managed = managed.map_err(|error| self.failed(error))?;
        Ok(merge(managed.items, &instances))
    }

    async fn managed(&self, filters: &[(&str, &str)]) -> Result<Vec<Machine>, Error> {
        let managed = self.aws.describe_managed(filters).await;
        let managed = managed.map_err(|error| self.failed(error))?;
        Ok(managed.items.into_iter().map(Machine::from).collect())
    }

    /// Returns the machine if a session can be started to it now.
    ///
    /// What the list says of the agent is some minutes old, so before it is called offline the service
    /// is asked again.
    async fn vouch(&self, mut machine: Machine) -> Result<Machine, Error> {
        if machine.is_online() || self.may_be_connected(&machine.id).await {
            return Ok(machine);
        }
        if machine.state.is_none()
            && let Some(known) = self.in_ec2(&machine.id).await
        {
            machine.state = known.state;
            machine.name = known.name.or(machine.name);
        }
        if let Some(state) = machine.state.clone().filter(|state| state != "running") {
            return Err(Error::NotRunning {
                title: machine.title(),
                id: machine.id,
                state,
                flags: self.aws.ssm().flags(),
            });
        }
        if !machine.is_managed() {
            return Err(Error::NotManaged {
                title: machine.title(),
            });
        }
        let last_ping = machine.last_ping.map(|at| {
            let ago = SystemTime::now().duration_since(at);
            (ago.unwrap_or_default(), at)
        });
        Err(Error::Offline {
            title: machine.title(),
            task: None,
            last_ping,
        })
    }

    /// Whether the service says that a session can be started; where it does not say, an id is worth a try.
    async fn may_be_connected(&self, id: &str) -> bool {
        self.aws.is_connected(id).await.unwrap_or(self.is_id)
    }

    /// What EC2 knows of an instance, if it may be asked.
    async fn in_ec2(&self, id: &str) -> Option<Machine> {
        if !id.starts_with("i-") {
            return None;
        }
        let ids = [id.to_owned()];
        let filters = [("instance-id", &ids[..])];
        let listed = timeout(OTHERS_ASIDE, self.aws.describe_instances(&filters)).await;
        let instances = listed.ok()?.ok()?.items;
        merge(Vec::new(), &instances).into_iter().next()
    }

    /// The number of the account, if STS tells.
    async fn account(&self) -> Option<String> {
        let caller = timeout(OTHERS_ASIDE, self.aws.caller_identity()).await;
        Some(caller.ok()?.ok()?.account)
    }

    /// The command that shows what is the matter with a task.
    fn describe_task(&self, cluster: &str, task: &str) -> String {
        format!(
            "aws ecs describe-tasks --cluster {cluster} --tasks {task} \
             --query 'tasks[].[lastStatus,enableExecuteCommand]'{}",
            self.aws.ssm().flags()
        )
    }

    fn failed(&self, source: aws::Error) -> Error {
        Error::Api {
            wanted: self.wanted.to_owned(),
            source,
        }
    }
}
