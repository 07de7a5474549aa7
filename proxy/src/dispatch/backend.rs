//! One backend as the gateway knows it: where it is, whether it answers, which classes it shares with the pinned catalogue.

use super::comfyui::ComfyUi;
use crate::deliver::events::upstream::UpstreamSocket;
use crate::endpoint::BackendEndpoint;
use crate::ids::{BackendId, UpstreamClientId};
use arc_swap::ArcSwap;
use comfygate_policy::{Agreement, ApprovedWorkflow};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, watch};

/// A configured ComfyUI.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub id: BackendId,
    /// Where it listens.
    pub endpoint: BackendEndpoint,
    /// Our secret sid there.
    pub client: UpstreamClientId,
    /// How to call it.
    pub comfyui: ComfyUi,
    state: ArcSwap<BackendState>,
    foreign: AtomicU64,
    ejected: Notify,
    socket: OnceLock<UpstreamSocket>,
    attempts: Arc<watch::Sender<u32>>,
}

/// An attempt that a task carries at a backend; dropped when it is over.
#[derive(Debug)]
pub struct Occupied(Arc<watch::Sender<u32>>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.send_modify(|attempts| *attempts = attempts.saturating_sub(1));
    }
}

/// Whether a backend may be given work.
#[derive(Debug, Clone)]
pub enum BackendState {
    /// It does not answer, or did not yet.
    Down {
        /// What happened, for operators.
        reason: String,
    },
    /// It answers.
    Up {
        /// What its live `object_info` shares with the pinned catalogue.
        agreement: Arc<Agreement>,
    },
}

impl Backend {
    /// A backend that has not been asked yet: down until its monitor says otherwise.
    pub fn new(id: BackendId, endpoint: BackendEndpoint, client: UpstreamClientId) -> Self {
        let comfyui = ComfyUi::new(endpoint.clone());
        let state = ArcSwap::from_pointee(BackendState::Down { reason: "not asked yet".into() });
        Self {
            id,
            endpoint,
            client,
            comfyui,
            state,
            foreign: AtomicU64::new(0),
            ejected: Notify::new(),
            socket: OnceLock::new(),
            attempts: Arc::new(watch::channel(0).0),
        }
    }

    /// Counts an attempt that is carried here.
    pub fn occupy(&self) -> Occupied {
        self.attempts.send_modify(|attempts| *attempts = attempts.saturating_add(1));
        Occupied(Arc::clone(&self.attempts))
    }

    /// Resolves when no attempt is carried here.
    pub async fn vacant(&self) {
        // The sender lives in `self`, so waiting can't fail.
        drop(self.attempts.subscribe().wait_for(|attempts| *attempts == 0).await);
    }

    /// Our socket there, once there is one.
    pub fn socket(&self) -> Option<&UpstreamSocket> {
        self.socket.get()
    }

    /// Remembers our socket there; the first one stays, it reconnects by itself.
    pub fn set_socket(&self, socket: UpstreamSocket) {
        let _ = self.socket.set(socket);
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        matches!(**self.state.load(), BackendState::Up { .. })
    }

    /// Its state now.
    pub fn state(&self) -> Arc<BackendState> {
        self.state.load_full()
    }

    /// Whether it is up and every class of the workflow means there what the catalogue says.
    pub fn can_run(&self, workflow: &ApprovedWorkflow) -> bool {
        match &**self.state.load() {
            BackendState::Up { agreement } => workflow.classes().all(|class| agreement.agrees(class.as_str())),
            BackendState::Down { .. } => false,
        }
    }

    /// Prompts in its queue that are not ours, as last seen.
    pub fn foreign(&self) -> u32 {
        u32::try_from(self.foreign.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Remembers how many prompts others have there.
    pub fn set_foreign(&self, prompts: u64) {
        self.foreign.store(prompts, Ordering::Relaxed);
    }

    /// Gives it work again.
    pub fn set_up(&self, agreement: Agreement) {
        self.state.store(Arc::new(BackendState::Up { agreement: Arc::new(agreement) }));
    }

    /// Takes it out of service; its monitor asks it until it answers again.
    pub fn eject(&self, reason: impl Into<String>) {
        self.state.store(Arc::new(BackendState::Down { reason: reason.into() }));
        self.ejected.notify_one();
    }

    /// Resolves when somebody ejects it.
    pub async fn ejected(&self) {
        self.ejected.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_backend_is_vacant_when_its_last_attempt_is_over_and_no_earlier() {
        let endpoint = BackendEndpoint::parse("http://127.0.0.1:8188").unwrap();
        let backend = Backend::new("gpu0".parse().unwrap(), endpoint, UpstreamClientId::new());
        backend.vacant().await;
        let (first, second) = (backend.occupy(), backend.occupy());
        let mut vacant = Box::pin(backend.vacant());
        drop(first);
        assert!(futures_util::poll!(&mut vacant).is_pending());
        drop(second);
        vacant.await;
    }
}
