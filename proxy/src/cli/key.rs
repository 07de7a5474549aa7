//! `comfygate key …`: through the control socket of a running gateway, else in the ledger itself.

use super::reach::{self, Here, NoState, Reached, reach};
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::keys::{
    CheckedKey, KeyFilter, KeyRequest, KeyService, KeyState, KeyView, MadeKey, OVERLAP, RotateRequest,
};
use crate::admin::table::Table;
use crate::authenticate::api_key::ApiKey;
use crate::clock::{Clock, WallMillis};
use crate::config::units::parse_duration;
use crate::config::{AuditConfig, Config};
use crate::ids::{KeyId, TenantId, UserId};
use crate::owner::Scope;
use crate::record::audit::Audit;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// Of a found text: a log's tail, a file of settings.
const FOUND_BYTES_MAX: u64 = 1 << 20;

/// `comfygate key …`
#[derive(Debug, Args)]
pub struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, once: it can't be shown again
    Create(CreateArguments),
    /// Show keys, without their secrets
    List {
        /// Only those of this tenant
        #[arg(long)]
        tenant: Option<TenantId>,
        /// Only those of this user, in whatever case the name is written
        #[arg(long)]
        user: Option<UserId>,
    },
    /// Show one key, without its secret
    Show {
        /// The key's id: the part after `cg_`
        id: KeyId,
    },
    /// Make a key that takes another's place, and print it, once; the former one ends after the overlap
    Rotate {
        /// The former key's id: the part after `cg_`
        id: KeyId,
        /// How long the former key stays good, at most 90d; 0s ends it at once
        #[arg(long, value_parser = parse_duration, default_value = "24h")]
        overlap: Duration,
    },
    /// Refuse a key from now on
    Revoke {
        /// The key's id: the part after `cg_`
        id: KeyId,
    },
    /// Look for keys in a text on standard input, and say whose each is
    Check,
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// Whose key it is
    #[arg(long)]
    tenant: TenantId,
    /// The person within the tenant; without it, a service
    #[arg(long)]
    user: Option<UserId>,
    /// How long it is good, such as 90d or 12h; without it, until it is revoked
    #[arg(long, value_parser = parse_duration)]
    expires: Option<Duration>,
    /// What it may do [default: submit, read, files, cancel]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// A word to remember it by
    #[arg(long)]
    label: Option<String>,
    /// Let it stand in `/ws?token=`, for clients that can send no header: proxies and histories keep what stands there
    #[arg(long)]
    allow_query: bool,
}

pub(super) fn scope(name: &str) -> Result<Scope, String> {
    let names = || Scope::ALL.map(Scope::name).join(", ");
    Scope::from_name(name).ok_or_else(|| format!("no such scope; there are {}", names()))
}

/// Runs `comfygate key …`.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &KeyArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let makes = matches!(arguments.command, KeyCommand::Create(_));
        let no_state = if makes { NoState::Made } else { NoState::Refused };
        let (keys, json) = (Keys::reach(&arguments.which, no_state).await?, arguments.json);
        match &arguments.command {
            KeyCommand::Create(create) => {
                if !keys.knows(&create.tenant).await? {
                    reach::tell_unknown(&create.tenant);
                    return Ok(Exit::No);
                }
                print_made(&keys.create(create).await?, json)?;
                if acts_in_vain(&create.scopes) {
                    eprintln!("{ACTS_IN_VAIN}");
                }
            }
            KeyCommand::List { tenant, user } => {
                if let Some(tenant) = tenant
                    && !keys.knows(tenant).await?
                {
                    reach::tell_unknown(tenant);
                }
                print_list(&keys.list(tenant.clone(), user.clone()).await?, json);
            }
            KeyCommand::Show { id } => match keys.show(id).await? {
                Some(view) => print_one(&view, json),
                None => return Ok(unknown(id)),
            },
            KeyCommand::Rotate { id, overlap } => match keys.rotate(id, *overlap).await? {
                Some(made) => print_made(&made, json)?,
                None => return Ok(unknown(id)),
            },
            KeyCommand::Revoke { id } => match keys.revoke(id).await? {
                Some(view) if json => print_one(&view, json),
                Some(view) => println!("{} revoked", view.id),
                None => return Ok(unknown(id)),
            },
            KeyCommand::Check => return keys.check_found(json).await,
        }
        Ok(Exit::Good)
    })
}

