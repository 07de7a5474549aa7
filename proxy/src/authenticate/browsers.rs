//! What all sessions of this gateway share: the cookie's name, and the word that a session has ended.

use super::endings::{Endings, Subject};
use super::session::SessionCookie;
use crate::config::PublicUrl;
use crate::ids::{InstanceId, SessionId};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Browsers {
    instance: InstanceId,
    endings: Arc<Endings>,
}

impl Browsers {
    /// Of the gateway with that name.
    pub fn new(instance: InstanceId, endings: Arc<Endings>) -> Self {
        Self { instance, endings }
    }

    /// The cookie, below the public URL of now.
    pub fn cookie(&self, public: Option<&PublicUrl>) -> SessionCookie {
        SessionCookie::new(self.instance, public)
    }

    /// The name of this gateway.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Tells every open socket of a session that it has ended.
    pub fn end(&self, session: SessionId) {
        self.endings.tell(&Subject::Session(session));
    }
}
