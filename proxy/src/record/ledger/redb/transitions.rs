//! The transitions but for [`commit`](super::commit). Each reads and checks first and writes last: see the invariant at `Writer::write`.

use super::Keep;
use super::budgets::{self, Settled};
use super::erasure::refuse_erased;
use super::keeping;
use super::readings::{not_found, number};
use super::storage::Fault;
use super::tables::{JobRow, ScopeRow, Tables, encoded, row};
use crate::authenticate::api_key::KeyRow;
use crate::budget::Reservation;
use crate::clock::WallMillis;
use crate::ids::{AttemptId, BackendId, JobId, KeyId, PromptId, UpstreamClientId, UpstreamPromptId};
use crate::record::ledger::uploads::Pin;
use crate::record::ledger::{
    Acceptance, Accepted, Attempt, Job, JobResult, JobState, LedgerError, Outcome, OwnerSecrets, Reached, work,
};
use ::redb::ReadableTable;
use ring::rand::{SecureRandom, SystemRandom};

/// `id` is what the job is called if it is a new one.
pub(super) fn accept(tables: &mut Tables<'_>, acceptance: Acceptance, id: JobId) -> Result<Accepted, Fault> {
    refuse_erased(tables, &acceptance.owner.tenant)?;
    let scope = acceptance.owner.scope().key();
    if let Some(job) = accepted_before(tables, &scope, &acceptance)? {
        return Ok(Accepted::Again(job));
    }
    let tenant = acceptance.owner.tenant.clone();
    let active = tables.tenants.get(tenant.as_str())?.map_or(0, |count| count.value());
    if active >= acceptance.active_jobs_max {
        return Err(LedgerError::TooManyJobs { active, limit: acceptance.active_jobs_max }.into());
    }
    fits_budgets(tables, &acceptance)?;
    let prompt_id = acceptance.prompt_id.unwrap_or_else(|| PromptId::from(id));
    let named = tables.prompt_ids.get((scope.as_str(), prompt_id.as_str()))?.map(|job| job.value());
    if standing(tables, named)?.is_some() {
        return Err(LedgerError::Conflict { name: prompt_id.to_string() }.into());
    }
    let mut counters: ScopeRow = row(&tables.scopes, scope.as_str())?.unwrap_or_default();
    let sequence = tables.meta.get("next_sequence")?.map_or(0, |next| next.value());
    let job = Job {
        id,
        sequence,
        version: 0,
        owner: acceptance.owner,
        prompt_id,
        number: counters.next_number,
        client_id: acceptance.client_id,
        submission: acceptance.submission,
        output_nodes: acceptance.approval.output_nodes().to_vec(),
        verdict: acceptance.approval.verdict(),
        paid: acceptance.approval.is_paid(),
        place: work::place(acceptance.order, counters.next_number),
        work: acceptance.approval.work().cloned(),
        accepted_at: acceptance.at,
        state: JobState::Held,
        attempts: Vec::new(),
        cancel_requested: false,
    };
    let reserved = acceptance.reservation.amount;
    let row = JobRow { job, reserved, idempotency_key: acceptance.idempotency_key, place: None };
    let pinned = acceptance.approval.pins();
    let pins = if pinned.is_empty() { None } else { Some(encoded(&pinned)?) };
    let used = keeping::used(tables, pinned.iter().map(|pin| pin.file), acceptance.at)?;
    counters.next_number += 1;
    let (stored, counters) = (encoded(&row)?, encoded(&counters)?);

    let key = number(id.bytes());
    tables.jobs.insert(key, stored.as_slice())?;
    tables.scopes.insert(scope.as_str(), counters.as_slice())?;
    tables.meta.insert("next_sequence", sequence + 1)?;
    if let Some(pins) = pins {
        tables.pins.insert(key, pins.as_slice())?;
    }
    tables.active.insert(sequence, key)?;
    tables.queues.insert((scope.as_str(), row.job.number), key)?;
    tables.prompt_ids.insert((scope.as_str(), row.job.prompt_id.as_str()), key)?;
    if let Some(idempotency_key) = &row.idempotency_key {
        tables.idempotency.insert((scope.as_str(), idempotency_key.as_str()), key)?;
    }
    tables.tenants.insert(tenant.as_str(), active + 1)?;
    budgets::reserve(tables, &row.job, row.reserved)?;
    keeping::keep_job(tables, &row, pinned)?;
    keeping::store_used(tables, used, acceptance.at)?;
    Ok(Accepted::New(row.job))
}

