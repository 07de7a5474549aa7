//! Stage 5: may this workflow run.
//!
//! *In*: the body of `POST /prompt`, whole and bounded, the caller's tenant and its own files ([`files`]; what they are: [`contents`]). *Out*: an [`ApprovedWorkflow`], which
//! nothing else can make. *Refuses*: whatever is not strictly JSON of a known shape (400, 413), and whatever the tenant's policy does not
//! allow (403, every violation at once). *Answers the attack*: the bypass catalogue, entries 1-13 and 23-82 (facts §11). *Leaves to others*: how the
//! verdict is reached (the crate `comfygate-policy`, which knows no tenant, file or clock).

pub mod contents;
pub mod files;
pub mod media;

use crate::tenants::Tenant;
use comfygate_policy::{ApprovedWorkflow, Catalogue, FileFacts, ParseError, Parsed, Verdict, Violations};
use std::sync::Arc;

/// Why a submission was turned away.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Not a submission at all.
    #[error("malformed submission: {0}")]
    Malformed(#[from] ParseError),
    /// A submission that the policy does not allow.
    #[error("the policy refuses {} thing(s)", .0.iter().count())]
    Denied(Violations),
    /// The policy lets nodes of comfy.org's services run, and the gateway has no credential for them.
    #[error(
        "nodes of comfy.org's services need a credential, which this gateway neither has nor passes on: take them out of the workflow"
    )]
    PaidNodes,
    /// More files than one workflow may name.
    #[error("the workflow names {found} files, {} are allowed", files::FILES_MAX)]
    TooManyFiles {
        /// How many.
        found: usize,
    },
    /// An own file that no node can read.
    #[error("`{name}` can't be used as an input: {reason}")]
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
}

impl Inspector {
    /// Decides by this catalogue.
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        Self { catalogue }
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The catalogue, to be shared.
    pub fn catalogue_arc(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue)
    }

    /// Reads a body. Pure work of up to some milliseconds for the largest bodies.
    ///
    /// # Errors
    /// [`InspectError::Malformed`].
    pub fn parse(&self, body: &[u8]) -> Result<Parsed, InspectError> {
        Ok(comfygate_policy::parse(body)?)
    }

    /// Decides for a tenant, by the catalogue that holds for it, whose workflow may name these files; any other name is refused as one that does not exist.
    ///
    /// # Errors
    /// [`InspectError::Denied`].
    pub fn decide(
        &self,
        parsed: &Parsed,
        tenant: &Tenant,
        catalogue: &Catalogue,
        files: &FileFacts,
    ) -> Result<ApprovedWorkflow, InspectError> {
        match comfygate_policy::decide(parsed, &tenant.policy, catalogue, files) {
            // Whoever pays, the credential would have to wait with the job: it is neither kept nor passed on here.
            Verdict::Allow(workflow) if workflow.has_paid_nodes() => Err(InspectError::PaidNodes),
            Verdict::Allow(workflow) => Ok(*workflow),
            Verdict::Deny(violations) => Err(InspectError::Denied(violations)),
        }
    }

    /// Whether an earlier approval still stands: same policy, same catalogue.
    pub fn is_fresh(&self, workflow: &ApprovedWorkflow, tenant: &Tenant, catalogue: &Catalogue) -> bool {
        workflow.policy_digest() == tenant.policy.digest() && workflow.catalogue_digest() == catalogue.digest()
    }
}
