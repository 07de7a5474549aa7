//! What every request and every task share: made once by `app`, handed on as one `Arc`.

mod first_user;
mod identity;
mod renewals;

pub use identity::PasswordAttempt;
pub use renewals::Oidc;

use crate::actions::{Lists, ObjectInfos, ViewTurns};
use crate::admit::Guesses;
use crate::authenticate::Authenticator;
use crate::authenticate::browsers::Browsers;
use crate::authenticate::endings::Endings;
use crate::authenticate::jwks::KeySets;
use crate::authenticate::key_uses::KeyUses;
use crate::authenticate::local_users::LocalUsers;
use crate::authenticate::oidc::Providers;
use crate::authenticate::tickets::Tickets;
use crate::budget::Reservation;
use crate::clock::Clock;
use crate::config::Config;
use crate::deliver::events::{
    ending,
    held::Held,
    hub::{Hub, Route, SocketHandle},
};
use crate::deliver::views::links::Links;
use crate::dispatch::attempt::ending_label;
use crate::dispatch::backend::Backend;
use crate::dispatch::disk;
use crate::dispatch::estimate::Estimates;
use crate::dispatch::halts::{HaltsInForce, of_gone_backends};
use crate::dispatch::outlook::Outlook;
use crate::dispatch::tracks::Tracks;
use crate::dispatch::vram;
use crate::drain::Drain;
use crate::ids::{BackendId, ClientId, TenantId};
use crate::inspect::Inspector;
use crate::inspect::bans::BannedClasses;
use crate::inspect::measured::Measured;
use crate::owner::OwnerScope;
use crate::record::audit::Audit;
use crate::record::blobs::Blobs;
use crate::record::ledger::{Approval, Job, JobResult, JobState, Ledger, LedgerError, Work};
use crate::record::metrics::Metrics;
use crate::record::space::{Space, SpaceError};
use crate::reject::Rejection;
use crate::retention::Sweeps;
use crate::tenants::created::CreatedTenants;
use crate::tenants::managed::ManagedTenants;
use crate::tenants::stays::Stays;
use crate::tenants::{AllTenants, Tenant};
use arc_swap::ArcSwap;
use comfygate_policy::{ApprovedWorkflow, Catalogue, NodeClass, Parsed, Policy};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore, watch};

/// The parts of a running gateway.
pub struct Services {
    /// What a reload replaces; read through [`Services::live`] and its short forms.
    pub live: ArcSwap<Live>,
    /// Tells of each reload, by its generation: for what looks at the configuration only now and then.
    pub reloaded: watch::Sender<u64>,
    /// The only source of time.
    pub clock: Clock,
    /// Jobs, files, keys.
    pub ledger: Arc<dyn Ledger>,
    /// Contents.
    pub blobs: Blobs,
    /// What results are that were named as inputs.
    pub measured: Measured,
    /// Room on the disk of both.
    pub space: Space,
    /// Clients' sockets.
    pub hub: Arc<Hub>,
    /// Whose an upstream event is.
    pub tracks: Tracks,
    /// Submissions to backends, and renewals of sessions at identity providers, that were not answered yet: a stop waits for them, for they can't be asked again.
    pub submissions: Drain,
    /// Signed URLs.
    pub links: Links,
    /// Decisions worth a line.
    pub audit: Audit,
    /// Prometheus.
    pub metrics: Metrics,
    /// Whose turn it is to tell an owner's queue length.
    pub status_turns: StatusTurns,
    /// Large answers at once: each may take [`ANSWER_GRAPHS_BYTES_MAX`] and some.
    pub large_answers: Semaphore,
    /// Whose turn it is to have another form of a picture made.
    pub view_turns: ViewTurns,
    /// Filtered `object_info`, for a minute.
    pub object_infos: ObjectInfos,
    /// Keys that issuers publish: kept over a reload.
    pub key_sets: Arc<KeySets>,
    /// Tenants that tokens made: kept over a reload.
    pub created: Arc<CreatedTenants>,
    /// Tenants that the control API made, and what is being erased: kept over a reload.
    pub managed: Arc<ManagedTenants>,
    /// Requests that are being answered, by tenant.
    pub stays: Stays,
    /// Failed logins, and who waits for them.
    pub guesses: Guesses,
    /// When keys were used, until it is written.
    pub key_uses: KeyUses,
    /// Tickets for sockets.
    pub tickets: Tickets,
    /// Who waits for the end of which credential.
    pub endings: Arc<Endings>,
    /// Sessions of browsers.
    pub browsers: Browsers,
    /// Logins at identity providers, and what renews their sessions.
    pub oidc: Oidc,
    /// Hashes and links of local users.
    pub local_users: LocalUsers,
    /// Sockets of browsers whose session has ended.
    pub held: Arc<Held>,
    /// Classes that an operator has banned for everybody.
    pub banned: BannedClasses,
    /// Whose turn it is to put bans into force.
    pub ban_turn: Mutex<()>,
    /// What an operator has stopped.
    pub halts: HaltsInForce,
    /// Tells that what verdicts follow from has changed: a policy, a ban, a catalogue.
    pub rules: watch::Sender<u64>,
    /// Runs of retention.
    pub sweeps: Sweeps,
    /// What jobs take, as learned.
    pub estimates: std::sync::Mutex<Estimates>,
    /// What held jobs may expect.
    pub outlook: ArcSwap<Outlook>,
    /// Other lists that a backend made, as a policy shows them, for a minute.
    pub lists: Lists,
}

