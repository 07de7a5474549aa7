//! Addresses of a backend's name: looked up anew, but not more often than every 30 s while they work.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a lookup is believed. A name that moved is followed within this time, or at once when its old addresses do not answer.
const BELIEVED: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// The last lookup of one endpoint.
#[derive(Debug, Default)]
pub struct Resolved(Mutex<Option<(Instant, Vec<SocketAddr>)>>);

impl Resolved {
    /// The addresses now, at least one. An IP address needs no lookup; names are looked up off the caller's thread.
    ///
    /// # Errors
    /// What the resolver said, or `NotFound` for a name without address.
    pub async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if let Some(known) = self.believed(Instant::now()) {
            return Ok(known);
        }
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address")));
        }
        *self.lock() = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// The next connection looks the name up anew.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    fn believed(&self, now: Instant) -> Option<Vec<SocketAddr>> {
        let known = self.lock();
        let (at, addresses) = known.as_ref()?;
        (now.saturating_duration_since(*at) < BELIEVED).then(|| addresses.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<SocketAddr>)>> {
        // Replaced as a whole: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lookup_is_believed_for_thirty_seconds_and_not_longer() {
        let resolved = Resolved::default();
        let found = resolved.addresses("localhost", 80).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{found:?}");
        let at = resolved.lock().as_ref().unwrap().0;
        assert_eq!(resolved.believed(at + BELIEVED - Duration::from_millis(1)), Some(found));
        assert_eq!(resolved.believed(at + BELIEVED), None);
        resolved.forget();
        assert_eq!(resolved.believed(at), None);
    }

    #[tokio::test]
    async fn an_address_is_itself_and_needs_no_lookup() {
        let resolved = Resolved::default();
        assert_eq!(resolved.addresses("::1", 1).await.unwrap(), ["[::1]:1".parse().unwrap()]);
        assert!(resolved.lock().is_none());
    }
}