/// Refuses a job for which more would be set aside than its owner has left.
fn fits_budgets(tables: &Tables<'_>, acceptance: &Acceptance) -> Result<(), Fault> {
    let (Reservation { amount, budget }, at) = (acceptance.reservation, acceptance.at);
    if !budget.is_limited() {
        return Ok(());
    }
    let scope = acceptance.owner.personal();
    let tenant = budgets::sum(&tables.budgets, scope.tenant.as_str(), budget.period, at)?;
    let user = budgets::sum(&tables.budgets, &scope.key(), budget.period, at)?;
    budget.check(tenant, user, amount, at).map_err(|over| LedgerError::OverBudget(Box::new(over)).into())
}

/// The job that this acceptance repeats, if any.
fn accepted_before(tables: &Tables<'_>, scope: &str, acceptance: &Acceptance) -> Result<Option<Job>, Fault> {
    let by_name = match &acceptance.prompt_id {
        Some(name) => standing(tables, tables.prompt_ids.get((scope, name.as_str()))?.map(|job| job.value()))?,
        None => None,
    };
    let by_key = match &acceptance.idempotency_key {
        Some(key) => standing(tables, tables.idempotency.get((scope, key.as_str()))?.map(|job| job.value()))?,
        None => None,
    };
    let key = by_key.as_ref().and(acceptance.idempotency_key.clone());
    let Some(before) = by_key.or(by_name) else { return Ok(None) };
    let name = key.unwrap_or_else(|| before.prompt_id.to_string());
    // The name is part of the submission: the same key with another name is another submission.
    let other_name = acceptance.prompt_id.as_ref().is_some_and(|name| *name != before.prompt_id);
    if other_name || before.submission != acceptance.submission {
        return Err(LedgerError::Conflict { name }.into());
    }
    Ok(Some(before))
}

/// The job that a name or key stands for. One that was deleted before it ran is shown nowhere: its name and key are free for a new start.
fn standing(tables: &Tables<'_>, named: Option<u128>) -> Result<Option<Job>, Fault> {
    let job = named.map(|id| load(tables, id)).transpose()?.map(|row| row.job);
    Ok(job.filter(|job| job.state != JobState::Ended(Outcome::Cancelled)))
}

pub(super) fn assign(
    tables: &mut Tables<'_>,
    id: JobId,
    version: u64,
    backend: BackendId,
    at: WallMillis,
) -> Result<Job, Fault> {
    let mut row = held(tables, id, version, "assign it")?;
    let owner = secrets(tables, &row.job.owner.scope().key())?;
    let n = row.job.attempts.last().map_or(1, |last| last.n.saturating_add(1));
    row.job.attempts.push(Attempt {
        n,
        backend,
        upstream: UpstreamPromptId::new(),
        folder: format!("t/{}/{}-{n}", owner.folder, id),
        assigned_at: at,
        started_at: None,
        sent: false,
        lost: None,
    });
    row.job.state = JobState::Assigned;
    store(tables, row)
}

pub(super) fn send(tables: &mut Tables<'_>, attempt: AttemptId) -> Result<Job, Fault> {
    let mut row = current(tables, attempt, "send it")?;
    match row.job.attempts.last_mut() {
        Some(last) if !last.sent => last.sent = true,
        _ => return Ok(row.job),
    }
    store(tables, row)
}

pub(super) fn start(tables: &mut Tables<'_>, attempt: AttemptId, at: WallMillis) -> Result<Job, Fault> {
    let mut row = current(tables, attempt, "start it")?;
    if row.job.state == JobState::Running {
        return Ok(row.job);
    }
    row.job.state = JobState::Running;
    if let Some(last) = row.job.attempts.last_mut() {
        last.started_at = Some(at);
    }
    store(tables, row)
}

