//! From a body to the engine's verdict, for `POST /prompt` and `POST /gate/check`: both ask the same, by the same rules, of the same files.

use super::{Call, Caller, models};
use crate::deliver::answer::Answer;
use crate::inspect::refused::{self, Understood};
use crate::inspect::{InspectError, files, paid};
use crate::record::ledger::Acceptance;
use crate::record::ledger::refusals::{RefusalBounds, RefusalRow, RefusedRule};
use crate::record::ledger::uploads::Pin;
use crate::reject::Rejection;
use bytes::Bytes;
use comfygate_policy::{
    ApprovedWorkflow, ComfyOrgCredential, Digest, FileFacts, FileReference, ModelChoice, Parsed, Policy, Violation,
    Violations,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A backend with other node packs may come up.
pub(super) const NO_BACKEND_RETRY: Duration = Duration::from_secs(60);

/// What inspection made of a body.
pub(super) struct Inspected {
    pub(super) parsed: Parsed,
    pub(super) workflow: ApprovedWorkflow,
    /// The files that it names.
    pub(super) pins: Vec<Pin>,
    /// The caller's own, where it is what pays for the workflow.
    pub(super) credential: Option<ComfyOrgCredential>,
}

/// Why there is no approved workflow.
pub(super) enum Unapproved {
    /// The verdict is no.
    Refused(Box<Refused>),
    /// There is no verdict.
    Undecided(Rejection),
}

/// A verdict that is no.
pub(super) struct Refused {
    pub(super) error: InspectError,
    policy: Arc<Policy>,
    catalogue: Option<Digest>,
    /// The canonical submission, if it is one.
    graph: Option<Bytes>,
}

impl From<Rejection> for Unapproved {
    fn from(rejection: Rejection) -> Self {
        Self::Undecided(rejection)
    }
}

/// Parses and decides off the event loop: a body of 10 MiB takes tens of milliseconds. In between, the names of files are looked up.
pub(super) async fn inspected(call: &Call<'_>, caller: &Caller) -> Result<Inspected, Unapproved> {
    let (inspector, body) = (call.services.inspector(), call.body.clone());
    let ended = |error: tokio::task::JoinError| Rejection::internal(format!("inspection ended: {error}"));
    let policy = call.services.policy_of(&caller.tenant);
    let refused = |error, catalogue: Option<Digest>, graph: Option<Vec<u8>>| {
        let (policy, graph) = (Arc::clone(&policy), graph.map(Bytes::from));
        Unapproved::Refused(Box::new(Refused { error, policy, catalogue, graph }))
    };
    let (parsing, parts, tenant) = (inspector.clone(), Arc::clone(call.services), Arc::clone(&caller.tenant));
    let reading = Arc::clone(&policy);
    let parsed = tokio::task::spawn_blocking(move || {
        let parsed = parsing.parse(&body)?;
        let catalogue = parts.catalogue_for(&tenant, &parsed);
        let references =
            catalogue.as_deref().map(|catalogue| parsed.file_references_under(&reading, catalogue)).unwrap_or_default();
        Ok::<_, InspectError>((parsed, catalogue, references))
    });
    let (parsed, catalogue, references) = parsed.await.map_err(ended)?.map_err(|error| refused(error, None, None))?;
    let catalogue = catalogue.ok_or_else(|| {
        let text = "your ComfyUI has not answered yet: what is installed there is not known";
        Rejection::unavailable("no_backend", text, NO_BACKEND_RETRY)
    })?;
    let read_by = Some(catalogue.digest());
    let (pins, known) = match pinned(call, caller, &references).await {
        Ok(found) => found,
        Err(files::PinError::Refused(error)) => return Err(refused(error, read_by, Some(parsed.canonical()))),
        Err(error) => return Err(Rejection::from(error).into()),
    };
    let judge = Arc::clone(&policy);
    let has_key = call.services.config().comfy_org.is_some();
    let decided = tokio::task::spawn_blocking(move || {
        let decided = inspector.decide(&parsed, &judge, &catalogue, &known).and_then(|workflow| {
            let credential = paid::paid_by_caller(&workflow, &judge, parsed.comfy_org(), has_key)?;
            Ok((workflow, credential))
        });
        match decided {
            Ok((workflow, credential)) => Ok((parsed, workflow, credential)),
            Err(error) => Err((error, parsed.canonical())),
        }
    });
    let decided = decided.await.map_err(ended)?;
    let (parsed, workflow, credential) = decided.map_err(|(error, graph)| refused(error, read_by, Some(graph)))?;
    Ok(Inspected { parsed, workflow, pins, credential })
}

/// The caller's own files among those that a workflow names.
async fn pinned(
    call: &Call<'_>,
    caller: &Caller,
    references: &[FileReference],
) -> Result<(Vec<Pin>, FileFacts), files::PinError> {
    if references.is_empty() {
        return Ok((Vec::new(), FileFacts::none()));
    }
    let (services, scope) = (call.services, caller.principal.owner.scope());
    let folder = files::owner_folder(&services.ledger.owner_secrets(&scope).await?);
    let pins =
        files::pinned(&*services.ledger, &services.blobs, &services.measured, &scope, &folder, references).await?;
    let known = files::facts(&pins, &folder);
    Ok((pins, known))
}

impl Refused {
    fn row(&self, call: &Call<'_>, caller: &Caller, code: &str) -> RefusalRow {
        let submission = self.graph.as_ref().map(|graph| Digest::of(graph));
        let understood = Understood { catalogue: self.catalogue, submission };
        let (owner, at) = (&caller.principal.owner, call.services.clock.wall());
        refused::row(&self.error, code, call.request, owner, &self.policy, understood, at)
    }

    /// Keeps the refusal for the operator, and gives its answer. A ledger that can't be written takes nothing from the caller: it is refused all the same.
    pub(super) async fn remembered(self, call: &Call<'_>, caller: &Caller) -> Rejection {
        let rejection = Rejection::from(self.error.clone());
        let row = self.row(call, caller, rejection.code());
        remember(call, row, self.graph).await;
        rejection
    }

    /// Units; of what is no workflow there is none.
    fn cost(&self) -> Option<f64> {
        match &self.error {
            InspectError::Denied(violations) => Some(violations.cost().units()),
            InspectError::Malformed(_)
            | InspectError::PaidCredentialMissing
            | InspectError::PaidKeyMissing
            | InspectError::TooManyFiles { .. }
            | InspectError::FileUnusable { .. } => None,
        }
    }
}

/// Keeps a row for the operator. That it can't be kept changes no answer.
pub(super) async fn remember(call: &Call<'_>, row: RefusalRow, graph: Option<Bytes>) {
    if let Err(error) = call.services.ledger.insert_refusal(row, graph, RefusalBounds::default()).await {
        tracing::warn!(request = %call.request, %error, "a refusal can't be remembered");
    }
}

/// What a policy in shadow mode would have refused of a submission, with its graph; `None` where nothing stands against it.
pub(super) fn shadow(
    call: &Call<'_>,
    caller: &Caller,
    workflow: &ApprovedWorkflow,
    acceptance: &Acceptance,
) -> Option<(RefusalRow, Bytes)> {
    let violations = workflow.shadowed();
    if violations.is_empty() {
        return None;
    }
    // By this name rows and graphs of refusals find each other: it is of the graph alone, whatever the ledger calls a submission.
    let submission = Some(Digest::of(&acceptance.graph));
    let understood = Understood { catalogue: Some(workflow.catalogue_digest()), submission };
    let policy = call.services.policy_of(&caller.tenant);
    let row =
        refused::shadow_row(violations, call.request, &caller.principal.owner, &policy, understood, acceptance.at);
    Some((row, acceptance.graph.clone()))
}

/// `POST /gate/check`: the verdict and the cost of a body as `POST /prompt` takes it, without a job. 200 whatever the verdict is.
pub(super) async fn check(call: &Call<'_>) -> Result<Answer, Rejection> {
    let caller = call.caller()?;
    let body = match inspected(call, caller).await {
        Ok(Inspected { workflow, .. }) => allowed(&workflow, &models::lacking(call, &workflow)?),
        Err(Unapproved::Undecided(rejection)) => return Err(rejection),
        Err(Unapproved::Refused(refused)) => {
            let code = Rejection::from(refused.error.clone()).code().to_owned();
            denied(&refused, &refused.row(call, caller, &code))
        }
    };
    Ok(Answer::json(StatusCode::OK, &body))
}

fn allowed(workflow: &ApprovedWorkflow, lacking: &[ModelChoice]) -> Value {
    let missing: BTreeSet<&str> = lacking.iter().map(|choice| choice.name.as_str()).collect();
    let dropped: Vec<String> = workflow.dropped().iter().map(ToString::to_string).collect();
    json!({
        "verdict": "allow", "cost": workflow.cost().units(), "violations": [], "dropped": dropped,
        "pruned": workflow.pruned().map_or_else(|| json!([]), Violations::to_json),
        "shadowed": workflow.shadowed().iter().map(Violation::to_json).collect::<Vec<_>>(),
        "missing_models": missing, "policy": workflow.policy_digest(), "catalogue": workflow.catalogue_digest(),
    })
}

fn denied(refused: &Refused, row: &RefusalRow) -> Value {
    let violations: Vec<Value> = row.rules.iter().map(violation).collect();
    json!({
        "verdict": "deny", "cost": refused.cost(), "violations": violations,
        "policy": refused.policy.digest(), "catalogue": refused.catalogue,
    })
}

/// In the words of `comfygate policy check --json`.
fn violation(rule: &RefusedRule) -> Value {
    json!({
        "code": rule.code, "node": rule.node, "class": rule.class, "input": rule.input, "pointer": rule.pointer,
        "bound": rule.bound, "limit": rule.limit, "because": rule.because,
    })
}
