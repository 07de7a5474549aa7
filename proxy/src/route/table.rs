//! The table: every route, what is done with it, and why. What is not here does not exist.
//!
//! Read an entry as: methods, path, under which prefix, handling, body, scope, access, reason. The first entry whose path and method fit
//! applies. HEAD follows GET with the same authorisation; OPTIONS is answered by the gateway for any known path: after authentication, but
//! for the preflights of browsers, which bring no credential.
//!
//! Paths: `{x}` is one segment; `{x%2F}` one segment that may hold encoded slashes (userdata's file names only); `{x..}` one or more
//! segments; `{x.web}` and `{x..web}` the same, but the last segment has an extension of [`WEB_FILES`].
//!
//! Source of the routes: ComfyUI 0.8.0 server.py, app/user_manager.py, app/model_manager.py, api_server/routes/internal, and later versions.

use super::path::{Odd, RoutePath, Segment, normalise};
use super::{InOwner, Query, RouteError};
use crate::owner::Scope;
use comfygate_policy::RouteBundle;
use http::Method;
use std::fmt;

/// One route, or one family of routes with one fate.
#[derive(Debug)]
pub struct Entry {
    /// The methods that the handling is for.
    pub methods: &'static [Verb],
    /// The path after the optional `/api`; see the module page.
    pub path: &'static str,
    /// Where the path may stand.
    pub prefix: Prefix,
    /// What is done.
    pub handling: Handling,
    /// What body may come.
    pub body: BodyRule,
    /// The scope that the credential needs; none: any credential (or none at all, if `access` says so).
    pub scope: Option<Scope>,
    /// Who may call.
    pub access: Access,
    /// Which query keys the route reads.
    pub keys: QueryKeys,
    /// What is done instead where the backend is the caller's own installation.
    pub in_owner: InOwner,
    /// Why it is handled so.
    pub reason: &'static str,
}

/// The methods that the listen stage lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "methods of RFC 9110 §9 and RFC 5789, by name")]
pub enum Verb {
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
}

impl Verb {
    /// Every verb, in the order of their names.
    pub const ALL: [Self; 7] = [Self::Delete, Self::Get, Self::Head, Self::Options, Self::Patch, Self::Post, Self::Put];

    /// The method's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
        }
    }

    /// The verb of a method; none for those that no route of ours has.
    pub fn of(method: &Method) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == method.as_str())
    }
}

/// Whether a path stands plain, under `/api`, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// ComfyUI registers it twice.
    Both,
    /// Never under `/api`: `/internal/*`, the page's files, and `/gate/*`.
    PlainOnly,
    /// Under `/api` only: `/api/jobs` is written with its prefix in ComfyUI's source.
    ApiOnly,
}

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// We answer, from our own state or through our own client.
    Answer(Action),
    /// Streamed by Pingora, without body, from a backend.
    Forward,
    /// 404, like what does not exist; the reason goes to the log.
    Refuse,
}

/// What we answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "one per answered entry of the table, where the reason stands beside it")]
pub enum Action {
    CaCertificate,
    CancelJob,
    CancelJobs,
    ChangeHistory,
    ChangePassword,
    ChangeQueue,
    ChangeSessions,
    ChangeSetting,
    ChangeSettings,
    DeleteUserFile,
    Embeddings,
    Features,
    First,
    FirstPage,
    FolderPaths,
    Free,
    GateHealth,
    CheckPrompt,
    GateMe,
    Login,
    LoginPage,
    Logout,
    LogoutPage,
    History,
    HistoryEntry,
    InternalFiles,
    Interrupt,
    Logs,
    Job,
    Jobs,
    ModelDetails,
    ModelFolderDetails,
    ModelFolders,
    ModelMetadata,
    Models,
    MoveUserFile,
    NodeReplacements,
    ObjectInfo,
    ObjectInfoClass,
    OidcBackchannel,
    OidcCallback,
    OidcOwnCallback,
    OidcStart,
    Options,
    PromptInfo,
    Queue,
    RawLogs,
    SessionsPage,
    Setting,
    Settings,
    SignedFile,
    Subgraph,
    Subgraphs,
    SubmitPrompt,
    SubscribeLogs,
    SystemStats,
    UploadImage,
    UploadMask,
    TemplateFile,
    Templates,
    Ticket,
    Translations,
    UserFile,
    UserFiles,
    UserFilesBelow,
    Users,
    View,
    WebSocket,
    WriteUserFile,
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Public,
    /// Whoever holds a URL that we signed; no credential.
    Signed,
    /// An authenticated caller.
    Credential,
}

