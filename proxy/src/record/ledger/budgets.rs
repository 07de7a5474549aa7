//! What was spent: the sums that budgets are held against, and the usage report.
//!
//! Both are kept in the transactions that accept and end jobs, so that they follow from the states of jobs whatever the process dies of: a job's reservation stands from its acceptance to its end, and
//! its charge is booked with its end, once, on the day of its acceptance.

use super::LedgerError;
use crate::budget::{Charge, Spending};
use crate::calendar::{Day, Period};
use crate::clock::WallMillis;
use crate::owner::OwnerScope;
use async_trait::async_trait;
use serde::Serialize;

/// How much of it is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageBounds {
    /// Days of the sums that budgets are held against: more than the longest period.
    pub budget_days: u32,
    /// Days by user and model.
    pub days: u32,
    /// Days by workflow.
    pub workflow_days: u32,
    /// Rows by user and model of one tenant and day; beyond it, what is new is booked as [`OTHERS`].
    pub rows_max: u32,
    /// The same of rows by workflow. Nearly every job is a workflow of its own, since its seed is part of it.
    pub workflows_max: u32,
}

impl Default for UsageBounds {
    /// A year and a month of reports; a month by workflow: of a tenant that uses all of it, some 200 MiB and 10 MiB.
    fn default() -> Self {
        Self { budget_days: 62, days: 400, workflow_days: 35, rows_max: 5000, workflows_max: 2000 }
    }
}

/// The model, or the workflow, of what is booked together because there were too many.
pub const OTHERS: &str = "(others)";
/// Rows of one report.
pub const REPORT_ROWS_MAX: usize = 100_000;

/// What a report tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// The day of acceptance.
    Day,
    /// Who pays.
    Tenant,
    /// The person; nobody for service users.
    User,
    /// The main model; none for workflows without one.
    Model,
    /// The digest of the submission.
    Workflow,
}

impl Dimension {
    /// All, in the order of a report's columns.
    pub const ALL: [Self; 5] = [Self::Day, Self::Tenant, Self::User, Self::Model, Self::Workflow];

    /// The name in queries and columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Model => "model",
            Self::Workflow => "workflow",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name)
    }
}

/// Which part of the usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// The first day.
    pub from: Day,
    /// The last day.
    pub to: Day,
    /// Of this tenant only.
    pub tenant: Option<crate::ids::TenantId>,
    /// What to tell apart; all else is summed up.
    pub by: Vec<Dimension>,
}

impl UsageQuery {
    /// Whether that is told apart.
    pub fn has(&self, dimension: Dimension) -> bool {
        self.by.contains(&dimension)
    }
}

/// One sum of a report. What was not asked for is absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct UsageKey {
    /// `2026-01-02`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its id; empty for service users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its file; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
}

impl UsageKey {
    /// The value of that column.
    pub fn value(&self, dimension: Dimension) -> &str {
        let value = match dimension {
            Dimension::Day => &self.day,
            Dimension::Tenant => &self.tenant,
            Dimension::User => &self.user,
            Dimension::Model => &self.model,
            Dimension::Workflow => &self.workflow,
        };
        value.as_deref().unwrap_or_default()
    }
}

/// How many runs were charged, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Jobs whose run was charged, also with nothing.
    pub jobs: u64,
    /// For all of them.
    pub charge: Charge,
}

/// The store of what was spent.
#[async_trait]
pub trait Budgets: Send + Sync {
    /// What stands against the budgets of a tenant and of one of its users, in the period that `at` is in.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn spending(
        &self,
        scope: &OwnerScope,
        period: Period,
        at: WallMillis,
    ) -> Result<(Spending, Spending), LedgerError>;

    /// Sums of the charged runs, in the order of their keys.
    ///
    /// # Errors
    /// `TooManyRows` for more than [`REPORT_ROWS_MAX`], `Unavailable`.
    async fn usage(&self, query: UsageQuery) -> Result<Vec<(UsageKey, Usage)>, LedgerError>;
}

#[cfg(test)]
pub(super) mod suite {
    use super::*;
    use crate::budget::{Budget, Reservation, Whose};
    use crate::ids::AttemptId;
    use crate::record::ledger::suite::{assigned, submission};
    use crate::record::ledger::work::Work;
    use crate::record::ledger::{Acceptance, Accepted, Approval, Job, JobResult, Ledger, Outcome, Reached};

    const fn seconds(seconds: u64) -> Charge {
        Charge::of_millis(seconds * 1000)
    }

    const DAY: u64 = 86_400_000;
    /// 2026-11-30, a Monday and the last of its month.
    const LAST_OF_NOVEMBER: u64 = 20_787 * DAY;