pub(super) fn lose(
    tables: &mut Tables<'_>,
    attempt: AttemptId,
    reason: String,
    reached: Reached,
) -> Result<Job, Fault> {
    let mut row = current(tables, attempt, "lose it")?;
    row.job.state = JobState::Held;
    if let Some(last) = row.job.attempts.last_mut() {
        last.lost = Some(reason);
        last.sent &= reached == Reached::Perhaps;
    }
    store(tables, row)
}

pub(super) fn end_held(
    tables: &mut Tables<'_>,
    id: JobId,
    version: u64,
    outcome: Outcome,
    result: Option<JobResult>,
    at: WallMillis,
    keep: Keep,
) -> Result<Job, Fault> {
    let wanted = "end it without an attempt";
    let row = held(tables, id, version, wanted)?;
    let result = match outcome {
        Outcome::Cancelled => None,
        Outcome::Failed => Some(result.unwrap_or_default()),
        Outcome::Interrupted if row.job.cancel_requested => Some(result.unwrap_or_default()),
        Outcome::Interrupted | Outcome::Succeeded => {
            return Err(LedgerError::WrongState { job: id, found: row.job.state, wanted }.into());
        }
    };
    // No attempt of it counts, so nobody pays.
    let result = result.map(|result| JobResult { ended_at: result.ended_at.or(Some(at)), charged: None, ..result });
    end(tables, row, outcome, result.as_ref(), at, keep)
}

pub(super) fn request_cancel(tables: &mut Tables<'_>, id: JobId) -> Result<Job, Fault> {
    let mut row = find(tables, id)?;
    let at_backend = matches!(row.job.state, JobState::Assigned | JobState::Running);
    if !at_backend || row.job.cancel_requested {
        return Ok(row.job);
    }
    row.job.cancel_requested = true;
    store(tables, row)
}

/// `at`: since when what it alone named is gone; without it, since its end.
pub(super) fn forget(tables: &mut Tables<'_>, id: JobId, at: Option<WallMillis>) -> Result<(), Fault> {
    let Some(row) = row::<_, JobRow>(&tables.jobs, number(id.bytes()))? else {
        // Forgotten already: what was wanted.
        return Ok(());
    };
    if !row.job.state.is_ended() {
        return Err(LedgerError::WrongState { job: id, found: row.job.state, wanted: "forget it" }.into());
    }
    let scope = row.job.owner.scope().key();
    let mut counters = counters(tables, &scope)?;
    let count = kept(&mut counters, row.job.state != JobState::Ended(Outcome::Cancelled));
    *count = count.saturating_sub(1);
    let counters = encoded(&counters)?;
    let result = result_of(tables, &row)?;
    tables.scopes.insert(scope.as_str(), counters.as_slice())?;
    remove(tables, &scope, &row, result.as_ref(), at)
}

fn result_of(tables: &Tables<'_>, job: &JobRow) -> Result<Option<JobResult>, Fault> {
    row(&tables.results, number(job.job.id.bytes()))
}

/// The counter of those that are shown in the history, or of the others.
fn kept(counters: &mut ScopeRow, shown: bool) -> &mut u64 {
    if shown { &mut counters.ended } else { &mut counters.cancelled }
}

