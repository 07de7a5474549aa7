//! What jobs cost and how much of that a tenant may have: the unit, the limits, and the rule that compares them. Pure.

use crate::calendar::{Day, Period};
use crate::clock::WallMillis;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The one charged unit: seconds of a GPU of speed 1, kept in whole milliseconds so that sums are exact in whichever order they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Charge(u64);

impl Charge {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Set aside for any job, however small it is thought to be: what it is thought to take is learned from others, and may be nothing.
    pub const RESERVED_MIN: Self = Self(1000);
    /// No job is charged or set aside as more: a week.
    pub const JOB_MAX: Self = Self(604_800_000);

    /// Of so many milliseconds.
    pub const fn of_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Of so many seconds, at most [`Charge::JOB_MAX`]: what can't be counted counts as that.
    pub fn of_seconds(seconds: f64) -> Self {
        let max = Self::JOB_MAX.seconds();
        let seconds = if seconds.is_nan() { max } else { seconds.clamp(0.0, max) };
        Self(u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(Self::JOB_MAX.0))
    }

    /// In milliseconds.
    pub fn millis(self) -> u64 {
        self.0
    }

    /// In seconds, for people and programs that read numbers.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// The sum; saturates.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; none below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// In seconds with three digits behind the point.
impl fmt::Display for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// How much may be spent in a period; `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// After which it is counted anew.
    pub period: Period,
    /// By all users of the tenant together.
    pub tenant: Option<Charge>,
    /// By each of them; those without a name count as one.
    pub user: Option<Charge>,
}

/// What stands against a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spending {
    /// Charged for jobs that were accepted in the period and have ended.
    pub used: Charge,
    /// Set aside for those that have not.
    pub reserved: Charge,
}

impl Spending {
    /// Both.
    pub fn sum(self) -> Charge {
        self.used.plus(self.reserved)
    }
}

/// Whose budget it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// That of all users of a tenant.
    Tenant,
    /// That of one of them.
    User,
}

/// A job that no longer fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverBudget {
    /// Into whose budget.
    pub whose: Whose,
    /// What stands against it.
    pub spending: Spending,
    /// What would have been set aside.
    pub wanted: Charge,
    /// How much there may be.
    pub limit: Charge,
    /// Of the limit.
    pub period: Period,
    /// When it was asked for.
    pub at: WallMillis,
}

/// When jobs that have not ended are in the way: some of them will have by then.
const RETRY_ENDS: Duration = Duration::from_secs(60);
/// Nobody is told to wait for longer: limits are raised meanwhile, and clients keep no timers of weeks.
const RETRY_MAX: Duration = Duration::from_secs(24 * 3600);

impl OverBudget {
    /// Whether it would fit into an empty budget.
    pub fn ever_fits(&self) -> bool {
        self.wanted <= self.limit
    }

    /// When the budget is counted anew.
    pub fn renews_at(&self) -> WallMillis {
        self.period.renews_at(self.at)
    }

    /// When it is worth asking again.
    pub fn retry_after(&self) -> Duration {
        let rest = self.period.rest(self.at);
        // What is set aside is a bound: as a rule, part of it comes back.
        let once_they_end = self.spending.used.plus(self.wanted) <= self.limit;
        rest.min(if once_they_end { RETRY_ENDS } else { RETRY_MAX })
    }
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = match self.whose {
            Whose::Tenant => "the tenant's",
            Whose::User => "your",
        };
        let Spending { used, reserved } = self.spending;
        write!(
            f,
            "this job may take {} GPU seconds and does not fit into {whose} budget of {} for the {}: {used} are used, {reserved} are set aside for jobs that have not ended, \
             and it is counted anew on {} (UTC)",
            self.wanted,
            self.limit,
            self.period.name(),
            Day::of(self.renews_at()),
        )
    }
}

impl Budget {
    /// Whether a job fits for which `wanted` is set aside.
    ///
    /// # Errors
    /// [`OverBudget`], of the tenant's budget first: nothing that a user does helps there.
    pub fn check(&self, tenant: Spending, user: Spending, wanted: Charge, at: WallMillis) -> Result<(), OverBudget> {
        for (whose, spending, limit) in [(Whose::Tenant, tenant, self.tenant), (Whose::User, user, self.user)] {
            if let Some(limit) = limit
                && spending.sum().plus(wanted) > limit
            {
                return Err(OverBudget { whose, spending, wanted, limit, period: self.period, at });
            }
        }
        Ok(())
    }

    /// Whether there is one at all.
    pub fn is_limited(&self) -> bool {
        self.tenant.is_some() || self.user.is_some()
    }
}