    fn budget(tenant: Option<u64>, user: Option<u64>) -> Budget {
        Budget { period: Period::Month, tenant: tenant.map(seconds), user: user.map(seconds) }
    }

    fn wanting(name: &str, user: Option<&str>, amount: u64, budget: Budget, at: u64) -> Acceptance {
        let mut wanting = submission("a", name, "{}");
        wanting.owner.user = user.map(|user| user.parse().unwrap());
        wanting.reservation = Reservation { amount: seconds(amount), budget };
        wanting.active_jobs_max = 100;
        wanting.at = WallMillis(at);
        wanting
    }

    async fn accept(ledger: &impl Ledger, acceptance: Acceptance) -> Result<Job, LedgerError> {
        ledger.accept(acceptance).await.map(|(Accepted::New(job) | Accepted::Again(job))| job)
    }

    async fn attempt(ledger: &impl Ledger, job: &Job) -> AttemptId {
        assigned(ledger, job).await
    }

    async fn commit(ledger: &impl Ledger, attempt: AttemptId, outcome: Outcome, charged: Option<u64>, at: u64) {
        let result = JobResult { charged: charged.map(seconds), ..JobResult::default() };
        ledger.commit(attempt, outcome, result, vec![], WallMillis(at)).await.unwrap();
    }

    /// Used and set aside, in seconds: of the tenant, of the user.
    async fn spent(ledger: &impl Ledger, user: Option<&str>, at: u64) -> ((u64, u64), (u64, u64)) {
        let scope = OwnerScope { tenant: "a".parse().unwrap(), user: user.map(|user| user.parse().unwrap()) };
        let (tenant, user) = ledger.spending(&scope, Period::Month, WallMillis(at)).await.unwrap();
        let told = |spending: Spending| (spending.used.millis() / 1000, spending.reserved.millis() / 1000);
        (told(tenant), told(user))
    }

