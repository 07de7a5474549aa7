//! Faults on demand: what happens to real backends, at a moment a test chooses.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tokio::sync::watch;

/// Switches of one stand-in. They take effect at once. A restart brings a new worker and a sound CUDA
/// context; a lost disk, silent sockets and hanging HTTP stay until they are lifted.
#[derive(Debug)]
pub struct Faults {
    /// Incarnations whose worker has to end: all up to this number.
    dead_workers: watch::Sender<u64>,
    incarnation: AtomicU64,
    silent: AtomicBool,
    disk_lost: AtomicBool,
    out_of_memory: AtomicBool,
    cuda_broken: AtomicBool,
    hanging: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            dead_workers: watch::Sender::new(0),
            incarnation: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            disk_lost: AtomicBool::new(false),
            out_of_memory: AtomicBool::new(false),
            cuda_broken: AtomicBool::new(false),
            hanging: watch::Sender::new(false),
        }
    }
}

impl Faults {
    /// Ends the worker thread, in the middle of a node if one runs: no event tells of it, HTTP goes on answering 200 and
    /// nothing runs any more until a restart.
    pub fn worker_dies(&self) {
        self.dead_workers.send_replace(self.incarnation.load(SeqCst));
    }

    /// `true`: WebSockets stay open and answer pings, but no event is sent to anybody. What is said meanwhile is lost.
    pub fn silence_sockets(&self, silent: bool) {
        self.silent.store(silent, SeqCst);
    }

    /// The next node that runs ends with torch's out-of-memory error; the one after is sound again.
    pub fn oom_next(&self) {
        self.out_of_memory.store(true, SeqCst);
    }

    /// From the next node on every one ends with a CUDA error, as a broken context does until the process is restarted;
    /// `GET /system_stats` answers 500.
    pub fn cuda_error_next(&self) {
        self.cuda_broken.store(true, SeqCst);
    }

    /// `true`: every write below the base directory fails with ENOSPC (uploads answer 500, saving nodes raise).
    pub fn lose_disk(&self, lost: bool) {
        self.disk_lost.store(lost, SeqCst);
    }

    /// `true`: requests are read and not answered. Those that hang go on when it is lifted.
    pub fn hang_http(&self, hanging: bool) {
        self.hanging.send_replace(hanging);
    }

    pub(crate) fn begin_incarnation(&self) -> u64 {
        self.cuda_broken.store(false, SeqCst);
        self.out_of_memory.store(false, SeqCst);
        self.incarnation.fetch_add(1, SeqCst) + 1
    }

    pub(crate) fn worker_is_dead(&self, incarnation: u64) -> bool {
        *self.dead_workers.borrow() >= incarnation
    }

    /// Returns once the worker of this incarnation has to end.
    pub(crate) async fn worker_death(&self, incarnation: u64) {
        let mut dead = self.dead_workers.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = dead.wait_for(|dead| *dead >= incarnation).await;
    }

    pub(crate) fn sockets_are_silent(&self) -> bool {
        self.silent.load(SeqCst)
    }

    pub(crate) fn cuda_is_broken(&self) -> bool {
        self.cuda_broken.load(SeqCst)
    }

    pub(crate) fn disk_is_lost(&self) -> bool {
        self.disk_lost.load(SeqCst)
    }

    /// The exception of the next node: its Python type and text.
    pub(crate) fn node_error(&self) -> Option<(&'static str, &'static str)> {
        if self.out_of_memory.swap(false, SeqCst) {
            let text = "Allocation on device \nThis error means you ran out of memory on your GPU.\n\nTIPS: If the \
                        workflow worked before you might have accidentally set the batch_size to a large number.";
            return Some(("torch.OutOfMemoryError", text));
        }
        let text = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously \
                    reported at some other API call, so the stacktrace below might be incorrect.\n";
        self.cuda_broken.load(SeqCst).then_some(("torch.AcceleratorError", text))
    }

    /// Returns once HTTP does not hang.
    pub(crate) async fn http_flows(&self) {
        let mut hanging = self.hanging.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = hanging.wait_for(|hanging| !hanging).await;
    }
}
