//! Models that a submission names and no backend of its pool offers: refused at once, as ComfyUI does, instead of when its turn comes.

use super::Call;
use crate::dispatch::backend::Backend;
use crate::dispatch::comfyui::query_encoded;
use crate::reject::Rejection;
use comfygate_policy::{ApprovedWorkflow, ModelChoice, NodeId, Parsed};
use http::StatusCode;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Classes whose lists are asked for again at one backend for one submission.
const CLASSES_MAX: usize = 8;

/// The models of a workflow that are missing at the backend of the caller's pool that misses the fewest; none if a backend may have them all, or if none was ever asked.
pub(super) fn lacking(call: &Call<'_>, workflow: &ApprovedWorkflow) -> Result<Vec<ModelChoice>, Rejection> {
    let backends = call.services.backends_of(&call.caller()?.tenant);
    let missing = backends.iter().map(|backend| {
        let models = backend.models();
        models.map_or_else(Vec::new, |models| models.lacking(workflow).into_iter().cloned().collect())
    });
    Ok(missing.min_by_key(Vec::len).unwrap_or_default())
}

/// Refuses a submission of which no output would run for want of a model. Lists may be older than the models: those that decide are asked for again before.
pub(super) async fn offered(call: &Call<'_>, parsed: &Parsed, workflow: &ApprovedWorkflow) -> Result<(), Rejection> {
    let mut up = call.services.backends_of(&call.caller()?.tenant);
    up.retain(|backend| backend.is_up());
    // With none up it may wait: what comes back may have it.
    if up.is_empty() || lacking(call, workflow)?.is_empty() {
        return Ok(());
    }
    for backend in &up {
        asked_again(call, backend, workflow).await?;
    }
    let missing = lacking(call, workflow)?;
    let nodes: BTreeSet<&NodeId> = missing.iter().map(|choice| &choice.node).collect();
    let nodes: Vec<&NodeId> = nodes.into_iter().collect();
    let dependents = parsed.dependent_outputs(&nodes, workflow.output_nodes());
    let stopped: BTreeSet<&NodeId> = dependents.values().flatten().collect();
    // ComfyUI runs the outputs that validate, and leaves the others out.
    if missing.is_empty() || workflow.output_nodes().iter().any(|output| !stopped.contains(output)) {
        return Ok(());
    }
    let mut node_errors = Map::new();
    for choice in &missing {
        let dependents = dependents.get(&choice.node).cloned().unwrap_or_default();
        let entry = node_errors
            .entry(choice.node.to_string())
            .or_insert_with(|| json!({"errors": [], "dependent_outputs": dependents, "class_type": choice.class}));
        if let Some(errors) = entry.get_mut("errors").and_then(Value::as_array_mut) {
            errors.push(json!({
                "type": "value_not_in_list", "message": "Value not in list",
                "details": format!("{}: '{}' is not installed", choice.input, choice.name),
                "extra_info": {"input_name": choice.input, "received_value": choice.name},
            }));
        }
    }
    let names: BTreeSet<&str> = missing.iter().map(|choice| choice.name.as_str()).collect();
    let names = names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let text = format!("no backend has these models: {names}");
    let body = json!({
        "error": {
            "type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": text,
            "extra_info": {},
        },
        "node_errors": node_errors,
    });
    Err(Rejection::new(StatusCode::BAD_REQUEST, "model_missing", text).with_comfyui(body))
}

/// Asks a backend for the lists of the classes whose models it seems to lack. One that does not answer keeps what it said.
async fn asked_again(call: &Call<'_>, backend: &Arc<Backend>, workflow: &ApprovedWorkflow) -> Result<(), Rejection> {
    let Some(known) = backend.models() else { return Ok(()) };
    let classes: BTreeSet<&str> = known.lacking(workflow).iter().map(|choice| choice.class.as_str()).collect();
    let Some(catalogue) = call.services.catalogue_at(&call.caller()?.tenant, backend) else { return Ok(()) };
    for class in classes.into_iter().take(CLASSES_MAX) {
        let Ok(live) = backend.comfyui.catalogue(&format!("/object_info/{}", query_encoded(class))).await else {
            continue;
        };
        if let Ok(newer) = catalogue.model_options(&live) {
            backend.renew_models(newer);
        }
    }
    Ok(())
}