    fn over(refused: Result<Job, LedgerError>) -> Option<Whose> {
        match refused {
            Err(LedgerError::OverBudget(over)) => Some(over.whose),
            Ok(_) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(in crate::record::ledger) async fn a_job_is_accepted_up_to_the_budget_and_not_beyond(ledger: &impl Ledger) {
        let (at, ten) = (LAST_OF_NOVEMBER, budget(Some(10), None));
        accept(ledger, wanting("p", None, 4, ten, at)).await.unwrap();
        assert_eq!(over(accept(ledger, wanting("q", None, 7, ten, at)).await), Some(Whose::Tenant));
        assert_eq!(spent(ledger, None, at).await, ((0, 4), (0, 4)), "what was refused sets nothing aside");
        accept(ledger, wanting("q", None, 6, ten, at)).await.unwrap();
        assert_eq!(spent(ledger, None, at).await, ((0, 10), (0, 10)));
        // A repetition is the first answer again, whatever is left.
        accept(ledger, wanting("q", None, 6, ten, at)).await.unwrap();
        assert_eq!(spent(ledger, None, at).await, ((0, 10), (0, 10)));
    }

    pub(in crate::record::ledger) async fn users_have_budgets_of_their_own_within_the_tenants(ledger: &impl Ledger) {
        let (at, both) = (LAST_OF_NOVEMBER, budget(Some(10), Some(6)));
        accept(ledger, wanting("p", Some("ann"), 6, both, at)).await.unwrap();
        assert_eq!(over(accept(ledger, wanting("q", Some("ann"), 1, both, at)).await), Some(Whose::User));
        assert_eq!(over(accept(ledger, wanting("q", Some("bob"), 5, both, at)).await), Some(Whose::Tenant));
        accept(ledger, wanting("q", Some("bob"), 3, both, at)).await.unwrap();
        accept(ledger, wanting("r", None, 1, both, at)).await.unwrap();
        assert_eq!(spent(ledger, Some("ann"), at).await, ((0, 10), (0, 6)));
        assert_eq!(spent(ledger, Some("bob"), at).await, ((0, 10), (0, 3)));
        assert_eq!(spent(ledger, None, at).await, ((0, 10), (0, 1)));
    }

    pub(in crate::record::ledger) async fn a_run_is_charged_as_measured_in_place_of_what_was_set_aside(
        ledger: &impl Ledger,
    ) {
        let at = LAST_OF_NOVEMBER;
        for (name, outcome, charged) in [
            ("more", Outcome::Succeeded, Some(9)),
            ("failed", Outcome::Failed, Some(2)),
            ("stopped", Outcome::Interrupted, Some(1)),
            ("ours", Outcome::Failed, None),
        ] {
            let job = accept(ledger, wanting(name, None, 5, budget(None, None), at)).await.unwrap();
            let running = attempt(ledger, &job).await;
            ledger.start(running, WallMillis(at)).await.unwrap();
            commit(ledger, running, outcome, charged, at).await;
            let again = JobResult { charged: Some(seconds(9)), ..JobResult::default() };
            assert!(ledger.commit(running, outcome, again, vec![], WallMillis(at)).await.is_err());
        }
        assert_eq!(spent(ledger, None, at).await, ((12, 0), (12, 0)));
    }

    pub(in crate::record::ledger) async fn a_job_that_never_counted_costs_nothing(ledger: &impl Ledger) {
        let at = LAST_OF_NOVEMBER;
        let held = accept(ledger, wanting("p", None, 5, budget(None, None), at)).await.unwrap();
        assert_eq!(spent(ledger, None, at).await.0, (0, 5));
        ledger.end_held(held.id, held.version, Outcome::Cancelled, None, WallMillis(at)).await.unwrap();
        assert_eq!(spent(ledger, None, at).await.0, (0, 0));
        let lost = accept(ledger, wanting("q", None, 5, budget(None, None), at)).await.unwrap();
        let running = attempt(ledger, &lost).await;
        ledger.start(running, WallMillis(at)).await.unwrap();
        let lost = ledger.lose(running, "it died", Reached::Perhaps).await.unwrap();
        assert_eq!(spent(ledger, None, at).await.0, (0, 5), "it is tried again");
        let told = JobResult { charged: Some(seconds(7)), ..JobResult::default() };
        ledger.end_held(lost.id, lost.version, Outcome::Failed, Some(told), WallMillis(at)).await.unwrap();
        assert_eq!(spent(ledger, None, at).await.0, (0, 0), "no attempt of it counts, whatever its result says");
    }

    pub(in crate::record::ledger) async fn a_new_period_begins_at_nothing_and_what_ends_in_it_is_booked_where_it_began(
        ledger: &impl Ledger,
    ) {
        let (last, ten) = (LAST_OF_NOVEMBER + DAY - 1, budget(Some(10), None));
        let november = accept(ledger, wanting("p", None, 10, ten, last)).await.unwrap();
        assert_eq!(over(accept(ledger, wanting("q", None, 1, ten, last)).await), Some(Whose::Tenant));
        let december = last + 1;
        accept(ledger, wanting("q", None, 10, ten, december)).await.unwrap();
        let running = attempt(ledger, &november).await;
        commit(ledger, running, Outcome::Succeeded, Some(25), december).await;
        assert_eq!(spent(ledger, None, last).await.0, (25, 0));
        assert_eq!(spent(ledger, None, december).await.0, (0, 10));
        let first_of_november = LAST_OF_NOVEMBER - 29 * DAY;
        assert_eq!(spent(ledger, None, first_of_november).await.0, (25, 0));
        assert_eq!(spent(ledger, None, first_of_november - 1).await.0, (0, 0));
    }

    /// Charges one job, told by user, model, graph, day and seconds.
    async fn charged(ledger: &impl Ledger, name: &str, of: (Option<&str>, &str, &'static str), day: u64, cost: u64) {
        let (user, model, graph) = of;
        let mut acceptance = wanting(name, user, 1, Budget::default(), day * DAY);
        let plain = submission("a", name, graph);
        (acceptance.submission, acceptance.graph) = (plain.submission, plain.graph);
        acceptance.approval =
            Approval::of_work(Work { units: 1.0, models: vec![model.to_owned()], model: model.to_owned() });
        let job = accept(ledger, acceptance).await.unwrap();
        let running = attempt(ledger, &job).await;
        commit(ledger, running, Outcome::Succeeded, Some(cost), day * DAY).await;
    }

    async fn report(ledger: &impl Ledger, from: u64, to: u64, by: &[Dimension]) -> Vec<(Vec<String>, u64, u64)> {
        let day = |number: u64| Day::numbered(u32::try_from(number).unwrap());
        let query = UsageQuery { from: day(from), to: day(to), tenant: None, by: by.to_vec() };
        let rows = ledger.usage(query).await.unwrap();
        let told = |(key, usage): (UsageKey, Usage)| {
            let values = by.iter().map(|dimension| key.value(*dimension).to_owned()).collect();
            (values, usage.jobs, usage.charge.millis() / 1000)
        };
        rows.into_iter().map(told).collect()
    }

    fn row(values: &[&str], jobs: u64, cost: u64) -> (Vec<String>, u64, u64) {
        (values.iter().map(|value| (*value).to_owned()).collect(), jobs, cost)
    }

    pub(in crate::record::ledger) async fn a_report_sums_up_the_charges_by_what_is_asked_for(ledger: &impl Ledger) {
        use Dimension::{Day as ByDay, Model, Tenant, User, Workflow};
        charged(ledger, "1", (Some("ann"), "xl", "{}"), 20_000, 3).await;
        charged(ledger, "2", (Some("ann"), "xl", "[]"), 20_000, 4).await;
        charged(ledger, "3", (Some("ann"), "flux", "[]"), 20_001, 10).await;
        charged(ledger, "4", (None, "xl", "{}"), 20_001, 20).await;
        let other = Acceptance { at: WallMillis(20_001 * DAY), ..submission("b", "p", "{}") };
        let other = accept(ledger, other).await.unwrap();
        let running = attempt(ledger, &other).await;
        commit(ledger, running, Outcome::Failed, Some(100), 20_001 * DAY).await;

        let all = (0, 30_000);
        assert_eq!(report(ledger, all.0, all.1, &[]).await, [row(&[], 5, 137)]);
        assert_eq!(report(ledger, 20_000, 20_000, &[Tenant]).await, [row(&["a"], 2, 7)]);
        assert_eq!(report(ledger, 20_001, 20_001, &[Tenant]).await, [row(&["a"], 2, 30), row(&["b"], 1, 100)]);
        assert_eq!(
            report(ledger, 20_000, 20_001, &[ByDay, User]).await,
            [row(&["2024-10-04", "ann"], 2, 7), row(&["2024-10-05", ""], 2, 120), row(&["2024-10-05", "ann"], 1, 10)]
        );
        assert_eq!(
            report(ledger, all.0, all.1, &[Tenant, Model]).await,
            [row(&["a", "flux"], 1, 10), row(&["a", "xl"], 3, 27), row(&["b", ""], 1, 100)]
        );
        let by_workflow = report(ledger, 20_000, 20_001, &[Workflow, Model]).await;
        assert_eq!(by_workflow.iter().map(|row| row.2).sum::<u64>(), 137, "{by_workflow:?}");
        assert_eq!(by_workflow.len(), 4, "{by_workflow:?}");
        let mine = UsageQuery {
            from: Day::numbered(0),
            to: Day::numbered(30_000),
            tenant: Some("b".parse().unwrap()),
            by: vec![],
        };
        assert_eq!(ledger.usage(mine).await.unwrap()[0].1, Usage { jobs: 1, charge: seconds(100) });
    }

    pub(in crate::record::ledger) async fn beyond_the_most_rows_of_a_day_the_rest_is_booked_together(
        ledger: &impl Ledger,
    ) {
        use Dimension::{Model, User, Workflow};
        let graphs = ["{}", "[]", "[1]", "[2]"];
        for (n, graph) in graphs.into_iter().enumerate() {
            let model = ["a", "b", "c", "d"][n];
            charged(ledger, model, (Some("ann"), model, graph), 20_000, 1 << n).await;
        }
        // Those that have a row go on in it.
        charged(ledger, "again", (Some("ann"), "a", "{}"), 20_000, 16).await;
        let models = report(ledger, 20_000, 20_000, &[User, Model]).await;
        assert_eq!(models, [row(&["", OTHERS], 2, 12), row(&["ann", "a"], 2, 17), row(&["ann", "b"], 1, 2)]);
        let workflows = report(ledger, 20_000, 20_000, &[Workflow]).await;
        assert_eq!(workflows[0], row(&[OTHERS], 3, 14), "one workflow a day has a row here");
        assert_eq!(workflows.iter().map(|row| row.2).sum::<u64>(), 31);
    }

    pub(in crate::record::ledger) async fn old_days_are_forgotten_bit_by_bit_and_only_they(ledger: &impl Ledger) {
        for day in 20_000..20_006 {
            charged(ledger, &day.to_string(), (None, "xl", "{}"), day, 1).await;
        }
        // Three days are kept, two by workflow.
        let days = |rows: &[(Vec<String>, u64, u64)]| rows.iter().map(|row| row.0[0].clone()).collect::<Vec<_>>();
        let kept = report(ledger, 0, 30_000, &[Dimension::Day]).await;
        assert_eq!(days(&kept), ["2024-10-07", "2024-10-08", "2024-10-09"]);
        let kept = report(ledger, 0, 30_000, &[Dimension::Day, Dimension::Workflow]).await;
        assert_eq!(days(&kept), ["2024-10-08", "2024-10-09"]);
    }
}