/// What a job that is to be accepted sets aside, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reservation {
    /// As much as it may take; kept where there is no limit too, since one may be set later.
    pub amount: Charge,
    /// The limits of now.
    pub budget: Budget,
}

impl Reservation {
    /// For a job that is thought to take so many seconds of a GPU of speed 1.
    pub fn of(seconds: f64, budget: Budget) -> Self {
        Self { amount: Charge::of_seconds(seconds).max(Charge::RESERVED_MIN), budget }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Charge {
        Charge::of_millis(seconds * 1000)
    }

    fn spent(used: u64, reserved: u64) -> Spending {
        Spending { used: seconds(used), reserved: seconds(reserved) }
    }

    #[test]
    fn a_charge_is_whole_milliseconds_between_nothing_and_a_week() {
        assert_eq!(Charge::of_seconds(1.2345), Charge::of_millis(1234));
        assert_eq!(Charge::of_seconds(-1.0), Charge::ZERO);
        for odd in [f64::NAN, f64::INFINITY, 1e18, 604_801.0] {
            assert_eq!(Charge::of_seconds(odd), Charge::JOB_MAX, "{odd}");
        }
        assert_eq!(Charge::of_seconds(f64::NEG_INFINITY), Charge::ZERO);
        assert_eq!(Charge::of_millis(61_005).to_string(), "61.005");
        assert_eq!(Charge::of_millis(u64::MAX).plus(seconds(1)).minus(Charge::of_millis(u64::MAX)), Charge::ZERO);
    }

    #[test]
    fn a_job_sets_aside_what_it_may_take_and_a_second_at_least() {
        assert_eq!(Reservation::of(0.0, Budget::default()).amount, seconds(1));
        assert_eq!(Reservation::of(0.999, Budget::default()).amount, seconds(1));
        assert_eq!(Reservation::of(1.5, Budget::default()).amount, Charge::of_millis(1500));
        assert_eq!(Reservation::of(f64::NAN, Budget::default()).amount, Charge::JOB_MAX);
    }

    #[test]
    fn what_is_used_set_aside_and_wanted_may_be_the_limit_and_not_a_millisecond_more() {
        let budget = Budget { tenant: Some(seconds(100)), user: Some(seconds(40)), ..Budget::default() };
        let check = |tenant, user, wanted| budget.check(tenant, user, wanted, WallMillis(0)).map_err(|over| over.whose);
        assert_eq!(check(spent(50, 40), spent(0, 0), seconds(10)), Ok(()));
        assert_eq!(check(spent(50, 40), spent(0, 0), Charge::of_millis(10_001)), Err(Whose::Tenant));
        assert_eq!(check(spent(50, 0), spent(20, 10), seconds(10)), Ok(()));
        assert_eq!(check(spent(50, 0), spent(20, 10), Charge::of_millis(10_001)), Err(Whose::User));
        let none = Budget::default();
        assert_eq!(none.check(spent(u64::MAX / 1000, 9), spent(9, 9), Charge::JOB_MAX, WallMillis(0)), Ok(()));
    }

    #[test]
    fn who_is_refused_is_told_when_to_ask_again() {
        let noon = WallMillis("2026-11-30".parse::<Day>().unwrap().start().0 + 12 * 3_600_000);
        let over = |used, reserved, wanted, at, period| OverBudget {
            whose: Whose::User,
            spending: spent(used, reserved),
            wanted: seconds(wanted),
            limit: seconds(100),
            period,
            at,
        };
        // The jobs in the way may end at any moment.
        assert_eq!(over(50, 40, 20, noon, Period::Month).retry_after(), Duration::from_secs(60));
        // What is used is used until the period ends.
        assert_eq!(over(90, 0, 20, noon, Period::Month).retry_after(), Duration::from_secs(12 * 3600));
        let early = WallMillis(noon.0 - 20 * 86_400_000);
        assert_eq!(over(90, 0, 20, early, Period::Month).retry_after(), RETRY_MAX);
        let late = WallMillis(noon.0 + 12 * 3_600_000 - 5000);
        assert_eq!(over(50, 40, 20, late, Period::Day).retry_after(), Duration::from_secs(5));
        assert!(over(90, 0, 100, noon, Period::Day).ever_fits());
        assert!(!over(0, 0, 101, noon, Period::Day).ever_fits());
        let told = over(90, 1, 20, noon, Period::Month).to_string();
        for part in [
            "20.000 GPU seconds",
            "your budget of 100.000",
            "for the month",
            "90.000 are used",
            "1.000 are set aside",
            "anew on 2026-12-01",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
