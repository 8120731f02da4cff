//! Which of the targets that are up is what somebody wants a raw stream to.

use super::super::control::Find;
use super::super::control::message::{Demand, Identity, Offer};
use super::account::place;
use super::finder::Found;
use super::{Fleet, Ways};
use crate::upstream::Visit;

impl Find for Fleet {
    fn find(&self, demand: &Demand) -> Option<Visit> {
        let members = &self.shared.members;
        let ways = self.shared.ways.as_ref()?;
        ways.finder
            .known(members)
            .into_iter()
            .filter(|(name, found, _)| ways.offers(name, found, demand))
            .find_map(|(_, _, link)| members.any_visit(&link))
    }
}

impl Ways {
    /// Whether the machine that was found for `name` is what is wanted.
    fn offers(&self, name: &str, found: &Found, demand: &Demand) -> bool {
        // It could be merged when the machine was found.
        let Ok(config) = self.endpoint.toward(name) else {
            return false;
        };
        let offer = Offer {
            named: config.target.trim().to_owned(),
            id: found.machine.id.clone(),
            port: config.ssh_port,
            place: place(&config, &found.account.ssm),
            identity: Identity::of_environment(),
        };
        offer.is(demand)
    }
}
