//! The one-time link of a gateway that nobody can log in to yet.

use crate::authenticate::login_links::{self, FirstLinkFile, LIFETIME, LinkFor};
use crate::owner::Owner;
use crate::record::ledger::LedgerError;
use crate::services::Services;
use ring::rand::SystemRandom;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether somebody can log in by another way, while the link is good.
const LOOK: Duration = Duration::from_secs(5);

/// Tells of a link by which the first user is made, where there is nobody and no way in, and one tenant whose user it can only be.
///
/// To a person at a terminal on standard error, and nowhere else: not through the log, which may go to a file or to another machine, and not in the audit log. What is no terminal is kept by
/// somebody, a journal or a container's log, and read by more people than may be the first user: there the link is in a file that only our own user may read, and its path is told.
///
/// # Errors
/// `Unavailable`.
pub(super) async fn report(services: &Services) -> Result<(), LedgerError> {
    let config = services.config();
    // Of a process that was killed.
    FirstLinkFile::sweep(&config.state_dir);
    let Some(tenant) = services.tenant_without_way_in().await? else { return Ok(()) };
    let owner = Owner { tenant: tenant.clone(), user: None, key: None, shared: false };
    let users = &services.local_users;
    let token = match users.links.make(LinkFor::First { tenant }, &SystemRandom::new(), &services.clock) {
        Ok(token) => token,
        Err(error) => {
            tracing::warn!(%error, "no link for a first user");
            return Ok(());
        }
    };
    let url = login_links::url(&config, &token);
    let terminal = io::stderr().is_terminal();
    let place = if terminal { Ok(url) } else { users.keep_first(&config.state_dir, &url) };
    match place {
        Ok(place) => {
            let which = if terminal { "by this link" } else { "by the link in this file" };
            eprintln!(
                "comfygate: nobody can log in yet. Make the first user, of the tenant `{}`, within 30 minutes {which}:\n\n    {place}\n\n\
                 The link is used once; the next start makes another as long as there is no user and no key.",
                owner.tenant
            );
            services.audit.login_link_made(&owner);
        }
        Err(error) => {
            users.end_first();
            tracing::warn!(%error, "the link for a first user can't be kept: `comfygate user link` makes one");
        }
    }
    Ok(())
}

/// Takes the link away when its time is over, or somebody can log in by another way: for good, whatever becomes of that way. Whoever opens it in between is told so by [`crate::actions`].
pub(super) async fn expire(services: Arc<Services>) {
    let mut reloaded = services.reloaded.subscribe();
    let mut look = tokio::time::interval(LOOK);
    let over = tokio::time::sleep(LIFETIME);
    tokio::pin!(over);
    while services.local_users.links.has_first() {
        tokio::select! {
            () = &mut over => break,
            _ = look.tick() => {}
            // The gateway stops when it is not told of any more.
            told = reloaded.changed() => if told.is_err() { break },
        }
        // A ledger that can't be read is asked again; who opens the link is asked about too.
        if matches!(services.tenant_without_way_in().await, Ok(None)) {
            break;
        }
    }
    services.local_users.end_first();
}
