use super::*;
use crate::app::App;
use crate::config::Config;
use crate::owner::Owner;
use crate::record::ledger::{Acceptance, Accepted, Approval};
use crate::services::Services;
use comfygate_policy::Digest;

fn unknown() -> Known {
    Known { placed: Placed::default(), work: None, takes: None, behind: false }
}

/// A dispatcher over a ledger of its own, without a backend that answers, that compares itself with the ledger all the time.
struct Rig {
    _dir: tempfile::TempDir,
    core: tokio::runtime::Runtime,
    services: Arc<Services>,
    drain: Drain,
    handle: DispatchHandle,
    commands: mpsc::Receiver<Command>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::built_in(dir.path().join("state"));
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        config.metrics_address = "127.0.0.2:0".parse().unwrap();
        config.audit = crate::config::AuditConfig::File { path: dir.path().join("audit.jsonl"), rotation: None };
        let (services, core, drain, handle, commands) = App::build(config).unwrap().into_dispatch_parts();
        Self { _dir: dir, core, services, drain, handle, commands }
    }

    /// A job that the ledger has, and nobody told the dispatcher of.
    fn accepted(&self) -> Job {
        self.accepted_as(Approval::of_nodes(&["9"]))
    }

    fn accepted_as(&self, approval: Approval) -> Job {
        let graph: &[u8] = b"{}";
        let acceptance = Acceptance {
            owner: Owner { tenant: "local".parse().unwrap(), user: None, key: None, shared: false },
            prompt_id: None,
            client_id: None,
            idempotency_key: None,
            submission: Digest::of(graph),
            graph: graph.into(),
            approval,
            order: None,
            active_jobs_max: 10,
            reservation: Default::default(),
            at: self.services.clock.wall(),
        };
        match self.core.block_on(self.services.ledger.accept(acceptance)).unwrap() {
            Accepted::New(job) | Accepted::Again(job) => job,
        }
    }

    fn dispatcher(&self) -> Dispatcher {
        let dispatcher = Dispatcher::new(Arc::clone(&self.services), self.handle.clone(), Vec::new());
        Dispatcher { reconcile_interval: Duration::from_millis(10), ..dispatcher }
    }

    /// Runs it until the metrics count that many held jobs and none at a backend.
    fn runs_until_held(self, dispatcher: Dispatcher, held: u32) {
        let Self { core, services, drain, commands, .. } = self;
        let running = core.spawn(dispatcher.run(commands, drain.clone()));
        let wanted =
            [format!("comfygate_jobs{{state=\"held\"}} {held}"), "comfygate_jobs{state=\"assigned\"} 0".to_owned()];
        core.block_on(async {
            let counted = async {
                while !wanted.iter().all(|line| services.metrics.text().unwrap().lines().any(|found| found == line)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), counted).await.expect("the job is in the queue");
            drain.hand_over();
            tokio::time::timeout(Duration::from_secs(60), running).await.unwrap().unwrap();
        });
    }
}

#[test]
fn a_job_that_only_the_ledger_knows_is_taken_up() {
    let rig = Rig::new();
    rig.accepted();
    let dispatcher = rig.dispatcher();
    rig.runs_until_held(dispatcher, 1);
}

#[test]
fn a_job_whose_carrier_panics_loses_its_slot_and_not_its_place() {
    let rig = Rig::new();
    let job = rig.accepted();
    let mut dispatcher = rig.dispatcher();
    let backend = rig.services.backends().values().next().unwrap().clone();
    let inside = rig.core.enter();
    dispatcher.carry(job.id, &backend, unknown(), |_| async { panic!("on purpose: a carrier that panics") });
    drop(inside);
    assert_eq!(dispatcher.outstanding_at(&backend.id), 1);
    rig.core.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), backend.vacant()).await.expect("its slot is given back");
    });
    rig.runs_until_held(dispatcher, 1);
}

#[test]
fn when_a_successor_follows_nobody_carries_anything_when_the_dispatcher_ends() {
    let rig = Rig::new();
    let job = rig.accepted();
    let mut dispatcher = rig.dispatcher();
    let backend = rig.services.backends().values().next().unwrap().clone();
    let inside = rig.core.enter();
    dispatcher.carry(job.id, &backend, unknown(), |_| std::future::pending());
    drop(inside);
    let Rig { core, drain, commands, .. } = rig;
    drain.hand_over();
    core.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), dispatcher.run(commands, drain.clone())).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), backend.vacant()).await.expect("its carrier has ended");
    });
}

#[test]
fn a_job_at_a_backend_does_not_wait_again_when_the_word_of_its_acceptance_comes_late() {
    let rig = Rig::new();
    let (job, other) = (rig.accepted(), rig.accepted());
    let mut dispatcher = rig.dispatcher();
    let backend = rig.services.backends().values().next().unwrap().clone();
    let inside = rig.core.enter();
    dispatcher.carry(job.id, &backend, unknown(), |_| std::future::pending());
    drop(inside);
    let (id, waits) = (job.id, other.id);
    let ((teller, told), (other_teller, other_told)) = (oneshot::channel(), oneshot::channel());
    dispatcher.obey(Command::Accepted(Box::new(job), None, Some(teller)));
    dispatcher.obey(Command::Accepted(Box::new(other), None, Some(other_teller)));
    assert!(!dispatcher.queue.contains(id), "it would be given away a second time");
    assert!(dispatcher.queue.contains(waits));
    let positions = [told, other_told].map(|mut told| told.try_recv());
    assert_eq!(positions, [Ok(0), Ok(0)], "whoever submitted is told, whichever way the job got there");
}

/// A job whose attempt was written off by a process that ended before it ended the job, as a later one finds it.
fn written_off(rig: &Rig, reached: Reached, cancelled: bool) -> Result<(), Option<JobState>> {
    let credential = comfygate_policy::ComfyOrgCredential::of_api_key("a-key-of-somebody").unwrap();
    let job = rig.accepted_as(Approval::of_nodes(&["9"]).paid_by(Some(credential)));
    let backend = rig.services.backends().values().next().unwrap().clone();
    let (services, at) = (&rig.services, rig.services.clock.wall());
    rig.core.block_on(async {
        let job = services.ledger.assign(job.id, job.version, &backend.id, at).await.unwrap();
        let attempt = crate::ids::AttemptId { job: job.id, n: 1 };
        services.ledger.send(attempt).await.unwrap();
        if cancelled {
            let prompt = services.ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await.unwrap();
            services.ledger.request_cancel(&prompt).await.unwrap();
        }
        let held = services.ledger.lose(attempt, "it died", reached).await.unwrap();
        let tried = attempt::to_be_tried(services, held).await;
        let prompt = services.ledger.owned_prompt(&job.owner.scope(), &job.prompt_id).await;
        tried.map(drop).map_err(|_| prompt.ok().map(|prompt| prompt.job().state))
    })
}

#[test]
fn what_may_have_cost_is_not_tried_again_whoever_wrote_it_off() {
    let rig = Rig::new();
    let failed = Err(Some(JobState::Ended(crate::record::ledger::Outcome::Failed)));
    assert_eq!(written_off(&rig, Reached::Perhaps, false), failed);
    assert_eq!(written_off(&rig, Reached::Never, false), Ok(()), "nothing was sent");
}

#[test]
fn what_its_owner_stopped_is_not_tried_again_whoever_wrote_it_off() {
    let rig = Rig::new();
    let interrupted = Err(Some(JobState::Ended(crate::record::ledger::Outcome::Interrupted)));
    assert_eq!(written_off(&rig, Reached::Never, true), interrupted);
}
