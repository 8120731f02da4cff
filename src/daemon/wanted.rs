//! The target as the parts above AWS see it: who may log in there, and why it cannot be reached.

use std::sync::Arc;

use crate::config::{self, Serve};
use crate::target::{self, Machine, Wanted};
use crate::tunnel::{Asked, Testimony, Witness};
use crate::upstream::Users;

/// Who to log in as: who is configured, or who the machine's platform suggests, which is asked for meanwhile.
pub(super) fn users(config: &Serve, wanted: &Arc<Wanted>) -> Users {
    if let Some(user) = &config.user {
        return Users::new(user, []);
    }
    let wanted = Arc::clone(wanted);
    let own = config::own_user();
    Users::awaited(own.clone(), move || {
        let (wanted, own) = (Arc::clone(&wanted), own.clone());
        async move { Some(target::users::of(wanted.machine().await?, &own)) }
    })
}

/// As [`users`], on a machine that is known.
pub(super) fn users_on(config: &Serve, machine: &Machine) -> Users {
    if let Some(user) = &config.user {
        return Users::new(user, []);
    }
    let own = config::own_user();
    let mut suggested = target::users::of(machine, &own).into_iter();
    Users::new(suggested.next().unwrap_or(own), suggested)
}

/// Asks AWS about a target that cannot be reached.
#[derive(Debug)]
pub(super) struct Inquirer(pub(super) Arc<Wanted>);

impl Witness for Inquirer {
    fn ask(&self) -> Asked<'_> {
        Box::pin(async {
            let error = self.0.why_absent().await?;
            let hint = error.hint();
            let cause = error.into();
            Some(Testimony { cause, hint })
        })
    }
}
