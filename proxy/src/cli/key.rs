//! `comfygate key create|list|revoke`: through the control socket of a running gateway, else in the ledger itself.

use super::{ConfigArgument, Exit, ledger};
use crate::admin::control_client::ControlClient;
use crate::admin::keys::{KeyRequest, KeyService, KeyView};
use crate::clock::{Clock, WallMillis};
use crate::config::units::parse_duration;
use crate::config::{AuditConfig, Config};
use crate::ids::{KeyId, TenantId, UserId};
use crate::owner::Scope;
use crate::record::audit::Audit;
use crate::tenants::created::is_made_id;
use anyhow::bail;
use clap::{Args, Subcommand};
use std::sync::Arc;
use std::time::Duration;

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
    /// Show every key but its secret
    List,
    /// Refuse a key from now on
    Revoke {
        /// The key's id: the part after `cg_`
        id: KeyId,
    },
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
}

fn scope(name: &str) -> Result<Scope, String> {
    let names = || Scope::ALL.map(Scope::name).join(", ");
    Scope::from_name(name).ok_or_else(|| format!("no such scope; there are {}", names()))
}

/// Runs `comfygate key …`.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &KeyArguments) -> anyhow::Result<Exit> {
    let loaded = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?;
    let config = loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let keys = Keys::reach(&config)?;
        match &arguments.command {
            KeyCommand::Create(create) => {
                if config.tenants.tenant(&create.tenant).is_none() && !keys.has_made(&create.tenant).await? {
                    bail!("there is no tenant `{}` in the configuration", create.tenant);
                }
                let (key, view) = keys.create(create).await?;
                if arguments.json {
                    println!("{}", serde_json::json!({"key": key, "id": view.id, "tenant": view.tenant}))
                } else {
                    println!("{key}")
                }
            }
            KeyCommand::List => print_list(&keys.list().await?, arguments.json),
            KeyCommand::Revoke { id } => match keys.revoke(id).await? {
                Some(view) => println!("{} revoked", view.id),
                None => {
                    eprintln!("comfygate: there is no key `{id}`");
                    return Ok(Exit::No);
                }
            },
        }
        Ok(Exit::Good)
    })
}

/// The running gateway, or its ledger and audit log while it does not run: whoever has the lock.
enum Keys {
    Gateway(ControlClient),
    Ledger(KeyService, Audit),
}

impl Keys {
    fn reach(config: &Config) -> anyhow::Result<Self> {
        let Some(ledger) = ledger(config)? else {
            return Ok(Self::Gateway(ControlClient::new(config.state_dir.join(crate::admin::CONTROL_SOCKET))));
        };
        // Before anything is changed: what can't be audited is not done.
        let audit = Audit::open(&audit_target(config), Clock::system())?;
        Ok(Self::Ledger(KeyService::new(Arc::new(ledger), Clock::system()), audit))
    }

    async fn create(&self, create: &CreateArguments) -> anyhow::Result<(String, KeyView)> {
        let request = KeyRequest {
            tenant: create.tenant.clone(),
            user: create.user.clone(),
            scopes: create.scopes.clone(),
            label: create.label.clone(),
            expires_in: create.expires.map(|expires| expires.as_secs()),
        };
        Ok(match self {
            Self::Gateway(client) => client.create_key(&request).await?,
            Self::Ledger(service, audit) => {
                let (key, view) = service.create(&request).await?;
                audit.key_created(&view.id, &view.owner());
                audit.written();
                (key, view)
            }
        })
    }

    /// Whether a token made that tenant.
    async fn has_made(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        // No other tenant has such an id, so nothing is asked for a typing error.
        if !is_made_id(tenant) {
            return Ok(false);
        }
        Ok(match self {
            // The gateway looks for itself.
            Self::Gateway(_) => true,
            Self::Ledger(service, _) => service.has_made(tenant).await?,
        })
    }

    async fn list(&self) -> anyhow::Result<Vec<KeyView>> {
        Ok(match self {
            Self::Gateway(client) => client.keys().await?,
            Self::Ledger(service, _) => service.list().await?,
        })
    }

    async fn revoke(&self, id: &KeyId) -> anyhow::Result<Option<KeyView>> {
        Ok(match self {
            Self::Gateway(client) => client.revoke_key(id).await?,
            Self::Ledger(service, audit) => {
                let revoked = service.revoke(id).await?;
                if let Some(view) = &revoked {
                    audit.key_revoked(&view.id, &view.owner());
                    audit.written();
                }
                revoked
            }
        })
    }
}

/// Standard output is for the key alone.
pub(super) fn audit_target(config: &Config) -> AuditConfig {
    match &config.audit {
        AuditConfig::StandardOutput => AuditConfig::StandardError,
        other => other.clone(),
    }
}

fn print_list(keys: &[KeyView], json: bool) {
    let now = Clock::system().wall();
    for key in keys {
        if json {
            println!("{}", serde_json::json!(key));
        } else {
            let user = key.user.as_ref().map_or("-", UserId::as_str);
            let label = key.label.as_deref().unwrap_or("");
            println!("{}  {:<20} {:<20} {:<8} {label}", key.id, key.tenant, user, standing(key, now));
        }
    }
}

fn standing(key: &KeyView, now: WallMillis) -> &'static str {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        _ => "good",
    }
}
