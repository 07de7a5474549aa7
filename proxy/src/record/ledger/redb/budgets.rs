//! [`Budgets`] on redb, and what acceptance and end of a job write for it.
//!
//! Values are numbers, never JSON: nothing here can be refused once a transition has begun to write.

use super::RedbLedger;
use super::storage::Fault;
use super::tables::{BUDGETS, Tables, USAGE, WORKFLOW_USAGE};
use crate::budget::{Charge, Spending};
use crate::calendar::{Day, Period};
use crate::clock::WallMillis;
use crate::owner::OwnerScope;
use crate::record::ledger::budgets::{
    Budgets, Dimension, OTHERS, REPORT_ROWS_MAX, Usage, UsageBounds, UsageKey, UsageQuery,
};
use crate::record::ledger::{Job, LedgerError};
use ::redb::{ReadTransaction, ReadableTable};
use async_trait::async_trait;
use std::collections::BTreeMap;

/// Rows of one table that an end of a job may delete: more than it makes, so that the old ones go, and few enough not to be felt.
const PRUNED_AT_ONCE: usize = 16;

#[async_trait]
impl Budgets for RedbLedger {
    async fn spending(
        &self,
        scope: &OwnerScope,
        period: Period,
        at: WallMillis,
    ) -> Result<(Spending, Spending), LedgerError> {
        let scope = scope.clone();
        self.read("read a budget", move |snapshot| {
            let budgets = snapshot.open_table(BUDGETS)?;
            let user = sum(&budgets, &scope.key(), period, at)?;
            Ok((sum(&budgets, scope.tenant.as_str(), period, at)?, user))
        })
        .await
    }

    async fn usage(&self, query: UsageQuery) -> Result<Vec<(UsageKey, Usage)>, LedgerError> {
        self.read("read the usage", move |snapshot| usage(snapshot, &query)).await
    }
}

/// What stands against the budget of a tenant or a scope.
pub(super) fn sum(
    budgets: &impl ReadableTable<(u32, &'static str), (u64, u64)>,
    who: &str,
    period: Period,
    at: WallMillis,
) -> Result<Spending, Fault> {
    let days = period.of(Day::of(at));
    let mut spending = Spending::default();
    for day in days.start.number()..days.end.number() {
        let Some(found) = budgets.get((day, who))? else { continue };
        let (used, reserved) = found.value();
        spending.used = spending.used.plus(Charge::of_millis(used));
        spending.reserved = spending.reserved.plus(Charge::of_millis(reserved));
    }
    Ok(spending)
}

/// Sets aside what a job may take, as it is accepted.
pub(super) fn reserve(tables: &mut Tables<'_>, job: &Job, amount: Charge) -> Result<(), Fault> {
    book(tables, job, |spending| Spending { reserved: spending.reserved.plus(amount), ..spending })
}

/// What becomes of a reservation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// What was set aside.
    pub(super) reserved: Charge,
    /// What it cost; `None`: nothing that is its owner's to pay.
    pub(super) charge: Option<Charge>,
}

/// Frees what a job had set aside and books what it cost, as it ends.
pub(super) fn settle(
    tables: &mut Tables<'_>,
    job: &Job,
    Settled { reserved, charge }: Settled,
    at: WallMillis,
    bounds: UsageBounds,
) -> Result<(), Fault> {
    let cost = charge.unwrap_or_default();
    book(tables, job, |spending| Spending {
        used: spending.used.plus(cost),
        reserved: spending.reserved.minus(reserved),
    })?;
    if let Some(charge) = charge {
        book_usage(tables, job, charge, bounds)?;
    }
    prune(tables, Day::of(at), bounds)
}

/// Changes the sums of the job's tenant and scope, on the day of its acceptance.
fn book(tables: &mut Tables<'_>, job: &Job, change: impl Fn(Spending) -> Spending) -> Result<(), Fault> {
    let day = Day::of(job.accepted_at).number();
    let scope = job.owner.personal();
    for who in [scope.tenant.as_str(), scope.key().as_str()] {
        let (used, reserved) = tables.budgets.get((day, who))?.map_or((0, 0), |found| found.value());
        let before = Spending { used: Charge::of_millis(used), reserved: Charge::of_millis(reserved) };
        let now = change(before);
        if now == Spending::default() {
            tables.budgets.remove((day, who))?;
        } else {
            tables.budgets.insert((day, who), (now.used.millis(), now.reserved.millis()))?;
        }
    }
    Ok(())
}