/// What `act-as` alone is told.
const ACTS_IN_VAIN: &str = "comfygate: a key acts with its other scopes, and this one has none to act with: make one with `--scope act-as --scope submit --scope read --scope files --scope cancel`, or fewer of these, and revoke this one";

/// Whether a key acts for others and may do nothing then: neither `act-as` nor `admin` is handed on.
fn acts_in_vain(scopes: &[Scope]) -> bool {
    scopes.contains(&Scope::ActAs) && scopes.iter().all(|scope| matches!(scope, Scope::ActAs | Scope::Admin))
}

fn unknown(id: &KeyId) -> Exit {
    eprintln!("comfygate: there is no key `{id}`");
    Exit::No
}

/// The running gateway, or its ledger and audit log while it does not run: whoever has the lock.
enum Keys {
    Gateway(ControlClient),
    Ledger(KeyService, Audit, Here),
}

impl Keys {
    async fn reach(which: &ConfigArgument, no_state: NoState) -> anyhow::Result<Self> {
        let here = match reach(which, no_state)? {
            Reached::Gateway(client) => return Ok(Self::Gateway(client)),
            Reached::Here(here) => here,
        };
        // Before anything is changed: what can't be audited is not done.
        let audit = Audit::open(&audit_target(&here.config), Clock::system())?;
        // An id that was deleted and is in the tenants file now can be used, as after a start.
        super::tenant::managed(&here.ledger, &audit).await?.settle(&here.config.tenants).await?;
        let ledger = Arc::clone(&here.ledger);
        Ok(Self::Ledger(KeyService::new(ledger, Clock::system()), audit, here))
    }

    async fn create(&self, create: &CreateArguments) -> anyhow::Result<MadeKey> {
        let request = KeyRequest {
            tenant: create.tenant.clone(),
            user: create.user.clone(),
            scopes: create.scopes.clone(),
            label: create.label.clone(),
            expires_in: create.expires.map(|expires| expires.as_secs()),
            allow_query: create.allow_query,
        };
        Ok(match self {
            Self::Gateway(client) => client.create_key(&request).await?,
            Self::Ledger(service, audit, here) => {
                let made = service.create(&request, None, here.config.limits.keys_max).await?;
                audit.key_created(&made.view.id, &made.view.owner());
                audit.written();
                made
            }
        })
    }

    async fn rotate(&self, id: &KeyId, overlap: Duration) -> anyhow::Result<Option<MadeKey>> {
        Ok(match self {
            Self::Gateway(client) => {
                let overlap_seconds = (overlap != OVERLAP).then_some(overlap.as_secs());
                client.rotate_key(id, RotateRequest { overlap_seconds }).await?
            }
            Self::Ledger(service, audit, here) => {
                let rotated = service.rotate(id, overlap, None, here.config.limits.keys_max).await?;
                rotated.map(|(made, former)| {
                    audit.key_rotated(id, &made.view.id, former.expires_at, &former.owner());
                    audit.written();
                    made
                })
            }
        })
    }

    async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Ledger(_, _, here) => here.knows(tenant).await,
        }
    }

    async fn list(&self, tenant: Option<TenantId>, user: Option<UserId>) -> anyhow::Result<Vec<KeyView>> {
        let filter = KeyFilter { tenant, user, state: None };
        Ok(match self {
            Self::Gateway(client) => client.keys(&filter).await?,
            Self::Ledger(service, ..) => service.list(&filter).await?,
        })
    }

    async fn show(&self, id: &KeyId) -> anyhow::Result<Option<KeyView>> {
        Ok(match self {
            Self::Gateway(client) => client.key(id).await?,
            Self::Ledger(service, ..) => service.show(id).await?,
        })
    }

    async fn check(&self, key: &ApiKey) -> anyhow::Result<CheckedKey> {
        Ok(match self {
            Self::Gateway(client) => client.check_key(key.reveal()).await?,
            Self::Ledger(service, ..) => service.check(&key.reveal()).await?,
        })
    }

    async fn revoke(&self, id: &KeyId) -> anyhow::Result<Option<KeyView>> {
        Ok(match self {
            Self::Gateway(client) => client.revoke_key(id).await?,
            Self::Ledger(service, audit, _) => {
                let revoked = service.revoke(id).await?;
                if let Some(view) = &revoked {
                    audit.key_revoked(&view.id, &view.owner());
                    audit.written();
                }
                revoked
            }
        })
    }

    /// Yes if one of this gateway's keys was found, whatever has become of it.
    async fn check_found(&self, json: bool) -> anyhow::Result<Exit> {
        let mut found = Vec::new();
        std::io::stdin().take(FOUND_BYTES_MAX + 1).read_to_end(&mut found).context("can't read standard input")?;
        if found.len() as u64 > FOUND_BYTES_MAX {
            bail!("the text has more than {FOUND_BYTES_MAX} bytes: cut it around what was found");
        }
        let (mut any, mut ours) = (false, false);
        for key in ApiKey::find_all(&String::from_utf8_lossy(&found)) {
            let checked = self.check(&key).await?;
            any = true;
            ours |= checked.proven;
            if json {
                println!("{}", serde_json::json!(checked));
                continue;
            }
            match (&checked.view, checked.proven) {
                (Some(view), true) => {
                    print_one(view, false);
                    if view.state == Some(KeyState::Good) {
                        println!("it lets whoever has it in: comfygate key revoke {}", view.id);
                    }
                }
                (Some(_), false) => println!("{}: there is a key of this id, and this is not it", checked.id),
                (None, _) => println!("{}: a key of Comfygate, but not of this gateway", checked.id),
            }
        }
        if !any {
            eprintln!("comfygate: no key in this text: none has the form and the checksum");
        }
        Ok(if ours { Exit::Good } else { Exit::No })
    }
}

