//! Jobs of many tenants while backends are killed, hung, restarted, wiped and broken at random, and the gateway is killed, stopped and replaced.
//!
//! What must hold at the end: every accepted job has ended in a state that its owner sees and nobody else does, none was committed twice, and every result of a finished one can be fetched with the
//! bytes of that job. Backends are processes of the stand-in, so that a signal hits them as it hits a ComfyUI. Clients do what a client of a service does: they ask again with the same
//! `Idempotency-Key` where the connection failed or the answer was 429 or 503.
//!
//! | variable | is | else |
//! |---|---|---|
//! | `CHAOS_SEED` | what is drawn: which backend, which fault, how long | 6 |
//! | `CHAOS_JOBS` | in all, of 20 tenants | 120 |
//! | `CHAOS_BACKENDS` | stand-ins | 4 |
//! | `CHAOS_SECONDS` | how long faults go on at least | 18 |
//! | `COMFYUI_URLS` | real ComfyUIs with the probe nodes, in their place; then also: | |
//! | `CHAOS_SIGNAL_CMD` | sends `$SIGNAL` (KILL, STOP, CONT) to the one on `$PORT` | nothing runs here |
//! | `CHAOS_START_CMD` | starts the one on `$PORT` and returns once it answers; it may empty its folders first | nothing runs here |
//!
//! `make chaos` is the large form. What was done is printed with the seed; a failure repeats with the same seed as far as processes on a shared machine do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failure has to end the test, with the place where it happened"
)]

mod backends;
mod clients;
mod dice;
mod ledger;

use backends::{Backends, Fault};
use clients::{Accepted, Tenant};
use comfygate_tests::gateway::Builder;
use comfygate_tests::{Gateway, skipped};
use dice::Dice;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TENANTS: usize = 20;
/// What happens to the gateway, one after the other, evenly over the time of the faults.
const GATEWAY: [Blow; 5] = [Blow::Kill, Blow::Stop, Blow::Kill, Blow::Upgrade, Blow::Kill];
/// How long all jobs may take to end once everything is well again, for each job that there is; and at least.
const REST: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(90));
/// Little patience, so that what takes minutes in service takes seconds here.
const DISPATCH: &str = "[dispatch]\ncanary_interval = \"1s\"\ncanary_deadline = \"2s\"\nstall_timeout = \"20s\"\npoll_interval = \"200ms\"\n";

#[derive(Debug, Clone, Copy)]
enum Blow {
    /// SIGKILL, and a start.
    Kill,
    /// SIGTERM, and a start.
    Stop,
    /// A successor takes over.
    Upgrade,
}

/// What is run, by the environment.
#[derive(Debug)]
struct Plan {
    seed: u64,
    jobs: usize,
    backends: usize,
    time: Duration,
}

