//! The scheduler by its promises: who is next, where, and that nothing is lost between its indexes.

use super::*;

fn id(number: u64) -> JobId {
    JobId::from_bytes(u128::from(number).to_be_bytes())
}

fn number(job: JobId) -> u64 {
    u64::try_from(u128::from_be_bytes(job.bytes())).unwrap()
}

fn request(job: u64, tenant: &str) -> Request {
    Request {
        job: id(job),
        tenant: tenant.parse().unwrap(),
        share: Share::default(),
        user: None,
        band: Band::Normal,
        place: 0,
        sequence: job,
        seconds: 10.0,
        models: Vec::new(),
        load_seconds: 10.0,
        eligible: [0, 1, 2, 3].into_iter().collect(),
        since: 0,
    }
}

fn with_models(request: Request, models: &[&str]) -> Request {
    Request { models: models.iter().map(|model| (*model).to_owned()).collect(), ..request }
}

fn scheduler(backends: usize) -> Scheduler {
    let mut scheduler = Scheduler::new(Tuning::default());
    for _ in 0..backends {
        scheduler.add_backend(1, 1.0);
    }
    scheduler
}

/// Runs everything on one backend, each job as long as it was thought to take; gives the order.
fn order(scheduler: &mut Scheduler) -> Vec<u64> {
    let mut jobs = Vec::new();
    let mut now = 0;
    while let Some(assignment) = scheduler.next(now) {
        jobs.push(number(assignment.job));
        scheduler.settle(assignment.job, 10.0);
        now += 10_000;
        free(scheduler, assignment.backend, now);
    }
    jobs
}

/// The next job, where it goes, and whether that loads its models.
fn next(scheduler: &mut Scheduler, now: Millis) -> Option<(u64, usize, bool)> {
    scheduler.next(now).map(|next| (number(next.job), next.backend, next.loads))
}

fn free(scheduler: &mut Scheduler, backend: usize, now: Millis) {
    let seat = scheduler.backend(backend).unwrap();
    (seat.open, seat.busy_until) = (1, now);
}

#[test]
fn tenants_take_turns_whatever_one_of_them_sent() {
    let mut scheduler = scheduler(1);
    (0..6).for_each(|job| scheduler.hold(request(job, "many")));
    (6..8).for_each(|job| scheduler.hold(request(job, "few")));
    assert_eq!(order(&mut scheduler), [0, 6, 1, 7, 2, 3, 4, 5]);
    assert!(scheduler.is_empty());
}

#[test]
fn weights_share_in_their_ratio() {
    let mut scheduler = scheduler(1);
    for job in 0..40 {
        let share = Share { weight: if job % 2 == 0 { 3 } else { 1 }, ..Share::default() };
        scheduler.hold(Request { share, ..request(job, if job % 2 == 0 { "three" } else { "one" }) });
    }
    let first: Vec<u64> = order(&mut scheduler).into_iter().take(20).collect();
    assert_eq!(first.iter().filter(|job| *job % 2 == 0).count(), 15, "{first:?}");
}

#[test]
fn long_jobs_count_as_long_and_what_was_thought_is_put_right() {
    let mut scheduler = scheduler(1);
    for job in 0..4 {
        scheduler.hold(Request { seconds: 30.0, ..request(job, "long") });
        scheduler.hold(request(10 + job, "short"));
    }
    assert_eq!(next(&mut scheduler, 0).unwrap().0, 0);
    free(&mut scheduler, 0, 0);
    // It took a third of what was thought: its tenant stands where the other will after one job.
    scheduler.settle(id(0), 10.0);
    let mut following = || {
        let job = next(&mut scheduler, 0).unwrap().0;
        free(&mut scheduler, 0, 0);
        job
    };
    assert_eq!((0..5).map(|_| following()).collect::<Vec<_>>(), [10, 1, 11, 12, 13]);
}

#[test]
fn a_job_that_failed_by_our_fault_costs_nothing() {
    let mut scheduler = scheduler(1);
    scheduler.hold(request(0, "a"));
    scheduler.hold(request(1, "b"));
    assert_eq!(next(&mut scheduler, 0).unwrap().0, 0);
    scheduler.settle(id(0), 0.0);
    free(&mut scheduler, 0, 0);
    scheduler.hold(request(0, "a"));
    assert_eq!(next(&mut scheduler, 0).unwrap().0, 0, "it stands where it stood");
}

