//! The schedulers that are compared: ours, and what stands in front of several ComfyUIs elsewhere.

use crate::world::{Job, LOADS, Millis, World};
use comfygate::dispatch::schedule::{Assignment, BackendSet, Band, Request, Scheduler, Share, Tuning};
use comfygate::ids::JobId;
use std::collections::VecDeque;

/// Which scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The gateway's.
    Ours,
    /// One queue for all.
    Fifo,
    /// Each job to the next backend, which has a queue of its own.
    RoundRobin,
    /// Each job to the backend with the fewest jobs that are not over, as if each job kept a connection open as long: the most that nginx's `least_conn` could see, which sees no queue.
    LeastConnections,
}

impl Kind {
    /// All, ours first.
    pub const ALL: [Self; 4] = [Self::Ours, Self::Fifo, Self::RoundRobin, Self::LeastConnections];

    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "Comfygate",
            Self::Fifo => "FIFO",
            Self::RoundRobin => "round robin",
            Self::LeastConnections => "least connections",
        }
    }

    /// It, before anything has happened.
    pub fn start(self, world: &World) -> Box<dyn Contender> {
        let queues = vec![VecDeque::new(); world.gpus.len()];
        match self {
            Self::Ours => Box::new(Ours::new(world)),
            Self::Fifo => Box::new(Fifo(VecDeque::new())),
            Self::RoundRobin => Box::new(Queues { queues, sent: vec![0; world.gpus.len()], turn: Some(0) }),
            Self::LeastConnections => Box::new(Queues { queues, sent: vec![0; world.gpus.len()], turn: None }),
        }
    }
}

/// What a scheduler is told, and asked. Jobs and GPUs by their numbers in the world.
pub trait Contender {
    /// A job came.
    fn arrives(&mut self, world: &World, job: usize, now: Millis);
    /// A job is over.
    fn ends(&mut self, world: &World, job: usize, gpu: usize, now: Millis);
    /// A GPU died, with what it ran.
    fn dies(&mut self, world: &World, gpu: usize, job: Option<usize>, now: Millis);
    /// It is back.
    fn returns(&mut self, gpu: usize, now: Millis);
    /// A job to start now on one of the GPUs that are free: alive, and without a job.
    fn next(&mut self, free: &[bool], now: Millis) -> Option<(usize, usize)>;
    /// Jobs may start although nothing happens, as time goes by.
    fn looks_again(&self) -> bool {
        false
    }
}

/// The scheduler of the gateway.
struct Ours {
    scheduler: Scheduler,
    all: BackendSet,
}

impl Ours {
    fn new(world: &World) -> Self {
        let mut scheduler = Scheduler::new(Tuning::default());
        let all = world.gpus.iter().map(|gpu| scheduler.add_backend(1, gpu.speed)).collect();
        Self { scheduler, all }
    }

    fn free(&mut self, gpu: usize, now: Millis) {
        let seat = self.scheduler.backend(gpu).expect("a seat for each GPU");
        (seat.open, seat.busy_until, seat.away) = (1, now, false);
    }
}

/// The id of a job of the trace.
pub fn job_id(number: usize) -> JobId {
    JobId::from_bytes((number as u128).to_be_bytes())
}

/// A job of the trace as the gateway would ask for it.
pub fn request(world: &World, number: usize, eligible: &BackendSet) -> Request {
    let Job { at, tenant, thought, model, .. } = world.jobs[number];
    Request {
        job: job_id(number),
        tenant: format!("tenant-{tenant}").parse().expect("a tenant's name"),
        share: Share { weight: world.weights[tenant], ..Share::default() },
        user: None,
        band: Band::Normal,
        place: 0,
        placed: false,
        sequence: number as u64,
        seconds: thought,
        models: vec![format!("model-{model}")],
        load_seconds: LOADS[model],
        eligible: eligible.clone(),
        since: at,
    }
}

impl Contender for Ours {
    fn arrives(&mut self, world: &World, job: usize, _: Millis) {
        self.scheduler.hold(request(world, job, &self.all));
    }

    fn ends(&mut self, world: &World, job: usize, gpu: usize, now: Millis) {
        self.scheduler.settle(job_id(job), world.jobs[job].seconds);
        self.free(gpu, now);
    }

    fn dies(&mut self, world: &World, gpu: usize, job: Option<usize>, now: Millis) {
        self.scheduler.backend(gpu).expect("a seat for each GPU").away = true;
        self.scheduler.unloaded(gpu);
        if let Some(job) = job {
            self.scheduler.settle(job_id(job), 0.0);
            self.arrives(world, job, now);
        }
    }

    fn returns(&mut self, gpu: usize, now: Millis) {
        self.free(gpu, now);
    }

    fn next(&mut self, _: &[bool], now: Millis) -> Option<(usize, usize)> {
        let Assignment { job, backend, .. } = self.scheduler.next(now)?;
        Some((u128::from_be_bytes(job.bytes()) as usize, backend))
    }

    fn looks_again(&self) -> bool {
        !self.scheduler.is_empty()
    }
}

/// One queue.
struct Fifo(VecDeque<usize>);

impl Contender for Fifo {
    fn arrives(&mut self, _: &World, job: usize, _: Millis) {
        self.0.push_back(job);
    }

    fn ends(&mut self, _: &World, _: usize, _: usize, _: Millis) {}

    fn dies(&mut self, _: &World, _: usize, job: Option<usize>, _: Millis) {
        self.0.extend(job);
        self.0.rotate_right(usize::from(job.is_some()));
    }

    fn returns(&mut self, _: usize, _: Millis) {}

    fn next(&mut self, free: &[bool], _: Millis) -> Option<(usize, usize)> {
        let gpu = free.iter().position(|free| *free)?;
        Some((self.0.pop_front()?, gpu))
    }
}

/// A queue for each GPU. What waits at one that dies waits until it is back: better than what happens to a ComfyUI's own queue, which is lost.
struct Queues {
    queues: Vec<VecDeque<usize>>,
    /// Jobs that were sent there and are not over.
    sent: Vec<usize>,
    /// Whose turn it is, by round robin.
    turn: Option<usize>,
}

impl Contender for Queues {
    fn arrives(&mut self, _: &World, job: usize, _: Millis) {
        let gpu = match &mut self.turn {
            Some(turn) => std::mem::replace(turn, (*turn + 1) % self.queues.len()),
            None => (0..self.sent.len()).min_by_key(|gpu| self.sent[*gpu]).expect("one GPU at least"),
        };
        self.queues[gpu].push_back(job);
        self.sent[gpu] += 1;
    }

    fn ends(&mut self, _: &World, _: usize, gpu: usize, _: Millis) {
        self.sent[gpu] -= 1;
    }

    fn dies(&mut self, _: &World, gpu: usize, job: Option<usize>, _: Millis) {
        if let Some(job) = job {
            self.queues[gpu].push_front(job);
        }
    }

    fn returns(&mut self, _: usize, _: Millis) {}

    fn next(&mut self, free: &[bool], _: Millis) -> Option<(usize, usize)> {
        let mut free = (0..free.len()).filter(|gpu| free[*gpu]);
        free.find_map(|gpu| Some((self.queues[gpu].pop_front()?, gpu)))
    }
}
