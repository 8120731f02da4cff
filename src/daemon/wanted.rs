//! The target as the parts above AWS see it: who may log in there, and why it cannot be reached.

use std::sync::Arc;

use crate::config::{self, Serve};
use crate::target::{self, Wanted};
use crate::tunnel::{Asked, Testimony, Witness};
use crate::upstream::Users;

/// Who to log in as: who is configured, or who the machine's platform suggests, which is asked for meanwhile.
pub(super) fn users(config: &Serve, wanted: &Arc<Wanted>) -> Users {
    if let Some(user) = &config.user {
        return Users::new(user, []);
    }
    let wanted = Arc::clone(wanted);
    let own = config::own_user();
    Users::awaited(own.clone(), async move {
        target::users::of(wanted.machine().await, &own)
    })
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