/// Everything that follows from the configuration and may be replaced while the gateway runs: always all of it at once.
pub struct Live {
    /// 1 at the start, one more with each reload.
    pub generation: u64,
    /// As used.
    pub config: Arc<Config>,
    /// Who pays, by which limits and policy.
    pub tenants: Arc<AllTenants>,
    /// Who is let in.
    pub authenticator: Arc<Authenticator>,
    /// Where browsers may log in.
    pub providers: Arc<Providers>,
    /// The policy engine.
    pub inspector: Inspector,
    /// Every configured backend.
    pub backends: Arc<BTreeMap<BackendId, Arc<Backend>>>,
}

/// Bytes of stored graphs in one answer of `/queue` or `/history`.
pub const ANSWER_GRAPHS_BYTES_MAX: usize = 32 << 20;
/// How many such answers are made at once; others wait.
pub const LARGE_ANSWERS_MAX: usize = 4;

/// Locks by owner, a fixed number of them: two owners that share one wait for each other a moment.
#[derive(Debug, Default)]
pub struct StatusTurns([Mutex<()>; 16]);

impl StatusTurns {
    fn of(&self, scope: &OwnerScope) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        scope.hash(&mut hasher);
        let [first, ..] = &self.0;
        self.0.get(usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or(0)).unwrap_or(first)
    }
}

