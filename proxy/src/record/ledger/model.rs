//! A ledger as simple as can be, and random walks on which every form must do what it does.

use super::budgets::{Dimension, UsageQuery};
use super::suite::{image, submission};
use super::*;
use crate::budget::{Budget, Spending};
use crate::calendar::{Day, Period};
use std::collections::{BTreeMap, BTreeSet};

/// What an error is about; its texts are not compared.
fn kind(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::NotFound { .. } => "not found",
        LedgerError::Stale { .. } => "stale",
        LedgerError::WrongState { .. } => "wrong state",
        LedgerError::Conflict { .. } => "conflict",
        LedgerError::TooManyJobs { .. } => "too many jobs",
        LedgerError::OverBudget(_) => "over budget",
        other => panic!("no rule's error: {other}"),
    }
}

/// A job that is remembered.
#[derive(Clone)]
struct Known {
    job: Job,
    key: Option<String>,
    reserved: Charge,
    /// Of the ended: when it ended, if it has a history entry.
    shown: Option<WallMillis>,
}

/// What the ledger should hold, in lists that are searched from end to end.
#[derive(Default)]
struct Model {
    /// By acceptance; of the ended of one scope, `ends` has the order.
    known: Vec<Known>,
    ends: Vec<JobId>,
    accepted: u64,
    /// Of each scope: how many jobs were accepted, and how many images committed.
    counts: BTreeMap<OwnerScope, (u64, u64)>,
    ended_jobs_max: usize,
    /// Of each run that was charged: whose, accepted when, for how much. Of forgotten jobs too.
    charges: Vec<(OwnerScope, WallMillis, Charge)>,
}

impl Model {
    /// What stands against the budgets of the tenant and of the user.
    fn spending(&self, scope: &OwnerScope, period: Period, at: WallMillis) -> (Spending, Spending) {
        let days = period.of(Day::of(at));
        let sum = |mine: &dyn Fn(&OwnerScope) -> bool| {
            let now = |accepted: WallMillis| days.contains(&Day::of(accepted));
            let used = self.charges.iter().filter(|(whose, accepted, _)| mine(whose) && now(*accepted));
            let open = self.known.iter().filter(|known| !known.job.state.is_ended());
            let open = open.filter(|known| mine(&known.job.owner.scope()) && now(known.job.accepted_at));
            Spending {
                used: used.fold(Charge::ZERO, |sum, charge| sum.plus(charge.2)),
                reserved: open.fold(Charge::ZERO, |sum, known| sum.plus(known.reserved)),
            }
        };
        (sum(&|whose| whose.tenant == scope.tenant), sum(&|whose| whose == scope))
    }

