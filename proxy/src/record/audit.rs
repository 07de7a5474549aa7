//! The audit log: decisions worth a line, as JSON, one object a line, on standard output or in a file.
//!
//! Requests never wait for it: lines pass a bounded channel to one thread, and what does not fit is counted and the count written. Only typed
//! fields come in, so a secret, a path or a header can't. A file is put aside when it is full, and opened anew when another program moved it.

mod file;
mod floods;
mod time;
mod writer;

use crate::admit::guesses::{By, Kind};
use crate::clock::{Clock, WallMillis};
use crate::config::AuditConfig;
use crate::ids::{BackendId, FileId, JobId, KeyId, PoolId, PromptId, ProviderId, RequestId, SessionId, TenantId};
use crate::listen::ClientAddr;
use crate::owner::Owner;
use crate::record::ledger::halts::{HaltRow, Halted};
use crate::record::ledger::keeping::{Amount, Removed};
use crate::record::ledger::managed::ManagedTenant;
use crate::record::ledger::sessions::SessionRow;
use crate::record::ledger::tenants::CreatedTenant;
use crate::reject::Stage;
use crate::retention::{Erasure, Report};
use comfygate_policy::Digest;
use floods::{Flood, Floods};
use http::Method;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
pub(crate) use time::rfc3339;

/// Lines that wait for the disk.
const LINES_MAX: usize = 4096;
/// Faults of a configuration that a line names.
const FAULTS_MAX: usize = 20;
/// Longest reason, in characters: some of it may come from a caller.
const REASON_CHARS_MAX: usize = 500;
/// How long a stop waits for what is not written yet.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries to put the last message into a full channel.
const STOP_POLL: Duration = Duration::from_millis(5);

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// It can't be opened for appending.
    #[error("can't open the audit file `{path}`: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gave no thread.
    #[error("can't start the audit writer: {0}")]
    Thread(std::io::Error),
}

/// A submission that is in the ledger now.
#[derive(Debug, Clone, Serialize)]
pub struct AcceptedLine {
    /// The request that brought it.
    pub request: RequestId,
    /// Whose it is.
    pub owner: Owner,
    /// What it became.
    pub job: JobId,
    /// What its owner calls it.
    pub prompt_id: PromptId,
    /// The policy that let it in.
    pub policy: Digest,
    /// The catalogue that it was read by.
    pub catalogue: Digest,
    /// The graph as the backend gets it.
    pub submission: Digest,
}

/// A file that its owner has uploaded.
#[derive(Debug, Clone, Serialize)]
pub struct UploadedLine {
    /// The request that brought it.
    pub request: RequestId,
    /// Whose it is.
    pub owner: Owner,
    /// What it became.
    pub file: FileId,
    /// Its content.
    pub content: Digest,
    /// Length in bytes.
    pub bytes: u64,
}

/// A login failed for the first time in a while, or the next one has to wait longer.
#[derive(Debug, Clone, Serialize)]
pub struct LoginFailedLine {
    request: RequestId,
    kind: &'static str,
    /// A key id, or the name of a user that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    client: IpAddr,
    /// What the wait is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl LoginFailedLine {
    /// `account` is a key id or the name of a user that exists; `delay` is how long `client` waits from now on, and `by` for what.
    pub fn new(
        request: RequestId,
        kind: Kind,
        account: Option<&str>,
        client: ClientAddr,
        by: Option<By>,
        delay: Option<Duration>,
    ) -> Self {
        Self {
            request,
            kind: kind.name(),
            account: account.map(|account| cut(account, REASON_CHARS_MAX)),
            client: client.ip(),
            by: by.map(By::name),
            retry_after_seconds: delay.map(|delay| delay.as_secs()),
        }
    }
}

/// A request that was refused.
#[derive(Debug, Clone)]
pub struct Refusal<'a> {
    /// Which, as in the answer.
    pub request: RequestId,
    /// Who said no.
    pub stage: Stage,
    /// The stable code.
    pub code: &'static str,
    /// The answer's status; 0 where there was no request to answer.
    pub status: u16,
    /// Who asked, once that was proved.
    pub owner: Option<Owner>,
    /// Where the caller is.
    pub client: ClientAddr,
    /// The method.
    pub method: Method,
    /// The route table's pattern, never the raw path.
    pub route: &'static str,
    /// For operators: it may say more than the answer did.
    pub reason: &'a str,
}

