//! Who pays for nodes of comfy.org's services: what the policy says of it, and what is there to pay with.
//!
//! *In*: an approved workflow, the tenant's policy, the caller's own credential. *Out*: what has to be kept with the job. *Refuses* (403): a paid workflow that nobody pays for. SECURITY:
//! a caller's credential that is not needed goes no further than this.

use super::InspectError;
use comfygate_policy::{ApprovedWorkflow, ComfyOrgCredential, PaidNodes, Policy};

/// The caller's credential, if the workflow has a paid node that the policy lets callers pay for; none if it has no such node, or the gateway pays.
///
/// # Errors
/// [`InspectError::PaidCredentialMissing`], [`InspectError::PaidKeyMissing`].
pub fn paid_by_caller(
    workflow: &ApprovedWorkflow,
    policy: &Policy,
    own: Option<&ComfyOrgCredential>,
    gateway_has_key: bool,
) -> Result<Option<ComfyOrgCredential>, InspectError> {
    if !workflow.has_paid_nodes() {
        return Ok(None);
    }
    match policy.paid_nodes() {
        PaidNodes::Caller => own.cloned().map(Some).ok_or(InspectError::PaidCredentialMissing),
        PaidNodes::Gateway if gateway_has_key => Ok(None),
        // A policy that denies them approves none of them: whatever is amiss, nobody pays.
        PaidNodes::Gateway | PaidNodes::Deny => Err(InspectError::PaidKeyMissing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use comfygate_policy::{Catalogue, FileFacts, Verdict};

    const PAID: &str = r#"{"class_type":"IdeogramV1","inputs":{"prompt":"x","turbo":false}}"#;
    const FREE: &str = r#"{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}}"#;

    fn paid_for(node: &str, word: &str, credential: Option<&str>, key: bool) -> Result<bool, InspectError> {
        let body =
            format!(r#"{{"prompt":{{"1":{node},"2":{{"class_type":"PreviewImage","inputs":{{"images":["1",0]}}}}}}}}"#);
        let parsed = comfygate_policy::parse(body.as_bytes()).unwrap();
        let text = format!("name = \"p\"\npaid_nodes = \"{word}\"\n[classes]\nallow = [\"*\"]\n");
        let policy = Policy::from_toml(&text).unwrap();
        let Verdict::Allow(workflow) =
            comfygate_policy::decide(&parsed, &policy, Catalogue::builtin(), &FileFacts::none())
        else {
            panic!("refused")
        };
        let own = credential.map(|key| ComfyOrgCredential::of_api_key(key).unwrap());
        paid_by_caller(&workflow, &policy, own.as_ref(), key).map(|kept| kept.is_some())
    }

    #[test]
    fn a_callers_credential_is_kept_only_for_a_paid_node_that_callers_pay_for() {
        assert!(paid_for(PAID, "caller", Some("k"), false).unwrap());
        assert!(paid_for(PAID, "caller", Some("k"), true).unwrap());
        assert!(!paid_for(PAID, "gateway", Some("k"), true).unwrap());
        for word in ["caller", "gateway", "deny"] {
            assert!(!paid_for(FREE, word, Some("k"), true).unwrap(), "{word}");
            assert!(!paid_for(FREE, word, None, false).unwrap(), "{word}");
        }
    }

    #[test]
    fn a_paid_node_that_nobody_pays_for_is_refused_with_what_to_do() {
        let missing = paid_for(PAID, "caller", None, true).unwrap_err();
        assert!(matches!(missing, InspectError::PaidCredentialMissing), "{missing}");
        assert!(missing.to_string().contains("extra_data.api_key_comfy_org"), "{missing}");
        let unset = paid_for(PAID, "gateway", Some("k"), false).unwrap_err();
        assert!(matches!(unset, InspectError::PaidKeyMissing), "{unset}");
    }
}
