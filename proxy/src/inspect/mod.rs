//! Stage 5: may this workflow run.
//!
//! *In*: the body of `POST /prompt`, whole and bounded, the caller's tenant and its own files ([`files`]; what they are: [`contents`]). *Out*: an [`ApprovedWorkflow`], which
//! nothing else can make. *Refuses*: whatever is not strictly JSON of a known shape (400, 413), and whatever the tenant's policy does not
//! allow (403, every violation at once). *Answers the attack*: the bypass catalogue, entries 1-13 and 23-82 (facts §11). *Leaves to others*: how the
//! verdict is reached (the crate `comfygate-policy`, which knows no tenant, file or clock).

pub mod bans;
pub mod contents;
pub mod files;
pub mod measured;
pub mod media;
pub mod paid;
pub mod refused;

use crate::ids::PoolId;
use comfygate_policy::{
    ApprovedWorkflow, Catalogue, Digest, FileFacts, ParseError, Parsed, Policy, Verdict, Violations,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a submission was turned away.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InspectError {
    /// Not a submission at all.
    #[error("malformed submission: {0}")]
    Malformed(#[from] ParseError),
    /// A submission that the policy does not allow.
    #[error("the policy refuses {} thing(s)", .0.iter().count())]
    Denied(Violations),
    /// The policy lets callers pay for nodes of comfy.org's services, and this one sent nothing to pay with.
    #[error(
        "nodes of comfy.org's services are paid by whoever submits them: send your own API key of comfy.org as `extra_data.api_key_comfy_org`, or the token of your login there as `extra_data.auth_token_comfy_org`"
    )]
    PaidCredentialMissing,
    /// The policy lets the gateway pay for them, and it has no key.
    #[error(
        "nodes of comfy.org's services are paid by this gateway, which has no key for them: its operator has to set `[comfy_org] api_key`, or take them out of the workflow"
    )]
    PaidKeyMissing,
    /// More files than one workflow may name.
    #[error("the workflow names {found} files, {} are allowed: split it", files::FILES_MAX)]
    TooManyFiles {
        /// How many.
        found: usize,
    },
    /// An own file that no node can read.
    #[error("`{name}` can't be used as an input: {reason}; upload another file")]
    FileUnusable {
        /// As the workflow names it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The policy engine with the catalogue that it decides by.
#[derive(Debug, Clone)]
pub struct Inspector {
    catalogue: Arc<Catalogue>,
    /// Of pools whose packs an operator has accepted.
    pools: Arc<BTreeMap<PoolId, Arc<Catalogue>>>,
}

impl Inspector {
    /// Decides by these catalogues where a pool has one of its own, else by this one.
    pub fn new(catalogue: Arc<Catalogue>, pools: BTreeMap<PoolId, Arc<Catalogue>>) -> Self {
        Self { catalogue, pools: Arc::new(pools) }
    }

    /// The catalogue that holds in a pool.
    pub fn catalogue_of(&self, pool: &PoolId) -> Arc<Catalogue> {
        Arc::clone(self.pools.get(pool).unwrap_or(&self.catalogue))
    }

    /// Whether the pool has a catalogue of its own.
    pub fn is_pinned(&self, pool: &PoolId) -> bool {
        self.pools.contains_key(pool)
    }

    /// Whether both decide by the same catalogues.
    pub fn reads_like(&self, other: &Self) -> bool {
        let pools = |inspector: &Self| -> Vec<(PoolId, Digest)> {
            inspector.pools.iter().map(|(pool, catalogue)| (pool.clone(), catalogue.digest())).collect()
        };
        self.catalogue.digest() == other.catalogue.digest() && pools(self) == pools(other)
    }

    /// Reads a body. Pure work of up to some milliseconds for the largest bodies.
    ///
    /// # Errors
    /// [`InspectError::Malformed`].
    pub fn parse(&self, body: &[u8]) -> Result<Parsed, InspectError> {
        Ok(comfygate_policy::parse(body)?)
    }

    /// Decides by a tenant's policy with what is banned in it, by the catalogue that holds for it, for a workflow that may name these files; any other name is refused as one that does not exist.
    ///
    /// # Errors
    /// [`InspectError::Denied`].
    pub fn decide(
        &self,
        parsed: &Parsed,
        policy: &Policy,
        catalogue: &Catalogue,
        files: &FileFacts,
    ) -> Result<ApprovedWorkflow, InspectError> {
        match comfygate_policy::decide(parsed, policy, catalogue, files) {
            Verdict::Allow(workflow) => Ok(*workflow),
            Verdict::Deny(violations) => Err(InspectError::Denied(violations)),
        }
    }

    /// Whether an earlier approval still stands: same policy, same catalogue.
    pub fn is_fresh(&self, workflow: &ApprovedWorkflow, policy: &Policy, catalogue: &Catalogue) -> bool {
        workflow.policy_digest() == policy.digest() && workflow.catalogue_digest() == catalogue.digest()
    }
}
