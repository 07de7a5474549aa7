//! What a backend runs before its first job, so that this one does not wait for a model to be loaded: a workflow of the operator's, or one sampling step at 64 × 64.
//!
//! Both go the way of every workflow: parsed strictly, decided by the policy engine and written anew, under a canary's id ([`canary`]), so that nobody hears of it and it is swept like one.
//! The policy is the owner posture's: it is the operator's own. What would stay at the backend or cost money is refused: files that are saved, paid nodes, files of callers.

use super::backend::Backend;
use super::canary::{self, Patience, Verdict};
use super::fault::Fault;
use crate::config::{BackendConfig, Config, WarmUpConfig};
use crate::ids::UpstreamPromptId;
use crate::inspect::Inspector;
use crate::record::ledger::Work;
use crate::services::Services;
use comfygate_policy::{ApprovedWorkflow, Catalogue, FileFacts, ModelOptions, OutputScope, Policy, parse};
use serde_json::{Value, json};
use std::time::Duration;

/// Where it would save, if it could: nothing that it may hold does.
const FOLDER: &str = "t/warm-up";
/// The loader of the workflow that is made here, and its input.
const LOADER: (&str, &str) = ("CheckpointLoaderSimple", "ckpt_name");

/// Why a backend was not warmed up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarmUpError {
    /// There is nothing to sample with.
    #[error("it offers no checkpoint: name a `warm_up` workflow for it")]
    NoCheckpoint,
    /// The named one is not there.
    #[error("it does not offer the checkpoint `{0}`")]
    NoSuchCheckpoint(String),
    /// The workflow is not what it must be.
    #[error("{0}")]
    Refused(String),
    /// The backend lacks a class of it, or has it otherwise.
    #[error("it has not all node classes of the warm-up workflow as the catalogue knows them")]
    Classes,
    /// It ran, and what the backend needs for work is broken.
    #[error("{}", .0.text())]
    Broken(Fault),
    /// It ran and failed, or did not run.
    #[error("{0}")]
    NotRun(String),
}

/// Runs it and waits for its end. Gives how long it took, and which models it loaded.
///
/// # Errors
/// [`WarmUpError`].
pub async fn run(
    services: &Services,
    backend: &Backend,
    is_followed: impl Fn(UpstreamPromptId) -> bool + Send + Sync,
) -> Result<(Duration, Vec<String>), WarmUpError> {
    let config = services.config();
    let configured = config.backends.iter().find(|configured| configured.id == backend.id);
    let body = match configured.map(|configured| &configured.warm_up) {
        Some(WarmUpConfig::File { body, .. }) => body.to_vec(),
        Some(WarmUpConfig::Sampling { model }) => sampling(&checkpoint(backend.models().as_deref(), model.as_deref())?),
        None => sampling(&checkpoint(backend.models().as_deref(), None)?),
    };
    let pinned = services.inspector().catalogue_of(&backend.pool);
    let catalogue = backend.installed().filter(|_| backend.is_owned()).unwrap_or(pinned);
    // A file's graph may be large: not on an event loop.
    let decided = tokio::task::spawn_blocking(move || approved(&body, &catalogue)).await;
    let workflow = decided.map_err(|error| WarmUpError::Refused(error.to_string()))??;
    if !backend.can_run(&workflow) {
        return Err(WarmUpError::Classes);
    }
    let id = canary::canary_id();
    // A salt that never was before: nothing of it is answered from a cache.
    let salt = UpstreamPromptId::new().to_string();
    let scope = OutputScope::new(FOLDER, &id.to_string(), &backend.client.to_string(), &salt)
        .map_err(|error| WarmUpError::Refused(error.to_string()))?;
    let (body, deadline) = (workflow.upstream_body(&scope), config.dispatch.warm_up_deadline);
    match canary::run(backend, id, body.into(), deadline, Patience::Yield, is_followed).await {
        Verdict::Proven { took, succeeded: true } => Ok((took, Work::of(&workflow).models)),
        Verdict::Proven { .. } => Err(WarmUpError::NotRun("it ended in an error; the backend's log has it".into())),
        Verdict::Broken(fault) => Err(WarmUpError::Broken(fault)),
        Verdict::NotRun => Err(WarmUpError::NotRun(format!("it did not end within {} s", deadline.as_secs()))),
        Verdict::Busy => Err(WarmUpError::NotRun("others' work runs there".into())),
        Verdict::Unprovable(reason) | Verdict::Gone(reason) | Verdict::Refused(reason) => {
            Err(WarmUpError::NotRun(reason))
        }
    }
}

/// The faults of the files that a configuration names, as far as they are known before any backend has answered: against the catalogue of each pool. An owner's installation is not known then.
pub fn faults(config: &Config, inspector: &Inspector) -> Vec<String> {
    let fault = |backend: &BackendConfig| {
        let WarmUpConfig::File { path, body } = &backend.warm_up else { return None };
        if config.tenants.owner_of(&backend.pool).is_some() {
            return None;
        }
        let error = approved(body, &inspector.catalogue_of(&backend.pool)).err()?;
        Some(format!("the `warm_up` file `{}` of the backend `{}` can't be used: {error}", path.display(), backend.id))
    };
    config.backends.iter().filter_map(fault).collect()
}