/// What body may come with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRule {
    /// None: `content-length` absent or 0, no `transfer-encoding`.
    None,
    /// JSON of `application/json`, up to so many bytes.
    Json {
        /// Largest body.
        max_bytes: u64,
    },
    /// The envelope of POST /prompt; `application/json` without charset or with UTF-8, and nothing else (bypass 1 and 10).
    PromptJson {
        /// Largest body.
        max_bytes: u64,
    },
    /// As `Json`, or nothing at all: the stock page's POST /interrupt has no body.
    EmptyOrJson {
        /// Largest body.
        max_bytes: u64,
    },
    /// The fields of an HTML form, `application/x-www-form-urlencoded`, or nothing at all.
    Form {
        /// Largest body.
        max_bytes: u64,
    },
    /// `multipart/form-data` with a file: streamed to the disk under `[limits] upload_bytes_max`.
    Multipart,
    /// As `Json`, or the same text as `text/plain`: so the browser calls it where the stock page names no type.
    PageJson {
        /// Largest body.
        max_bytes: u64,
    },
    /// A file of userdata: any bytes of any type, as many as `[limits] userdata_bytes_max` allows.
    File,
}

/// Which keys of the query a route reads, and which therefore may not stand twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeys {
    /// These, each at most once. Others are the page's (`rand`, `t`, `v`) and ignored.
    Known(&'static [&'static str]),
    /// Any, each at most once: a signature stands for the query that it was made with, and what it does not name is not read.
    EachOnce,
}

/// Bodies that list ids: 64 KiB hold 1,700 prompt ids.
const SMALL_JSON: u64 = 64 * 1024;
/// `prompt` 2 MiB and `extra_pnginfo` 8 MiB (design §6.1).
const PROMPT_JSON: u64 = 10 * 1024 * 1024;
/// All settings of the stock page together are some 10 KiB.
const SETTINGS_JSON: u64 = crate::record::ledger::user_files::SETTINGS_BYTES_MAX;

/// What a provider's answer says; providers add words of their own.
const CALLBACK: &[&str] = &["code", "state", "iss", "error"];

/// One key of 49 characters, or a name and three passwords: of 128 letters, each of them up to 12 bytes when it is escaped. And what a password manager adds.
const LOGIN_FORM: u64 = 8 * 1024;
/// A logout token: as long as any other token, in a form.
const LOGOUT_FORM: u64 = 12 * 1024;

/// Extensions of the files that make up the page: own packages of ComfyUI (front end, templates, embedded documents) and node packs.
/// A forwarded path always ends in one, so that no API route which a node pack hides under these folders is reached.
pub const WEB_FILES: [&str; 30] = [
    "css",
    "eot",
    "gif",
    "glb",
    "html",
    "ico",
    "jpeg",
    "jpg",
    "js",
    "json",
    "map",
    "md",
    "mjs",
    "mp3",
    "mp4",
    "ogg",
    "otf",
    "png",
    "svg",
    "ttf",
    "txt",
    "vue",
    "wasm",
    "wav",
    "webm",
    "webmanifest",
    "webp",
    "woff",
    "woff2",
    "xml",
];

const PACKS: &str = "comes from node packs: of those that the policy allows a class of";
const MODELS: &str = "what an allowed class offers, of the backend that /object_info is of: no more than that shows";

const GET: &[Verb] = &[Verb::Get];
const POST: &[Verb] = &[Verb::Post];
const ANY: &[Verb] = &[Verb::Delete, Verb::Get, Verb::Patch, Verb::Post, Verb::Put];

