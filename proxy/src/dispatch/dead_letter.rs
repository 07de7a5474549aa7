//! A job that lost every attempt it may have is put aside as a dead letter, and can be accepted anew by an operator.
//!
//! The letter is written before the job ends: a gateway that is killed in between writes it once more, under the same name.

use super::dispatcher::{Command, DispatchHandle};
use crate::ids::RequestId;
use crate::inspect::{InspectError, files, paid};
use crate::record::audit::AcceptedLine;
use crate::record::ledger::dead_letters::{DeadLetter, DeadLetterBounds};
use crate::record::ledger::{Acceptance, Accepted, Approval, Job, LedgerError};
use crate::services::Services;
use crate::tenants::Tenant;
use comfygate_policy::{ApprovedWorkflow, FileFacts, Parsed, Violations};
use std::sync::Arc;

/// Violations that a refusal names.
const REASONS_MAX: usize = 5;

/// Why a letter's job was not accepted anew.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It may not run. The letter stays.
    #[error("{0}")]
    Refused(String),
    /// It can't be said now. The letter stays.
    #[error("{0}: try again")]
    Later(String),
}

impl From<LedgerError> for ReplayError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable { .. } => Self::Later(error.to_string()),
            LedgerError::NotFound { what: "graph" } | LedgerError::Damaged { .. } => {
                Self::Refused("what is stored of the workflow is not there any more, or damaged".to_owned())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<InspectError> for ReplayError {
    fn from(error: InspectError) -> Self {
        match &error {
            InspectError::Denied(violations) => Self::Refused(denied(violations)),
            _ => Self::Refused(error.to_string()),
        }
    }
}

fn denied(violations: &Violations) -> String {
    let mut reasons: Vec<String> = violations.iter().take(REASONS_MAX).map(ToString::to_string).collect();
    let more = violations.len().saturating_sub(REASONS_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    format!("the policy of now refuses it: {}", reasons.join("; "))
}

/// Puts a job aside that is about to be given up.
///
/// # Errors
/// The ledger's.
pub(super) async fn bury(services: &Services, job: &Job, reason: &str) -> Result<(), LedgerError> {
    let letter = DeadLetter::of(job, reason, services.clock.wall());
    services.ledger.insert_dead_letter(letter, DeadLetterBounds::default()).await?;
    tracing::warn!(job = %job.id, tenant = %job.owner.tenant, attempts = job.attempts.len(), reason, "a job lost every attempt and is put aside");
    services.metrics.dead_letter();
    services.audit.dead_letter(job.id, &job.owner, reason);
    Ok(())
}

/// Has a letter's workflow accepted anew for its owner, under a new prompt id: by the policy of now and the files that its names mean now, within the owner's own limits. The letter goes when
/// that is done; asked twice, it is one job.
///
/// # Errors
/// [`ReplayError`].
pub async fn replay(
    services: &Arc<Services>,
    dispatch: &DispatchHandle,
    letter: &DeadLetter,
) -> Result<Job, ReplayError> {
    services.room().map_err(|error| ReplayError::Later(error.to_string()))?;
    let tenant = services.tenants().tenant(&letter.owner.tenant).filter(|tenant| !tenant.disabled);
    let tenant = tenant.ok_or_else(|| {
        ReplayError::Refused(format!("the tenant `{}` is not configured, or closed", letter.owner.tenant))
    })?;
    let graph = services.ledger.graph(&letter.submission).await?;
    let (workflow, approval) = approved(services, &tenant, letter, graph.clone()).await?;
    let reservation = services.reservation(&approval, &tenant);
    let acceptance = Acceptance {
        owner: letter.owner.clone(),
        prompt_id: None,
        client_id: letter.client_id.clone(),
        idempotency_key: Some(format!("dead-letter:{}", letter.job)),
        submission: letter.submission,
        graph,
        approval,
        order: None,
        active_jobs_max: tenant.limits.active_jobs_max,
        reservation,
        at: services.clock.wall(),
    };
    let job = match services.ledger.accept(acceptance).await? {
        Accepted::Again(job) => job,
        Accepted::New(job) => {
            services.audit.accepted(&AcceptedLine {
                request: RequestId::new(),
                owner: job.owner.clone(),
                job: job.id,
                prompt_id: job.prompt_id.clone(),
                policy: workflow.policy_digest(),
                catalogue: workflow.catalogue_digest(),
                submission: job.submission,
            });
            dispatch.send(Command::Accepted(Box::new(job.clone()), Some(Arc::new(workflow)), None)).await;
            services.tell_queue(&job.owner.scope()).await;
            job
        }
    };
    services.audit.dead_letter_replayed(letter.job, &letter.owner, job.id);
    match services.ledger.remove_dead_letter(letter.job).await {
        Ok(()) | Err(LedgerError::NotFound { .. }) => {}
        // Asked for again, it is still this one job.
        Err(error) => tracing::error!(job = %letter.job, %error, "a dead letter that was replayed is still there"),
    }
    Ok(job)
}

async fn approved(
    services: &Arc<Services>,
    tenant: &Arc<Tenant>,
    letter: &DeadLetter,
    graph: bytes::Bytes,
) -> Result<(ApprovedWorkflow, Approval), ReplayError> {
    let ended = |error: tokio::task::JoinError| ReplayError::Later(format!("inspection ended: {error}"));
    let (inspector, policy) = (services.inspector(), services.policy_of(tenant));
    let (parsing, reading) = (inspector.clone(), Arc::clone(&policy));
    let (parts, whose) = (Arc::clone(services), Arc::clone(tenant));
    let read = tokio::task::spawn_blocking(move || {
        let parsed: Parsed = parsing.parse(&graph)?;
        let catalogue = parts.catalogue_for(&whose, &parsed);
        let references = catalogue.as_deref().map(|catalogue| parsed.file_references_under(&reading, catalogue));
        Ok::<_, InspectError>((parsed, catalogue, references.unwrap_or_default()))
    });
    let (parsed, catalogue, references) = read.await.map_err(ended)??;
    let catalogue =
        catalogue.ok_or_else(|| ReplayError::Later("what is installed for this tenant is not known yet".to_owned()))?;
    let scope = letter.owner.scope();
    let folder = files::owner_folder(&services.ledger.owner_secrets(&scope).await?);
    let pins =
        files::pinned(&*services.ledger, &services.blobs, &services.measured, &scope, &folder, &references).await;
    let pins = pins.map_err(|error| match error {
        files::PinError::Refused(error) => error.into(),
        files::PinError::Ledger(error) => error.into(),
        files::PinError::Disk(_) => ReplayError::Later(error.to_string()),
    })?;
    let known: FileFacts = files::facts(&pins, &folder);
    let has_key = services.config().comfy_org.is_some();
    let decided = tokio::task::spawn_blocking(move || {
        let workflow = inspector.decide(&parsed, &policy, &catalogue, &known)?;
        // What a caller paid with is not kept beyond the job's end: where callers pay, the owner has to submit it.
        let credential = paid::paid_by_caller(&workflow, &policy, parsed.comfy_org(), has_key)?;
        Ok::<_, InspectError>((workflow, credential))
    });
    let (workflow, credential) = decided.await.map_err(ended)??;
    let approval = Approval::of(&workflow, pins).paid_by(credential);
    Ok((workflow, approval))
}
