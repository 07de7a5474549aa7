//! `POST /gate/ticket`: a one-use word for the caller's credential, for `/ws?token=…`.

use super::Call;
use crate::authenticate::presented::Presented;
use crate::authenticate::tickets::LIFETIME;
use crate::deliver::answer::Answer;
use crate::reject::Rejection;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use ring::rand::SystemRandom;
use serde_json::json;

/// The ticket, shown once.
pub(super) fn make(call: &Call<'_>) -> Result<Answer, Rejection> {
    let services = call.services;
    let principal = &call.caller()?.principal;
    let shown = Presented { tls: call.tls.as_ref(), headers: call.headers, query_key: None };
    let made_by = services.kept(shown, principal.credential);
    let ticket = services.tickets.make(principal.owner.personal(), made_by, &SystemRandom::new())?;
    let mut answer = Answer::json(StatusCode::OK, &json!({"ticket": ticket, "expires_in": LIFETIME.as_secs()}));
    answer.headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(answer)
}
