//! What is remembered of a submission that was refused: the verdict as a row of the ledger.

use super::InspectError;
use crate::clock::WallMillis;
use crate::ids::RequestId;
use crate::owner::Owner;
use crate::record::ledger::refusals::{RefusalRow, RefusedRule};
use comfygate_policy::{Digest, Policy, Violation};

/// A submission as far as it was understood.
#[derive(Debug, Clone, Copy, Default)]
pub struct Understood {
    /// The catalogue that it was read by.
    pub catalogue: Option<Digest>,
    /// The canonical submission.
    pub submission: Option<Digest>,
}

/// The row of a refusal.
pub fn row(
    error: &InspectError,
    code: &str,
    request: RequestId,
    owner: &Owner,
    policy: &Policy,
    understood: Understood,
    at: WallMillis,
) -> RefusalRow {
    RefusalRow {
        request,
        at,
        owner: owner.clone(),
        shadow: false,
        code: code.to_owned(),
        policy: policy.name().to_owned(),
        policy_digest: policy.digest(),
        catalogue: understood.catalogue,
        submission: understood.submission,
        rules: rules(error, code),
        more: 0,
    }
}

/// Every rule that stands against it. What never was a workflow, and what its files are, count as one rule.
fn rules(error: &InspectError, code: &str) -> Vec<RefusedRule> {
    match error {
        InspectError::Denied(violations) => violations.iter().map(rule).collect(),
        InspectError::Malformed(error) => vec![RefusedRule {
            code: error.code().to_owned(),
            pointer: error.pointer().map(str::to_owned),
            message: error.to_string(),
            ..RefusedRule::default()
        }],
        InspectError::TooManyFiles { .. } | InspectError::FileUnusable { .. } => {
            vec![RefusedRule { code: code.to_owned(), message: error.to_string(), ..RefusedRule::default() }]
        }
    }
}

/// A violation as it is kept.
pub fn rule(violation: &Violation) -> RefusedRule {
    RefusedRule {
        code: violation.code.to_owned(),
        node: violation.node.as_ref().map(ToString::to_string),
        class: violation.class.as_ref().map(|class| class.as_str().to_owned()),
        input: violation.input.clone(),
        pointer: Some(violation.pointer()),
        bound: violation.bound.clone(),
        limit: violation.limit.clone(),
        because: violation.chain.clone(),
        message: violation.message.clone(),
        allow: None,
    }
}