impl Plan {
    fn read() -> Plan {
        let number = |name: &str, otherwise: u64| {
            std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
        };
        Plan {
            seed: number("CHAOS_SEED", 6),
            jobs: usize::try_from(number("CHAOS_JOBS", 120)).unwrap(),
            backends: usize::try_from(number("CHAOS_BACKENDS", 4)).unwrap(),
            time: Duration::from_secs(number("CHAOS_SECONDS", 18)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_accepted_job_is_lost_or_committed_twice_while_backends_and_gateway_are_killed() {
    let plan = Plan::read();
    let backends = match std::env::var("COMFYUI_URLS") {
        Ok(urls) => match Backends::real(&urls) {
            Some(backends) => backends,
            None => return skipped("chaos on real ComfyUIs: CHAOS_SIGNAL_CMD and CHAOS_START_CMD are not set"),
        },
        Err(_) => Backends::stand_ins(plan.backends).await,
    };
    println!("chaos: {plan:?} on {}", backends.names());
    let gateway = builder(&backends.urls()).start().await;
    Box::pin(run(&plan, gateway, backends)).await;
}

fn builder(urls: &[String]) -> Builder {
    let tenants: String = (0..TENANTS).map(|n| format!("[[tenant]]\nid = \"t{n:02}\"\nplan = \"usual\"\n")).collect();
    Gateway::builder().backends(urls).gateway_toml(DISPATCH).tenants_toml(&tenants)
}

async fn run(plan: &Plan, mut gateway: Gateway, mut backends: Backends) {
    let began = Instant::now();
    let tenants: Vec<Tenant> = (0..TENANTS).map(|n| Tenant::new(&gateway, n)).collect();
    let calm = Arc::new(AtomicBool::new(false));
    let submitting: Vec<_> = tenants
        .iter()
        .enumerate()
        .map(|(n, tenant)| {
            let (tenant, mut dice) = (tenant.clone(), Dice::of(plan.seed, 1 + n as u64));
            let mine: Vec<usize> = (0..plan.jobs).filter(|job| job % TENANTS == n).collect();
            let pause = plan.time / u32::try_from(mine.len().max(1)).unwrap();
            tokio::spawn(async move { tenant.submit_all(&mine, pause, &mut dice).await })
        })
        .collect();
    let watching: Vec<_> = tenants
        .iter()
        .take(3)
        .map(|tenant| {
            let (tenant, calm) = (tenant.clone(), Arc::clone(&calm));
            tokio::spawn(async move { tenant.watch(&calm).await })
        })
        .collect();

    let done = strike(plan, &mut gateway, &mut backends, began).await;
    backends.heal().await;
    let mut accepted: Vec<Vec<Accepted>> = Vec::new();
    for task in submitting {
        accepted.push(task.await.expect("the submitter ended well"));
    }
    let submitted_at = began.elapsed();
    let rest = Instant::now() + REST.1.max(REST.0 * u32::try_from(plan.jobs).unwrap());
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for (tenant, jobs) in tenants.iter().zip(&accepted) {
        for job in jobs {
            let kind = tenant.check_end(job, rest).await;
            *ends.entry(kind).or_default() += 1;
        }
    }
    let ended_at = began.elapsed();
    calm.store(true, Ordering::Relaxed);
    for (watcher, tenant) in watching.into_iter().zip(&tenants) {
        tenant.check_heard(&watcher.await.expect("the watcher ended well"));
    }
    nobody_sees_anothers(&tenants, &accepted).await;
    let total: usize = accepted.iter().map(Vec::len).sum();
    assert_eq!(total, plan.jobs, "every job was accepted in the end");
    let status = gateway.terminate().await;
    assert!(status.success(), "{status}");
    let attempts = ledger::check(&gateway.state(), &accepted).await;
    println!(
        "chaos: seed {}: {total} jobs accepted after {:.0?}, ended after {:.0?}: {ends:?}; attempts a job: {attempts:?}; faults: {done:?}",
        plan.seed, submitted_at, ended_at
    );
    let succeeded = ends.get("success").copied().unwrap_or_default();
    assert!(succeeded * 10 >= total * 8, "most jobs survive: {ends:?}");
}

/// Faults at random until their time is over and the gateway had all of its own. Gives how many of each there were.
async fn strike(
    plan: &Plan,
    gateway: &mut Gateway,
    backends: &mut Backends,
    began: Instant,
) -> BTreeMap<String, usize> {
    let mut dice = Dice::of(plan.seed, 0);
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    let every = plan.time / u32::try_from(GATEWAY.len() + 1).unwrap();
    let mut blows =
        GATEWAY.iter().enumerate().map(|(n, blow)| (every * u32::try_from(n + 1).unwrap(), *blow)).peekable();
    while began.elapsed() < plan.time || blows.peek().is_some() {
        tokio::time::sleep(dice.millis(200, 900)).await;
        backends.recover().await;
        if let Some((_, blow)) = blows.next_if(|(at, _)| began.elapsed() >= *at) {
            println!("chaos: {:>6.1?} the gateway: {blow:?}", began.elapsed());
            *done.entry(format!("gateway {blow:?}")).or_default() += 1;
            match blow {
                Blow::Kill => gateway.restart().await,
                Blow::Stop => {
                    assert!(gateway.terminate().await.success());
                    gateway.start().await;
                }
                Blow::Upgrade => assert!(gateway.upgrade().await.success(), "the former process ended well"),
            }
        }
        let (place, fault) = (dice.below(backends.len()), Fault::drawn(&mut dice));
        let longest = if plan.time > Duration::from_secs(60) { 45_000 } else { 4_000 };
        if let Some(what) = backends.strike(place, fault, dice.millis(500, longest)).await {
            println!("chaos: {:>6.1?} backend {place}: {what}", began.elapsed());
            *done.entry(format!("backend {fault:?}")).or_default() += 1;
        }
    }
    done
}

async fn nobody_sees_anothers(tenants: &[Tenant], accepted: &[Vec<Accepted>]) {
    for (n, tenant) in tenants.iter().enumerate() {
        let mut own: Vec<&str> = accepted[n].iter().map(|job| job.prompt.as_str()).collect();
        own.sort_unstable();
        assert_eq!(tenant.history().await, own, "the history of {} is its own jobs, each once", tenant.name);
        let others = &accepted[(n + 1) % accepted.len()];
        if let Some(job) = others.first() {
            tenant.knows_nothing_of(job).await;
        }
    }
}