impl Refusal<'static> {
    /// A connection that was refused before it brought a request.
    pub fn before_request(code: &'static str, peer: Option<IpAddr>) -> Self {
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self {
            request: RequestId::new(),
            stage: Stage::Listen,
            code,
            status: 0,
            owner: None,
            client: ClientAddr::of_peer(SocketAddr::new(peer, 0)),
            method: Method::from_bytes(b"-").unwrap_or_default(),
            route: "-",
            reason: "",
        }
    }
}

/// What a line tells: a closed list.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Started {
        version: &'static str,
    },
    Stopped,
    /// The configuration was read again.
    Reload {
        generation: u64,
        applied: bool,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        faults: Vec<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        needs_restart: Vec<String>,
    },
    /// Another process serves from now on.
    HandedOver {
        process: u32,
    },
    Accepted(AcceptedLine),
    BundleUsed {
        #[serde(flatten)]
        owner: Owner,
        method: String,
        path: String,
    },
    Uploaded(UploadedLine),
    Refused(RefusedLine),
    /// How many refusals beyond the first ones of a second got no line of their own.
    RefusedMany {
        #[serde(flatten)]
        flood: Flood,
        count: u64,
    },
    Backend {
        backend: BackendId,
        up: bool,
        reason: String,
    },
    KeyCreated {
        key: KeyId,
        owner: Owner,
    },
    KeyRevoked {
        key: KeyId,
        owner: Owner,
    },
    /// `key` ends at `ends_at`, in milliseconds since 1970; `successor` takes its place.
    KeyRotated {
        key: KeyId,
        successor: KeyId,
        ends_at: Option<WallMillis>,
        owner: Owner,
    },
    /// An operator made a backup.
    BackupMade {
        entries: u64,
        bytes: u64,
    },
    /// A token of an issuer that may make tenants brought a new claim.
    TenantCreated {
        tenant: TenantId,
        issuer: String,
        claim: String,
        plan: String,
    },
    /// A newer token of a made tenant names another plan.
    TenantPlanChanged {
        tenant: TenantId,
        plan: String,
    },
    /// An operator closed a made tenant, or opened it again.
    TenantDisabled {
        tenant: TenantId,
        disabled: bool,
    },
    /// An operator made a tenant by the control API, or changed it.
    TenantManaged {
        tenant: TenantId,
        created: bool,
        plan: String,
        disabled: bool,
        limits: Vec<String>,
        version: u64,
    },
    /// An operator had a tenant deleted, or all that it has: it is closed from now on.
    TenantErasing {
        tenant: TenantId,
        deletes: bool,
    },
    /// Nothing of a deleted tenant is left, and its id is free.
    TenantDeleted {
        tenant: TenantId,
    },
    /// An operator banned a node class for everybody, or lifted its ban.
    ClassBanned {
        class: String,
        banned: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator drained a backend, took it for maintenance, or let it go on.
    BackendHalted {
        backend: BackendId,
        halt: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operator paused a tenant, or let it go on.
    TenantPaused {
        tenant: TenantId,
        paused: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A job that waited may not run any more.
    Withdrawn {
        job: JobId,
        owner: Owner,
        reason: String,
    },
    /// A job lost every attempt and is put aside.
    DeadLetter {
        job: JobId,
        owner: Owner,
        reason: String,
    },
    /// An operator had such a job accepted anew.
    DeadLetterReplayed {
        job: JobId,
        owner: Owner,
        replayed_as: JobId,
    },
    /// An operator had one forgotten.
    DeadLetterRemoved {
        job: JobId,
    },
    /// An operator moved a pool's pin to what is installed there.
    CatalogueAccepted {
        pool: PoolId,
        catalogue: Digest,
        classes: usize,
    },
    /// A run of retention removed something: sums, no names.
    Retention {
        tenants: usize,
        #[serde(flatten)]
        removed: Removed,
        refusals: u64,
        keys: u64,
        blobs: Amount,
        graphs: Amount,
        backend_files: Amount,
    },
    /// An operator erased what a tenant had.
    TenantErased {
        tenant: TenantId,
        #[serde(flatten)]
        removed: Removed,
        rows: u64,
        backend_files: Amount,
    },
    /// Files of a ComfyUI's folders became an owner's.
    Adopted {
        owner: Owner,
        place: &'static str,
        files: usize,
    },
    /// A local user was made.
    UserCreated {
        owner: Owner,
    },
    /// An operator changed a local user; as it is now.
    UserChanged {
        owner: Owner,
        /// Whether it has another password.
        password: bool,
        disabled: bool,
    },
    /// An operator removed a local user.
    UserRemoved {
        owner: Owner,
    },
    /// A local user chose another password.
    PasswordChosen {
        request: RequestId,
        owner: Owner,
        by: &'static str,
        client: IpAddr,
    },
    /// A one-time link was made: an operator asked for it, or nobody could log in at a start.
    LoginLinkMade {
        owner: Owner,
    },
    LoginFailed(LoginFailedLine),
    /// A browser got a session.
    LoggedIn {
        request: RequestId,
        session: SessionId,
        owner: Owner,
        /// How it was begun.
        by: &'static str,
        /// The identity provider that vouched for the person.
        #[serde(skip_serializing_if = "Option::is_none")]
        provider: Option<ProviderId>,
        client: IpAddr,
    },
    /// A browser gave its session back.
    LoggedOut {
        request: RequestId,
        session: SessionId,
        owner: Owner,
        client: IpAddr,
    },
    /// A session was ended by somebody else than its browser: an operator, its owner from another one, or its identity provider.
    SessionEnded {
        session: SessionId,
        owner: Owner,
        reason: String,
    },
    /// How many lines were lost before this one: the channel was full, or the disk.
    Dropped {
        lines: u64,
    },
}

#[derive(Debug, Serialize)]
struct RefusedLine {
    request: RequestId,
    stage: &'static str,
    code: &'static str,
    #[serde(skip_serializing_if = "is_no_status")]
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    client: IpAddr,
    method: String,
    route: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_no_status(status: &u16) -> bool {
    *status == 0
}

impl From<&Refusal<'_>> for RefusedLine {
    fn from(refusal: &Refusal<'_>) -> Self {
        Self {
            request: refusal.request,
            stage: refusal.stage.name(),
            code: refusal.code,
            status: refusal.status,
            owner: refusal.owner.clone(),
            client: refusal.client.ip(),
            // A caller may invent methods.
            method: cut(refusal.method.as_str(), 16),
            route: refusal.route,
            reason: cut(refusal.reason, REASON_CHARS_MAX),
        }
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).collect()
}

/// What the writer's thread is told.
enum Message {
    /// Boxed: the channel's slots are made at once.
    Line(Box<(WallMillis, Event)>),
    /// There is something in [`Shared`].
    Look,
    /// Sync what was written and answer.
    Sync(SyncSender<()>),
    /// Close the floods, write the last lines, sync and answer.
    Stop(SyncSender<()>),
}

/// What callers and the writer's thread both see.
#[derive(Default)]
struct Shared {
    floods: Mutex<Floods>,
    /// Since the start.
    dropped: AtomicU64,
    /// Not told by a line yet.
    untold: AtomicU64,
    reopen: AtomicBool,
}

impl Shared {
    fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        self.untold.fetch_add(lines, Ordering::Relaxed);
    }

    fn floods(&self) -> MutexGuard<'_, Floods> {
        // Counts are whole at every moment: a panic elsewhere leaves nothing half done.
        self.floods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle of the audit log; clones write to the same one.
#[derive(Clone)]
pub struct Audit {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
    clock: Clock,
}

impl Audit {
    /// Opens the target and starts the writer.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(target: &AuditConfig, clock: Clock) -> Result<Self, AuditError> {
        let target = writer::Target::open(target)?;
        let (sender, messages) = mpsc::sync_channel(LINES_MAX);
        let shared = Arc::new(Shared::default());
        let writer = writer::Writer::new(target, Arc::clone(&shared), clock.clone());
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(&messages)).map_err(AuditError::Thread)?;
        Ok(Self { sender, shared, clock })
    }

    /// The gateway serves from now on.
    pub fn started(&self) {
        self.tell(Event::Started { version: env!("CARGO_PKG_VERSION") });
    }

    /// The configuration was read again; `faults` are why it was refused, if it was.
    pub fn reload(&self, generation: u64, faults: &[String], needs_restart: &[String]) {
        let cut_all =
            |texts: &[String]| texts.iter().take(FAULTS_MAX).map(|text| cut(text, REASON_CHARS_MAX)).collect();
        self.tell(Event::Reload {
            generation,
            applied: faults.is_empty(),
            faults: cut_all(faults),
            needs_restart: cut_all(needs_restart),
        });
    }

    /// A successor has the listeners and the ledger.
    pub fn handed_over(&self, process: u32) {
        self.tell(Event::HandedOver { process });
    }

    /// The gateway has ended: writes this and all that waits, for 2 s at most. Blocks.
    pub fn stopped(&self) {
        self.end(Message::Stop);
    }

    /// A command has ended: writes all that waits, for 2 s at most. Blocks.
    pub fn written(&self) {
        self.end(Message::Sync);
    }

    fn end(&self, message: fn(SyncSender<()>) -> Message) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let (done, written) = mpsc::sync_channel(1);
        let mut message = message(done);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(message) {
            if Instant::now() >= deadline {
                break;
            }
            message = back;
            std::thread::sleep(STOP_POLL);
        }
        if written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            tracing::error!("the last audit lines could not be written within {STOP_TIMEOUT:?}");
        }
    }

    /// Opens the file again, by its name: log rotation has moved it.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full channel wakes the writer just as well.
        let _ = self.sender.try_send(Message::Look);
    }

    /// A submission was accepted.
    pub fn accepted(&self, line: &AcceptedLine) {
        self.tell(Event::Accepted(line.clone()));
    }

    /// A file was uploaded.
    pub fn uploaded(&self, line: UploadedLine) {
        self.tell(Event::Uploaded(line));
    }

    /// A request was refused. Many equal ones in one second become one line.
    pub fn refused(&self, refusal: &Refusal<'_>) {
        let flood = Flood::of(refusal);
        // Counted here and not in the writer, so that a flood can't fill the channel and push other lines out.
        if self.shared.floods().tells(flood, self.clock.monotonic()) {
            self.tell(Event::Refused(refusal.into()));
        }
    }

    /// Logins fail. Many of one address in one second, or of very many addresses, become one line, as refusals do.
    pub fn login_failed(&self, line: &LoginFailedLine) {
        if self.shared.floods().tells(Flood::of_failed_logins(line.client), self.clock.monotonic()) {
            self.tell(Event::LoginFailed(line.clone()));
        }
    }

    /// A backend came or went.
    pub fn backend(&self, backend: &BackendId, up: bool, reason: &str) {
        self.tell(Event::Backend { backend: backend.clone(), up, reason: cut(reason, REASON_CHARS_MAX) });
    }

    /// A bundle of routes that change the backend was used; the path, not the query.
    pub fn bundle_used(&self, owner: &Owner, method: &Method, path: &str) {
        self.tell(Event::BundleUsed {
            owner: owner.clone(),
            method: method.to_string(),
            path: cut(path, REASON_CHARS_MAX),
        });
    }

    /// An operator made a key.
    pub fn key_created(&self, key: &KeyId, owner: &Owner) {
        self.tell(Event::KeyCreated { key: key.clone(), owner: owner.clone() });
    }

    /// An operator took a key back.
    pub fn key_revoked(&self, key: &KeyId, owner: &Owner) {
        self.tell(Event::KeyRevoked { key: key.clone(), owner: owner.clone() });
    }

    /// An operator changed a local user: whether it has another password, and whether it is disabled now.
    pub fn user_changed(&self, owner: &Owner, password: bool, disabled: bool) {
        self.tell(Event::UserChanged { owner: owner.clone(), password, disabled });
    }

    /// A local user was made, by an operator or by a one-time link.
    pub fn user_created(&self, owner: &Owner) {
        self.tell(Event::UserCreated { owner: owner.clone() });
    }

    /// A local user was forgotten.
    pub fn user_removed(&self, owner: &Owner) {
        self.tell(Event::UserRemoved { owner: owner.clone() });
    }

    /// A local user chose another password: `by` is `password`, for whoever proved the former, or `link`.
    pub fn password_chosen(&self, request: RequestId, owner: &Owner, by: &'static str, client: ClientAddr) {
        self.tell(Event::PasswordChosen { request, owner: owner.clone(), by, client: client.ip() });
    }

    /// A one-time link was made: an operator asked for it, or nobody could log in at a start.
    pub fn login_link_made(&self, owner: &Owner) {
        self.tell(Event::LoginLinkMade { owner: owner.clone() });
    }

    /// An operator had another key take its place.
    pub fn key_rotated(&self, key: &KeyId, successor: &KeyId, ends_at: Option<WallMillis>, owner: &Owner) {
        let (key, successor) = (key.clone(), successor.clone());
        self.tell(Event::KeyRotated { key, successor, ends_at, owner: owner.clone() });
    }

    /// An operator made a backup: it holds every secret of the state directory.
    pub fn backup_made(&self, entries: u64, bytes: u64) {
        self.tell(Event::BackupMade { entries, bytes });
    }

    /// A token made a tenant.
    pub fn tenant_created(&self, row: &CreatedTenant) {
        self.tell(Event::TenantCreated {
            tenant: row.id.clone(),
            issuer: cut(&row.issuer, REASON_CHARS_MAX),
            claim: cut(&row.claim, REASON_CHARS_MAX),
            plan: row.plan.clone(),
        });
    }

    /// A token gave a made tenant another plan.
    pub fn tenant_plan_changed(&self, tenant: &TenantId, plan: &str) {
        self.tell(Event::TenantPlanChanged { tenant: tenant.clone(), plan: plan.to_owned() });
    }

    /// An operator made a tenant, or changed it: which keys it sets, not to what.
    pub fn tenant_managed(&self, row: &ManagedTenant, created: bool) {
        self.tell(Event::TenantManaged {
            tenant: row.id.clone(),
            created,
            plan: row.plan.clone(),
            disabled: row.disabled,
            limits: row.limits.keys().cloned().collect(),
            version: row.version,
        });
    }

    /// An operator had a tenant's things erased, or all of the tenant: it is closed from now on.
    pub fn tenant_erasing(&self, tenant: &TenantId, deletes: bool) {
        self.tell(Event::TenantErasing { tenant: tenant.clone(), deletes });
    }

    /// Nothing of a deleted tenant is left.
    pub fn tenant_deleted(&self, tenant: &TenantId) {
        self.tell(Event::TenantDeleted { tenant: tenant.clone() });
    }

    /// An operator closed or opened a made tenant.
    pub fn tenant_disabled(&self, tenant: &TenantId, disabled: bool) {
        self.tell(Event::TenantDisabled { tenant: tenant.clone(), disabled });
    }

    /// An operator took files of a ComfyUI's folder over for an owner.
    pub fn adopted(&self, owner: &Owner, place: &'static str, files: usize) {
        self.tell(Event::Adopted { owner: owner.clone(), place, files });
    }

    /// A run of retention is over; one that removed nothing gets no line.
    pub fn retention(&self, report: &Report) {
        let mut backend_files = Amount::default();
        report.backends.iter().for_each(|backend| backend_files += backend.files);
        let nothing = [report.blobs, report.graphs, backend_files].iter().all(|amount| *amount == Amount::default());
        if report.dry_run || (report.sum.is_nothing() && report.refusals == 0 && report.keys == 0 && nothing) {
            return;
        }
        self.tell(Event::Retention {
            tenants: report.tenants.len().saturating_add(usize::try_from(report.more_tenants).unwrap_or(usize::MAX)),
            removed: report.sum,
            refusals: report.refusals,
            keys: report.keys,
            blobs: report.blobs,
            graphs: report.graphs,
            backend_files,
        });
    }

    /// An operator erased what a tenant had.
    pub fn tenant_erased(&self, erasure: &Erasure) {
        self.tell(Event::TenantErased {
            tenant: erasure.tenant.clone(),
            removed: erasure.removed,
            rows: erasure.rows,
            backend_files: erasure.backend_files,
        });
    }

    /// An operator banned a class, or lifted its ban.
    pub fn class_banned(&self, class: &str, banned: bool, reason: Option<&str>) {
        let reason = reason.map(|reason| cut(reason, REASON_CHARS_MAX));
        self.tell(Event::ClassBanned { class: cut(class, REASON_CHARS_MAX), banned, reason });
    }

    /// An operator stopped a backend or a tenant.
    pub fn halted(&self, row: &HaltRow) {
        let reason = row.reason.as_deref().map(|reason| cut(reason, REASON_CHARS_MAX));
        self.tell(match &row.halted {
            Halted::Backend(backend) => {
                let halt = if row.maintenance { "maintenance" } else { "drained" };
                Event::BackendHalted { backend: backend.clone(), halt, reason }
            }
            Halted::Tenant(tenant) => Event::TenantPaused { tenant: tenant.clone(), paused: true, reason },
        });
    }

    /// An operator let a backend or a tenant go on.
    pub fn released(&self, halted: &Halted) {
        self.tell(match halted {
            Halted::Backend(backend) => Event::BackendHalted { backend: backend.clone(), halt: "none", reason: None },
            Halted::Tenant(tenant) => Event::TenantPaused { tenant: tenant.clone(), paused: false, reason: None },
        });
    }

    /// A job that waited was failed, since the rules changed.
    pub fn withdrawn(&self, job: JobId, owner: &Owner, reason: &str) {
        self.tell(Event::Withdrawn { job, owner: owner.clone(), reason: cut(reason, REASON_CHARS_MAX) });
    }

    /// A job lost every attempt and is put aside.
    pub fn dead_letter(&self, job: JobId, owner: &Owner, reason: &str) {
        self.tell(Event::DeadLetter { job, owner: owner.clone(), reason: cut(reason, REASON_CHARS_MAX) });
    }

    /// An operator had a job that was put aside accepted anew, as another.
    pub fn dead_letter_replayed(&self, job: JobId, owner: &Owner, replayed_as: JobId) {
        self.tell(Event::DeadLetterReplayed { job, owner: owner.clone(), replayed_as });
    }

    /// An operator had a job that was put aside forgotten.
    pub fn dead_letter_removed(&self, job: JobId) {
        self.tell(Event::DeadLetterRemoved { job });
    }

    /// An operator moved a pool's pin.
    pub fn catalogue_accepted(&self, pool: &PoolId, catalogue: Digest, classes: usize) {
        self.tell(Event::CatalogueAccepted { pool: pool.clone(), catalogue, classes });
    }

    /// A browser got a session.
    pub fn logged_in(&self, request: RequestId, session: &SessionRow, client: ClientAddr) {
        let (owner, by) = (session.owner.clone(), session.by());
        let provider = session.oidc.as_ref().map(|grant| grant.provider.clone());
        self.tell(Event::LoggedIn { request, session: session.id, owner, by, provider, client: client.ip() });
    }

    /// A browser gave its session back.
    pub fn logged_out(&self, request: RequestId, session: SessionId, owner: &Owner, client: ClientAddr) {
        self.tell(Event::LoggedOut { request, session, owner: owner.clone(), client: client.ip() });
    }

    /// A session that may still have been good was ended, and why.
    pub fn session_ended(&self, session: SessionId, owner: &Owner, reason: &str) {
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        self.tell(Event::SessionEnded { session, owner: owner.clone(), reason });
    }

    /// How many lines were only counted since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    fn tell(&self, event: Event) {
        let line = Message::Line(Box::new((self.clock.wall(), event)));
        if self.sender.try_send(line).is_err() {
            self.shared.drop_lines(1);
        }
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
