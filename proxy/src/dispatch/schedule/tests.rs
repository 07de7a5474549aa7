//! The scheduler by its promises: who is next, where, and that nothing is lost between its indexes.

use super::*;
use std::collections::HashSet;

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
        placed: false,
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
fn a_backend_that_is_told_to_have_models_gets_their_jobs_without_loading_and_one_without_them_does_not() {
    let mut scheduler = scheduler(2);
    scheduler.warmed(1, vec!["b".into(), "a".into()]);
    scheduler.hold(with_models(request(1, "x"), &["a", "b"]));
    assert_eq!(next(&mut scheduler, 0), Some((1, 1, false)));
    free(&mut scheduler, 1, 0);
    scheduler.settle(id(1), 1.0);
    scheduler.warmed(1, Vec::new());
    scheduler.hold(with_models(request(2, "x"), &["a", "b"]));
    let (job, _, loads) = next(&mut scheduler, 0).unwrap();
    assert!(job == 2 && loads, "nobody has them any more");
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
fn jobs_that_take_nearly_nothing_are_shared_by_weight_too() {
    let mut scheduler = scheduler(1);
    for job in 0..80 {
        let share = Share { weight: if job % 2 == 0 { 3 } else { 1 }, ..Share::default() };
        scheduler.hold(Request { share, seconds: 0.0, ..request(job, if job % 2 == 0 { "three" } else { "one" }) });
    }
    let mut order = Vec::new();
    // One runs while the next is chosen.
    while let Some(assignment) = scheduler.next(0) {
        order.push(number(assignment.job));
        if let [.., before, _] = order.as_slice() {
            scheduler.settle(id(*before), 0.001);
        }
        free(&mut scheduler, 0, 0);
    }
    let threes = order.iter().take(40).filter(|job| *job % 2 == 0).count();
    assert!((29..=31).contains(&threes), "{order:?}");
}

#[test]
fn users_of_a_tenant_take_turns_and_have_their_own_jobs_in_order() {
    let mut scheduler = scheduler(1);
    let of = |job, user: &str| Request { user: Some(user.parse().unwrap()), ..request(job, "t") };
    (0..3).for_each(|job| scheduler.hold(of(job, "ann")));
    scheduler.hold(of(3, "ben"));
    scheduler.hold(Request { place: -1, placed: true, ..of(4, "ann") });
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
fn of_backends_with_the_models_it_takes_the_one_that_is_done_first() {
    for (busy, speed, expected) in [(0, 1.0, 0), (1, 1.0, 1), (9_999, 2.0, 0), (10_000, 2.0, 0), (10_001, 2.0, 1)] {
        let mut scheduler = Scheduler::new(Tuning::default());
        scheduler.add_backend(2, speed);
        scheduler.add_backend(1, 0.5);
        for (job, backend) in [(0, 0), (1, 1)] {
            let eligible = [backend].into_iter().collect();
            scheduler.hold(with_models(Request { eligible, ..request(job, "t") }, &["a"]));
            assert_eq!(next(&mut scheduler, 0).map(|next| next.1), Some(backend));
            free(&mut scheduler, backend, 0);
        }
        // Ten seconds at speed 1 take twenty on the second.
        scheduler.backend(1).unwrap().speed = if speed > 1.0 { 2.0 / 3.0 } else { 1.0 };
        scheduler.backend(0).unwrap().busy_until = busy;
        scheduler.hold(with_models(request(2, "t"), &["a"]));
        assert_eq!(next(&mut scheduler, 0).map(|next| next.1), Some(expected), "{busy} ms busy, speed {speed}");
    }
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
    assert!(!run(&mut scheduler, 5, &[]).1);
    scheduler.unloaded(1);
    assert_eq!(run(&mut scheduler, 6, &["sd3"]), (1, true));
}

#[test]
fn a_job_near_the_front_goes_before_others_of_its_user_where_its_models_are_loaded_and_none_before_one_with_a_place() {
    let first = |between: u64, placed: Option<u64>| {
        let mut scheduler = scheduler(1);
        scheduler.hold(with_models(request(0, "t"), &["a"]));
        assert!(next(&mut scheduler, 0).is_some());
        scheduler.settle(id(0), 10.0);
        free(&mut scheduler, 0, 0);
        (1..=between).for_each(|job| {
            scheduler.hold(with_models(Request { placed: placed == Some(job), ..request(job, "t") }, &["b"]));
        });
        scheduler
            .hold(with_models(Request { placed: placed == Some(between + 1), ..request(between + 1, "t") }, &["a"]));
        next(&mut scheduler, 0)
    };
    assert_eq!(first(15, None), Some((16, 0, false)));
    assert_eq!(first(16, None), Some((1, 0, true)), "sixteen are near");
    assert_eq!(first(3, Some(2)), Some((1, 0, true)), "the second has a place of its own");
    assert_eq!(first(3, Some(4)), Some((1, 0, true)), "the last has");
    assert_eq!(first(3, Some(1)), Some((1, 0, true)), "the first has");
}

#[test]
fn later_jobs_run_on_free_backends_while_the_first_waits_for_a_busy_one() {
    let mut scheduler = scheduler(2);
    for (job, models) in [(0, "a"), (1, "b")] {
        scheduler.hold(with_models(request(job, "t"), &[models]));
        assert!(next(&mut scheduler, 0).is_some());
        scheduler.settle(id(job), 10.0);
    }
    scheduler.backend(0).unwrap().busy_until = 5_000;
    free(&mut scheduler, 1, 0);
    for (job, models) in [(2, "a"), (3, "b")] {
        scheduler.hold(with_models(request(job, "t"), &[models]));
    }
    assert_eq!(next(&mut scheduler, 0), Some((3, 1, false)));
    free(&mut scheduler, 1, 0);
    assert_eq!(next(&mut scheduler, 0), None, "the other is left to the backend that has its models soon");
}

#[test]
fn who_has_little_waiting_is_not_passed_over_by_who_has_much_of_what_is_loaded() {
    let window = Tuning::default().window_seconds;
    for (much, little, expected) in [(window, 9.9, 10), (window + 0.1, 9.9, 1), (window + 0.1, 10.0, 10)] {
        let mut scheduler = scheduler(1);
        scheduler.hold(with_models(request(0, "other"), &["a"]));
        assert!(next(&mut scheduler, 0).is_some());
        scheduler.settle(id(0), 10.0);
        free(&mut scheduler, 0, 0);
        scheduler.hold(with_models(Request { seconds: little, ..request(1, "due") }, &["b"]));
        (10..12).for_each(|job| {
            scheduler.hold(with_models(Request { seconds: much / 2.0, ..request(job, "other") }, &["a"]));
        });
        assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(expected), "{much} beside {little}");
    }
}

#[test]
fn what_was_taken_elsewhere_when_nobody_waited_keeps_nobody_waiting_here() {
    let mut scheduler = scheduler(2);
    let on = |backend: usize, job, tenant: &str| Request {
        eligible: [backend].into_iter().collect(),
        ..request(job, tenant)
    };
    // One tenant has the first backend to itself, for a long time; on the second, two share.
    for job in 0..100 {
        scheduler.hold(on(0, job, "alone"));
        assert_eq!(next(&mut scheduler, 0).map(|next| next.1), Some(0));
        scheduler.settle(id(job), 100.0);
        free(&mut scheduler, 0, 0);
    }
    (100..160).for_each(|job| scheduler.hold(on(1, job, if job % 2 == 0 { "a" } else { "b" })));
    scheduler.backend(0).unwrap().open = 0;
    let mut turns = || {
        let (job, backend, _) = next(&mut scheduler, 0).unwrap();
        scheduler.settle(id(job), 10.0);
        free(&mut scheduler, backend, 0);
        if job == 101 {
            scheduler.hold(on(1, 200, "new"));
        }
        job
    };
    let order: Vec<u64> = (0..4).map(|_| turns()).collect();
    assert_eq!(order, [100, 101, 200, 102]);
}

/// Two tenants with one backend; one has had a thousand seconds of it while the other could run nothing. Gives how many of the next ten jobs are that one's.
fn after_a_thousand_seconds(mut idle: impl FnMut(&mut Scheduler), mut ready: impl FnMut(&mut Scheduler)) -> usize {
    let mut scheduler = scheduler(1);
    idle(&mut scheduler);
    for job in 1000..1100 {
        scheduler.hold(request(job, "busy"));
        assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(job));
        scheduler.settle(id(job), 10.0);
        free(&mut scheduler, 0, 0);
    }
    (1100..1200).for_each(|job| scheduler.hold(request(job, "busy")));
    ready(&mut scheduler);
    (1..100).for_each(|job| scheduler.hold(request(job, "idle")));
    order(&mut scheduler).into_iter().take(20).filter(|job| *job < 1000).count()
}