/// The checkpoint to load: the named one, or the first by name.
fn checkpoint(offered: Option<&ModelOptions>, named: Option<&str>) -> Result<String, WarmUpError> {
    let offered = offered.into_iter().flat_map(|models| models.offered(LOADER.0, LOADER.1));
    match named {
        Some(name) => {
            let found = offered.into_iter().find(|known| *known == name);
            found.map(str::to_owned).ok_or_else(|| WarmUpError::NoSuchCheckpoint(name.to_owned()))
        }
        None => offered.min().map(str::to_owned).ok_or(WarmUpError::NoCheckpoint),
    }
}

/// A submission of one sampling step at 64 × 64, to a preview: a file of ComfyUI's temp folder, which it empties when it starts.
fn sampling(checkpoint: &str) -> Vec<u8> {
    let prompt: Value = json!({
        "1": {"class_type": LOADER.0, "inputs": {LOADER.1: checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
            "seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    });
    json!({ "prompt": prompt }).to_string().into_bytes()
}

/// The workflow as it may be sent, if it leaves nothing behind and costs nothing.
fn approved(body: &[u8], catalogue: &Catalogue) -> Result<ApprovedWorkflow, WarmUpError> {
    let refused = |what: String| Err(WarmUpError::Refused(what));
    let parsed = match parse(body) {
        Ok(parsed) => parsed,
        Err(error) => return refused(error.to_string()),
    };
    if !parsed.file_references(catalogue).is_empty() {
        return refused("it names files, which a backend is given for jobs only".into());
    }
    let policy = match Policy::builtin("owner") {
        Some(policy) => policy,
        None => return refused("the policy `owner` does not ship".into()),
    };
    let workflow = match comfygate_policy::decide(&parsed, &policy, catalogue, &FileFacts::none()) {
        comfygate_policy::Verdict::Allow(workflow) => *workflow,
        comfygate_policy::Verdict::Deny(violations) => {
            let first = violations.iter().next().map(|violation| violation.because()).unwrap_or_default();
            return refused(format!("it is refused: {first}"));
        }
    };
    if workflow.pruned().is_some() {
        return refused("a part of it is invalid".into());
    }
    if !workflow.save_targets().is_empty() {
        return refused("it saves files, which would stay: let it end in PreviewImage".into());
    }
    if workflow.has_paid_nodes() {
        return refused("it has nodes that cost money".into());
    }
    Ok(workflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(names: &[&str]) -> ModelOptions {
        let info = json!({LOADER.0: {"input": {"required": {LOADER.1: [names, {}]}}, "input_order": {"required": [LOADER.1]},
            "output": ["MODEL", "CLIP", "VAE"], "output_is_list": [false, false, false], "output_name": ["MODEL", "CLIP", "VAE"],
            "name": LOADER.0, "display_name": "", "description": "", "python_module": "nodes", "category": "", "output_node": false}});
        Catalogue::builtin().model_options(info.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_first_checkpoint_by_name_is_taken_or_the_one_that_is_named_and_offered() {
        let models = offered(&["b.safetensors", "a.safetensors"]);
        assert_eq!(checkpoint(Some(&models), None).unwrap(), "a.safetensors");
        assert_eq!(checkpoint(Some(&models), Some("b.safetensors")).unwrap(), "b.safetensors");
        let missing = checkpoint(Some(&models), Some("c.safetensors"));
        assert_eq!(missing, Err(WarmUpError::NoSuchCheckpoint("c.safetensors".into())));
        assert_eq!(checkpoint(Some(&offered(&[])), None), Err(WarmUpError::NoCheckpoint));
        assert_eq!(checkpoint(None, None), Err(WarmUpError::NoCheckpoint));
    }

    #[test]
    fn the_step_of_our_own_passes_and_names_its_model() {
        let workflow = approved(&sampling("a.safetensors"), Catalogue::builtin()).unwrap();
        assert_eq!(Work::of(&workflow).models, ["a.safetensors"]);
        assert_eq!(workflow.output_nodes().len(), 1);
    }

    #[test]
    fn a_workflow_that_previews_is_taken_and_one_that_saves_pays_reads_or_is_invalid_is_not() {
        let checked = |nodes: Value| {
            approved(json!({ "prompt": nodes }).to_string().as_bytes(), Catalogue::builtin())
                .map_err(|error| error.to_string())
        };
        let picture = |output: &str, inputs: Value| {
            let mut inputs = inputs;
            inputs["images"] = json!(["1", 0]);
            json!({
                "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
                "2": {"class_type": output, "inputs": inputs},
            })
        };
        assert!(checked(picture("PreviewImage", json!({}))).is_ok());
        let saves = checked(picture("SaveImage", json!({"filename_prefix": "x"}))).unwrap_err();
        assert!(saves.contains("let it end in PreviewImage"), "{saves}");
        let paid = checked(json!({
            "1": {"class_type": "IdeogramV1", "inputs": {"prompt": "x", "turbo": false}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }));
        assert!(paid.is_err(), "{paid:?}");
        let reads = checked(json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "somebody.png"}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }));
        assert!(reads.is_err(), "{reads:?}");
        assert!(checked(json!({"1": {"class_type": "PreviewImage", "inputs": {}}})).is_err());
    }
}
