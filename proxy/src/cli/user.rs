//! `comfygate user add|list|passwd|disable|enable|remove|link`: through the control socket of a running gateway, else in the ledger itself.

use super::key::{audit_target, scope};
use super::terminal::new_password;
use super::{ConfigArgument, Exit, ledger};
use crate::admin::control_client::ControlClient;
use crate::admin::users::{LinkRequest, UserRequest, UserService, UserView};
use crate::authenticate::passwords::Passwords;
use crate::clock::Clock;
use crate::config::Config;
use crate::ids::{TenantId, UserId};
use crate::owner::Scope;
use crate::record::audit::Audit;
use anyhow::bail;
use clap::{Args, Subcommand};
use std::sync::Arc;

/// `comfygate user …`
#[derive(Debug, Args)]
pub struct UserArguments {
    #[command(subcommand)]
    command: UserCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user; the password is asked for twice, or read from standard input
    Add(AddArguments),
    /// Show every user
    List {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Give a user another password; its sessions end
    Passwd {
        /// The login name
        name: UserId,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Let a user log in no more; its sessions end, what it owns stays
    Disable {
        /// The login name
        name: UserId,
    },
    /// Let a disabled user log in again
    Enable {
        /// The login name
        name: UserId,
    },
    /// Forget a user; its sessions end, what it owns stays its tenant's. Of a name that is no user yet: end its link
    Remove {
        /// The login name
        name: UserId,
    },
    /// Print a link, good once and for 30 minutes, by which a user chooses a password: a new one, or one that forgot it
    Link(LinkArguments),
}

#[derive(Debug, Args)]
struct AddArguments {
    /// The login name: unique over all tenants, in whatever case
    name: UserId,
    /// Whose user it is
    #[arg(long)]
    tenant: TenantId,
    /// What it may do [default: submit, read, files, cancel]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
    /// A word to remember it by
    #[arg(long)]
    label: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
struct LinkArguments {
    /// The login name
    name: UserId,
    /// Whose user it is
    #[arg(long)]
    tenant: TenantId,
    /// What it may do, if the link makes it [default: submit, read, files, cancel]
    #[arg(long = "scope", value_name = "SCOPE", value_parser = scope)]
    scopes: Vec<Scope>,
}

/// Runs `comfygate user …`.
///
/// # Errors
/// When the configuration has faults, no password is given, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &UserArguments) -> anyhow::Result<Exit> {
    let loaded = Config::load(arguments.which.config.as_deref())
        .map_err(|errors| anyhow::anyhow!("the configuration has faults:\n{errors}"))?;
    let config = loaded.config;
    let json = arguments.json;
    // Before the ledger is locked: a person may take long to type.
    let password = match &arguments.command {
        UserCommand::Add(AddArguments { password_stdin, .. }) | UserCommand::Passwd { password_stdin, .. } => {
            Some(new_password(*password_stdin)?)
        }
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let users = Users::reach(&config).await?;
        match &arguments.command {
            UserCommand::Add(add) => {
                if config.tenants.tenant(&add.tenant).is_none() && !users.has_made(&add.tenant).await? {
                    bail!("there is no tenant `{}` in the configuration", add.tenant);
                }
                if let Some(there) = users.one(&add.name).await? {
                    eprintln!(
                        "comfygate: there is a user `{}` already, of the tenant `{}`: `comfygate user passwd` gives it another password",
                        there.name, there.tenant
                    );
                    return Ok(Exit::No);
                }
                let request = UserRequest {
                    tenant: add.tenant.clone(),
                    scopes: add.scopes.clone(),
                    label: add.label.clone(),
                    disabled: None,
                    password,
                };
                print(&users.put(&add.name, &request, &config).await?, json);
                Ok(Exit::Good)
            }
            UserCommand::List { tenant } => {
                users.list(tenant.as_ref()).await?.iter().for_each(|view| print(view, json));
                Ok(Exit::Good)
            }
            UserCommand::Passwd { name, .. } => {
                changed(&users, name, &config, json, |request| UserRequest { password, ..request }).await
            }
            UserCommand::Disable { name } => {
                changed(&users, name, &config, json, |request| UserRequest { disabled: Some(true), ..request }).await
            }
            UserCommand::Enable { name } => {
                changed(&users, name, &config, json, |request| UserRequest { disabled: Some(false), ..request }).await
            }
            UserCommand::Remove { name } => {
                if !users.remove(name).await? {
                    if users.end_link(name).await? == 0 {
                        return Ok(no_user(name));
                    }
                    println!("there is no user {name} yet; the link that would have made it is over");
                    return Ok(Exit::Good);
                }
                println!("{name} removed");
                Ok(Exit::Good)
            }
            UserCommand::Link(link) => users.link(link, json).await,
        }
    })
}

/// Changes a user that is there.
async fn changed(
    users: &Users,
    name: &UserId,
    config: &Config,
    json: bool,
    change: impl FnOnce(UserRequest) -> UserRequest,
) -> anyhow::Result<Exit> {
    let Some(there) = users.one(name).await? else { return Ok(no_user(name)) };
    let as_it_is = UserRequest {
        tenant: there.tenant,
        scopes: there.scopes.iter().collect(),
        label: there.label,
        disabled: None,
        password: None,
    };
    print(&users.put(&there.name, &change(as_it_is), config).await?, json);
    Ok(Exit::Good)
}

fn no_user(name: &UserId) -> Exit {
    eprintln!("comfygate: there is no user `{name}`: `comfygate user list` shows them");
    Exit::No
}

/// The running gateway, or its ledger and audit log while it does not run: whoever has the lock.
enum Users {
    Gateway(ControlClient),
    Ledger(UserService, Audit),
}

impl Users {
    async fn reach(config: &Config) -> anyhow::Result<Self> {
        let Some(ledger) = ledger(config)? else {
            return Ok(Self::Gateway(ControlClient::new(config.state_dir.join(crate::admin::CONTROL_SOCKET))));
        };
        // Before anything is changed: what can't be audited is not done.
        let audit = Audit::open(&audit_target(config), Clock::system())?;
        // An id that was deleted and is in the tenants file now can be used, as after a start.
        let ledger = Arc::new(ledger);
        super::tenant::managed(&ledger, &audit).await?.settle(&config.tenants).await?;
        Ok(Self::Ledger(UserService::new(ledger, Passwords::default(), Clock::system()), audit))
    }

