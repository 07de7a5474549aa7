//! What each answered route does: one function an [`Action`], composing the stages. Knows no HTTP server: a [`Call`] comes in, an
//! [`Answer`] or a [`Rejection`] goes out.

mod control;
mod files;
mod first;
mod info;
mod jobs;
mod lists;
mod login;
mod models;
mod object_info;
mod oidc;
mod sessions;
mod submit;
mod tickets;
mod turns;
mod uploads;
mod userdata;
mod verdict;
mod views;

pub use lists::Lists;
pub use login::{PAGES, refusal_page};
pub use object_info::ObjectInfos;
pub use views::ViewTurns;

use crate::admit::Admission;
use crate::deliver::answer::Answer;
use crate::deliver::uploads::ReceivedForm;
use crate::dispatch::dispatcher::DispatchHandle;
use crate::ids::{PromptId, RequestId, TenantId};
use crate::listen::{ClientAddr, ClientTls};
use crate::owner::{OwnerScope, Principal};
use crate::record::ledger::{LedgerError, OwnedPrompt};
use crate::reject::Rejection;
use crate::route::{Action, RouteMatch};
use crate::services::Services;
use crate::tenants::Tenant;
use crate::tenants::stays::{Moment, Stay};
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::sync::Arc;

/// A request that passed listen, route, authenticate and admit, with its body read whole.
#[derive(Debug)]
pub struct Call<'a> {
    /// The gateway's parts.
    pub services: &'a Arc<Services>,
    /// Where accepted jobs go.
    pub dispatch: &'a DispatchHandle,
    /// Who asks; absent on public and signed routes only.
    pub caller: Option<Caller>,
    /// The route's entry, parameters and query.
    pub matched: &'a RouteMatch,
    /// `GET` or `HEAD`, `POST` …
    pub method: &'a Method,
    /// The caller's headers.
    pub headers: &'a HeaderMap,
    /// The body, within the route's bound.
    pub body: Bytes,
    /// The form of an upload, in its place.
    pub form: Option<ReceivedForm>,
    /// This request.
    pub request: RequestId,
    /// When it was not known yet whose request it is.
    pub before: Moment,
    /// Where the caller is.
    pub client: ClientAddr,
    /// Whether its listener speaks plain HTTP.
    pub plain: bool,
    /// What its connection showed at a listener with a `client_ca`.
    pub tls: Option<ClientTls>,
    /// The host that the request names.
    pub host: Option<&'a str>,
    /// Rates of tenants, for public routes that learn only by themselves whose a request is.
    pub rates: &'a Admission,
}

/// Who asks, and by which rules.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The authenticated caller.
    pub principal: Principal,
    /// Its tenant's limits and policy.
    pub tenant: Arc<Tenant>,
}

impl Call<'_> {
    /// The caller; a route that needs one is never reached without (the table says so), and if it were, the answer is no.
    fn caller(&self) -> Result<&Caller, Rejection> {
        self.caller.as_ref().ok_or_else(|| Rejection::internal("a route that needs a caller was reached without one"))
    }

    /// Whose queue, history and files the caller sees.
    fn scope(&self) -> Result<OwnerScope, Rejection> {
        Ok(self.caller()?.principal.owner.scope())
    }

    /// Whose userdata, settings and budget these are: the person's, however much is shared.
    fn personal(&self) -> Result<OwnerScope, Rejection> {
        Ok(self.caller()?.principal.owner.personal())
    }

    /// Lets a request of somebody stay who has proved only by now whose it is: what is written for that tenant must not outlive it. To be held until that is written.
    fn stay(&self, tenant: &TenantId) -> Result<Stay, Rejection> {
        let stay = self.services.stays.enter(tenant, self.before);
        stay.ok_or_else(|| LedgerError::Erased { tenant: tenant.clone() }.into())
    }

    /// Of these, what the caller made: what `clear` and an interrupt without an id mean also where a team sees more.
    fn made_by_caller(&self, mut prompts: Vec<OwnedPrompt>) -> Result<Vec<OwnedPrompt>, Rejection> {
        let owner = &self.caller()?.principal.owner;
        prompts.retain(|prompt| prompt.job().owner.is_same_person(owner));
        Ok(prompts)
    }

    /// A parameter of the path that has to be a prompt id; what can't be one names nothing.
    fn prompt_id(&self) -> Option<PromptId> {
        self.matched.params.named("prompt_id")?.parse().ok()
    }
}