#[test]
fn neither_a_pause_nor_a_job_that_may_run_nowhere_saves_anything_up() {
    let nowhere = || Request { eligible: BackendSet::default(), ..request(0, "idle") };
    // Its credit, one that the other has had since it was due, and half of the rest; one more where it wins ties.
    let fair = 13..=14;
    let away = after_a_thousand_seconds(|_| {}, |_| {});
    assert!(fair.contains(&away), "{away}");
    let stuck = after_a_thousand_seconds(|scheduler| scheduler.hold(nowhere()), |_| {});
    assert!(fair.contains(&stuck), "{stuck}");
    let share = Share { running_max: 0, ..Share::default() };
    let tenant: TenantId = "idle".parse().unwrap();
    let waits = |scheduler: &mut Scheduler| scheduler.hold(Request { share, ..request(0, "idle") });
    let paused = after_a_thousand_seconds(waits, |scheduler| scheduler.set_share(&tenant, Share::default()));
    assert!(fair.contains(&paused), "{paused}");
}

#[test]
fn what_higher_bands_took_keeps_nobody_of_a_lower_one_waiting() {
    let mut scheduler = scheduler(1);
    for job in 0..100 {
        scheduler.hold(Request { band: Band::High, seconds: 100.0, ..request(job, "high") });
        assert!(next(&mut scheduler, 0).is_some());
        scheduler.settle(id(job), 100.0);
        free(&mut scheduler, 0, 0);
    }
    (100..110).for_each(|job| scheduler.hold(request(job, "a")));
    assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(100));
    scheduler.settle(id(100), 10.0);
    free(&mut scheduler, 0, 0);
    scheduler.hold(request(200, "new"));
    assert_eq!(next(&mut scheduler, 0).map(|next| next.0), Some(200));
}