/// Standard output is for the key alone.
pub(super) fn audit_target(config: &Config) -> AuditConfig {
    match &config.audit {
        AuditConfig::StandardOutput => AuditConfig::StandardError,
        other => other.clone(),
    }
}

fn print_made(made: &MadeKey, json: bool) -> anyhow::Result<()> {
    let key = made.key.as_deref().context("the gateway did not show the key")?;
    if json {
        let view = &made.view;
        println!("{}", serde_json::json!({"key": key, "id": view.id, "tenant": view.tenant}))
    } else {
        println!("{key}")
    }
    Ok(())
}

fn print_list(keys: &[KeyView], json: bool) {
    if json {
        return keys.iter().for_each(|key| println!("{}", serde_json::json!(key)));
    }
    let now = Clock::system().wall();
    let mut table = Table::new(["key", "tenant", "user", "state", "used", "label"]);
    for key in keys {
        let user = key.user.as_ref().map_or("", UserId::as_str);
        let label = key.label.as_deref().unwrap_or("");
        let (state, used) = (standing(key, now).name(), used(key, now));
        table.line([key.id.as_str(), key.tenant.as_str(), user, state, &used, label]);
    }
    print!("{}", table.text());
}

fn print_one(key: &KeyView, json: bool) {
    if json {
        return println!("{}", serde_json::json!(key));
    }
    let now = Clock::system().wall();
    let user = key.user.as_ref().map_or_else(String::new, |user| format!(", user {user}"));
    println!("{}  {}, of tenant {}{user}", key.id, standing(key, now).name(), key.tenant);
    let scopes: Vec<_> = key.scopes.iter().map(Scope::name).collect();
    let line = |name: &str, text: String| println!("  {name:<9} {text}");
    line("may", scopes.join(", "));
    for (name, text) in [
        ("label", key.label.clone()),
        ("made", Some(ago(key.created_at, now))),
        ("used", Some(used(key, now))),
        (
            "expires",
            key.expires_at.map(|end| if end > now { format!("in {}", span(end.since(now))) } else { ago(end, now) }),
        ),
        ("revoked", key.revoked_at.map(|at| ago(at, now))),
        ("rotated", key.rotated_to.as_ref().map(|to| format!("to {to}"))),
        ("follows", key.rotated_from.as_ref().map(ToString::to_string)),
        ("query", key.allow_query.then(|| "may stand in /ws?token=".to_owned())),
    ] {
        if let Some(text) = text {
            line(name, text);
        }
    }
}

fn used(key: &KeyView, now: WallMillis) -> String {
    key.used_at.map_or_else(|| "never".to_owned(), |at| ago(at, now))
}

fn ago(at: WallMillis, now: WallMillis) -> String {
    format!("{} ago", span(now.since(at)))
}

/// In the largest unit that fits once.
pub(super) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "min")];
    let fitting = units.into_iter().find(|(unit, _)| seconds >= *unit);
    fitting.map_or_else(|| format!("{seconds} s"), |(unit, name)| format!("{} {name}", seconds / unit))
}

fn standing(key: &KeyView, now: WallMillis) -> KeyState {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => KeyState::Revoked,
        (None, Some(end)) if end <= now => KeyState::Expired,
        _ => KeyState::Good,
    }
}