#[test]
fn users_of_a_tenant_take_turns_and_have_their_own_jobs_in_order() {
    let mut scheduler = scheduler(1);
    let of = |job, user: &str| Request { user: Some(user.parse().unwrap()), ..request(job, "t") };
    (0..3).for_each(|job| scheduler.hold(of(job, "ann")));
    scheduler.hold(of(3, "ben"));
    scheduler.hold(Request { place: -1, ..of(4, "ann") });
    assert_eq!(order(&mut scheduler), [4, 3, 0, 1, 2]);
}

#[test]
fn a_job_moves_to_another_place_and_a_withdrawn_one_never_runs() {
    let mut scheduler = scheduler(1);
    (0..4).for_each(|job| scheduler.hold(request(job, "t")));
    scheduler.replace(id(3), -1, 0);
    assert!(scheduler.withdraw(id(1)) && !scheduler.withdraw(id(1)) && !scheduler.contains(id(1)));
    scheduler.hold(request(0, "t"));
    assert_eq!(scheduler.len(), 3, "one that is held is held once");
    assert_eq!(order(&mut scheduler), [3, 0, 2]);
}

#[test]
fn who_was_away_is_next_but_saves_up_no_more_than_its_credit() {
    let mut scheduler = scheduler(1);
    scheduler.hold(request(1000, "away"));
    (0..200).for_each(|job| scheduler.hold(request(job, "busy")));
    let mut now = 0;
    for _ in 0..101 {
        let job = next(&mut scheduler, now).unwrap().0;
        scheduler.settle(id(job), 10.0);
        now += 10_000;
        free(&mut scheduler, 0, now);
    }
    // A thousand seconds of the other's have passed.
    (2000..2100).for_each(|job| scheduler.hold(request(job, "away")));
    let order = order(&mut scheduler);
    let before = order.iter().take_while(|job| **job >= 2000).count();
    let credit = Tuning::default().credit_seconds / 10.0;
    // And one job more, that the other had begun.
    assert!((credit as usize..=credit as usize + 2).contains(&before), "{before}");
}

#[test]
fn a_tenant_runs_as_many_at_once_as_it_may_and_a_paused_one_none() {
    let mut scheduler = scheduler(3);
    let two = Share { running_max: 2, ..Share::default() };
    (0..3).for_each(|job| scheduler.hold(Request { share: two, ..request(job, "t") }));
    assert!(scheduler.next(0).is_some() && scheduler.next(0).is_some());
    assert_eq!(next(&mut scheduler, 0), None, "a third is one too many");
    scheduler.settle(id(0), 10.0);
    scheduler.set_share(&"t".parse().unwrap(), Share { running_max: 0, ..two });
    assert_eq!(next(&mut scheduler, 0), None, "paused");
    scheduler.set_share(&"t".parse().unwrap(), two);
    assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(2));
}

#[test]
fn the_higher_band_goes_first_and_what_it_keeps_waiting_rises_one_at_a_time() {
    let tuning = Tuning { ageing: 100_000, ..Tuning::default() };
    let mut scheduler = Scheduler::new(tuning);
    scheduler.add_backend(1, 1.0);
    (0..3).for_each(|job| scheduler.hold(Request { band: Band::Low, ..request(job, "low") }));
    (10..40).for_each(|job| scheduler.hold(Request { band: Band::High, ..request(job, "high") }));
    let order = order(&mut scheduler);
    let places: Vec<usize> = (0..3).map(|job| order.iter().position(|known| *known == job).unwrap()).collect();
    // Low rises to Normal after 100 s, and to High after 100 s more; then the next begins.
    assert!(places[0] >= 20 && places[0] < 25 && places[1] > places[0] + 5, "{places:?}");
    let mut alone = Scheduler::new(tuning);
    alone.add_backend(1, 1.0);
    (0..30).for_each(|job| alone.hold(request(job, "many")));
    for job in 30..33 {
        alone.hold(request(job, "few"));
    }
    let order = self::order(&mut alone);
    assert!(order.iter().take(6).filter(|job| **job >= 30).count() == 3, "age alone pushes nobody aside: {order:?}");
}