    fn find(&mut self, id: JobId) -> Result<&mut Known, &'static str> {
        self.known.iter_mut().find(|known| known.job.id == id).ok_or("not found")
    }

    /// The job that `acceptance` gets, under the ids that the ledger drew; or the one it repeats.
    fn accept(&mut self, acceptance: &Acceptance, drawn: Option<&Job>) -> Result<Accepted, &'static str> {
        let scope = acceptance.owner.scope();
        // The name and key of a job deleted before it ran are free again.
        let stands = |known: &&Known| known.job.state != JobState::Ended(Outcome::Cancelled);
        let own = || self.known.iter().filter(|known| known.job.owner.scope() == scope).filter(stands);
        let by_key = own().find(|known| known.key.is_some() && known.key == acceptance.idempotency_key);
        let by_name = own().find(|known| Some(&known.job.prompt_id) == acceptance.prompt_id.as_ref());
        if let Some(Known { job, .. }) = by_key.or(by_name) {
            let same_name = acceptance.prompt_id.as_ref().is_none_or(|name| *name == job.prompt_id);
            let same = same_name && job.submission == acceptance.submission;
            return if same { Ok(Accepted::Again(job.clone())) } else { Err("conflict") };
        }
        let of_tenant = |known: &&Known| known.job.owner.tenant == acceptance.owner.tenant;
        let active = self.known.iter().filter(of_tenant).filter(|known| !known.job.state.is_ended()).count();
        if active >= acceptance.active_jobs_max as usize {
            return Err("too many jobs");
        }
        let Reservation { amount, budget } = acceptance.reservation;
        let (tenant, user) = self.spending(&scope, budget.period, acceptance.at);
        let over = |spent: Spending, limit: Option<Charge>| limit.is_some_and(|limit| spent.sum().plus(amount) > limit);
        if over(tenant, budget.tenant) || over(user, budget.user) {
            return Err("over budget");
        }
        let id = drawn.expect("the ledger refused what the model takes").id;
        let (number, _) = self.counts.entry(scope).or_default();
        let job = Job {
            id,
            sequence: self.accepted,
            version: 0,
            owner: acceptance.owner.clone(),
            prompt_id: acceptance.prompt_id.clone().unwrap_or_else(|| id.into()),
            number: *number,
            client_id: None,
            submission: acceptance.submission,
            output_nodes: acceptance.approval.output_nodes().to_vec(),
            verdict: acceptance.approval.verdict(),
            paid: acceptance.approval.is_paid(),
            place: super::work::place(acceptance.order, *number),
            work: acceptance.approval.work().cloned(),
            accepted_at: acceptance.at,
            state: JobState::Held,
            attempts: vec![],
            cancel_requested: false,
        };
        *number += 1;
        self.accepted += 1;
        self.known.push(Known {
            job: job.clone(),
            key: acceptance.idempotency_key.clone(),
            reserved: amount,
            shown: None,
        });
        Ok(Accepted::New(job))
    }

    fn held(&mut self, id: JobId, version: u64) -> Result<&mut Known, &'static str> {
        let known = self.find(id)?;
        match known.job.state {
            _ if known.job.version != version => Err("stale"),
            JobState::Held => Ok(known),
            _ => Err("wrong state"),
        }
    }

    /// The job of an attempt that is its current one.
    fn current(&mut self, attempt: AttemptId) -> Result<&mut Known, &'static str> {
        let known = self.find(attempt.job)?;
        let open = matches!(known.job.state, JobState::Assigned | JobState::Running);
        if open && known.job.attempts.len() == attempt.n as usize { Ok(known) } else { Err("wrong state") }
    }

    fn assign(&mut self, id: JobId, version: u64, drawn: Option<&Job>) -> Result<Job, &'static str> {
        let known = self.held(id, version)?;
        let drawn = drawn.and_then(|job| job.attempts.last()).expect("an attempt").clone();
        let n = u32::try_from(known.job.attempts.len()).unwrap() + 1;
        assert_eq!((drawn.n, &drawn.started_at, &drawn.lost), (n, &None, &None));
        assert!(drawn.folder.ends_with(&format!("/{id}-{n}")), "{}", drawn.folder);
        known.job.attempts.push(drawn);
        Ok(moved(known, JobState::Assigned))
    }

    fn start(&mut self, attempt: AttemptId, at: WallMillis) -> Result<Job, &'static str> {
        let known = self.current(attempt)?;
        if known.job.state == JobState::Running {
            return Ok(known.job.clone());
        }
        known.job.attempts.last_mut().unwrap().started_at = Some(at);
        Ok(moved(known, JobState::Running))
    }

    fn lose(&mut self, attempt: AttemptId, reason: &str) -> Result<Job, &'static str> {
        let known = self.current(attempt)?;
        known.job.attempts.last_mut().unwrap().lost = Some(reason.to_owned());
        Ok(moved(known, JobState::Held))
    }

    fn request_cancel(&mut self, id: JobId) -> Result<Job, &'static str> {
        let known = self.find(id)?;
        let state = known.job.state;
        if !matches!(state, JobState::Assigned | JobState::Running) || known.job.cancel_requested {
            return Ok(known.job.clone());
        }
        known.job.cancel_requested = true;
        Ok(moved(known, state))
    }

    /// The job, and the name of the one image that it left.
    fn commit(
        &mut self,
        attempt: AttemptId,
        outcome: Outcome,
        charge: Option<Charge>,
        at: WallMillis,
    ) -> Result<(Job, String), &'static str> {
        let job = self.current(attempt)?.job.clone();
        let scope = job.owner.scope();
        if outcome == Outcome::Cancelled {
            return Err("wrong state");
        }
        self.charges.extend(charge.map(|charge| (scope.clone(), job.accepted_at, charge)));
        let (_, images) = self.counts.entry(scope).or_default();
        *images += 1;
        let name = format!("ComfyUI_{images:05}_.png");
        Ok((self.end(attempt.job, outcome, at), name))
    }

    fn end_held(&mut self, id: JobId, version: u64, outcome: Outcome, at: WallMillis) -> Result<Job, &'static str> {
        let asked = self.held(id, version)?.job.cancel_requested;
        match outcome {
            Outcome::Cancelled | Outcome::Failed => Ok(self.end(id, outcome, at)),
            Outcome::Interrupted if asked => Ok(self.end(id, outcome, at)),
            Outcome::Interrupted | Outcome::Succeeded => Err("wrong state"),
        }
    }

    fn end(&mut self, id: JobId, outcome: Outcome, at: WallMillis) -> Job {
        let known = self.find(id).unwrap();
        known.shown = (outcome != Outcome::Cancelled).then_some(at);
        let job = moved(known, JobState::Ended(outcome));
        self.ends.push(id);
        // Those with a history entry and those without push out only their own.
        let shown = outcome != Outcome::Cancelled;
        let mut alike = self.ended(&job.owner.scope());
        alike.retain(|known| known.shown.is_some() == shown);
        if alike.len() > self.ended_jobs_max {
            self.remove(alike[0].job.id);
        }
        job
    }

    fn forget(&mut self, id: JobId) -> Result<(), &'static str> {
        match self.find(id) {
            Ok(known) if !known.job.state.is_ended() => return Err("wrong state"),
            Ok(_) => self.remove(id),
            Err(_) => {}
        }
        Ok(())
    }

    fn remove(&mut self, id: JobId) {
        self.known.retain(|known| known.job.id != id);
        self.ends.retain(|ended| *ended != id);
    }

    /// The ended jobs of a scope, oldest end first.
    fn ended(&mut self, scope: &OwnerScope) -> Vec<Known> {
        let ends = self.ends.clone();
        let all = ends.into_iter().map(|id| self.find(id).unwrap().clone());
        all.filter(|known| known.job.owner.scope() == *scope).collect()
    }
}

