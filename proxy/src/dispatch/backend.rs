//! One backend as the gateway knows it: where it is, whether it answers, which classes it shares with the pinned catalogue.

use super::comfyui::ComfyUi;
use super::push::Present;
use crate::deliver::events::upstream::UpstreamSocket;
use crate::endpoint::BackendEndpoint;
use crate::ids::{BackendId, PoolId, UpstreamClientId};
use arc_swap::{ArcSwap, ArcSwapOption};
use comfygate_policy::{Agreement, ApprovedWorkflow, Catalogue};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;

/// A configured ComfyUI.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub id: BackendId,
    /// Which tenants it serves.
    pub pool: PoolId,
    /// Where it listens.
    pub endpoint: BackendEndpoint,
    /// Our secret sid there.
    pub client: UpstreamClientId,
    /// How to call it.
    pub comfyui: ComfyUi,
    /// Which files of callers it was given.
    pub present: Present,
    /// Whose turn it is to have a mask put into a picture.
    pub mask_turn: tokio::sync::Mutex<()>,
    state: ArcSwap<BackendState>,
    /// Its whole installation is one tenant's, which is judged by what is installed there now.
    owned: AtomicBool,
    installed: ArcSwapOption<Catalogue>,
    foreign: AtomicU64,
    ejected: Notify,
    socket: OnceLock<UpstreamSocket>,
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
    pub fn new(id: BackendId, pool: PoolId, endpoint: BackendEndpoint, client: UpstreamClientId) -> Self {
        let comfyui = ComfyUi::new(endpoint.clone());
        let state = ArcSwap::from_pointee(BackendState::Down { reason: "not asked yet".into() });
        Self {
            id,
            pool,
            endpoint,
            client,
            comfyui,
            present: Present::default(),
            mask_turn: tokio::sync::Mutex::default(),
            state,
            owned: AtomicBool::new(false),
            installed: ArcSwapOption::empty(),
            foreign: AtomicU64::new(0),
            ejected: Notify::new(),
            socket: OnceLock::new(),
        }
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

    /// Says whether its installation is one tenant's own (owner posture): only then its catalogue is kept, which may take tens of megabytes.
    pub fn set_owned(&self, owned: bool) {
        self.owned.store(owned, Ordering::Relaxed);
        if !owned {
            self.installed.store(None);
        }
    }

    /// Whether its installation is one tenant's own.
    pub fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Relaxed)
    }

    /// What is installed there, as it said when it came up; of owned backends only.
    pub fn installed(&self) -> Option<Arc<Catalogue>> {
        self.installed.load_full()
    }

    /// Remembers what is installed there.
    pub fn set_installed(&self, catalogue: Catalogue) {
        self.installed.store(Some(Arc::new(catalogue)));
    }

    /// Whether it is up and every class of the workflow means there what the catalogue says; of an owned backend, whether it has the classes.
    pub fn can_run(&self, workflow: &ApprovedWorkflow) -> bool {
        if let (true, Some(installed)) = (self.is_owned(), self.installed()) {
            return self.is_up() && workflow.classes().all(|class| installed.class(class.as_str()).is_some());
        }
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
        // What comes up may be another process, on another disk.
        self.present.clear();
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
