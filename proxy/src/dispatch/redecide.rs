//! Decides held jobs again: when their turn comes and the verdict at hand is not fresh, and all of them at once when what verdicts follow from has changed (a policy, a ban, a catalogue). A job
//! that may not run any more is failed with the reasons, as a job that its backend refuses is. What runs already finishes.

use super::attempt;
use super::dispatcher::{Command, DispatchHandle};
use super::queue::HeldJob;
use crate::inspect::{InspectError, files};
use crate::record::ledger::{Job, LedgerError};
use crate::services::Services;
use crate::tenants::Tenant;
use comfygate_policy::{ApprovedWorkflow, Catalogue, FileFacts, Violations};
use std::sync::Arc;

/// Violations that the message of a failed job names.
const REASONS_MAX: usize = 5;

/// Why a held job can't be decided.
pub(super) enum Undecided {
    /// The ledger can't be read now.
    Later,
    /// It may not run, or what is stored of it is damaged.
    Never(Refusal),
}

/// Why a held job may not run.
pub(super) struct Refusal {
    /// The first node at fault, and its class.
    pub(super) node: Option<(String, String)>,
    /// For its owner.
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn plain(reason: impl Into<String>) -> Self {
        Self { node: None, reason: reason.into() }
    }

    /// What its owner is told, with the first reasons.
    fn of(error: &InspectError) -> Self {
        match error {
            InspectError::Denied(violations) => {
                Self::of_violations("the policy changed while the job waited", violations)
            }
            _ => Self::plain(format!("the policy changed while the job waited: {error}")),
        }
    }

    /// That an output which the owner was promised at acceptance would not run any more. What is left out of a new submission is told in its answer; here nobody would hear of it.
    fn of_lost_outputs(job: &Job, approved: &ApprovedWorkflow) -> Option<Self> {
        let runs = |output: &str| approved.output_nodes().iter().any(|node| node.as_str() == output);
        let lost = job.output_nodes.iter().find(|output| !runs(output))?;
        let what = format!("what can run changed while the job waited, and node {lost} would be left out");
        Some(match approved.pruned() {
            Some(violations) => Self::of_violations(&what, violations),
            None => Self::plain(what),
        })
    }

    fn of_violations(what: &str, violations: &Violations) -> Self {
        let node = violations.iter().find_map(|violation| {
            Some((violation.node.as_ref()?.to_string(), violation.class.as_ref()?.as_str().to_owned()))
        });
        let mut reasons: Vec<String> = violations.iter().take(REASONS_MAX).map(ToString::to_string).collect();
        let more = violations.len().saturating_sub(REASONS_MAX);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        Self { node, reason: format!("{what}: {}", reasons.join("; ")) }
    }
}

/// A new decision on a job's stored submission, by this catalogue; where an owner's other installation has classes that it lacks, by that one's.
pub(super) async fn decided(
    services: &Arc<Services>,
    tenant: &Arc<Tenant>,
    catalogue: Option<Arc<Catalogue>>,
    job: &Job,
) -> Result<Arc<ApprovedWorkflow>, Undecided> {
    let never = |reason: &str| Undecided::Never(Refusal::plain(reason));
    let graph = match services.ledger.graph(&job.submission).await {
        Ok(graph) => graph,
        Err(LedgerError::NotFound { .. } | LedgerError::Damaged { .. }) => {
            return Err(never("what is stored of the workflow is damaged: submit it again"));
        }
        Err(error) => {
            tracing::error!(job = %job.id, %error, "a held job can't be read; trying again");
            return Err(Undecided::Later);
        }
    };
    let files = pinned_facts(services, job).await?;
    let (inspector, parts, tenant) = (services.inspector(), Arc::clone(services), Arc::clone(tenant));
    let decided = tokio::task::spawn_blocking(move || {
        let parsed = inspector.parse(&graph)?;
        let lacks = |catalogue: &Catalogue| parsed.classes().any(|class| catalogue.class(class.as_str()).is_none());
        let catalogue = match catalogue {
            Some(catalogue) if !lacks(&catalogue) => Some(catalogue),
            other => parts.catalogue_for(&tenant, &parsed).or(other),
        };
        let policy = parts.policy_of(&tenant);
        catalogue.map(|catalogue| inspector.decide(&parsed, &policy, &catalogue, &files)).transpose()
    });
    let decided = decided.await.map_err(|error| never(&error.to_string()))?;
    let decided = decided.map_err(|error| Undecided::Never(Refusal::of(&error)))?;
    // No installation of the owner's has answered yet.
    let approved = decided.map(Arc::new).ok_or(Undecided::Later)?;
    match Refusal::of_lost_outputs(job, &approved) {
        Some(refusal) => Err(Undecided::Never(refusal)),
        None => Ok(approved),
    }
}