/// Every change of a job is one version.
fn moved(known: &mut Known, state: JobState) -> Job {
    known.job.state = state;
    known.job.version += 1;
    known.job.clone()
}

/// `SplitMix64`: the same walk for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// A walk of random transitions, each done by the model too.
pub(super) struct Walk {
    dice: Dice,
    model: Model,
    /// Every job there ever was, the forgotten ones too, as it was accepted.
    jobs: Vec<Job>,
    now: u64,
    /// Each transition with each kind of outcome that it had.
    pub(super) seen: BTreeSet<(&'static str, &'static str)>,
}

impl Walk {
    /// On a ledger that remembers `ended_jobs_max` ended jobs a scope.
    pub(super) fn new(seed: u64, ended_jobs_max: usize) -> Self {
        let model = Model { ended_jobs_max, ..Model::default() };
        Self { dice: Dice(seed), model, jobs: vec![], now: 0, seen: BTreeSet::new() }
    }

    fn owners() -> [Owner; 3] {
        [("a", None), ("a", Some("ann")), ("b", None)].map(|(tenant, user)| Owner {
            tenant: tenant.parse().unwrap(),
            user: user.map(|user: &str| user.parse().unwrap()),
            key: None,
            shared: false,
        })
    }

    /// One transition, compared with the model's.
    pub(super) async fn step(&mut self, ledger: &impl Ledger) {
        self.now += 1;
        // An hour a step: a walk passes through days, weeks and months.
        let at = WallMillis(self.now * 3_600_000);
        let action = if self.jobs.is_empty() { 0 } else { self.dice.below(16) };
        let (what, outcome) = if action < 3 {
            let acceptance = self.acceptance(at);
            let done = ledger.accept(acceptance.clone()).await.map_err(|error| kind(&error));
            let job = done.as_ref().ok().map(|(Accepted::New(job) | Accepted::Again(job))| job);
            assert_eq!(done, self.model.accept(&acceptance, job));
            if let Ok(Accepted::New(job)) = &done {
                self.jobs.push(job.clone());
            }
            let outcome = match &done {
                Ok(Accepted::New(_)) => "new",
                Ok(Accepted::Again(_)) => "again",
                Err(kind) => kind,
            };
            ("accept", outcome)
        } else {
            self.move_one(ledger, action, at).await
        };
        self.seen.insert((what, outcome));
    }

