//! `comfygate user add|list|passwd|disable|enable|remove|link`: through the control socket of a running gateway, else in the ledger itself.

use super::key::{audit_target, scope};
use super::reach::{self, Here, NoState, Reached, reach};
use super::terminal::new_password;
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::table::Table;
use crate::admin::users::{LinkRequest, UserRequest, UserService, UserView};
use crate::authenticate::passwords::Passwords;
use crate::clock::Clock;
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
        let makes = matches!(arguments.command, UserCommand::Add(_));
        let users = Users::reach(&arguments.which, if makes { NoState::Made } else { NoState::Refused }).await?;
        match &arguments.command {
            UserCommand::Add(add) => {
                if !users.knows(&add.tenant).await? {
                    reach::tell_unknown(&add.tenant);
                    return Ok(Exit::No);
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
                print(&[users.put(&add.name, &request).await?], json);
                Ok(Exit::Good)
            }
            UserCommand::List { tenant } => {
                if let Some(tenant) = tenant
                    && !users.knows(tenant).await?
                {
                    reach::tell_unknown(tenant);
                }
                print(&users.list(tenant.as_ref()).await?, json);
                Ok(Exit::Good)
            }
            UserCommand::Passwd { name, .. } => {
                changed(&users, name, json, |request| UserRequest { password, ..request }).await
            }
            UserCommand::Disable { name } => {
                changed(&users, name, json, |request| UserRequest { disabled: Some(true), ..request }).await
            }
            UserCommand::Enable { name } => {
                changed(&users, name, json, |request| UserRequest { disabled: Some(false), ..request }).await
            }
            UserCommand::Remove { name } => {
                if !users.remove(name).await? {
                    if users.end_link(name).await? == 0 {
                        return Ok(no_user(name));
                    }
                    if json {
                        println!("{}", serde_json::json!({"removed": "link", "name": name}));
                    } else {
                        println!("there is no user {name} yet; the link that would have made it is over");
                    }
                    return Ok(Exit::Good);
                }
                if json {
                    println!("{}", serde_json::json!({"removed": "user", "name": name}));
                } else {
                    println!("{name} removed");
                }
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
    print(&[users.put(&there.name, &change(as_it_is)).await?], json);
    Ok(Exit::Good)
}

fn no_user(name: &UserId) -> Exit {
    eprintln!("comfygate: there is no user `{name}`: `comfygate user list` shows them");
    Exit::No
}

/// The running gateway, or its ledger and audit log while it does not run: whoever has the lock.
enum Users {
    Gateway(ControlClient),
    Ledger(UserService, Audit, Here),
}

impl Users {
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
        Ok(Self::Ledger(UserService::new(ledger, Passwords::default(), Clock::system()), audit, here))
    }

    async fn knows(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Ledger(_, _, here) => here.knows(tenant).await,
        }
    }

    async fn put(&self, name: &UserId, request: &UserRequest) -> anyhow::Result<UserView> {
        Ok(match self {
            Self::Gateway(client) => client.put_user(name, request).await?,
            Self::Ledger(service, audit, here) => {
                let put = service.put(name, request, u64::from(here.config.limits.users_max)).await?;
                put.tell(audit);
                audit.written();
                put.view
            }
        })
    }

    async fn list(&self, tenant: Option<&TenantId>) -> anyhow::Result<Vec<UserView>> {
        Ok(match self {
            Self::Gateway(client) => client.users(tenant).await?,
            Self::Ledger(service, ..) => service.list(tenant).await?,
        })
    }

    async fn one(&self, name: &UserId) -> anyhow::Result<Option<UserView>> {
        Ok(match self {
            Self::Gateway(client) => client.user(name).await?,
            Self::Ledger(service, ..) => service.one(name).await?,
        })
    }

    /// Whether it was there.
    async fn remove(&self, name: &UserId) -> anyhow::Result<bool> {
        if self.one(name).await?.is_none() {
            return Ok(false);
        }
        match self {
            Self::Gateway(client) => client.remove_user(name).await?,
            Self::Ledger(service, audit, _) => {
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
            bail!("no gateway runs, so there is nobody whom a link could lead to: start it first");
        };
        if client.tenant(&wanted.tenant).await?.is_none() {
            reach::tell_unknown(&wanted.tenant);
            return Ok(Exit::No);
        }
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

fn print(users: &[UserView], json: bool) {
    if json {
        return users.iter().for_each(|user| println!("{}", serde_json::json!(user)));
    }
    let mut table = Table::new(["user", "tenant", "state", "scopes", "label"]);
    for user in users {
        let state = if user.disabled_at.is_some() { "disabled" } else { "good" };
        let scopes: Vec<&str> = user.scopes.iter().map(Scope::name).collect();
        let label = user.label.as_deref().unwrap_or("");
        table.line([user.name.as_str(), user.tenant.as_str(), state, &scopes.join(","), label]);
    }
    print!("{}", table.text());
}
