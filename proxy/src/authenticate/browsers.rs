//! What all sessions of this gateway share: the cookie's name, and the word that a session has ended.

use super::session::SessionCookie;
use crate::config::PublicUrl;
use crate::ids::{InstanceId, SessionId};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

/// Ends that an open socket may not have heard of yet; beyond it, it looks for itself.
const ENDS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Browsers {
    instance: InstanceId,
    ends: Sender<SessionId>,
}

/// Hears of ended sessions.
#[derive(Debug)]
pub struct Ends(Receiver<SessionId>);

impl Browsers {
    /// Of the gateway with that name.
    pub fn new(instance: InstanceId) -> Self {
        Self { instance, ends: Sender::new(ENDS_MAX) }
    }

    /// The cookie, below the public URL of now.
    pub fn cookie(&self, public: Option<&PublicUrl>) -> SessionCookie {
        SessionCookie::new(self.instance, public)
    }

    /// Tells every open socket that a session has ended.
    pub fn end(&self, session: SessionId) {
        // Nobody may be listening.
        let _ = self.ends.send(session);
    }

    /// From now on.
    pub fn ends(&self) -> Ends {
        Ends(self.ends.subscribe())
    }
}

impl Ends {
    /// Resolves when `session` may have ended: it was named, or so many were that some went unheard.
    pub async fn of(&mut self, session: SessionId) {
        loop {
            match self.0.recv().await {
                Ok(ended) if ended == session => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                // The gateway is going; whoever waits hears that elsewhere.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn only_the_own_end_is_heard_and_a_flood_of_others_makes_one_look() {
        let browsers = Browsers::new(InstanceId::new());
        let (own, other) = (SessionId::new(), SessionId::new());
        let mut ends = browsers.ends();
        browsers.end(other);
        assert!(ends.of(own).now_or_never().is_none());
        browsers.end(own);
        assert!(ends.of(own).now_or_never().is_some());
        for _ in 0..=ENDS_MAX {
            browsers.end(other);
        }
        assert!(ends.of(own).now_or_never().is_some());
        assert!(ends.of(own).now_or_never().is_none());
    }
}
