//! Words to the service manager (`sd_notify(3)`): a datagram to the socket that `$NOTIFY_SOCKET` names. Without that variable nothing is said.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// Requests are served.
    Ready,
    /// The configuration is being read; `Ready` follows.
    Reloading,
    /// No new work is taken.
    Stopping,
    /// That process is the service from now on.
    MainProcess(u32),
}

impl Word {
    fn text(self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Reloading => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
            }
            Self::Stopping => "STOPPING=1".to_owned(),
            Self::MainProcess(process) => format!("MAINPID={process}\nREADY=1"),
        }
    }
}

/// Tells the service manager, if there is one.
pub(super) fn tell(word: Word) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(&socket, &word.text()) {
        tracing::warn!(%error, ?word, "the service manager was not told");
    }
}

fn send(socket: &OsStr, text: &str) -> std::io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_arrives_at_a_named_and_at_an_abstract_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("comfygate-test-{}", uuid::Uuid::new_v4());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ];
        for (manager, name) in sockets {
            send(&name, &Word::MainProcess(7).text()).unwrap();
            let mut heard = [0; 64];
            let bytes = manager.recv(&mut heard).unwrap();
            assert_eq!(&heard[..bytes], b"MAINPID=7\nREADY=1");
        }
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let text = Word::Reloading.text();
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
    }
}