/// Every route.
#[rustfmt::skip]
pub static TABLE: &[Entry] = &[
    // -- Execution (facts §1.1)
    answer(POST, "/prompt", Action::SubmitPrompt, Some(Scope::Submit), "runs code on a GPU: read whole, decided, rebuilt, queued here")
        .body(BodyRule::PromptJson { max_bytes: PROMPT_JSON }),
    answer(GET, "/prompt", Action::PromptInfo, Some(Scope::Read), "ComfyUI counts everybody's jobs; ours counts the caller's"),
    answer(GET, "/queue", Action::Queue, Some(Scope::Read), "ComfyUI shows everybody's graphs; ours the caller's jobs"),
    answer(POST, "/queue", Action::ChangeQueue, Some(Scope::Cancel), "`clear` and `delete` mean own jobs only (bypass 97)")
        .body(BodyRule::Json { max_bytes: SMALL_JSON }),
    answer(POST, "/interrupt", Action::Interrupt, Some(Scope::Cancel), "an empty body stops whoever runs; ours stops the caller's own (bypass 95)")
        .body(BodyRule::EmptyOrJson { max_bytes: SMALL_JSON }),
    answer(POST, "/free", Action::Free, None, "unloads models for all: a harmless 200 for tenants, whose page has a button for it (bypass 99)")
        .body(BodyRule::EmptyOrJson { max_bytes: SMALL_JSON }),
    answer(GET, "/history", Action::History, Some(Scope::Read), "from the ledger: own jobs only").keys(&["max_items", "offset"]),
    answer(POST, "/history", Action::ChangeHistory, Some(Scope::Cancel), "`clear` and `delete` mean own entries only (bypass 98)")
        .body(BodyRule::Json { max_bytes: SMALL_JSON }),
    answer(GET, "/history/{prompt_id}", Action::HistoryEntry, Some(Scope::Read), "a foreign id answers `{}` like an unknown one"),
    answer(GET, "/history_v2/{prompt_id}", Action::HistoryEntry, Some(Scope::Read), "as /history/{prompt_id}: so comfy-cli calls it where it sends a key")
        .prefix(Prefix::ApiOnly),
    answer(GET, "/ws", Action::WebSocket, Some(Scope::Read), "ends here: upstream sids are secrets (bypass 109)").keys(&["clientId", "token"]),
    answer(GET, "/jobs", Action::Jobs, Some(Scope::Read), "from the ledger: own jobs only; filters, sorting and paging are ours")
        .prefix(Prefix::ApiOnly).keys(&["status", "workflow_id", "sort_by", "sort_order", "limit", "offset"]),
    answer(POST, "/jobs/cancel", Action::CancelJobs, Some(Scope::Cancel), "own jobs only; of later versions of ComfyUI")
        .prefix(Prefix::ApiOnly).body(BodyRule::Json { max_bytes: SMALL_JSON }),
    answer(GET, "/jobs/{prompt_id}", Action::Job, Some(Scope::Read), "a foreign id answers 404 like an unknown one").prefix(Prefix::ApiOnly),
    answer(POST, "/jobs/{prompt_id}/cancel", Action::CancelJob, Some(Scope::Cancel), "own jobs only; of later versions of ComfyUI")
        .prefix(Prefix::ApiOnly).body(BodyRule::EmptyOrJson { max_bytes: SMALL_JSON }),

    // -- Files (facts §1.2)
    answer(GET, "/view", Action::View, Some(Scope::Files), "names are looked up among the owner's files; the backend's /view reads anybody's")
        .keys(&["filename", "type", "subfolder", "preview", "channel"]),
    answer(POST, "/upload/image", Action::UploadImage, Some(Scope::Files), "ComfyUI writes any name anywhere below its folders; ours becomes a file of the caller's own (bypass 87-93)")
        .body(BodyRule::Multipart),
    answer(POST, "/upload/mask", Action::UploadMask, Some(Scope::Files), "the original is looked up among the caller's own files (bypass 92)")
        .body(BodyRule::Multipart),
    answer(GET, "/view_metadata/{folder}", Action::ModelMetadata, Some(Scope::Read), "what a model is, of models that an allowed class offers; not how its owner trained it")
        .keys(&["filename"]).owners(),
    answer(GET, "/internal/files/{directory}", Action::InternalFiles, Some(Scope::Files), "ComfyUI lists everybody's files; ours the caller's own")
        .prefix(Prefix::PlainOnly),
    answer(GET, "/userdata", Action::UserFiles, Some(Scope::Files), "the owner's own store; ComfyUI's is one for all, or for whoever names the user")
        .keys(&["dir", "recurse", "full_info", "split"]),
    answer(GET, "/v2/userdata", Action::UserFilesBelow, Some(Scope::Files), "as /userdata; the path is decoded once").keys(&["path"]),
    answer(GET, "/userdata/{file%2F}", Action::UserFile, Some(Scope::Files), "the owner's own; never shown as HTML (bypass 86, CVE-2026-56672)"),
    answer(POST, "/userdata/{file%2F}", Action::WriteUserFile, Some(Scope::Files), "into the owner's own store, within its bounds (bypass 19)")
        .body(BodyRule::File).keys(&["overwrite", "full_info"]),
    answer(&[Verb::Delete], "/userdata/{file%2F}", Action::DeleteUserFile, Some(Scope::Files), "the owner's own only"),
    answer(POST, "/userdata/{file%2F}/move/{dest%2F}", Action::MoveUserFile, Some(Scope::Files), "within the owner's own store")
        .keys(&["overwrite", "full_info"]),
    answer(GET, "/settings", Action::Settings, Some(Scope::Read), "the owner's own; ComfyUI's are one set for all"),
    answer(POST, "/settings", Action::ChangeSettings, Some(Scope::Files), "merged in one transaction: two tabs lose nothing")
        .body(BodyRule::PageJson { max_bytes: SETTINGS_JSON }),
    answer(GET, "/settings/{id}", Action::Setting, Some(Scope::Read), "the owner's own; `null` for one that is not set"),
    answer(POST, "/settings/{id}", Action::ChangeSetting, Some(Scope::Files), "as POST /settings").body(BodyRule::PageJson { max_bytes: SETTINGS_JSON }),
    answer(GET, "/users", Action::Users, Some(Scope::Read), "ComfyUI lists all user ids, which are its only credential (bypass 102): a fixed answer"),
    refuse(POST, "/users", "users are made by the gateway's own tenants, never through ComfyUI"),

    // -- Models, nodes, front-end data (facts §1.3)
    answer(GET, "/object_info", Action::ObjectInfo, Some(Scope::Read), "the pinned catalogue, filtered by policy: the backend's lists everybody's input files"),
    answer(GET, "/object_info/{class}", Action::ObjectInfoClass, Some(Scope::Read), "as /object_info; what policy denies answers `{}` like an unknown class"),
    answer(GET, "/models", Action::ModelFolders, Some(Scope::Read), "names of folders, without `custom_nodes` and `configs`").owners(),
    refuse(ANY, "/models/download", "downloads of models by the server"),
    refuse(ANY, "/models/download/{batch}", "downloads of models by the server"),
    answer(GET, "/models/{folder}", Action::Models, Some(Scope::Read), MODELS).owners(),
    answer(GET, "/embeddings", Action::Embeddings, Some(Scope::Read), "named in texts, which every policy allows").owners(),
    answer(GET, "/experiment/models", Action::ModelFolderDetails, Some(Scope::Read), "ComfyUI adds the paths on its disk: without them").owners(),
    refuse(ANY, "/experiment/models/preview/{file..}", "reads any image of the machine (CVE-2026-56671, bypass 18)"),
    answer(GET, "/experiment/models/{folder}", Action::ModelDetails, Some(Scope::Read), MODELS).owners(),
    forward(GET, "/extensions", "names the JavaScript files of installed packs, which the page then loads").prefix(Prefix::Both).scope(Scope::Read),
    answer(GET, "/i18n", Action::Translations, Some(Scope::Read), PACKS).owners(),
    answer(GET, "/workflow_templates", Action::Templates, Some(Scope::Read), PACKS).owners(),
    answer(GET, "/workflow_templates/{file..}", Action::TemplateFile, Some(Scope::Read), PACKS).owners(),
    answer(GET, "/global_subgraphs", Action::Subgraphs, Some(Scope::Read), PACKS).owners(),
    answer(GET, "/global_subgraphs/{id}", Action::Subgraph, Some(Scope::Read), PACKS).owners(),
    answer(GET, "/node_replacements", Action::NodeReplacements, Some(Scope::Read), "`{}`, or 501: ComfyUI swaps classes by it after our check").owners(),
    answer(GET, "/features", Action::Features, Some(Scope::Read), "our limits, not the backend's"),
    answer(GET, "/system_stats", Action::SystemStats, Some(Scope::Read), "ComfyUI's shows command line and paths: scrubbed"),
    refuse(ANY, "/openapi.yaml", "describes routes that are not served"),
    refuse(ANY, "/api-docs", "loads a script from a third party"),

    // -- The page's files (facts §1.3, last row; folders of the package comfyui-frontend-package)
    forward(GET, "/", "the page").prefix(Prefix::Both),
    forward(GET, "/{file.web}", "files beside the page: user.css, icons, style sheets"),
    forward(GET, "/assets/{file..web}", "bundles of the page. ComfyUI's assets API stands under /api/assets and has no extensions"),
    forward(GET, "/cursor/{file..web}", "mouse cursors of the page"),
    forward(GET, "/fonts/{file..web}", "fonts of the page"),
    forward(GET, "/scripts/{file..web}", "shims through which node packs reach the page's modules"),
    forward(GET, "/extensions/{file..web}", "front ends of installed packs"),
    forward(GET, "/templates/{file..web}", "workflow templates and their pictures (comfyui-workflow-templates)"),
    forward(GET, "/docs/{file..web}", "help texts of nodes (comfyui-embedded-docs)"),

    // -- Internal (facts §1.4): a sub-application without /api alias
    answer(GET, "/internal/folder_paths", Action::FolderPaths, Some(Scope::Read), "the page reads it while loading: folder names without paths")
        .prefix(Prefix::PlainOnly),
    answer(GET, "/internal/logs", Action::Logs, Some(Scope::Read), "the log of the process is everybody's errors: empty for tenants (bypass 101)")
        .prefix(Prefix::PlainOnly).owners(),
    answer(GET, "/internal/logs/raw", Action::RawLogs, Some(Scope::Read), "as /internal/logs").prefix(Prefix::PlainOnly).owners(),
    answer(&[Verb::Patch], "/internal/logs/subscribe", Action::SubscribeLogs, Some(Scope::Read), "names any client's socket: our own is subscribed, for an owner")
        .body(BodyRule::Json { max_bytes: SMALL_JSON }).prefix(Prefix::PlainOnly),
    refuse(ANY, "/internal/{rest..}", "no other internal route is known"),

    // -- Assets, tasks, downloads (facts §1.5): none is scoped to an owner; existence oracles, theft by hash, server-side fetch (bypass 104)
    refuse(ANY, "/assets", "ComfyUI's assets are not scoped to an owner").prefix(Prefix::ApiOnly),
    refuse(ANY, "/assets/{rest..}", "ComfyUI's assets are not scoped to an owner").prefix(Prefix::ApiOnly),
    refuse(ANY, "/tags", "part of the assets API").prefix(Prefix::ApiOnly),
    refuse(ANY, "/tasks/{id}", "downloads of models by the server").prefix(Prefix::ApiOnly),

    // -- ComfyUI-Manager (facts §1.6): installs code; many state-changing routes are GET (bypass 103)
    manager("/v2/manager/{rest..}"),
    manager("/v2/customnode/{rest..}"),
    manager("/v2/snapshot/{rest..}"),
    manager("/v2/comfyui_manager/{rest..}"),
    manager("/v2/externalmodel/{rest..}"),
    manager("/manager/{rest..}"),
    manager("/customnode/{rest..}"),
    manager("/snapshot/{rest..}"),
    manager("/comfyui_manager/{rest..}"),
    manager("/externalmodel/{rest..}"),

    // -- Ours
    answer(GET, "/gate/health", Action::GateHealth, None, "open, without detail: for load balancers").prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/me", Action::GateMe, None, "the caller's own name, limits and usage").prefix(Prefix::PlainOnly),
    answer(GET, "/gate/files/{file_id}", Action::SignedFile, None, "the signature in the query is the credential")
        .prefix(Prefix::PlainOnly).access(Access::Signed).keys_each_once(),
    answer(GET, "/gate/ca.crt", Action::CaCertificate, None, "what devices are to trust, where the certificate was made here; holds no secret")
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/check", Action::CheckPrompt, Some(Scope::Submit), "the verdict and the cost of a submission, by the same rules, without a job")
        .body(BodyRule::PromptJson { max_bytes: PROMPT_JSON }).prefix(Prefix::PlainOnly),
    answer(GET, "/gate/first", Action::FirstPage, None, "the form behind a one-time link; looking at it uses nothing up").keys(&["token"])
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/first", Action::First, None, "a one-time link for a password and a cookie; counted by address, from our own page only")
        .body(BodyRule::Form { max_bytes: LOGIN_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/sessions", Action::SessionsPage, None, "where the caller is logged in, by the cookie alone; others are sent to the login")
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/sessions", Action::ChangeSessions, None, "ends the caller's own sessions, by the cookie alone, from our own page only")
        .body(BodyRule::Form { max_bytes: LOGIN_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/password", Action::ChangePassword, None, "another password for the former one and the cookie, from our own page only")
        .body(BodyRule::Form { max_bytes: LOGIN_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/ticket", Action::Ticket, Some(Scope::Read), "a one-use word for the caller's credential, for `/ws?token=` of a page that can send no header")
        .body(BodyRule::EmptyOrJson { max_bytes: SMALL_JSON }).prefix(Prefix::PlainOnly),
    answer(GET, "/gate/oidc/callback", Action::OidcCallback, None, "back from an identity provider: good once, and for the browser that began it").keys(CALLBACK)
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/oidc/callback/{provider}", Action::OidcOwnCallback, None, "the same, for one provider alone").keys(CALLBACK)
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/oidc/backchannel/{provider}", Action::OidcBackchannel, None, "a provider's signed word that somebody has logged out there; nothing but that ends a session by it")
        .body(BodyRule::Form { max_bytes: LOGOUT_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/oidc/{provider}", Action::OidcStart, None, "off to an identity provider; changes nothing here").keys(&["next", "moved"])
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/login", Action::LoginPage, None, "where a browser without a session is sent; tells nothing").keys(&["next", "form"])
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/login", Action::Login, None, "a key or a password for a cookie; counted by address, from our own page only").keys(&["next"])
        .body(BodyRule::Form { max_bytes: LOGIN_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
    answer(GET, "/gate/logout", Action::LogoutPage, None, "a button: a link alone must not log anybody out")
        .prefix(Prefix::PlainOnly).access(Access::Public),
    answer(POST, "/gate/logout", Action::Logout, None, "ends the session that the cookie names, from our own page only")
        .body(BodyRule::Form { max_bytes: LOGIN_FORM }).prefix(Prefix::PlainOnly).access(Access::Public),
];

const MANAGER: &str = "ComfyUI-Manager installs code on the backend";

/// OPTIONS on any path of the table, but for preflights: those are answered before ([`crate::deliver::cors`]).
static OPTIONS: Entry = answer(
    &[Verb::Options],
    "*",
    Action::Options,
    None,
    "204 with `Allow`, after authentication; ComfyUI answers 200 to anybody (bypass 21)",
);

const fn answer(
    methods: &'static [Verb],
    path: &'static str,
    action: Action,
    scope: Option<Scope>,
    reason: &'static str,
) -> Entry {
    Entry { scope, ..entry(methods, path, Handling::Answer(action), reason) }
}

const fn forward(methods: &'static [Verb], path: &'static str, reason: &'static str) -> Entry {
    Entry { prefix: Prefix::PlainOnly, ..entry(methods, path, Handling::Forward, reason) }
}

const fn manager(path: &'static str) -> Entry {
    Entry { in_owner: InOwner::Bundle(RouteBundle::Manager), ..refuse(ANY, path, MANAGER) }
}

const fn refuse(methods: &'static [Verb], path: &'static str, reason: &'static str) -> Entry {
    entry(methods, path, Handling::Refuse, reason)
}

const fn entry(methods: &'static [Verb], path: &'static str, handling: Handling, reason: &'static str) -> Entry {
    Entry {
        methods,
        path,
        prefix: Prefix::Both,
        handling,
        body: BodyRule::None,
        scope: None,
        access: Access::Credential,
        keys: QueryKeys::Known(&[]),
        in_owner: InOwner::Same,
        reason,
    }
}

impl Entry {
    const fn prefix(self, prefix: Prefix) -> Self {
        Self { prefix, ..self }
    }
    const fn body(self, body: BodyRule) -> Self {
        Self { body, ..self }
    }
    const fn scope(self, scope: Scope) -> Self {
        Self { scope: Some(scope), ..self }
    }
    const fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }
    const fn keys(self, keys: &'static [&'static str]) -> Self {
        Self { keys: QueryKeys::Known(keys), ..self }
    }
    /// The backend's own answer, in the owner posture.
    const fn owners(self) -> Self {
        Self { in_owner: InOwner::Forward, ..self }
    }
    const fn keys_each_once(self) -> Self {
        Self { keys: QueryKeys::EachOnce, ..self }
    }

    /// Whether the entry is for this verb; HEAD follows GET.
    pub(super) fn takes(&self, verb: Verb) -> bool {
        self.methods.contains(&verb) || (verb == Verb::Head && self.methods.contains(&Verb::Get))
    }

    /// The parameters, if the path fits.
    pub(super) fn fits(&self, path: &RoutePath) -> Option<Params> {
        let here = match self.prefix {
            Prefix::Both => true,
            Prefix::PlainOnly => !path.under_api(),
            Prefix::ApiOnly => path.under_api(),
        };
        if here { captured(self.path, path.segments()) } else { None }
    }
}

/// Path parameters, decoded, by their name in the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    /// The value of `{name}`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// The value of an `Allow` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow(Vec<Verb>);

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|verb| verb.name()).collect();
        f.write_str(&names.join(", "))
    }
}

/// What a request asks for: made by [`matched_route`] only.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The entry of the table.
    pub entry: &'static Entry,
    /// The method.
    pub verb: Verb,
    /// `{prompt_id}`, `{class}` …
    pub params: Params,
    /// The query; keys that the entry knows stand at most once.
    pub query: Query,
    /// The path, for forwarding and logs.
    pub path: RoutePath,
    /// The methods of this path; for OPTIONS.
    pub allow: Allow,
}

impl RouteMatch {
    /// What we answer; none where the request is forwarded or refused.
    pub fn action(&self) -> Option<Action> {
        match self.entry.handling {
            Handling::Answer(action) => Some(action),
            Handling::Forward | Handling::Refuse => None,
        }
    }
}

/// The entry of `table` that applies to a method and a raw target such as `/api/history/x?max_items=1`.
///
/// # Errors
/// [`RouteError`]: not in the table or refused by it, another method, or written oddly.
pub fn matched_route(method: &Method, raw_target: &str, table: &'static [Entry]) -> Result<RouteMatch, RouteError> {
    let path = normalise(raw_target)?;
    let fitting: Vec<(&'static Entry, Params)> =
        table.iter().filter_map(|entry| Some((entry, entry.fits(&path)?))).collect();
    if fitting.is_empty() {
        // A slash may be encoded where a file name stands, and there is none.
        let slash = path.segments().iter().any(Segment::holds_slash);
        return Err(if slash { Odd::EncodedSlash.into() } else { RouteError::NotFound { reason: None } });
    }
    let allow = allowed(&fitting);
    let verb = Verb::of(method).ok_or_else(|| RouteError::MethodNotAllowed { allow: allow.clone() })?;
    if verb == Verb::Options && !allow.0.is_empty() {
        return Ok(RouteMatch {
            entry: &OPTIONS,
            verb,
            params: Params::default(),
            query: Query::default(),
            path,
            allow,
        });
    }
    let (entry, params) = fitting.into_iter().find(|(entry, _)| entry.takes(verb)).ok_or_else(|| miss(&allow))?;
    if entry.handling == Handling::Refuse {
        return Err(RouteError::NotFound { reason: Some(entry.reason) });
    }
    let query = checked_query(entry, path.raw_query())?;
    Ok(RouteMatch { entry, verb, params, query, path, allow })
}

/// A path of which only refused entries are known is no more there for one method than for another.
fn miss(allow: &Allow) -> RouteError {
    if allow.0.is_empty() {
        RouteError::NotFound { reason: None }
    } else {
        RouteError::MethodNotAllowed { allow: allow.clone() }
    }
}

/// The methods of those entries that do something; none if all are refused.
fn allowed(fitting: &[(&'static Entry, Params)]) -> Allow {
    let mut decided: Vec<Verb> = Vec::new();
    for verb in Verb::ALL {
        let first = fitting.iter().find(|(entry, _)| entry.takes(verb));
        if first.is_some_and(|(entry, _)| entry.handling != Handling::Refuse) {
            decided.push(verb);
        }
    }
    if !decided.is_empty() {
        decided.push(Verb::Options);
        decided.sort_unstable();
    }
    Allow(decided)
}

fn checked_query(entry: &Entry, raw: &str) -> Result<Query, RouteError> {
    // The page's files come with cache-busting queries that nobody reads: they are neither parsed nor sent on.
    if entry.handling == Handling::Forward {
        return Ok(Query::default());
    }
    let query = Query::parse(raw)?;
    let repeated = match entry.keys {
        QueryKeys::Known(keys) => query.repeated(|key| keys.contains(&key)),
        QueryKeys::EachOnce => query.repeated(|_| true),
    };
    match repeated {
        Some(key) => Err(RouteError::QueryKeyRepeated { key: key.to_owned() }),
        None => Ok(query),
    }
}

/// The parameters of `pattern` if it fits all of `segments`.
fn captured(pattern: &'static str, segments: &[Segment]) -> Option<Params> {
    let mut params = Vec::new();
    let mut rest = segments;
    for piece in pattern.split('/').filter(|piece| !piece.is_empty()) {
        let (first, after) = rest.split_first()?;
        if first.text().is_empty() {
            return None;
        }
        let Some(name) = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}')) else {
            if first.holds_slash() || first.text() != piece {
                return None;
            }
            rest = after;
            continue;
        };
        if let Some(name) = name.strip_suffix("%2F") {
            params.push((name, first.text().to_owned()));
        } else if let Some(name) = name.strip_suffix("..web") {
            params.push((name, web_file(tail(rest)?)?));
            return Some(Params(params));
        } else if let Some(name) = name.strip_suffix("..") {
            params.push((name, tail(rest)?));
            return Some(Params(params));
        } else if first.holds_slash() {
            return None;
        } else if let Some(name) = name.strip_suffix(".web") {
            params.push((name, web_file(first.text().to_owned())?));
        } else {
            params.push((name, first.text().to_owned()));
        }
        rest = after;
    }
    rest.is_empty().then_some(Params(params))
}

/// All remaining segments, joined; none if one has an encoded slash or the path ends in one.
fn tail(rest: &[Segment]) -> Option<String> {
    let whole = rest.iter().all(|segment| !segment.holds_slash() && !segment.text().is_empty());
    let texts: Vec<_> = rest.iter().map(Segment::text).collect();
    whole.then(|| texts.join("/"))
}

/// The path, if its extension is one of the page's.
fn web_file(path: String) -> Option<String> {
    let (stem, extension) = path.rsplit_once('.')?;
    let known = WEB_FILES.contains(&extension.to_ascii_lowercase().as_str());
    (known && !stem.is_empty() && !stem.ends_with('/')).then_some(path)
}

#[cfg(test)]
mod tests;