#[test]
fn a_backend_that_is_added_lets_nobody_jump_the_queue() {
    let mut scheduler = scheduler(1);
    for job in 1000..2000 {
        scheduler.hold(request(job, "busy"));
        assert!(next(&mut scheduler, 0).is_some());
        scheduler.settle(id(job), 10.0);
        free(&mut scheduler, 0, 0);
    }
    scheduler.add_backend(0, 1.0);
    (100..200).for_each(|job| scheduler.hold(request(job, "busy")));
    (200..300).for_each(|job| scheduler.hold(request(job, "new")));
    let first: Vec<u64> = order(&mut scheduler).into_iter().take(40).collect();
    let new = first.iter().filter(|job| **job >= 200).count();
    // Its credit, one job that the other has had since it was due, and half of the rest.
    let ahead = Tuning::default().credit_seconds as usize / 10 + 1;
    assert_eq!(new, ahead + (40 - ahead) / 2, "{first:?}");
}

#[test]
fn models_are_waited_for_no_longer_than_the_patience_whoever_wants_them() {
    let mut scheduler = contested(20.0);
    let patience = (10.0 * Tuning::default().patience * 1000.0) as Millis;
    assert_eq!(next(&mut scheduler, 5).map(|next| next.0), Some(2), "from now on they are wanted");
    // Who wanted them is gone; another who comes later wants the same.
    scheduler.hold(with_models(request(4, "new"), &["b"]));
    assert!(scheduler.withdraw(id(1)));
    scheduler.settle(id(2), 10.0);
    for (now, job, expected) in [(5 + patience - 1, 3, 3), (5 + patience, 5, 4)] {
        free(&mut scheduler, 0, now);
        scheduler.hold(with_models(request(job, "other"), &["a"]));
        assert_eq!(next(&mut scheduler, now).map(|next| next.0), Some(expected), "after {now} ms");
        scheduler.settle(id(expected), 10.0);
    }
    assert!(scheduler.wanted.is_empty(), "they are loaded");
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
fn nobody_waits_longer_for_a_late_job_than_loading_takes_nor_at_all_for_a_backend_that_is_away() {
    let late = |now: Millis, away: bool| {
        let mut scheduler = scheduler(2);
        scheduler.hold(with_models(request(0, "t"), &["a"]));
        assert_eq!(next(&mut scheduler, 0).map(|next| next.1), Some(0));
        let seat = scheduler.backend(0).unwrap();
        (seat.busy_until, seat.away) = (20_000, away);
        scheduler.hold(with_models(request(1, "t"), &["a"]));
        next(&mut scheduler, now)
    };
    assert_eq!(late(30_000, false), None, "ten seconds late, and as much longer: loading takes as long");
    assert_eq!(late(30_001, false), Some((1, 1, true)));
    assert_eq!(late(20_000, true), Some((1, 1, true)));
}

#[test]
fn a_backend_that_is_away_gets_nothing_although_it_is_free() {
    let mut scheduler = scheduler(2);
    scheduler.backend(0).unwrap().away = true;
    (0..2).for_each(|job| scheduler.hold(request(job, "t")));
    assert_eq!(next(&mut scheduler, 0), Some((0, 1, false)));
    assert_eq!(next(&mut scheduler, 0), None);
    scheduler.backend(0).unwrap().away = false;
    assert_eq!(next(&mut scheduler, 0), Some((1, 0, false)));
}

#[test]
fn a_held_job_may_go_elsewhere_from_now_on_and_keeps_its_place() {
    let mut scheduler = scheduler(2);
    let only = |backend: usize| [backend].into_iter().collect::<BackendSet>();
    (0..3).for_each(|job| scheduler.hold(Request { eligible: only(0), ..request(job, "t") }));
    scheduler.backend(0).unwrap().open = 0;
    assert_eq!(next(&mut scheduler, 0), None);
    for job in [2, 1, 7] {
        scheduler.set_eligible(id(job), only(1));
    }
    assert_eq!((scheduler.len(), next(&mut scheduler, 0)), (3, Some((1, 1, false))));
    scheduler.set_eligible(id(2), BackendSet::default());
    free(&mut scheduler, 1, 0);
    assert_eq!(next(&mut scheduler, 0), None);
    scheduler.set_eligible(id(2), only(1));
    assert_eq!(next(&mut scheduler, 0), Some((2, 1, false)));
    assert!(scheduler.withdraw(id(0)));
    assert_eq!(scheduler.sets.iter().count(), 0, "no set is kept that no job has");
}

#[test]
fn a_job_that_may_go_elsewhere_rises_when_it_would_have_risen() {
    for (now, expected) in [(99_999, 11), (100_000, 0)] {
        let mut scheduler = Scheduler::new(Tuning { ageing: 100_000, ..Tuning::default() });
        scheduler.add_backend(1, 1.0);
        scheduler.hold(request(0, "normal"));
        (10..14).for_each(|job| scheduler.hold(Request { band: Band::High, ..request(job, "high") }));
        // The tenant of the higher band has taken more: what rises is next.
        assert_eq!(next(&mut scheduler, 60_000).map(|next| next.0), Some(10));
        scheduler.settle(id(10), 10.0);
        scheduler.set_eligible(id(0), [0].into_iter().collect());
        free(&mut scheduler, 0, now);
        assert_eq!(next(&mut scheduler, now).map(|next| next.0), Some(expected), "after {now} ms");
    }
}

/// Runs everything, each job for as long as it was thought to take, one at a time on each of the backends; gives each job's place in the order and its start.
fn run_all(scheduler: &mut Scheduler, seconds: &dyn Fn(u64) -> f64) -> HashMap<JobId, (usize, Millis)> {
    let (mut now, mut began) = (0, HashMap::new());
    let mut running: Vec<(Millis, usize, JobId)> = Vec::new();
    loop {
        while let Some(assignment) = scheduler.next(now) {
            began.insert(assignment.job, (began.len(), now));
            let seat = scheduler.backend(assignment.backend).unwrap();
            running.push((seat.busy_until, assignment.backend, assignment.job));
        }
        running.sort_unstable();
        let Some((until, backend, job)) = (!running.is_empty()).then(|| running.remove(0)) else { return began };
        now = until;
        scheduler.settle(job, seconds(number(job)));
        free(scheduler, backend, now);
    }
}

#[test]
fn the_outlook_of_jobs_that_take_what_was_thought_comes_true() {
    for backends in [1, 3] {
        let mut scheduler = scheduler(backends);
        let seconds = |job: u64| [10.0, 25.0, 5.0, 40.0][(job % 4) as usize];
        for job in 0..60 {
            let share = Share { weight: 1 + (job % 3) as u32, ..Share::default() };
            let user = Some((job % 2).to_string().parse().unwrap());
            let of = Request { share, user, seconds: seconds(job), ..request(job, &(job % 6).to_string()) };
            scheduler.hold(of);
        }
        let outlook = scheduler.outlook(0);
        let came = run_all(&mut scheduler, &seconds);
        assert_eq!(outlook.len(), 60);
        for expected in outlook {
            let (place, start) = came[&expected.job];
            assert_eq!((expected.position, expected.starts_in), (place, Some(start)), "{expected:?}");
        }
    }
}

#[test]
fn the_outlook_tells_who_competes_who_waits_for_nothing_and_what_is_busy() {
    let mut scheduler = scheduler(3);
    let only = |backend: usize| [backend].into_iter().collect::<BackendSet>();
    let busy = scheduler.backend(0).unwrap();
    (busy.open, busy.busy_until) = (0, 30_000);
    scheduler.backend(2).unwrap().away = true;
    for (job, backend) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
        scheduler.hold(Request { eligible: only(backend), ..request(job, "t") });
    }
    scheduler.hold(Request { share: Share { running_max: 0, ..Share::default() }, ..request(4, "paused") });
    scheduler.hold(Request { eligible: BackendSet::default(), ..request(5, "nowhere") });
    let outlook = scheduler.outlook(20_000);
    let of = |job: u64| {
        let found = outlook.iter().find(|expected| expected.job == id(job)).unwrap();
        (found.position, found.starts_in)
    };
    assert_eq!([of(0), of(1), of(2)], [(0, Some(10_000)), (1, Some(20_000)), (0, Some(0))]);
    assert_eq!([of(3), of(4), of(5)], [(0, None), (4, None), (0, None)]);
    // Five seconds late, it is thought to be free in five seconds.
    assert_eq!(scheduler.outlook(35_000).iter().find(|expected| expected.job == id(0)).unwrap().starts_in, Some(5_000));
    let seat = scheduler.backend(0).unwrap();
    (seat.open, seat.busy_until) = (1, 0);
    assert_eq!(scheduler.outlook(35_000).iter().find(|expected| expected.job == id(0)).unwrap().starts_in, Some(0));
}