    fn acceptance(&mut self, at: WallMillis) -> Acceptance {
        let graph = if self.dice.one_in(4) { "[]" } else { "{}" };
        let name = ["p", "q", "r", "s", "t", "u", "v", "w"][self.dice.below(8)];
        let key = ["k", "l", "m", "n"][self.dice.below(4)].to_owned();
        let mut acceptance = Acceptance { active_jobs_max: 4, at, ..submission("a", name, graph) };
        acceptance.owner = Self::owners()[self.dice.below(3)].clone();
        acceptance.reservation = self.reservation();
        acceptance.idempotency_key = self.dice.one_in(3).then_some(key);
        if self.dice.one_in(3) {
            acceptance.prompt_id = None;
        }
        acceptance
    }

    fn seconds(&mut self, below: usize) -> Charge {
        Charge::of_millis(self.dice.below(below * 1000) as u64)
    }

    fn period(&mut self) -> Period {
        [Period::Day, Period::Week, Period::Month][self.dice.below(3)]
    }

    fn reservation(&mut self) -> Reservation {
        let tenant = self.dice.one_in(3).then(|| self.seconds(300));
        let user = self.dice.one_in(3).then(|| self.seconds(100));
        Reservation { amount: self.seconds(5), budget: Budget { period: self.period(), tenant, user } }
    }

    /// Any job, the forgotten ones too; one that has not ended more often than not.
    fn some_job(&mut self) -> Job {
        let known = self.model.known.iter().map(|known| &known.job);
        let jobs: Vec<&Job> = match self.dice.below(8) {
            0 => self.jobs.iter().collect(),
            1 => known.collect(),
            _ => known.filter(|job| !job.state.is_ended()).collect(),
        };
        if jobs.is_empty() { self.jobs[0].clone() } else { jobs[self.dice.below(jobs.len())].clone() }
    }

