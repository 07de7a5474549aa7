//! `comfygate session list|revoke`: where browsers are logged in, through the control socket of a running gateway, else in the ledger itself.

use super::key::audit_target;
use super::reach::{self, Here, NoState, Reached, reach};
use super::{ConfigArgument, Exit};
use crate::admin::control_client::ControlClient;
use crate::admin::sessions::{SessionQuery, SessionView, views};
use crate::admin::table::Table;
use crate::clock::Clock;
use crate::ids::{SessionId, TenantId, UserId};
use crate::record::audit::Audit;
use crate::record::ledger::LedgerError;
use crate::record::ledger::sessions::Sessions as _;
use crate::record::ledger::users::Users as _;
use clap::{Args, Subcommand};

/// `comfygate session …`
#[derive(Debug, Args)]
pub struct SessionArguments {
    #[command(subcommand)]
    command: SessionCommand,
    #[command(flatten)]
    which: ConfigArgument,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Show where browsers are logged in
    List(WhoseArguments),
    /// End a session, or all of a tenant or a user; open sockets are closed
    Revoke {
        /// The session's id, as `session list` shows it
        #[arg(required_unless_present_any = ["tenant", "user"], conflicts_with_all = ["tenant", "user"])]
        id: Option<SessionId>,
        #[command(flatten)]
        whose: WhoseArguments,
    },
}

#[derive(Debug, Args)]
struct WhoseArguments {
    /// Of this tenant
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Of this user, in whatever case the name is written
    #[arg(long)]
    user: Option<UserId>,
}

impl WhoseArguments {
    fn query(&self) -> SessionQuery {
        SessionQuery { tenant: self.tenant.clone(), user: self.user.clone() }
    }
}

/// Runs `comfygate session …`.
///
/// # Errors
/// When the configuration has faults, or neither the gateway nor its ledger can be reached.
pub fn run(arguments: &SessionArguments) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let sessions = Sessions::reach(&arguments.which)?;
        match &arguments.command {
            SessionCommand::List(whose) => {
                if let Some(tenant) = &whose.tenant
                    && !sessions.knows_tenant(tenant).await?
                {
                    reach::tell_unknown(tenant);
                }
                print(&sessions.list(&whose.query()).await?, arguments.json);
            }
            SessionCommand::Revoke { id: Some(id), .. } => {
                let ended = sessions.end_one(*id).await?;
                if ended == 0 {
                    eprintln!("comfygate: there is no session `{id}`, or it has ended: `comfygate session list` shows those that go on");
                    return Ok(Exit::No);
                }
                told(ended, arguments.json);
            }
            SessionCommand::Revoke { id: None, whose } => {
                let ended = sessions.end(&whose.query()).await?;
                if ended == 0
                    && let Some(user) = &whose.user
                    && !sessions.knows(user, whose.tenant.as_ref()).await?
                {
                    eprintln!(
                        "comfygate: there is no session of a user `{user}`, and no local user of that name: `comfygate session list` shows who is logged in"
                    );
                    return Ok(Exit::No);
                }
                if ended == 0
                    && let (None, Some(tenant)) = (&whose.user, &whose.tenant)
                {
                    eprintln!("comfygate: nobody of a tenant `{tenant}` is logged in: `comfygate session list` shows who is");
                    return Ok(Exit::No);
                }
                told(ended, arguments.json);
            }
        }
        Ok(Exit::Good)
    })
}

/// The running gateway, or its ledger and audit log while it does not run: whoever has the lock.
enum Sessions {
    Gateway(ControlClient),
    Ledger(Here, Audit),
}

impl Sessions {
    fn reach(which: &ConfigArgument) -> anyhow::Result<Self> {
        Ok(match reach(which, NoState::Refused)? {
            Reached::Gateway(client) => Self::Gateway(client),
            Reached::Here(here) => {
                let audit = Audit::open(&audit_target(&here.config), Clock::system())?;
                Self::Ledger(here, audit)
            }
        })
    }

    async fn knows_tenant(&self, tenant: &TenantId) -> anyhow::Result<bool> {
        match self {
            Self::Gateway(client) => Ok(client.tenant(tenant).await?.is_some()),
            Self::Ledger(here, _) => here.knows(tenant).await,
        }
    }

    async fn list(&self, query: &SessionQuery) -> anyhow::Result<Vec<SessionView>> {
        Ok(match self {
            Self::Gateway(client) => client.sessions(query).await?,
            Self::Ledger(here, _) => {
                views(&*here.ledger, &query.whose(), here.config.sessions, Clock::system().wall()).await?
            }
        })
    }

    /// How many it was: 0 where it is not there any more.
    async fn end_one(&self, id: SessionId) -> anyhow::Result<usize> {
        Ok(match self {
            Self::Gateway(client) => client.end_session(id).await?.ended,
            Self::Ledger(Here { ledger, .. }, audit) => match ledger.session(id).await {
                Ok(row) => {
                    ledger.end_session(id).await?;
                    audit.session_ended(row.id, &row.owner, "by an operator");
                    audit.written();
                    1
                }
                Err(LedgerError::NotFound { .. }) => 0,
                Err(error) => return Err(error.into()),
            },
        })
    }

    /// Whether there is such a local user, of that tenant if one is named. Others are known by their sessions alone.
    async fn knows(&self, user: &UserId, tenant: Option<&TenantId>) -> anyhow::Result<bool> {
        let of = match self {
            Self::Gateway(client) => client.user(user).await?.map(|view| view.tenant),
            Self::Ledger(Here { ledger, .. }, _) => match ledger.user(user).await {
                Ok(row) => Some(row.tenant),
                Err(LedgerError::NotFound { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(of.is_some_and(|of| tenant.is_none_or(|tenant| of == *tenant)))
    }

    async fn end(&self, query: &SessionQuery) -> anyhow::Result<usize> {
        Ok(match self {
            Self::Gateway(client) => client.end_sessions(query).await?.ended,
            Self::Ledger(Here { ledger, .. }, audit) => {
                let rows = ledger.end_sessions(&query.whose(), None).await?;
                rows.iter().for_each(|row| audit.session_ended(row.id, &row.owner, "by an operator"));
                audit.written();
                rows.len()
            }
        })
    }
}

fn told(ended: usize, json: bool) {
    if json {
        println!("{}", serde_json::json!({"ended": ended}));
    } else {
        println!("{ended} ended");
    }
}

fn print(sessions: &[SessionView], json: bool) {
    if json {
        return sessions.iter().for_each(|session| println!("{}", serde_json::json!(session)));
    }
    let mut table = Table::new(["session", "tenant", "user", "by", "browser"]);
    for session in sessions {
        let user = session.user.as_ref().map_or("", UserId::as_str);
        let browser = session.browser.as_deref().unwrap_or("");
        let provider = session.provider.as_ref().map(|provider| format!(" {provider}")).unwrap_or_default();
        let (id, by) = (session.id.to_string(), format!("{}{provider}", session.by));
        table.line([id.as_str(), session.tenant.as_str(), user, &by, browser]);
    }
    print!("{}", table.text());
}
