//! The held queues that the benches decide on: 10,000 jobs of 1,000 tenants for 64 backends, of which one is free at a time.

use comfygate::dispatch::schedule::{Assignment, BackendSet, Band, Millis, Request, Scheduler, Share, Tuning};
use comfygate::ids::JobId;

/// Held jobs.
pub const JOBS: u64 = 10_000;
/// Whose they are.
pub const TENANTS: u64 = 1_000;
/// For how many backends.
pub const BACKENDS: usize = 64;

/// A mix of jobs.
pub struct Mix {
    /// What is particular about it.
    pub name: &'static str,
    /// Different models, one for each job; 0: jobs need none.
    models: u64,
    /// Different sets of backends.
    sets: u64,
    /// Users of each tenant.
    users: u64,
    /// Different bands.
    bands: u64,
}

/// All mixes.
pub const MIXES: [Mix; 6] = [
    Mix { name: "no models", models: 0, sets: 1, users: 1, bands: 1 },
    Mix { name: "7 models", models: 7, sets: 1, users: 1, bands: 1 },
    Mix { name: "300 models", models: 300, sets: 1, users: 1, bands: 1 },
    Mix { name: "7 models, 8 pools", models: 7, sets: 8, users: 1, bands: 1 },
    Mix {
        name: "300 models, 32 overlapping sets, 3 bands, 5 users a tenant",
        models: 300,
        sets: 32,
        users: 5,
        bands: 3,
    },
    Mix { name: "a model for each job", models: JOBS, sets: 1, users: 1, bands: 1 },
];

impl Mix {
    fn set(&self, number: u64) -> BackendSet {
        let part = number % self.sets;
        match self.sets {
            1 => (0..BACKENDS).collect(),
            // Pools that have no backend in common.
            2..=8 => (0..BACKENDS).filter(|backend| *backend as u64 % self.sets == part).collect(),
            // Three quarters of all, differently for each.
            _ => (0..BACKENDS).filter(|backend| (*backend as u64 + part) % 4 > 0 || *backend as u64 == part).collect(),
        }
    }

    /// A job by its number.
    pub fn request(&self, number: u64) -> Request {
        let tenant = number % TENANTS;
        let models = if self.models == 0 { Vec::new() } else { vec![format!("model-{}", number * 7919 % self.models)] };
        Request {
            job: JobId::from_bytes(u128::from(number).to_be_bytes()),
            tenant: format!("tenant-{tenant}").parse().unwrap(),
            share: Share { weight: 1 + (tenant % 4) as u32, ..Share::default() },
            user: Some(format!("user-{}", number / TENANTS % self.users).parse().unwrap()),
            band: [Band::Normal, Band::High, Band::Low][(tenant % self.bands) as usize],
            place: number as i64,
            placed: false,
            sequence: number,
            seconds: 5.0 + (number * 31 % 97) as f64,
            models,
            load_seconds: 12.0,
            eligible: self.set(tenant),
            since: 0,
        }
    }

    /// The whole queue; every backend has run a job.
    pub fn queue(&self) -> Queue {
        let mut scheduler = Scheduler::new(Tuning::default());
        for _ in 0..BACKENDS {
            scheduler.add_backend(1, 1.0);
        }
        (0..JOBS).for_each(|number| scheduler.hold(self.request(number)));
        let mut queue = Queue { scheduler, now: 0, next: JOBS };
        while let Some(assignment) = queue.scheduler.next(0) {
            queue.scheduler.settle(assignment.job, 10.0);
            queue.hold_another(self);
        }
        queue
    }
}

/// A queue in the middle of its work.
pub struct Queue {
    /// Its scheduler.
    pub scheduler: Scheduler,
    now: Millis,
    next: u64,
}

impl Queue {
    /// Lets one of the backends be free. What the others do takes long.
    pub fn free_one(&mut self) -> Millis {
        self.now += 200;
        for number in 0..BACKENDS {
            let seat = self.scheduler.backend(number).unwrap();
            (seat.open, seat.busy_until) = (0, self.now + 60_000);
        }
        let seat = self.scheduler.backend((self.now / 200 * 13) as usize % BACKENDS).unwrap();
        (seat.open, seat.busy_until) = (1, 0);
        self.now
    }

    /// The job is over, and another is held in its place.
    pub fn over(&mut self, assignment: Assignment, mix: &Mix) {
        self.scheduler.settle(assignment.job, 10.0);
        self.hold_another(mix);
    }

    fn hold_another(&mut self, mix: &Mix) {
        self.scheduler.hold(mix.request(self.next));
        self.next += 1;
    }
}