#[test]
fn the_outlook_of_a_tenant_that_runs_one_at_a_time_and_of_models_that_are_loaded() {
    let mut scheduler = scheduler(3);
    let one = Share { running_max: 1, ..Share::default() };
    (0..3).for_each(|job| scheduler.hold(Request { share: one, ..request(job, "one") }));
    assert_eq!(next(&mut scheduler, 0), Some((0, 0, false)));
    let starts: Vec<_> = scheduler.outlook(4_000).iter().map(|expected| expected.starts_in.unwrap()).collect();
    assert_eq!(starts, [6_000, 16_000], "ten seconds each, the first began four ago");
    // Both go to the backend that has the models: twenty seconds there are sooner than thirty with loading elsewhere.
    let mut scheduler = self::scheduler(2);
    scheduler.hold(with_models(Request { load_seconds: 30.0, ..request(0, "t") }, &["a"]));
    assert_eq!(next(&mut scheduler, 0), Some((0, 0, true)));
    scheduler.backend(0).unwrap().busy_until = 10_000;
    (1..3).for_each(|job| {
        scheduler.hold(with_models(Request { load_seconds: 30.0, ..request(job, "t") }, &["a"]));
    });
    let starts: Vec<_> = scheduler.outlook(0).iter().map(|expected| expected.starts_in.unwrap()).collect();
    assert_eq!(starts, [10_000, 20_000]);
}

