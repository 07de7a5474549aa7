//! What is remembered of a submission that was refused: the verdict as a row of the ledger.

use super::InspectError;
use crate::clock::WallMillis;
use crate::ids::RequestId;
use crate::owner::Owner;
use crate::record::ledger::refusals::{KeyChange, RefusalRow, RefusedRule, RuleChange};
use comfygate_policy::{Change, Digest, Policy, Suggestion, Violation, suggestion};

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
        rules: rules(error, code),
        code: code.to_owned(),
        shadow: false,
        ..shadow_row(&[], request, owner, policy, understood, at)
    }
}

/// The row of a submission that a policy in shadow mode let pass, with what it would have refused.
pub fn shadow_row(
    violations: &[Violation],
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
        shadow: true,
        code: "policy_violation".to_owned(),
        policy: policy.name().to_owned(),
        policy_digest: policy.digest(),
        catalogue: understood.catalogue,
        submission: understood.submission,
        rules: violations.iter().map(rule).collect(),
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
            because: error.to_string(),
            ..RefusedRule::default()
        }],
        InspectError::PaidCredentialMissing
        | InspectError::PaidKeyMissing
        | InspectError::TooManyFiles { .. }
        | InspectError::FileUnusable { .. } => {
            vec![RefusedRule { code: code.to_owned(), because: error.to_string(), ..RefusedRule::default() }]
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
        because: violation.because(),
        allow: suggestion(violation).map(change),
    }
}

fn change(suggested: Suggestion) -> RuleChange {
    let change = match suggested.change {
        Change::Raise(to) => KeyChange::Raise(to.to_string()),
        Change::Lower(to) => KeyChange::Lower(to.to_string()),
        Change::Add(name) => KeyChange::Add(name),
        Change::Remove(name) => KeyChange::Remove(name),
        Change::Set(value) => KeyChange::Set(value),
    };
    RuleChange { key: suggested.key, change }
}

/// The engine's form of a change that was kept; none for a number that is none.
pub fn suggested(kept: &RuleChange) -> Option<Suggestion> {
    // An earlier version suggested to let the gateway pay. Whose money is spent is no suggestion of ours.
    if kept.key == "paid_nodes" {
        return None;
    }
    let change = match &kept.change {
        KeyChange::Raise(to) => Change::Raise(to.parse().ok()?),
        KeyChange::Lower(to) => Change::Lower(to.parse().ok()?),
        KeyChange::Add(name) => Change::Add(name.clone()),
        KeyChange::Remove(name) => Change::Remove(name.clone()),
        KeyChange::Set(value) => Change::Set(value.clone()),
    };
    Some(Suggestion { key: kept.key.clone(), change })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_kept_without_loss() {
        let changes = [
            Change::Raise(4_097.0),
            Change::Lower(0.05),
            Change::Add("A \"b\"".into()),
            Change::Remove("x".into()),
            Change::Set("true".into()),
        ];
        for change_of in changes {
            let suggested_first = Suggestion { key: "caps.width".into(), change: change_of };
            assert_eq!(suggested(&change(suggested_first.clone())), Some(suggested_first));
        }
    }
}
