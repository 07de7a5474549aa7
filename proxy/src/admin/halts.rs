//! What an operator stops and lets go on: backends that are drained or taken for maintenance, tenants that are paused. Through the control socket, or in the ledger itself while the
//! gateway does not run.

use super::api_error::{Code, Refused};
use super::control_client::{ControlClient, ControlError, read};
use crate::clock::WallMillis;
use crate::record::audit::Audit;
use crate::record::ledger::halts::{HALTS_MAX, HaltRow, Halted};
use crate::record::ledger::{Ledger, LedgerError};
use crate::services::Services;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 200;

/// How a halt is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HaltRequest {
    /// Why; operators read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl HaltRequest {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<&'static str> {
        let odd = |text: &str| text.chars().count() > REASON_CHARS_MAX || text.chars().any(char::is_control);
        let has_odd_reason = self.reason.as_deref().is_some_and(odd);
        has_odd_reason.then_some("a reason has at most 200 characters, none of them control characters")
    }
}

/// What is to become of a backend or a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It finishes what it has and gets nothing new; a tenant's held jobs wait.
    Halt,
    /// The same for a backend that somebody works on.
    Maintain,
    /// It goes on.
    Resume,
}

/// Does it in a ledger, and writes it to the audit log. What goes on already goes on.
///
/// # Errors
/// The ledger's.
pub async fn act(
    ledger: &dyn Ledger,
    audit: &Audit,
    halted: Halted,
    act: Act,
    reason: Option<String>,
    at: WallMillis,
) -> Result<(), LedgerError> {
    if act == Act::Resume {
        match ledger.release(&halted).await {
            Ok(()) => audit.released(&halted),
            Err(LedgerError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        return Ok(());
    }
    let row = HaltRow { halted, maintenance: act == Act::Maintain, reason, at };
    audit.halted(&ledger.halt(row, HALTS_MAX).await?);
    Ok(())
}

/// Does it in a running gateway.
///
/// # Errors
/// What is answered then.
pub(super) async fn acted(
    services: &Services,
    halted: Halted,
    wanted: Act,
    request: HaltRequest,
) -> Result<(), Refused> {
    if let Some(fault) = request.fault() {
        return Err(Refused::at(Code::Faulty, "/reason", fault));
    }
    let at = services.clock.wall();
    let done = act(&*services.ledger, &services.audit, halted, wanted, request.reason, at).await;
    // Whatever became of it: a write whose answer was lost may have happened.
    Ok(services.refresh_halts().await.and(done)?)
}

impl ControlClient {
    /// Stops a backend or a tenant, or lets it go on: how it stands then; `None`: the running gateway has none of that name.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn halt<T: DeserializeOwned>(
        &self,
        halted: &Halted,
        act: Act,
        request: &HaltRequest,
    ) -> Result<Option<T>, ControlError> {
        let path = match (halted, act) {
            (Halted::Backend(id), Act::Halt) => format!("/v1/backends/{id}/drain"),
            (Halted::Backend(id), Act::Maintain) => format!("/v1/backends/{id}/maintenance"),
            (Halted::Backend(id), Act::Resume) => format!("/v1/backends/{id}/resume"),
            (Halted::Tenant(id), Act::Halt | Act::Maintain) => format!("/v1/tenants/{id}/pause"),
            (Halted::Tenant(id), Act::Resume) => format!("/v1/tenants/{id}/resume"),
        };
        let body = serde_json::to_vec(request).map_err(|error| ControlError::Answer(error.to_string()))?;
        match self.call(Method::POST, &path, body).await? {
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (_, answer) => read(&answer).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_200_characters_is_taken_and_one_of_201_or_with_line_ends_is_not() {
        let fault = |reason: &str| HaltRequest { reason: Some(reason.to_owned()) }.fault().is_some();
        assert!(!fault(&"é".repeat(200)) && fault(&"é".repeat(201)) && fault("a\nb"));
    }
}
