//! Reads the configuration again: when a file of it changes, on SIGHUP, or when the command line asks. All of it is checked first, by the code
//! of `check`; on any fault all of it is refused and the former one goes on. Then it is swapped whole.

use super::backends::Watchers;
use super::certificates::{Certificates, Replacement};
use super::{Origin, inspector, logging, made, notify};
use crate::admin::lifecycle::ReloadReport;
use crate::authenticate::Authenticator;
use crate::authenticate::oidc::Providers;
use crate::config::Config;
use crate::config::reload::hold_fixed;
use crate::dispatch::backend::Backend;
use crate::dispatch::warm_up;
use crate::ids::BackendId;
use crate::inspect::Inspector;
use crate::record::ledger::LedgerError;
use crate::services::{Live, Services};
use crate::tenants::{AllTenants, Closed};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the files are looked at: some `stat` calls.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Who reads the configuration again, and what that takes.
pub(super) struct Reloader {
    services: Arc<Services>,
    watchers: Arc<Watchers>,
    certificates: Arc<Certificates>,
    /// As the process was started: what can't change while it runs.
    started: Arc<Config>,
    /// `None`: the program made the configuration itself, as the demo does.
    origin: Option<Origin>,
}

/// A configuration that passed every check, with what follows from it.
struct Prepared {
    config: Config,
    inspector: Inspector,
    certificates: Replacement,
    warnings: Vec<String>,
    needs_restart: Vec<String>,
}

/// What one reading of the files came to: the configuration or every fault, and the files.
type Reading = (Result<Prepared, Vec<String>>, BTreeSet<PathBuf>);

impl Reloader {
    /// Follows the files of `origin`.
    pub(super) fn new(
        services: &Arc<Services>,
        watchers: &Arc<Watchers>,
        certificates: Certificates,
        origin: Option<Origin>,
    ) -> Self {
        let (services, watchers, started) = (Arc::clone(services), Arc::clone(watchers), services.config());
        Self { services, watchers, certificates: Arc::new(certificates), started, origin }
    }

    /// Whether there is anything to read again.
    pub(super) fn has_files(&self) -> bool {
        self.origin.is_some()
    }

    /// Looks at the files, and reads them again if what is in them has changed.
    pub(super) async fn look(&mut self) {
        let made = self.services.tenants().registry().files_of_made();
        let looked = self.in_the_background(|origin| {
            origin.watched.add(made);
            origin.watched.changed()
        });
        if looked.await == Some(true) {
            tracing::info!("the configuration's files have changed");
            self.reload().await;
        }
    }

    /// Reads the files again, and applies what is in them if it has no fault.
    pub(super) async fn reload(&mut self) -> ReloadReport {
        notify::tell(notify::Word::Reloading);
        let report = match self.read().await {
            Ok(prepared) => self.applied(prepared).await,
            Err(errors) => self.refused(errors),
        };
        notify::tell(notify::Word::Ready);
        report
    }