#[test]
fn a_job_goes_only_where_it_may_and_does_not_block_what_may_go_elsewhere() {
    let mut scheduler = scheduler(2);
    scheduler.backend(1).unwrap().open = 0;
    scheduler.hold(Request { eligible: [1].into_iter().collect(), ..request(0, "t") });
    scheduler.hold(Request { eligible: BackendSet::default(), ..request(1, "t") });
    scheduler.hold(request(2, "t"));
    assert_eq!(next(&mut scheduler, 0), Some((2, 0, false)));
    assert_eq!(next(&mut scheduler, 0), None);
    free(&mut scheduler, 1, 0);
    assert_eq!(next(&mut scheduler, 0), Some((0, 1, false)));
    assert!(scheduler.contains(id(1)), "it waits for a backend that may run it");
}

#[test]
fn a_job_goes_where_its_models_are_then_where_none_are_then_where_they_are_missed_least() {
    let mut scheduler = scheduler(3);
    let run = |scheduler: &mut Scheduler, job, models: &[&str]| {
        scheduler.hold(with_models(request(job, "t"), models));
        let (_, backend, loads) = next(scheduler, 0).unwrap();
        scheduler.settle(id(job), 10.0);
        free(scheduler, backend, 0);
        (backend, loads)
    };
    assert_eq!(run(&mut scheduler, 0, &["xl", "vae"]), (0, true));
    assert_eq!(run(&mut scheduler, 1, &["flux"]), (1, true));
    assert_eq!(run(&mut scheduler, 2, &["vae", "xl"]), (0, false));
    assert_eq!(run(&mut scheduler, 3, &["xl"]), (0, false), "some of those that are there");
    assert_eq!(run(&mut scheduler, 4, &["wan"]), (2, true));
    assert_eq!(run(&mut scheduler, 5, &[]).1, false);
    scheduler.unloaded(1);
    assert_eq!(run(&mut scheduler, 6, &["sd3"]), (1, true));
}

/// One backend with `a` loaded, that is free; a job of `due` for `b`, and one of `other` for `a`.
fn contested(taken_by_other: f64) -> Scheduler {
    let mut scheduler = scheduler(1);
    scheduler.hold(with_models(Request { seconds: taken_by_other, ..request(0, "other") }, &["a"]));
    assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(0));
    scheduler.settle(id(0), taken_by_other);
    free(&mut scheduler, 0, 0);
    scheduler.hold(with_models(request(1, "due"), &["b"]));
    scheduler.hold(with_models(request(2, "other"), &["a"]));
    scheduler
}

#[test]
fn a_tenant_within_the_window_is_preferred_where_its_models_are_and_one_beyond_is_not() {
    let window = Tuning::default().window_seconds;
    assert_eq!(next(&mut contested(window - 0.1), 0).map(|next| next.0), Some(2));
    assert_eq!(next(&mut contested(window + 0.1), 0), Some((1, 0, true)));
}

#[test]
fn who_is_due_is_passed_over_no_longer_than_the_patience() {
    let patience = (10.0 * Tuning::default().patience * 1000.0) as Millis;
    for (waited, expected) in [(patience - 1, 3), (patience, 1)] {
        let mut scheduler = contested(20.0);
        assert_eq!(next(&mut scheduler, 5).map(|next| next.0), Some(2), "from now on it is passed over");
        scheduler.settle(id(2), 10.0);
        free(&mut scheduler, 0, 0);
        scheduler.hold(with_models(request(3, "other"), &["a"]));
        assert_eq!(next(&mut scheduler, 5 + waited).map(|next| next.0), Some(expected), "after {waited} ms");
    }
}

#[test]
fn a_job_waits_for_a_busy_backend_with_its_models_that_is_free_before_another_has_loaded_them() {
    for (left, expected) in [(10_000, None), (10_001, Some((1, 1, true)))] {
        let mut scheduler = scheduler(2);
        scheduler.hold(with_models(request(0, "t"), &["a"]));
        assert_eq!(next(&mut scheduler, 0).map(|next| next.1), Some(0));
        scheduler.backend(0).unwrap().busy_until = left;
        scheduler.hold(with_models(request(1, "t"), &["a"]));
        assert_eq!(next(&mut scheduler, 0), expected, "with {left} ms left");
    }
}