/// Does what the route says.
///
/// # Errors
/// The stage's refusal.
pub async fn answer(mut call: Call<'_>, action: Action) -> Result<Answer, Rejection> {
    match action {
        Action::SubmitPrompt => submit::submit_prompt(&call).await,
        Action::CheckPrompt => verdict::check(&call).await,
        Action::PromptInfo => control::prompt_info(&call).await,
        Action::Queue => control::queue(&call).await,
        Action::ChangeQueue => control::change_queue(&call).await,
        Action::Interrupt => control::interrupt(&call).await,
        Action::History => control::history(&call).await,
        Action::HistoryEntry => control::history_entry(&call).await,
        Action::ChangeHistory => control::change_history(&call).await,
        Action::Jobs => jobs::jobs(&call).await,
        Action::Job => jobs::job(&call).await,
        Action::CancelJob => jobs::cancel_job(&call).await,
        Action::CancelJobs => jobs::cancel_jobs(&call).await,
        Action::UserFiles => userdata::list(&call).await,
        Action::UserFilesBelow => userdata::list_below(&call).await,
        Action::UserFile => userdata::read(&call).await,
        Action::WriteUserFile => userdata::write(&call).await,
        Action::DeleteUserFile => userdata::delete(&call).await,
        Action::MoveUserFile => userdata::rename(&call).await,
        Action::Settings => userdata::settings(&call).await,
        Action::Setting => userdata::setting(&call).await,
        Action::ChangeSettings => userdata::change_settings(&call).await,
        Action::ChangeSetting => userdata::change_setting(&call).await,
        Action::ModelFolders => lists::model_folders(&call).await,
        Action::ModelFolderDetails => lists::model_folder_details(&call).await,
        Action::Models => lists::models(&call).await,
        Action::ModelDetails => lists::model_details(&call).await,
        Action::ModelMetadata => lists::model_metadata(&call).await,
        Action::Embeddings => lists::embeddings(&call).await,
        Action::Translations => lists::translations(&call).await,
        Action::Templates => lists::templates(&call).await,
        Action::TemplateFile => lists::template_file(&call).await,
        Action::Subgraphs => lists::subgraphs(&call).await,
        Action::Subgraph => lists::subgraph(&call).await,
        Action::NodeReplacements => lists::node_replacements(&call).await,
        Action::View => files::view(&call).await,
        Action::SignedFile => files::signed_file(&call).await,
        Action::Free => info::free(&call).await,
        Action::Logs => info::logs(),
        Action::RawLogs => info::raw_logs(),
        Action::SubscribeLogs => info::subscribe_logs(&call).await,
        Action::UploadImage => {
            let form = call.form.take();
            uploads::image(&call, form).await
        }
        Action::UploadMask => {
            let form = call.form.take();
            uploads::mask(&call, form).await
        }
        Action::InternalFiles => uploads::listing(&call).await,
        Action::Users => info::users(),
        Action::Features => info::features(&call),
        Action::SystemStats => info::system_stats(&call).await,
        Action::ObjectInfo => object_info::whole(&call).await,
        Action::ObjectInfoClass => object_info::class(&call).await,
        Action::FolderPaths => info::folder_paths(),
        Action::CaCertificate => info::ca_certificate(&call),
        Action::GateHealth => info::health(),
        Action::GateMe => info::me(&call).await,
        Action::OidcStart => oidc::start(&call).await,
        Action::OidcBackchannel => oidc::backchannel(&call).await,
        Action::OidcCallback | Action::OidcOwnCallback => oidc::callback(&call).await,
        Action::LoginPage => login::login_page(&call).await,
        Action::Login => login::login(&call).await,
        Action::FirstPage => first::first_page(&call).await,
        Action::First => first::first(&call).await,
        Action::SessionsPage => sessions::sessions_page(&call).await,
        Action::ChangeSessions => sessions::change_sessions(&call).await,
        Action::ChangePassword => sessions::change_password(&call).await,
        Action::LogoutPage => login::logout_page(&call).await,
        Action::Logout => login::logout(&call).await,
        Action::Ticket => tickets::make(&call),
        // Ended inside the session by the gateway itself.
        Action::WebSocket | Action::Options => Err(Rejection::internal("the gateway answers this itself")),
    }
}