fn book_usage(tables: &mut Tables<'_>, job: &Job, charge: Charge, bounds: UsageBounds) -> Result<(), Fault> {
    let day = Day::of(job.accepted_at).number();
    let tenant = job.owner.tenant.as_str();
    let (scope, nobody) = (job.owner.personal().key(), format!("{tenant}/"));
    let model = job.work.as_ref().map_or("", |work| work.model.as_str());
    let (mut rows, mut workflows) = tables.usage_rows.get((day, tenant))?.map_or((0, 0), |found| found.value());

    let mut key = (day, scope.as_str(), model);
    if tables.usage.get(key)?.is_none() {
        if rows < bounds.rows_max {
            rows += 1;
        } else {
            key = (day, nobody.as_str(), OTHERS);
        }
    }
    let (millis, jobs) = tables.usage.get(key)?.map_or((0, 0), |found| found.value());
    tables.usage.insert(key, (charge.millis().saturating_add(millis), jobs.saturating_add(1)))?;

    let submission = job.submission.to_string();
    let mut key = (day, scope.as_str(), submission.as_str());
    let mut model = model;
    if tables.workflow_usage.get(key)?.is_none() {
        if workflows < bounds.workflows_max {
            workflows += 1;
        } else {
            key = (day, nobody.as_str(), OTHERS);
            model = OTHERS;
        }
    }
    let (millis, jobs) = tables.workflow_usage.get(key)?.map_or((0, 0), |found| (found.value().0, found.value().1));
    let booked = (charge.millis().saturating_add(millis), jobs.saturating_add(1), model);
    tables.workflow_usage.insert(key, booked)?;
    tables.usage_rows.insert((day, tenant), (rows, workflows))?;
    Ok(())
}

/// Deletes some of what is too old. All keys begin with the day.
fn prune(tables: &mut Tables<'_>, today: Day, bounds: UsageBounds) -> Result<(), Fault> {
    macro_rules! pruned {
        ($table:expr, $days:expr) => {
            // Today is one of the days.
            let first = today.before($days.saturating_sub(1)).number();
            for _ in 0..PRUNED_AT_ONCE {
                let old = $table.first()?.is_some_and(|(key, _)| key.value().0 < first);
                if !old {
                    break;
                }
                $table.pop_first()?;
            }
        };
    }
    pruned!(tables.budgets, bounds.budget_days);
    pruned!(tables.usage, bounds.days);
    pruned!(tables.workflow_usage, bounds.workflow_days);
    pruned!(tables.usage_rows, bounds.days);
    Ok(())
}

fn usage(snapshot: &ReadTransaction, query: &UsageQuery) -> Result<Vec<(UsageKey, Usage)>, Fault> {
    let mut sums = Sums { query, found: BTreeMap::new() };
    let (from, to) = (query.from.number(), query.to.number().saturating_add(1));
    if from >= to {
        return Ok(Vec::new());
    }
    if query.has(Dimension::Workflow) {
        for entry in snapshot.open_table(WORKFLOW_USAGE)?.range((from, "", "")..(to, "", ""))? {
            let (key, value) = entry?;
            let ((day, scope, workflow), (millis, jobs, model)) = (key.value(), value.value());
            sums.add(day, scope, model, workflow, (millis, jobs))?;
        }
    } else {
        for entry in snapshot.open_table(USAGE)?.range((from, "", "")..(to, "", ""))? {
            let (key, value) = entry?;
            let (day, scope, model) = key.value();
            sums.add(day, scope, model, "", value.value())?;
        }
    }
    Ok(sums.found.into_iter().collect())
}

/// A report in the making.
struct Sums<'q> {
    query: &'q UsageQuery,
    found: BTreeMap<UsageKey, Usage>,
}

impl Sums<'_> {
    fn add(
        &mut self,
        day: u32,
        scope: &str,
        model: &str,
        workflow: &str,
        (millis, jobs): (u64, u64),
    ) -> Result<(), Fault> {
        let (tenant, user) = scope.split_once('/').unwrap_or((scope, ""));
        if self.query.tenant.as_ref().is_some_and(|wanted| wanted.as_str() != tenant) {
            return Ok(());
        }
        let told = |dimension, value: &str| self.query.has(dimension).then(|| value.to_owned());
        let key = UsageKey {
            day: told(Dimension::Day, &Day::numbered(day).to_string()),
            tenant: told(Dimension::Tenant, tenant),
            user: told(Dimension::User, user),
            model: told(Dimension::Model, model),
            workflow: told(Dimension::Workflow, workflow),
        };
        if self.found.len() >= REPORT_ROWS_MAX && !self.found.contains_key(&key) {
            return Err(LedgerError::TooManyRows { limit: REPORT_ROWS_MAX }.into());
        }
        let sum = self.found.entry(key).or_default();
        sum.charge = sum.charge.plus(Charge::of_millis(millis));
        sum.jobs = sum.jobs.saturating_add(jobs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RedbOptions;
    use super::*;
    use crate::record::ledger::budgets::suite;

    on_redb!(
        a_job_is_accepted_up_to_the_budget_and_not_beyond,
        users_have_budgets_of_their_own_within_the_tenants,
        a_run_is_charged_as_measured_in_place_of_what_was_set_aside,
        a_job_that_never_counted_costs_nothing,
        a_new_period_begins_at_nothing_and_what_ends_in_it_is_booked_where_it_began,
        a_report_sums_up_the_charges_by_what_is_asked_for,
    );
    on_redb!(
        RedbOptions { usage: UsageBounds { rows_max: 2, workflows_max: 1, ..UsageBounds::default() }, ..RedbOptions::default() };
        beyond_the_most_rows_of_a_day_the_rest_is_booked_together,
    );
    on_redb!(
        RedbOptions { usage: UsageBounds { days: 3, workflow_days: 2, budget_days: 2, ..UsageBounds::default() }, ..RedbOptions::default() };
        old_days_are_forgotten_bit_by_bit_and_only_they,
    );
}
