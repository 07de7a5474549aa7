//! The watch over each backend: its monitor and its socket, begun and ended as the configuration says.

use crate::deliver::events::upstream::{Upstream, UpstreamSocket};
use crate::dispatch::backend::Backend;
use crate::dispatch::dispatcher::DispatchHandle;
use crate::dispatch::{monitor, relay};
use crate::drain::Drain;
use crate::endpoint::BackendEndpoint;
use crate::ids::BackendId;
use crate::services::Services;
use comfygate_policy::Catalogue;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Watches over all configured backends, and over those that are not configured any more until their last attempt is over.
pub(super) struct Watchers {
    services: Arc<Services>,
    dispatch: DispatchHandle,
    drain: Drain,
    core: Handle,
    running: Mutex<BTreeMap<BackendId, Watch>>,
    /// Of backends that were taken out: what is still to be ended at a stop.
    leaving: Mutex<Vec<Watch>>,
}

/// One backend's.
struct Watch {
    backend: Arc<Backend>,
    catalogue: Arc<Catalogue>,
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
    /// ours runs there. A backend whose catalogue changed is asked anew before it gets work. Not to be called twice at once.
    pub(super) async fn follow(self: &Arc<Self>) {
        let live = self.services.live();
        let former = std::mem::take(&mut *running(&self.running));
        let mut now = BTreeMap::new();
        for (id, watch) in former {
            match live.backends.get(&id) {
                Some(backend) if Arc::ptr_eq(backend, &watch.backend) => {
                    now.insert(id, self.with_catalogue(watch, live.inspector.catalogue_arc()).await);
                }
                _ => self.retire(watch),
            }
        }
        for (id, backend) in live.backends.iter() {
            if !now.contains_key(id) {
                now.insert(id.clone(), self.begun(backend, live.inspector.catalogue_arc()));
            }
        }
        *running(&self.running) = now;
        // The word to stop may have come meanwhile, and missed them.
        if self.drain.is_stopping() {
            self.stop();
        }
    }

    /// Resolves when every socket is closed; [`Watchers::follow`] or the drain has told them before.
    pub(super) async fn closed(&self) {
        let mut watches = std::mem::take(&mut *running(&self.running)).into_values().collect::<Vec<_>>();
        watches.append(&mut self.leaving.lock().unwrap_or_else(PoisonError::into_inner));
        for watch in watches {
            watch.stop();
            // It ends by itself; one that panicked has no socket any more either.
            let _ = watch.closed.await;
        }
    }

    fn stop(&self) {
        running(&self.running).values().for_each(Watch::stop);
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Watch::stop);
    }

    fn begun(&self, backend: &Arc<Backend>, catalogue: Arc<Catalogue>) -> Watch {
        let (socket, stopping) = watch::channel(false);
        let (relayed, id) = (Arc::clone(&self.services), backend.id.clone());
        let sink = move |event| relay::relay(&relayed, &id, event);
        let (handle, carrying) = Upstream::new(backend.endpoint.clone(), backend.client, sink, stopping);
        backend.set_socket(handle);
        let closed = self.core.spawn(carrying.run());
        let monitor = self.monitor(backend, &catalogue);
        Watch { backend: Arc::clone(backend), catalogue, monitor, socket, closed }
    }

    fn monitor(&self, backend: &Arc<Backend>, catalogue: &Arc<Catalogue>) -> JoinHandle<()> {
        // A backend has its socket before its monitor; without one the monitor would say that it can't be opened.
        let connected = backend.socket().map_or_else(|| watch::channel(false).1, UpstreamSocket::connected);
        let (backend, catalogue) = (Arc::clone(backend), Arc::clone(catalogue));
        let (dispatch, stopping) = (self.dispatch.clone(), self.drain.subscribe());
        let former = self.leaving_at(&backend.endpoint);
        self.core.spawn(async move {
            // The same ComfyUI under a former name: one job of ours at a time there, so that an interruption can't meet another job.
            for former in former {
                former.vacant().await;
            }
            monitor::watch(backend, catalogue, connected, dispatch, stopping).await;
        })
    }

    fn leaving_at(&self, endpoint: &BackendEndpoint) -> Vec<Arc<Backend>> {
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.iter().map(|watch| &watch.backend).filter(|former| former.endpoint == *endpoint).cloned().collect()
    }

    async fn with_catalogue(&self, mut watch: Watch, catalogue: Arc<Catalogue>) -> Watch {
        if watch.catalogue.digest() == catalogue.digest() {
            return watch;
        }
        // Over before the next one begins: what it found by the former catalogue must not be said after this.
        watch.monitor.abort();
        let _ = (&mut watch.monitor).await;
        watch.backend.eject("the catalogue changed: its classes are compared anew");
        let monitor = self.monitor(&watch.backend, &catalogue);
        Watch { catalogue, monitor, ..watch }
    }

    /// It gets nothing new from now on: only what is configured does. Its attempts go on with their events.
    fn retire(self: &Arc<Self>, watch: Watch) {
        let (watchers, backend) = (Arc::clone(self), Arc::clone(&watch.backend));
        tracing::info!(backend = %backend.id, endpoint = %backend.endpoint, "backend leaves: it finishes what it has");
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(watch);
        self.core.spawn(async move {
            backend.vacant().await;
            watchers.forget(&backend);
        });
    }

    fn forget(&self, backend: &Arc<Backend>) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|watch| {
            let stays = !Arc::ptr_eq(&watch.backend, backend);
            if !stays {
                watch.stop();
            }
            stays
        });
        drop(leaving);
        if !self.services.backends().contains_key(&backend.id) {
            self.services.metrics.forget_backend(&backend.id);
        }
        self.services.audit.backend(&backend.id, false, "not configured any more");
        tracing::info!(backend = %backend.id, endpoint = %backend.endpoint, "backend left");
    }
}

fn running(running: &Mutex<BTreeMap<BackendId, Watch>>) -> MutexGuard<'_, BTreeMap<BackendId, Watch>> {
    // Every change of the map is one call: a panic elsewhere leaves nothing half done.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
