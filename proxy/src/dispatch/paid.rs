//! What a job with paid nodes is sent with, and whether it, or one that sends something elsewhere, may be run again.

use crate::record::ledger::Job;
use crate::services::Services;
use crate::tenants::Limits;
use comfygate_policy::{ApprovedWorkflow, ComfyOrgCredential, PaidNodes};

/// Why nobody pays for a job that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unpayable {
    /// The policy lets callers pay, and the job has nothing of its caller's: the gateway was to pay when it was accepted, or a backup was restored, which holds no credentials.
    #[error(
        "its nodes of comfy.org's services are paid by whoever submits them, and what this job was sent with is not kept any more: submit it again"
    )]
    NoCredential,
    /// The policy lets the gateway pay, and the gateway has no key, or what it pays for changed.
    #[error(
        "its nodes of comfy.org's services would be paid by the gateway, which does not pay for this job: submit it again, and if that is refused, ask the gateway's operator"
    )]
    NoKey,
}

/// The credential that goes upstream beside a workflow, by the policy of now: none for one without a paid node.
///
/// # Errors
/// [`Unpayable`].
pub(super) fn credential(
    services: &Services,
    job: &Job,
    workflow: &ApprovedWorkflow,
    own: Option<&ComfyOrgCredential>,
) -> Result<Option<ComfyOrgCredential>, Unpayable> {
    if !workflow.has_paid_nodes() {
        return Ok(None);
    }
    let tenant = services.tenants().tenant(&job.owner.tenant).ok_or(Unpayable::NoKey)?;
    let payer = services.policy_of(&tenant).paid_nodes();
    chosen(payer, job.paid, own, services.config().comfy_org.as_ref()).cloned().map(Some)
}

/// `known`: the job was accepted as one with paid nodes. One that became it since then is not known to the rules about lost attempts.
fn chosen<'a>(
    payer: PaidNodes,
    known: bool,
    own: Option<&'a ComfyOrgCredential>,
    gateways: Option<&'a ComfyOrgCredential>,
) -> Result<&'a ComfyOrgCredential, Unpayable> {
    match payer {
        PaidNodes::Caller => own.ok_or(Unpayable::NoCredential),
        PaidNodes::Gateway => gateways.filter(|_| known).ok_or(Unpayable::NoKey),
        PaidNodes::Deny => Err(Unpayable::NoKey),
    }
}

/// Whether the job's tenant wants a lost attempt followed by another although paid calls may have been made, or something been sent elsewhere.
pub(super) fn may_be_sent_again(services: &Services, job: &Job) -> bool {
    let wants = |limits: &Limits| if job.paid { limits.retry_paid } else { limits.retry_sent };
    services.tenants().tenant(&job.owner.tenant).is_some_and(|tenant| wants(&tenant.limits))
}

/// What its owner is told of a job that is not run again: the kind of the error, and its text.
pub(super) fn told_of_lost(job: &Job, reason: &str) -> (&'static str, String) {
    if job.paid { ("PaidAttemptLost", paid_text(reason)) } else { ("SendingAttemptLost", sent_text(reason)) }
}

fn sent_text(reason: &str) -> String {
    format!(
        "the run was lost after it began, and its nodes may have sent something elsewhere: it is not run again by itself. Submit it again to send it again ({reason})"
    )
}

fn paid_text(reason: &str) -> String {
    format!(
        "the run was lost after it was sent, and calls to paid services may have been made: it is not run again by itself. Submit it again to pay for it again ({reason})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_the_policy_says_pays_and_nobody_else() {
        let own = ComfyOrgCredential::of_api_key("own").unwrap();
        let gateways = ComfyOrgCredential::of_api_key("gateways").unwrap();
        let (own, gateways) = (Some(&own), Some(&gateways));
        assert_eq!(chosen(PaidNodes::Caller, true, own, gateways), Ok(own.unwrap()));
        assert_eq!(chosen(PaidNodes::Caller, true, None, gateways), Err(Unpayable::NoCredential));
        assert_eq!(chosen(PaidNodes::Gateway, true, own, gateways), Ok(gateways.unwrap()));
        assert_eq!(chosen(PaidNodes::Gateway, true, own, None), Err(Unpayable::NoKey));
        assert_eq!(chosen(PaidNodes::Gateway, false, own, gateways), Err(Unpayable::NoKey));
        assert_eq!(chosen(PaidNodes::Deny, true, own, gateways), Err(Unpayable::NoKey));
    }
}