/// Ends a job: out of the queue, into the ended ones, with its result if it has one, its charge booked in place of what was set aside. Beyond `keep` with a result, or as many without one, the oldest of
/// its kind is forgotten.
pub(super) fn end(
    tables: &mut Tables<'_>,
    mut row: JobRow,
    outcome: Outcome,
    result: Option<&JobResult>,
    at: WallMillis,
    keep: Keep,
) -> Result<Job, Fault> {
    let key = number(row.job.id.bytes());
    let scope = row.job.owner.scope().key();
    let (tenant, sequence, shown_number) = (row.job.owner.tenant.clone(), row.job.sequence, row.job.number);
    let mut counters = counters(tables, &scope)?;
    let shown = result.is_some();
    let oldest =
        if *kept(&mut counters, shown) >= keep.ended_jobs_max { oldest_ended(tables, &scope, shown)? } else { None };
    let (reserved, charge) = (row.reserved, result.and_then(|result| result.charged));
    let oldest = match oldest {
        Some(oldest) => Some((result_of(tables, &oldest)?, oldest)),
        None => None,
    };
    let pins: Vec<Pin> = super::tables::row(&tables.pins, key)?.unwrap_or_default();
    let stored = result.map(encoded).transpose()?;
    let active = tables.tenants.get(tenant.as_str())?.map_or(0, |count| count.value()).saturating_sub(1);
    let place = counters.next_place;
    counters.next_place += 1;
    if oldest.is_none() {
        *kept(&mut counters, shown) += 1;
    }
    row.job.state = JobState::Ended(outcome);
    row.place = Some(place);
    let counters = encoded(&counters)?;

    let ended = row.clone();
    let job = store(tables, row)?;
    budgets::settle(tables, &job, Settled { reserved, charge }, at, keep.usage)?;
    tables.scopes.insert(scope.as_str(), counters.as_slice())?;
    tables.active.remove(sequence)?;
    tables.pins.remove(key)?;
    tables.queues.remove((scope.as_str(), shown_number))?;
    if shown {
        tables.ended.insert((scope.as_str(), place), (key, true))?;
    } else {
        tables.cancelled.insert((scope.as_str(), place), key)?;
    }
    if let Some(stored) = stored {
        tables.results.insert(key, stored.as_slice())?;
    }
    keeping::keep_ended(tables, &ended, &pins, result, at)?;
    // At none the row goes: a map by tenant that only grows would have no bound.
    if active == 0 {
        tables.tenants.remove(tenant.as_str())?;
    } else {
        tables.tenants.insert(tenant.as_str(), active)?;
    }
    if let Some((result, oldest)) = oldest {
        remove(tables, &scope, &oldest, result.as_ref(), Some(at))?;
    }
    Ok(job)
}

pub(super) fn secrets(tables: &mut Tables<'_>, scope: &str) -> Result<OwnerSecrets, Fault> {
    if let Some(known) = row(&tables.secrets, scope)? {
        return Ok(known);
    }
    let tenant = scope.split('/').next().unwrap_or_default();
    if let Ok(tenant) = tenant.parse() {
        refuse_erased(tables, &tenant)?;
    }
    let (mut salt, mut folder) = ([0; 16], [0; 10]);
    let random = SystemRandom::new();
    random.fill(&mut salt).and_then(|()| random.fill(&mut folder)).map_err(|_| LedgerError::Unavailable {
        action: "draw an owner's secrets",
        reason: "the system gives no random bytes".into(),
    })?;
    let drawn = OwnerSecrets { salt: format!("{:032x}", u128::from_be_bytes(salt)), folder: base32(&folder) };
    tables.secrets.insert(scope, encoded(&drawn)?.as_slice())?;
    Ok(drawn)
}

pub(super) fn upstream_client(tables: &mut Tables<'_>, backend: &BackendId) -> Result<UpstreamClientId, Fault> {
    let known = tables.upstream_clients.get(backend.as_str())?.map(|id| id.value());
    if let Some(known) = known {
        return Ok(UpstreamClientId::from_bytes(known.to_be_bytes()));
    }
    let drawn = UpstreamClientId::new();
    tables.upstream_clients.insert(backend.as_str(), number(drawn.bytes()))?;
    Ok(drawn)
}

pub(super) fn revoke_key(tables: &mut Tables<'_>, id: &KeyId, at: WallMillis) -> Result<KeyRow, Fault> {
    let mut key: KeyRow = row(&tables.keys, id.as_str())?.ok_or_else(|| not_found("key"))?;
    if key.revoked_at.is_none() {
        key.revoked_at = Some(at);
        let stored = encoded(&key)?;
        tables.keys.insert(id.as_str(), stored.as_slice())?;
    }
    Ok(key)
}

pub(super) fn probe(tables: &mut Tables<'_>) -> Result<(), Fault> {
    let count = tables.meta.get("probe")?.map_or(0, |count| count.value());
    tables.meta.insert("probe", count.wrapping_add(1))?;
    Ok(())
}