    /// Whether a token or the control API made that tenant.
    async fn has_made(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            // The gateway looks for itself.
            Self::Gateway(_) => Ok(true),
            Self::Ledger(service, _) => Ok(service.has_made(tenant).await?),
        }
    }

    async fn put(&self, name: &UserId, request: &UserRequest, config: &Config) -> anyhow::Result<UserView> {
        Ok(match self {
            Self::Gateway(client) => client.put_user(name, request).await?,
            Self::Ledger(service, audit) => {
                let put = service.put(name, request, u64::from(config.limits.users_max)).await?;
                put.tell(audit);
                audit.written();
                put.view
            }
        })
    }

    async fn list(&self, tenant: Option<&TenantId>) -> anyhow::Result<Vec<UserView>> {
        Ok(match self {
            Self::Gateway(client) => client.users(tenant).await?,
            Self::Ledger(service, _) => service.list(tenant).await?,
        })
    }

    async fn one(&self, name: &UserId) -> anyhow::Result<Option<UserView>> {
        Ok(match self {
            Self::Gateway(client) => client.user(name).await?,
            Self::Ledger(service, _) => service.one(name).await?,
        })
    }

    /// Whether it was there.
    async fn remove(&self, name: &UserId) -> anyhow::Result<bool> {
        if self.one(name).await?.is_none() {
            return Ok(false);
        }
        match self {
            Self::Gateway(client) => client.remove_user(name).await?,
            Self::Ledger(service, audit) => {
                if let Some(removed) = service.remove(name).await? {
                    removed.tell(audit);
                    audit.written();
                }
            }
        }
        Ok(true)
    }

    /// Ends a link of that name: without a gateway there is none.
    async fn end_link(&self, name: &UserId) -> anyhow::Result<usize> {
        Ok(match self {
            Self::Gateway(client) => client.end_link(name).await?,
            Self::Ledger(..) => 0,
        })
    }

    async fn link(&self, wanted: &LinkArguments, json: bool) -> anyhow::Result<Exit> {
        let Self::Gateway(client) = self else {
            eprintln!("comfygate: no gateway runs, so there is nobody whom a link could lead to: start it first");
            return Ok(Exit::No);
        };
        let request = LinkRequest { tenant: wanted.tenant.clone(), scopes: wanted.scopes.clone() };
        let link = client.user_link(&wanted.name, &request).await?;
        if json {
            println!("{}", serde_json::json!(link));
        } else {
            println!("{}", link.url);
        }
        Ok(Exit::Good)
    }
}

fn print(user: &UserView, json: bool) {
    if json {
        println!("{}", serde_json::json!(user));
    } else {
        let standing = if user.disabled_at.is_some() { "disabled" } else { "good" };
        let scopes: Vec<&str> = user.scopes.iter().map(Scope::name).collect();
        let label = user.label.as_deref().unwrap_or("");
        println!("{:<24} {:<20} {standing:<8} {} {label}", user.name, user.tenant, scopes.join(","));
    }
}