#[test]
fn only_so_much_is_left_to_a_busy_backend() {
    let mut scheduler = scheduler(2);
    scheduler.hold(with_models(request(0, "t"), &["a"]));
    assert!(next(&mut scheduler, 0).is_some());
    scheduler.backend(0).unwrap().busy_until = 5_000;
    scheduler.hold(with_models(request(1, "u"), &["a"]));
    scheduler.hold(with_models(request(2, "v"), &["a"]));
    // The first is left to it; the second would wait for fifteen seconds, and loads the models in ten.
    assert_eq!(next(&mut scheduler, 0), Some((2, 1, true)));
}

#[test]
fn odd_numbers_are_bounded() {
    for seconds in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        let mut scheduler = scheduler(1);
        scheduler.hold(Request { seconds, load_seconds: seconds, ..request(0, "t") });
        assert!(scheduler.next(0).is_some());
        scheduler.settle(id(0), seconds);
    }
}

/// Random calls; after each, what the indexes say is what the jobs say.
#[test]
fn nothing_is_lost_between_the_indexes() {
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut scheduler = scheduler(4);
    let (mut now, mut jobs, mut running): (Millis, u64, Vec<(JobId, usize)>) = (0, 0, Vec::new());
    let (mut held, mut ran) = (0_usize, 0_usize);
    for round in 0..20_000 {
        now += random(3000);
        match random(10) {
            0..4 => {
                let eligible = (0..4).filter(|_| random(3) > 0).collect();
                let band = [Band::High, Band::Normal, Band::Low][random(3) as usize];
                let share = Share { weight: 1 + random(3) as u32, running_max: 1 + random(3) as u32 };
                let request = Request {
                    eligible,
                    band,
                    share,
                    seconds: random(60) as f64,
                    since: now,
                    user: Some(random(3).to_string().parse().unwrap()),
                    ..request(jobs, &random(9).to_string())
                };
                scheduler.hold(with_models(request, &[["a"], ["b"], ["c"]][random(3) as usize]));
                jobs += 1;
                held += 1;
            }
            4 => held -= usize::from(scheduler.withdraw(id(random(jobs.max(1))))),
            5 => scheduler.replace(id(random(jobs.max(1))), random(5) as i64 - 2, now),
            6 if !running.is_empty() => {
                let (job, backend) = running.swap_remove(random(running.len() as u64) as usize);
                scheduler.settle(job, random(60) as f64);
                free(&mut scheduler, backend, now);
            }
            _ => {
                if let Some(Assignment { job, backend, .. }) = scheduler.next(now) {
                    assert!(running.iter().all(|(known, at)| *known != job && *at != backend));
                    running.push((job, backend));
                    held -= 1;
                    ran += 1;
                }
            }
        }
        assert_eq!(scheduler.len(), held);
        if round % 64 == 0 {
            scheduler.flows.check(&scheduler.shares);
        }
    }
    assert!(ran > 1500, "{ran}");
    // Everything that may run does, once all are served.
    for (job, backend) in running {
        scheduler.settle(job, 1.0);
        free(&mut scheduler, backend, now);
    }
    let stuck = |scheduler: &Scheduler| {
        scheduler.held.values().all(|held| scheduler.sets.get(held.entry.set).unwrap().is_empty())
    };
    while let Some(Assignment { job, backend, .. }) = scheduler.next(now) {
        scheduler.settle(job, 1.0);
        now += 1000;
        free(&mut scheduler, backend, now);
    }
    assert!(stuck(&scheduler), "only what may run nowhere is left");
    let rest: Vec<JobId> = scheduler.held.keys().copied().collect();
    assert!(rest.into_iter().all(|job| scheduler.withdraw(job)));
    scheduler.flows.check(&scheduler.shares);
    assert_eq!(scheduler.sets.iter().count(), 0, "nothing is kept of what is over");
}