#[test]
fn a_position_alone_is_that_of_the_outlook_where_jobs_are_alike_and_near_it_where_they_are_not() {
    for spread in [false, true] {
        let mut scheduler = scheduler(2);
        for job in 0..400 {
            let seconds = if spread { 5.0 + (job * 7919 % 31) as f64 } else { 10.0 };
            let band = [Band::High, Band::Normal][usize::from(job % 5 > 0)];
            let user = Some((job % 3).to_string().parse().unwrap());
            let share = Share { weight: 1 + (job % 2) as u32, ..Share::default() };
            scheduler.hold(Request { seconds, band, user, share, ..request(job, &(job % 10).to_string()) });
        }
        let outlook = scheduler.outlook(0);
        let off = |expected: &Expected| scheduler.position(expected.job).unwrap().abs_diff(expected.position);
        let worst = outlook.iter().map(off).max().unwrap();
        assert!(worst <= if spread { 40 } else { 0 }, "{worst}");
    }
    assert_eq!(scheduler(1).position(id(0)), None);
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
            5 if random(2) == 0 => {
                let eligible = (0..4).filter(|_| random(3) > 0).collect();
                scheduler.set_eligible(id(random(jobs.max(1))), eligible);
            }
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
        if round % 1024 == 0 {
            let told: HashSet<JobId> = scheduler.outlook(now).iter().map(|expected| expected.job).collect();
            assert!(told.len() == held && told.iter().all(|job| scheduler.position(*job).unwrap() < held));
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