/// The files that a held job pinned when it was accepted, whatever their names mean by now.
async fn pinned_facts(services: &Arc<Services>, job: &Job) -> Result<FileFacts, Undecided> {
    let reading = async {
        let pins = services.ledger.pins(job.id).await?;
        let secrets = services.ledger.owner_secrets(&job.owner.scope()).await?;
        Ok::<_, LedgerError>(files::facts(&pins, &files::owner_folder(&secrets)))
    };
    reading.await.map_err(|error| {
        tracing::error!(job = %job.id, %error, "the files of a held job can't be read; trying again");
        Undecided::Later
    })
}

/// Decides all of these again whose verdict is not fresh, one after the other; tells the dispatcher of each that it should know of, and that it is over.
pub(super) async fn all(services: Arc<Services>, dispatch: DispatchHandle, held: Vec<HeldJob>) {
    for held in held {
        if let Some(command) = again(&services, held).await {
            dispatch.send(command).await;
        }
    }
    dispatch.send(Command::DecidedAgain).await;
}

async fn again(services: &Arc<Services>, held: HeldJob) -> Option<Command> {
    let HeldJob { job, workflow } = held;
    let Some(tenant) = services.tenants().tenant(&job.owner.tenant) else {
        // Told when its turn comes, as before; a tenant that a reload forgot may be back with the next.
        return None;
    };
    if is_fresh(services, &tenant, &job, workflow.as_deref()) {
        return None;
    }
    match decided(services, &tenant, None, &job).await {
        Ok(fresh) => Some(Command::Approved(job.id, fresh)),
        Err(Undecided::Later) => None,
        Err(Undecided::Never(refusal)) => {
            let (id, owner) = (job.id, job.owner.clone());
            if attempt::refuse(services, job, &refusal).await {
                services.audit.withdrawn(id, &owner, &refusal.reason);
                Some(Command::Withdrawn(id))
            } else {
                // It moved on meanwhile: whoever moved it knows.
                None
            }
        }
    }
}

/// Whether the last verdict on a job follows from the rules of now: that of the workflow at hand, else that of its acceptance.
fn is_fresh(services: &Services, tenant: &Tenant, job: &Job, workflow: Option<&ApprovedWorkflow>) -> bool {
    let at_hand = workflow.map(|workflow| (workflow.policy_digest(), workflow.catalogue_digest()));
    let accepted = job.verdict.map(|verdict| (verdict.policy, verdict.catalogue));
    let Some((policy, catalogue)) = at_hand.or(accepted) else { return false };
    let catalogues = services.catalogues_of(tenant);
    services.policy_of(tenant).digest() == policy && catalogues.iter().any(|known| known.digest() == catalogue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfygate_policy::{Policy, Verdict};

    fn refusal(nodes: usize) -> Refusal {
        let nodes: Vec<String> =
            (0..nodes).map(|id| format!(r#""{id}":{{"class_type":"Nope","inputs":{{}}}}"#)).collect();
        let body = format!(r#"{{"prompt":{{{}}}}}"#, nodes.join(","));
        let parsed = comfygate_policy::parse(body.as_bytes()).unwrap();
        let policy = Policy::builtin("default").unwrap();
        match comfygate_policy::decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none()) {
            Verdict::Deny(violations) => Refusal::of(&InspectError::Denied(violations)),
            Verdict::Allow(_) => panic!("an unknown class was allowed"),
        }
    }

    #[test]
    fn a_refused_job_names_its_first_node_and_five_reasons() {
        let five = refusal(5);
        assert_eq!(five.node, Some(("0".to_owned(), "Nope".to_owned())));
        assert!(!five.reason.contains("more") && five.reason.contains("4 (Nope)"), "{}", five.reason);
        let six = refusal(6);
        assert!(six.reason.ends_with("and 1 more") && !six.reason.contains("5 (Nope)"), "{}", six.reason);
    }
}
