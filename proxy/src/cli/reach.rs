//! Whom a command asks: the gateway that runs, if one does, else the ledger itself.
//!
//! A running gateway is found by the state directory alone: whatever else is wrong in the configuration, or is a variable that this shell does not have,
//! keeps nobody from revoking a key. Only without a gateway is the whole configuration needed, and then the command says that it works on the ledger.

use super::ConfigArgument;
use crate::admin::CONTROL_SOCKET;
use crate::admin::control_client::ControlClient;
use crate::config::Config;
use crate::ids::TenantId;
use crate::record::backup::LEDGER;
use crate::record::ledger::LedgerError;
use crate::record::ledger::redb::{RedbLedger, RedbOptions};
use crate::record::state_dir::{self, StateDirError};
use crate::tenants;
use anyhow::{Context, bail};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a command does where there is no state yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoState {
    /// It ends: what reads, changes or takes away something finds nothing in a wrong directory.
    Refused,
    /// It makes one: keys, users and tenants may come before the first start.
    Made,
}

/// Whoever has the ledger.
pub(super) enum Reached {
    /// A gateway that runs.
    Gateway(ControlClient),
    /// Nobody but this command.
    Here(Here),
}

/// The state directory of a gateway that does not run, locked.
pub(super) struct Here {
    pub(super) config: Box<Config>,
    pub(super) ledger: Arc<RedbLedger>,
}

impl Here {
    /// Whether there is such a tenant: in the tenants file, or made by the control API or a token.
    pub(super) async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        Ok(self.config.tenants.tenant(tenant).is_some() || tenants::in_ledger(&*self.ledger, tenant).await?)
    }
}

/// Reaches the gateway of a configuration, else its ledger.
///
/// # Errors
/// Where the state is can't be read; this user may not ask; and without a gateway: the configuration has faults, there is no state, or the ledger can't be opened.
pub(super) fn reach(which: &ConfigArgument, no_state: NoState) -> anyhow::Result<Reached> {
    let state = state_dir(which)?;
    if let Some(client) = gateway(&state)? {
        return Ok(Reached::Gateway(client));
    }
    let config = whole(which)?;
    let there = config.state_dir.join(LEDGER).exists();
    let shown = config.state_dir.display();
    if !there && no_state == NoState::Refused {
        bail!(
            "there is no state in `{shown}`, and no gateway runs there: is this its directory, and its configuration? (--config FILE)"
        );
    }
    let Some(ledger) = opened(&config.state_dir)? else { return Ok(Reached::Gateway(client(&state))) };
    if there {
        eprintln!("comfygate: no gateway runs: this is about the ledger in `{shown}`");
    } else {
        eprintln!("comfygate: no gateway runs and there was no state: `{shown}` was made");
    }
    Ok(Reached::Here(Here { config: Box::new(config), ledger: Arc::new(ledger) }))
}

/// The gateway that runs, for what only it can do. One that does not is found out by the call.
///
/// # Errors
/// Where the state is can't be read; this user may not ask.
pub(super) fn running(which: &ConfigArgument) -> anyhow::Result<ControlClient> {
    let state = state_dir(which)?;
    Ok(gateway(&state)?.unwrap_or_else(|| client(&state)))
}

/// The state directory, of a configuration that may have any fault beside.
///
/// # Errors
/// The file can't be read or is no TOML, or `state.dir` is no text.
pub(super) fn state_dir(which: &ConfigArgument) -> anyhow::Result<PathBuf> {
    Config::state_dir_alone(which.config.as_deref()).map_err(|errors| {
        anyhow::anyhow!(
            "the configuration does not tell the state directory, where a gateway is found:\n{errors}\nuntil that is mended, name another file with --config: `dir = \"DIR\"` below `[state]` is enough to speak to a running gateway"
        )
    })
}

/// The configuration for work that no gateway does.
///
/// # Errors
/// It has faults.
pub(super) fn whole(which: &ConfigArgument) -> anyhow::Result<Config> {
    let loaded = Config::load(which.config.as_deref());
    Ok(loaded.map_err(|errors| anyhow::anyhow!("no gateway runs, and the configuration has faults:\n{errors}"))?.config)
}

/// The gateway that runs with this state directory; `None`: none does.
///
/// # Errors
/// This user may not ask it, nor see whether there is one.
pub(super) fn gateway(state: &Path) -> anyhow::Result<Option<ControlClient>> {
    match UnixStream::connect(state.join(CONTROL_SOCKET)) {
        Ok(_) => Ok(Some(client(state))),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let asker = match state.metadata() {
                Ok(found) => format!("the user with the id {0} may, and root: sudo -u '#{0}' comfygate …", found.uid()),
                Err(_) => "its user may, and root".to_owned(),
            };
            bail!("this user may not ask a gateway with the state directory `{}`: {asker}", state.display())
        }
        Err(_) => Ok(None),
    }
}

/// A client for whoever answers there.
pub(super) fn client(state: &Path) -> ControlClient {
    ControlClient::new(state.join(CONTROL_SOCKET))
}

/// The ledger of a state directory; `None`: another process has it, and does not answer yet or any more.
fn opened(state: &Path) -> anyhow::Result<Option<RedbLedger>> {
    match state_dir::take(state) {
        Ok(()) => {}
        // Not to be given away: a gateway may be about to start with it.
        Err(StateDirError::Foreign { path, owner, ours }) => bail!(
            "`{}` belongs to the user with the id {owner}, this command runs as {ours}: run it as that user: sudo -u '#{owner}' comfygate …",
            path.display()
        ),
        Err(error) => return Err(error.into()),
    }
    match RedbLedger::open(state, RedbOptions::default()) {
        Ok(ledger) => Ok(Some(ledger)),
        Err(LedgerError::Held { .. }) => Ok(None),
        Err(error) => Err(error).context("the ledger can't be opened"),
    }
}

/// Says on standard error that a list is empty because there is no such tenant.
pub(super) fn tell_unknown(tenant: &TenantId) {
    eprintln!("comfygate: there is no tenant `{tenant}`: `comfygate tenant list` shows them");
}