    async fn move_one(&mut self, ledger: &impl Ledger, action: usize, at: WallMillis) -> (&'static str, &'static str) {
        let now = self.some_job();
        let id = now.id;
        let version = if self.dice.one_in(8) { now.version.wrapping_sub(1) } else { now.version };
        let n = now.attempts.len() - usize::from(self.dice.one_in(8) && !now.attempts.is_empty());
        let attempt = AttemptId { job: id, n: u32::try_from(n).unwrap() };
        let outcomes = [Outcome::Succeeded, Outcome::Failed, Outcome::Interrupted, Outcome::Cancelled];
        let outcome = outcomes[self.dice.below(4)];
        let prompt = OwnedPrompt::new(now);
        let told = |done: Result<(), &'static str>| done.err().unwrap_or("done");
        match action {
            3..=5 => {
                let done = ledger.assign(id, version, &"gpu0".parse().unwrap(), at).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.assign(id, version, done.as_ref().ok()));
                ("assign", told(done.map(drop)))
            }
            6..=7 => {
                let done = ledger.start(attempt, at).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.start(attempt, at));
                ("start", told(done.map(drop)))
            }
            8 => {
                let done = ledger.lose(attempt, "it died", Reached::Perhaps).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.lose(attempt, "it died"));
                ("lose", told(done.map(drop)))
            }
            9..=11 => {
                let outputs = serde_json::json!({"9": {"images": [{}]}}).as_object().unwrap().clone();
                let charged = (!self.dice.one_in(4)).then(|| self.seconds(8));
                let result = JobResult { outputs, charged, ..JobResult::default() };
                let files = vec![image(self.now, "/9/images/0")];
                let done = ledger.commit(attempt, outcome, result, files, at).await.map_err(|error| kind(&error));
                let shown =
                    |result: JobResult| result.outputs["9"]["images"][0]["filename"].as_str().unwrap().to_owned();
                let done = done.map(|(job, result)| (job, shown(result)));
                assert_eq!(done, self.model.commit(attempt, outcome, charged, at));
                ("commit", told(done.map(drop)))
            }
            12..=13 => {
                // A charge of what is no attempt's is not booked.
                let told = JobResult { charged: Some(self.seconds(8)), ..JobResult::default() };
                let told = self.dice.one_in(2).then_some(told);
                let done = ledger.end_held(id, version, outcome, told, at).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.end_held(id, version, outcome, at));
                ("end_held", done.map(drop).err().unwrap_or("done"))
            }
            14 => {
                let done = ledger.request_cancel(&prompt).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.request_cancel(id));
                ("request_cancel", told(done.map(drop)))
            }
            _ => {
                let done = ledger.forget(&prompt).await.map_err(|error| kind(&error));
                assert_eq!(done, self.model.forget(id));
                ("forget", told(done))
            }
        }
    }

    /// Everything that can be read is what the model holds.
    pub(super) async fn compare(&mut self, ledger: &impl Ledger) {
        let jobs = |prompts: &[OwnedPrompt]| prompts.iter().map(|prompt| prompt.job().clone()).collect::<Vec<_>>();
        let at = WallMillis(self.now * 3_600_000);
        for scope in Self::owners().map(|owner| owner.scope()) {
            for period in [Period::Day, Period::Week, Period::Month] {
                let stands = ledger.spending(&scope, period, at).await.unwrap();
                assert_eq!(stands, self.model.spending(&scope, period, at), "{scope:?}");
            }
            let own: Vec<Known> =
                self.model.known.iter().filter(|known| known.job.owner.scope() == scope).cloned().collect();
            let queue: Vec<Job> =
                own.iter().map(|known| known.job.clone()).filter(|job| !job.state.is_ended()).collect();
            assert_eq!(ledger.queue_remaining(&scope).await.unwrap(), queue.len() as u64);
            assert_eq!(jobs(&ledger.queue(&scope).await.unwrap()), queue);
            let history = ledger.history(&scope, HistoryPage::default()).await.unwrap();
            let entries = history.iter().map(|(prompt, result)| (prompt.job().clone(), result.ended_at.unwrap()));
            let ended = self.model.ended(&scope);
            let shown = ended.iter().filter_map(|known| Some((known.job.clone(), known.shown?)));
            assert_eq!(entries.collect::<Vec<_>>(), shown.collect::<Vec<_>>());
            // A name that a deleted job left may be its next bearer's, or nobody's.
            for known in own.iter().filter(|known| known.job.state != JobState::Ended(Outcome::Cancelled)) {
                assert_eq!(ledger.owned_prompt(&scope, &known.job.prompt_id).await.unwrap().job(), &known.job);
            }
        }
        // The report has every charge once, however it is cut.
        for by in [vec![], vec![Dimension::Day, Dimension::Tenant, Dimension::User, Dimension::Model]] {
            let rows = ledger.usage(UsageQuery { from: Day::numbered(0), to: Day::of(at), tenant: None, by }).await;
            let rows = rows.unwrap();
            let sum = rows.iter().fold(Charge::ZERO, |sum, (_, usage)| sum.plus(usage.charge));
            assert_eq!(sum, self.model.charges.iter().fold(Charge::ZERO, |sum, charge| sum.plus(charge.2)));
            let jobs = rows.iter().map(|(_, usage)| usage.jobs).sum::<u64>();
            assert_eq!(jobs, self.model.charges.len() as u64);
        }
        let active: Vec<Job> =
            self.model.known.iter().map(|known| known.job.clone()).filter(|job| !job.state.is_ended()).collect();
        assert_eq!(ledger.active_jobs().await.unwrap(), active);
        for job in &self.jobs[self.jobs.len().saturating_sub(12)..] {
            let shown = self.model.find(job.id).ok().and_then(|known| known.shown);
            let result = ledger.result(&OwnedPrompt::new(job.clone())).await.unwrap();
            assert_eq!(result.and_then(|result| result.ended_at), shown);
        }
    }
}
