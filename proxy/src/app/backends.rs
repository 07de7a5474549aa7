//! The watch over each backend: its monitor and its socket, begun and ended as the configuration says.

use crate::deliver::events::upstream::Upstream;
use crate::dispatch::backend::Backend;
use crate::dispatch::dispatcher::DispatchHandle;
use crate::dispatch::{monitor, relay};
use crate::drain::Drain;
use crate::ids::BackendId;
use crate::services::Services;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// Watches over all configured backends, and over those that are not configured any more until their last attempt is over.
pub(super) struct Watchers {
    services: Arc<Services>,
    dispatch: DispatchHandle,
    drain: Drain,
    core: Handle,
    running: Mutex<BTreeMap<BackendId, Watch>>,
    /// Backends that were taken out and have attempts still, or a socket.
    leaving: Mutex<Vec<Leaving>>,
}

/// A backend that was taken out.
struct Leaving {
    backend: Arc<Backend>,
    monitor: AbortHandle,
    socket: watch::Sender<bool>,
    /// Turns true when it has no attempt and no socket any more.
    gone: watch::Receiver<bool>,
}

impl Leaving {
    fn stop(&self) {
        self.monitor.abort();
        self.socket.send_replace(true);
    }
}

/// One backend's.
struct Watch {
    backend: Arc<Backend>,
    monitor: JoinHandle<()>,
    socket: watch::Sender<bool>,
    /// Its socket's task, which ends when the socket is closed.
    closed: JoinHandle<()>,
}

impl Watch {
    fn stop(&self) {
        self.monitor.abort();
        self.socket.send_replace(true);
    }
}

impl Watchers {
    /// Watches over nothing yet; tasks go to the runtime of `core`.
    pub(super) fn new(services: &Arc<Services>, dispatch: &DispatchHandle, drain: &Drain, core: Handle) -> Arc<Self> {
        let watchers = Arc::new(Self {
            services: Arc::clone(services),
            dispatch: dispatch.clone(),
            drain: drain.clone(),
            core,
            running: Mutex::default(),
            leaving: Mutex::default(),
        });
        let (at_stop, mut stopping) = (Arc::clone(&watchers), drain.subscribe());
        watchers.core.spawn(async move {
            drop(stopping.wait_for(|stopping| *stopping).await);
            at_stop.stop();
        });
        watchers
    }

    /// Watches over the backends of now: begins with those that are new, goes on with those that stayed, and ends the others once nothing of
    /// ours runs there. Not to be called twice at once.
    pub(super) fn follow(self: &Arc<Self>) {
        let live = self.services.live();
        let former = std::mem::take(&mut *running(&self.running));
        let mut now = BTreeMap::new();
        for (id, watch) in former {
            match live.backends.get(&id) {
                Some(backend) if Arc::ptr_eq(backend, &watch.backend) => drop(now.insert(id, watch)),
                _ => self.retire(watch),
            }
        }
        for (id, backend) in live.backends.iter() {
            if !now.contains_key(id) {
                now.insert(id.clone(), self.begun(backend));
            }
        }
        *running(&self.running) = now;
        // The word to stop may have come meanwhile, and missed them.
        if self.drain.is_stopping() {
            self.stop();
        }
    }

    /// Ends every watch, and resolves when every socket is closed.
    pub(super) async fn closed(&self) {
        let running = std::mem::take(&mut *running(&self.running));
        let leaving = std::mem::take(&mut *self.leaving());
        running.values().for_each(Watch::stop);
        leaving.iter().for_each(Leaving::stop);
        for watch in running.into_values() {
            // A task that panicked has no socket any more either.
            drop(watch.closed.await);
        }
        for mut backend in leaving {
            drop(backend.gone.wait_for(|gone| *gone).await);
        }
    }

    fn stop(&self) {
        running(&self.running).values().for_each(Watch::stop);
        self.leaving().iter().for_each(Leaving::stop);
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Leaving>> {
        // Every change of the list is one call: a panic elsewhere leaves nothing half done.
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self, backend: &Arc<Backend>) -> Watch {
        let (socket, mut stopping) = watch::channel(false);
        let (relayed, from) = (Arc::clone(&self.services), Arc::clone(backend));
        let sink = move |event| relay::relay(&relayed, &from, event);
        let (handle, carrying) = Upstream::new(backend.endpoint.clone(), backend.client, sink, stopping.clone());
        let connected = handle.connected();
        backend.set_socket(handle);
        let formers = self.leaving_before(backend);
        let gone = formers.clone();
        let closed = self.core.spawn(async move {
            tokio::select! {
                () = all_gone(gone) => carrying.run().await,
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {}
            }
        });
        let (services, watched) = (Arc::clone(&self.services), Arc::clone(backend));
        let (dispatch, stopping) = (self.dispatch.clone(), self.drain.subscribe());
        let monitor = self.core.spawn(async move {
            all_gone(formers).await;
            monitor::watch(services, watched, connected, dispatch, stopping).await;
        });
        Watch { backend: Arc::clone(backend), monitor, socket, closed }
    }

    /// Whom a backend waits for before it gets a socket and work. One of the same name: previews without a name are told apart by their backend's name
    /// alone, and must not reach the owner of a job on the other one. One at the same address: it is one ComfyUI, which has one job of ours at a time, so
    /// that an interruption can't meet another job, and which forgets a socket by its name alone when a former one of that name closes.
    fn leaving_before(&self, backend: &Backend) -> Vec<watch::Receiver<bool>> {
        let stands_before = |former: &Backend| former.id == backend.id || former.endpoint == backend.endpoint;
        let leaving = self.leaving();
        leaving.iter().filter(|former| stands_before(&former.backend)).map(|former| former.gone.clone()).collect()
    }

    /// It gets nothing new from now on: only what is configured does. Its attempts go on with their events.
    fn retire(self: &Arc<Self>, watch: Watch) {
        let Watch { backend, monitor, socket, closed, .. } = watch;
        tracing::info!(backend = %backend.id, endpoint = %backend.endpoint, "backend leaves: it finishes what it has");
        let (is_gone, gone) = watch::channel(false);
        let leaving =
            Leaving { backend: Arc::clone(&backend), monitor: monitor.abort_handle(), socket: socket.clone(), gone };
        self.leaving().push(leaving);
        let watchers = Arc::clone(self);
        self.core.spawn(async move {
            backend.vacant().await;
            monitor.abort();
            socket.send_replace(true);
            drop(closed.await);
            watchers.forget(&backend);
            is_gone.send_replace(true);
        });
    }

    fn forget(&self, backend: &Arc<Backend>) {
        self.leaving().retain(|leaving| !Arc::ptr_eq(&leaving.backend, backend));
        if !self.services.backends().contains_key(&backend.id) {
            self.services.metrics.forget_backend(&backend.id);
        }
        self.services.audit.backend(&backend.id, false, "not configured any more");
        tracing::info!(backend = %backend.id, endpoint = %backend.endpoint, "backend left");
    }
}

/// Resolves when none of them has an attempt or a socket any more.
async fn all_gone(formers: Vec<watch::Receiver<bool>>) {
    for mut former in formers {
        drop(former.wait_for(|gone| *gone).await);
    }
}

fn running(running: &Mutex<BTreeMap<BackendId, Watch>>) -> MutexGuard<'_, BTreeMap<BackendId, Watch>> {
    // Every change of the map is one call: a panic elsewhere leaves nothing half done.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