impl Services {
    /// The configuration of now with all that follows from it. Whoever reads two things that must agree takes this once.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The configuration of now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.live.load().config)
    }

    /// The tenants of now.
    pub fn tenants(&self) -> Arc<AllTenants> {
        Arc::clone(&self.live.load().tenants)
    }

    /// Who is let in now.
    pub fn authenticator(&self) -> Arc<Authenticator> {
        Arc::clone(&self.live.load().authenticator)
    }

    /// The policy engine of now.
    pub fn inspector(&self) -> Inspector {
        self.live.load().inspector.clone()
    }

    /// The backends of now.
    pub fn backends(&self) -> Arc<BTreeMap<BackendId, Arc<Backend>>> {
        Arc::clone(&self.live.load().backends)
    }

    /// Reads or changes what was learned of jobs' lengths. Every change is one statement: a panic elsewhere leaves nothing half done.
    pub fn estimates<R>(&self, act: impl FnOnce(&mut Estimates) -> R) -> R {
        act(&mut self.estimates.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// What a job may take, the policy engine's bound in the seconds that such work is known to take, and the budgets that it must fit into.
    pub fn reservation(&self, approval: &Approval, tenant: &Tenant) -> Reservation {
        let seconds = |work: &Work| self.estimates(|known| known.seconds(&work.model, work.units));
        // Whose work is not known may take any time.
        Reservation::of(approval.work().map_or(f64::INFINITY, seconds), tenant.limits.budget)
    }

    /// Whether anything new may be taken in: asked before a submission or an upload is read.
    ///
    /// # Errors
    /// There is less room on the disk than `[state] free_space_min`.
    pub fn room(&self) -> Result<(), SpaceError> {
        self.space.check(self.live.load().config.free_space_min, self.clock.monotonic())
    }

    /// The backends that serve a tenant, by id.
    pub fn backends_of(&self, tenant: &Tenant) -> Vec<Arc<Backend>> {
        self.backends().values().filter(|backend| tenant.is_served_by(backend)).map(Arc::clone).collect()
    }

    /// What a tenant's workflows are judged by: its policy, with what is banned for everybody.
    pub fn policy_of(&self, tenant: &Tenant) -> Arc<Policy> {
        self.banned.over(&tenant.policy)
    }

    /// Jobs that wait are decided again: what their verdicts follow from may have changed.
    pub fn rules_changed(&self) {
        self.rules.send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Whether an operator has paused this tenant: its held jobs wait, and what it submits is accepted and waits too. [`HaltsInForce::subscribe`] tells of changes.
    pub fn tenant_paused(&self, tenant: &TenantId) -> bool {
        self.halts.is_paused(tenant)
    }

    /// Puts what an operator has stopped into force, as the ledger has it, and forgets the halts of backends that are not configured any more.
    ///
    /// # Errors
    /// The ledger can't be read; then what was in force stays, for the backends of now.
    pub async fn refresh_halts(&self) -> Result<(), LedgerError> {
        let _turn = self.halts.turn.lock().await;
        let read = self.ledger.halts().await;
        let backends = self.backends();
        let rows = match read {
            Ok(rows) => rows,
            Err(error) => {
                self.halts.tell(backends.values());
                return Err(error);
            }
        };
        for gone in of_gone_backends(&rows, |id| backends.contains_key(id)) {
            match self.ledger.release(&gone).await {
                Ok(()) => self.audit.released(&gone),
                Err(error) => {
                    tracing::warn!(?gone, %error, "the halt of a backend that is no more stays in the ledger")
                }
            }
        }
        self.halts.put(rows, backends.values());
        Ok(())
    }

    /// Whether a backend's GPU is large enough for the models of a workflow, as far as both are known.
    pub fn fits(&self, backend: &Backend, workflow: &ApprovedWorkflow) -> bool {
        let needed = self.live.load().config.vram.need(workflow);
        needed.is_none() || vram::fits(needed, backend.vram_total())
    }

    /// Whether a workflow should go to this backend: it has its classes, its GPU is large enough, and it has its models, unless no backend that serves its tenant is known to have those. Then it may go anywhere, and fails there by the
    /// backend's own word: lists of models are older than the models.
    pub fn suits(&self, tenant: Option<&Tenant>, backend: &Backend, workflow: &ApprovedWorkflow) -> bool {
        if !backend.can_run(workflow) || !self.fits(backend, workflow) {
            return false;
        }
        let elsewhere = || {
            let backends = self.backends();
            // One that is down comes back, perhaps; one that is up and lacks a class has nothing to wait for.
            let waits = |other: &Backend| !other.is_up() || other.can_run(workflow);
            let may = |other: &Backend| waits(other) && self.fits(other, workflow) && other.may_have_models(workflow);
            let serves =
                |other: &Backend| tenant.map_or(other.pool == backend.pool, |tenant| tenant.is_served_by(other));
            backends.values().any(|other| serves(other) && may(other))
        };
        backend.may_have_models(workflow) || !elsewhere()
    }

    /// Why no backend of the configuration may run a held job, whichever comes back; `None`: one may, or what the job needs is not known now.
    pub fn stranded(&self, tenant: &Tenant, workflow: Option<&ApprovedWorkflow>) -> Option<String> {
        let serving = self.backends_of(tenant);
        if serving.is_empty() {
            return Some("no backend of this gateway is for this tenant any more".to_owned());
        }
        let workflow = workflow?;
        // One that is down may come back with all that is wanted.
        if serving.iter().any(|backend| !backend.is_up() || self.suits(Some(tenant), backend, workflow)) {
            return None;
        }
        let lacks = |class: &&NodeClass| !serving.iter().any(|backend| backend.has_class(class.as_str()));
        Some(match workflow.classes().find(lacks) {
            Some(class) => format!("`{}` is installed on no backend any more", class.as_str()),
            None => "no backend has all of its nodes and GPU memory enough for it any more".to_owned(),
        })
    }

    /// What a tenant's workflows are judged by at one backend: what is installed there if the installation is the tenant's own, else the pinned catalogue. `None`: not known
    /// yet.
    pub fn catalogue_at(&self, tenant: &Tenant, backend: &Backend) -> Option<Arc<Catalogue>> {
        if tenant.is_owner() { backend.installed() } else { Some(self.inspector().catalogue_of(&tenant.pool)) }
    }

    /// Every catalogue that a tenant's workflows may be judged by now.
    pub fn catalogues_of(&self, tenant: &Tenant) -> Vec<Arc<Catalogue>> {
        if tenant.is_owner() {
            self.backends_of(tenant).iter().filter_map(|backend| backend.installed()).collect()
        } else {
            vec![self.inspector().catalogue_of(&tenant.pool)]
        }
    }

    /// What a tenant's new workflow is judged by: for an owner the installation that has all its classes, else the first one. `None`: no installation of the owner's has
    /// answered yet.
    pub fn catalogue_for(&self, tenant: &Tenant, parsed: &Parsed) -> Option<Arc<Catalogue>> {
        if !tenant.is_owner() {
            return Some(self.inspector().catalogue_of(&tenant.pool));
        }
        let installed: Vec<_> = self.backends_of(tenant).iter().filter_map(|backend| backend.installed()).collect();
        let whole =
            |catalogue: &&Arc<Catalogue>| parsed.classes().all(|class| catalogue.class(class.as_str()).is_some());
        installed.iter().find(whole).or_else(|| installed.first()).cloned()
    }

    /// Deletes what an attempt left on its backend's disk, where the configuration says where that is: its results are in the blobs, and the ledger has them. What can't be deleted now a later sweep finds.
    pub fn clean_attempt(self: &Arc<Self>, backend: &BackendId, folder: &str) {
        let config = self.config();
        let Some(directories) = config.backends.iter().find(|known| known.id == *backend) else { return };
        let roots: Vec<_> = directories.directories.of_attempts().map(ToOwned::to_owned).collect();
        if roots.is_empty() {
            return;
        }
        let (services, backend, folder) = (Arc::clone(self), backend.clone(), folder.to_owned());
        tokio::task::spawn_blocking(move || {
            for root in roots {
                match disk::remove_attempt(&root, &folder) {
                    Ok(gone) => services.metrics.backend_files_removed(gone.files, gone.bytes),
                    Err(error) => tracing::warn!(%backend, %error, "an attempt's folder is left on its disk"),
                }
            }
        });
    }

    /// Tells an owner's sockets that a job has ended, and how long the queue is now.
    pub async fn tell_end(&self, job: &Job, result: &JobResult) {
        self.sweeps.job_ended(&job.owner.tenant);
        let route = Route { scope: job.owner.scope(), client_id: job.client_id.clone() };
        let url = |id| self.links.signed(&job.owner.tenant, id, self.clock.wall());
        let steps = ending::steps(job, result, &url, &|content| self.blobs.place(content));
        steps.iter().for_each(|_| self.metrics.event("end"));
        self.hub.publish_end(&route, job.id, steps);
        self.hub.set_executing(&route, &job.prompt_id, None);
        if let (JobState::Ended(outcome), Some(started), Some(ended)) = (job.state, result.started_at, result.ended_at)
        {
            self.metrics.generation(ending_label(outcome), ended.since(started));
        }
        self.tell_queue(&route.scope).await;
    }

    /// Takes a socket in, with the length of its owner's queue at that moment: every later `status` is newer.
    ///
    /// # Errors
    /// The hub's or the ledger's refusal.
    pub async fn register_socket(
        &self,
        scope: &OwnerScope,
        client_id: Option<ClientId>,
        sockets_max: u32,
    ) -> Result<(SocketHandle, u64), Rejection> {
        let _turn = self.status_turns.of(scope).lock().await;
        let handle = self.hub.register(scope, client_id, sockets_max)?;
        Ok((handle, self.ledger.queue_remaining(scope).await?))
    }

    /// Tells an owner's sockets how many of its jobs have not ended.
    pub async fn tell_queue(&self, scope: &OwnerScope) {
        // One at a time: otherwise an older length could be told after a newer one, and stay.
        let _turn = self.status_turns.of(scope).lock().await;
        // A ledger that can't be read is reported by whoever needs the answer; this is a hint.
        if let Ok(remaining) = self.ledger.queue_remaining(scope).await {
            self.hub.status(scope, remaining);
        }
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("backends", &self.backends().keys()).finish_non_exhaustive()
    }
}