    /// Runs what may block on a thread for that. `None` without files.
    async fn in_the_background<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Origin) -> T + Send + 'static,
    ) -> Option<T> {
        let mut origin = self.origin.take()?;
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mut origin);
            (done, origin)
        });
        match worked.await {
            Ok((done, origin)) => {
                self.origin = Some(origin);
                Some(done)
            }
            Err(error) => {
                tracing::error!(%error, "the configuration's files can't be followed any more");
                None
            }
        }
    }

    async fn read(&mut self) -> Result<Prepared, Vec<String>> {
        let (services, started) = (Arc::clone(&self.services), Arc::clone(&self.started));
        let certificates = Arc::clone(&self.certificates);
        let read = self.in_the_background(move |origin| {
            // Before they are read: what is written from here on is a change.
            origin.watched.remember();
            let (prepared, mut files) = reading(&services, &started, &certificates, origin);
            // These go on to be read by the next configuration, or stay as they are where it is refused.
            files.extend(services.tenants().registry().files_of_made().into_keys());
            origin.watched.set_files(files);
            prepared
        });
        read.await.unwrap_or_else(|| Err(vec!["this gateway's configuration does not come from files".to_owned()]))
    }

    fn refused(&self, errors: Vec<String>) -> ReloadReport {
        let generation = self.services.live().generation;
        for fault in &errors {
            tracing::error!(fault, "the new configuration is refused, the former one goes on");
        }
        self.services.metrics.set_config(generation, false);
        self.services.audit.reload(generation, &errors, &[]);
        ReloadReport { applied: false, generation, errors, ..ReloadReport::default() }
    }

    async fn applied(&mut self, prepared: Prepared) -> ReloadReport {
        let services = Arc::clone(&self.services);
        let former = services.live();
        let backends = match backends(&services, &prepared.config, &prepared.inspector, &former).await {
            Ok(backends) => backends,
            Err(error) => return self.refused(vec![format!("the ledger can't be asked for the backends: {error}")]),
        };
        let config = prepared.config;
        let tenants = AllTenants::new(
            Arc::clone(&config.tenants),
            Arc::clone(&services.managed),
            Arc::clone(&services.created),
            config.limits.created_tenants_max,
        );
        // Also where it is refused: what it was refused for may be in one that only the refused one reads.
        if let Some(origin) = &mut self.origin {
            origin.watched.add(config.tenants.files_of_made());
        }
        // A plan that is renamed would lock out all that the file does not name, and nothing else would say so.
        let closed: Vec<String> = tenants.would_close(&former.tenants).iter().map(Closed::refusal).collect();
        if !closed.is_empty() {
            return self.refused(closed);
        }
        let generation = former.generation.saturating_add(1);
        services.hub.set_sockets_max(config.limits.websockets_max);
        services.links.set(config.public_url.as_ref(), config.views_lifetime);
        services.live.store(Arc::new(Live {
            generation,
            tenants: Arc::new(tenants),
            inspector: prepared.inspector,
            authenticator: Arc::new(Authenticator::new(config.jwt.clone(), &services.key_sets, services.clock.clone())),
            providers: Arc::new(Providers::new(
                &config.oidc,
                Some(&former.providers),
                &services.key_sets,
                &services.clock,
            )),
            backends: Arc::new(backends),
            config: Arc::new(config),
        }));
        prepared.certificates.apply();
        services.object_infos.clear();
        services.lists.clear();
        // After the swap: an erasure that ends from here on sees the new file itself.
        if let Err(error) = services.managed.settle(services.tenants().registry()).await {
            tracing::error!(%error, "tenants of the file that were deleted before can't be written to yet");
        }
        services.reloaded.send_replace(generation);
        services.rules_changed();
        // Before anything watches over a backend that is new: it may be halted.
        if let Err(error) = services.refresh_halts().await {
            tracing::error!(%error, "what is drained or paused can't be read: what was known stays in force");
        }
        self.watchers.follow();
        logging::set_generation(generation);
        services.metrics.set_config(generation, true);
        services.audit.reload(generation, &[], &prepared.needs_restart);
        let (mut warnings, needs_restart) = (prepared.warnings, prepared.needs_restart);
        warnings.extend(services.tenants().doubts());
        tell_applied(&warnings, &needs_restart);
        ReloadReport { applied: true, generation, errors: Vec::new(), warnings, needs_restart }
    }
}

fn tell_applied(warnings: &[String], needs_restart: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    for key in needs_restart {
        tracing::warn!(key, "this change needs a restart; the former value stays in force");
    }
    tracing::info!("the new configuration is in force");
}

/// Loads the configuration and whatever it names. Blocks.
fn reading(services: &Services, started: &Config, certificates: &Certificates, origin: &Origin) -> Reading {
    let (loaded, files) = Config::load_watched(origin.path.as_deref());
    let prepared =
        loaded.map_err(|faults| faults.errors.iter().map(ToString::to_string).collect()).and_then(|loaded| {
            let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            prepared(services, started, certificates, loaded.config, warnings)
        });
    (prepared, files)
}

fn prepared(
    services: &Services,
    started: &Config,
    certificates: &Certificates,
    mut config: Config,
    warnings: Vec<String>,
) -> Result<Prepared, Vec<String>> {
    let needs_restart = hold_fixed(started, &mut config);
    let told = |error: anyhow::Error| vec![format!("{error:#}")];
    let certificates = certificates.replacement(&config, services.clock.wall()).map_err(told)?;
    let fresh = inspector(&config).map_err(told)?;
    let faults = warm_up::faults(&config, &fresh);
    if !faults.is_empty() {
        return Err(faults);
    }
    let former = services.inspector();
    // The same one stays: backends need not be asked anew.
    let inspector = if former.reads_like(&fresh) { former } else { fresh };
    Ok(Prepared { config, inspector, certificates, warnings, needs_restart })
}

/// Backends of which nothing changed stay as they are; the others begin anew, under the secret sid that the ledger has for their name. With another
/// catalogue all begin anew: what they share with it has to be found out.
async fn backends(
    services: &Services,
    config: &Config,
    inspector: &Inspector,
    former: &Live,
) -> Result<BTreeMap<BackendId, Arc<Backend>>, LedgerError> {
    let mut backends = BTreeMap::new();
    for wanted in &config.backends {
        let is_owned = config.tenants.owner_of(&wanted.pool).is_some();
        let digest = |inspector: &Inspector| inspector.catalogue_of(&wanted.pool).digest();
        let same_catalogue = digest(&former.inspector) == digest(inspector);
        let same = former
            .backends
            .get(&wanted.id)
            .filter(|known| same_catalogue && former.config.backends.contains(wanted) && known.is_owned() == is_owned);
        let backend = match same {
            Some(known) => Arc::clone(known),
            None => made(config, wanted, services.ledger.upstream_client(&wanted.id).await?),
        };
        backends.insert(wanted.id.clone(), backend);
    }
    Ok(backends)
}
