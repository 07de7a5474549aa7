//! `POST /prompt`: inspect ([`verdict`](super::verdict)), accept, hand to dispatch.

use super::verdict::{Inspected, NO_BACKEND_RETRY, Unapproved, inspected};
use super::{Call, Caller, models, verdict};
use crate::config::units::show_size;
use crate::deliver::answer::Answer;
use crate::dispatch::dispatcher::Command;
use crate::ids::{ClientId, PromptId};
use crate::record::audit;
use crate::record::ledger::{Acceptance, Accepted, Approval, Job};
use crate::reject::Rejection;
use comfygate_policy::ApprovedWorkflow;
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// RFC draft `Idempotency-Key`: as long as any client's UUID or hash, short enough for a row.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// A dispatcher that is busy for so long is not waited for: the answer is without the position then.
const POSITION_TIMEOUT: Duration = Duration::from_secs(2);
/// A larger graph is read and decided again when its turn comes, rather than kept in memory while it waits.
const KEPT_GRAPH_BYTES_MAX: usize = 256 << 10;

/// Answers `{"prompt_id", "number", "node_errors"}` once the job is durable (invariant 6), with `queue`: `{"position"}`, how many held jobs go before it as things stand. `node_errors` tells, as ComfyUI does, of outputs that do not run because something that they
/// depend on is invalid.
pub(super) async fn submit_prompt(call: &Call<'_>) -> Result<Answer, Rejection> {
    let caller = call.caller()?;
    call.services.room()?;
    let idempotency_key = idempotency_key(call)?;
    let began = call.services.clock.monotonic();
    let inspected = inspected(call, caller).await;
    call.services.metrics.prompt_decided(call.services.clock.monotonic().saturating_duration_since(began));
    let Inspected { parsed, workflow, pins, credential } = match inspected {
        Ok(inspected) => inspected,
        Err(Unapproved::Refused(refused)) => return Err(refused.remembered(call, caller).await),
        Err(Unapproved::Undecided(rejection)) => return Err(rejection),
    };
    runnable(call, &workflow)?;
    models::offered(call, &parsed, &workflow).await?;
    let approval = Approval::of(&workflow, pins).paid_by(credential);
    let reservation = call.services.reservation(&approval, &caller.tenant);
    let acceptance = Acceptance {
        owner: caller.principal.owner.clone(),
        prompt_id: parsed
            .prompt_id()
            .map(str::parse::<PromptId>)
            .transpose()
            .map_err(|error| bad_label(&error.to_string()))?,
        client_id: parsed
            .client_id()
            .map(str::parse::<ClientId>)
            .transpose()
            .map_err(|error| bad_label(&error.to_string()))?,
        idempotency_key,
        submission: parsed.digest(),
        graph: parsed.canonical().into(),
        order: parsed.queue_order(),
        approval,
        active_jobs_max: caller.tenant.limits.active_jobs_max,
        reservation,
        at: call.services.clock.wall(),
    };
    let node_errors = workflow.node_errors();
    let shadow = verdict::shadow(call, caller, &workflow, &acceptance);
    let small = acceptance.graph.len() <= KEPT_GRAPH_BYTES_MAX;
    let (job, position) = match call.services.ledger.accept(acceptance).await? {
        // Its first answer may have been lost together with the word to the dispatcher; that finds it in the ledger by itself.
        Accepted::Again(job) => (job, None),
        Accepted::New(job) => {
            call.services.audit.accepted(&accepted_line(call, caller, &job, &workflow));
            let scope = job.owner.scope();
            if let Some((row, graph)) = shadow {
                call.services.metrics.shadow_refusal();
                verdict::remember(call, row, Some(graph)).await;
            }
            let kept = small.then(|| Arc::new(workflow));
            let (teller, told) = oneshot::channel();
            call.dispatch.send(Command::Accepted(Box::new(job.clone()), kept, Some(teller))).await;
            call.services.tell_queue(&scope).await;
            let position = tokio::time::timeout(POSITION_TIMEOUT, told).await;
            (job, position.ok().and_then(Result::ok))
        }
    };
    let mut body = json!({"prompt_id": job.prompt_id, "number": crate::deliver::state::queue::number(&job), "node_errors": node_errors});
    if let (Some(position), Some(body)) = (position, body.as_object_mut()) {
        body.insert("queue".to_owned(), json!({"position": position}));
    }
    Ok(Answer::json(StatusCode::OK, &body))
}

/// Refuses what would wait for ever: a workflow with a class that no backend which is up has as the catalogue knows it. With none up, it may wait.
fn runnable(call: &Call<'_>, workflow: &ApprovedWorkflow) -> Result<(), Rejection> {
    let backends = call.services.backends_of(&call.caller()?.tenant);
    if !backends.is_empty() && !backends.iter().any(|backend| call.services.fits(backend, workflow)) {
        return Err(too_large(call, workflow));
    }
    let mut up = backends.iter().filter(|backend| backend.is_up()).peekable();
    if up.peek().is_none() || up.any(|backend| backend.can_run(workflow)) {
        return Ok(());
    }
    let text = "no backend has all node classes of this workflow as the catalogue knows them: try again after `Retry-After`, or use other classes";
    Err(Rejection::unavailable("no_backend_for_classes", text, NO_BACKEND_RETRY))
}

/// No backend of the caller's is known to be able to hold its models, nor unknown: to wait would be to wait for another GPU.
fn too_large(call: &Call<'_>, workflow: &ApprovedWorkflow) -> Rejection {
    let needed = call.services.config().vram.need(workflow).unwrap_or_default();
    let text = format!(
        "a model of this workflow needs {} of GPU memory, more than any GPU here has: use a smaller model, or a smaller form of it (fp8, GGUF)",
        show_size(needed)
    );
    Rejection::new(StatusCode::BAD_REQUEST, "model_too_large", text)
}

fn idempotency_key(call: &Call<'_>) -> Result<Option<String>, Rejection> {
    let Some(value) = call.headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let fine =
        (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fine {
        Ok(Some(text.to_owned()))
    } else {
        Err(bad_label("`Idempotency-Key` takes 1 to 255 printable ASCII characters without space"))
    }
}

fn bad_label(message: &str) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, "bad_label", message.to_owned())
}

fn accepted_line(call: &Call<'_>, caller: &Caller, job: &Job, workflow: &ApprovedWorkflow) -> audit::AcceptedLine {
    audit::AcceptedLine {
        request: call.request,
        owner: caller.principal.owner.clone(),
        job: job.id,
        prompt_id: job.prompt_id.clone(),
        policy: workflow.policy_digest(),
        catalogue: workflow.catalogue_digest(),
        submission: job.submission,
    }
}