/// The job of an attempt that is its current one, at a backend.
pub(super) fn current(tables: &Tables<'_>, attempt: AttemptId, wanted: &'static str) -> Result<JobRow, Fault> {
    let row = find(tables, attempt.job)?;
    let at_backend = matches!(row.job.state, JobState::Assigned | JobState::Running);
    if at_backend && row.job.attempts.last().is_some_and(|last| last.n == attempt.n) {
        return Ok(row);
    }
    Err(LedgerError::WrongState { job: attempt.job, found: row.job.state, wanted }.into())
}

fn held(tables: &Tables<'_>, id: JobId, version: u64, wanted: &'static str) -> Result<JobRow, Fault> {
    let row = find(tables, id)?;
    if row.job.version != version {
        return Err(LedgerError::Stale { job: id, expected: version }.into());
    }
    match row.job.state {
        JobState::Held => Ok(row),
        found => Err(LedgerError::WrongState { job: id, found, wanted }.into()),
    }
}

fn find(tables: &Tables<'_>, id: JobId) -> Result<JobRow, Fault> {
    load(tables, number(id.bytes()))
}

fn load(tables: &Tables<'_>, id: u128) -> Result<JobRow, Fault> {
    row(&tables.jobs, id)?.ok_or_else(|| not_found("job"))
}

fn counters(tables: &Tables<'_>, scope: &str) -> Result<ScopeRow, Fault> {
    Ok(row(&tables.scopes, scope)?.unwrap_or_default())
}

/// Writes a changed job back under the next version.
fn store(tables: &mut Tables<'_>, mut row: JobRow) -> Result<Job, Fault> {
    row.job.version += 1;
    let stored = encoded(&row)?;
    tables.jobs.insert(number(row.job.id.bytes()), stored.as_slice())?;
    Ok(row.job)
}

fn oldest_ended(tables: &Tables<'_>, scope: &str, shown: bool) -> Result<Option<JobRow>, Fault> {
    let all = (scope, 0)..=(scope, u64::MAX);
    let oldest = if shown {
        tables.ended.range(all)?.next().transpose()?.map(|(_, job)| job.value().0)
    } else {
        tables.cancelled.range(all)?.next().transpose()?.map(|(_, job)| job.value())
    };
    oldest.map(|id| load(tables, id)).transpose()
}

/// Removes an ended job with its result, label and idempotency key. Its files stay.
fn remove(
    tables: &mut Tables<'_>,
    scope: &str,
    row: &JobRow,
    result: Option<&JobResult>,
    at: Option<WallMillis>,
) -> Result<(), Fault> {
    let key = number(row.job.id.bytes());
    tables.jobs.remove(key)?;
    tables.results.remove(key)?;
    // A deleted job's name and key may be another's by now.
    let own = |named: Option<u128>| named == Some(key);
    let label = (scope, row.job.prompt_id.as_str());
    if own(tables.prompt_ids.get(label)?.map(|job| job.value())) {
        tables.prompt_ids.remove(label)?;
    }
    if let Some(idempotency_key) = &row.idempotency_key {
        let named = (scope, idempotency_key.as_str());
        if own(tables.idempotency.get(named)?.map(|job| job.value())) {
            tables.idempotency.remove(named)?;
        }
    }
    if let Some(place) = row.place {
        tables.ended.remove((scope, place))?;
        tables.cancelled.remove((scope, place))?;
    }
    keeping::forget_job(tables, row, result, at)
}

/// RFC 4648 base 32 in lower case, for lengths without padding (multiples of 5 bytes).
fn base32(bytes: &[u8]) -> String {
    let digit =
        |value: u64| char::from(b"abcdefghijklmnopqrstuvwxyz234567".get(value as usize & 31).copied().unwrap_or(b'a'));
    let group = |chunk: &[u8]| chunk.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    bytes.chunks_exact(5).map(group).flat_map(|bits| (0..8).rev().map(move |i| digit(bits >> (5 * i)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_the_rfc_in_lower_case() {
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
        assert_eq!(base32(b"foobafooba"), "mzxw6ytbmzxw6ytb");
    }
}
