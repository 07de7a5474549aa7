//! The words of a hand-over: JSON, one a line, over a unix stream socket; one of them carries the listening sockets.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// What this file says. A process of another protocol is refused before anything is given up.
pub(super) const PROTOCOL: u32 = 1;
/// Longest line: addresses of [`SOCKETS_MAX`] sockets.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Most sockets in one hand-over; the kernel takes 253.
const SOCKETS_MAX: usize = 200;

/// Why a hand-over does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection ended, or nothing came in time.
    #[error("the other process ended, or says nothing: {0}")]
    Io(#[from] io::Error),
    /// Not JSON, or not one of the words.
    #[error("the other process says what is no word of a hand-over: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A line without an end.
    #[error("the other process says more than {LINE_BYTES_MAX} bytes at once")]
    TooLong,
    /// A word at the wrong place.
    #[error("the other process says its words in another order")]
    Order,
    /// Fewer or more sockets than addresses.
    #[error("{sockets} sockets came for {addresses} addresses")]
    Sockets {
        /// That came.
        sockets: usize,
        /// That were named.
        addresses: usize,
    },
    /// No.
    #[error("{0}")]
    Refused(String),
}

/// What a successor says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromSuccessor {
    /// Who it is.
    Hello { protocol: u32, version: String },
    /// It is ready: let go.
    Take,
    /// It serves.
    Serving,
}

/// What a former process says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromPredecessor {
    /// What there is to take.
    Offer { version: String, schema: u64, addresses: BTreeSet<String> },
    /// Nothing is handed over.
    Refused(String),
    /// The ledger is closed; with this word come the sockets of these addresses, in their order.
    Given(Vec<String>),
}

/// Writes one word.
pub(super) fn write(stream: &mut UnixStream, word: &impl Serialize) -> Result<(), WireError> {
    Ok(stream.write_all(&line(word)?)?)
}

/// Reads one word, and not a byte more: the next one may carry sockets.
pub(super) fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<T, WireError> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(serde_json::from_slice(&line)?);
        }
        if line.len() >= LINE_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        line.extend_from_slice(&byte);
    }
}

/// Says [`FromPredecessor::Given`] and sends the sockets with it.
pub(super) fn write_sockets(stream: &UnixStream, sockets: &[(String, OwnedFd)]) -> Result<(), WireError> {
    let addresses: Vec<String> = sockets.iter().map(|(address, _)| address.clone()).collect();
    let line = line(&FromPredecessor::Given(addresses))?;
    let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(WireError::Sockets { sockets: SOCKETS_MAX, addresses: sockets.len() });
    }
    let sent = sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::empty()).map_err(io::Error::from)?;
    // The sockets are with the first bytes; the rest of a long line may follow.
    let mut stream = stream;
    Ok(stream.write_all(line.get(sent..).unwrap_or_default())?)
}

/// Waits for [`FromPredecessor::Given`], and takes the sockets that come with it.
pub(super) fn read_sockets(stream: &UnixStream) -> Result<BTreeMap<String, OwnedFd>, WireError> {
    let mut line = Vec::new();
    let mut sockets = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() > LINE_BYTES_MAX {
            return Err(WireError::TooLong);
        }
        let mut piece = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            recvmsg(stream, &mut [IoSliceMut::new(&mut piece)], &mut control, flags).map_err(io::Error::from)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        if received.bytes == 0 || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        line.extend_from_slice(piece.get(..received.bytes).unwrap_or_default());
    }
    let FromPredecessor::Given(addresses) = serde_json::from_slice(&line)? else { return Err(WireError::Order) };
    if addresses.len() != sockets.len() {
        return Err(WireError::Sockets { sockets: sockets.len(), addresses: addresses.len() });
    }
    Ok(addresses.into_iter().zip(sockets).collect())
}

fn line(word: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    if line.len() > LINE_BYTES_MAX { Err(WireError::TooLong) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_arrive_with_their_addresses_after_other_words() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<(String, OwnedFd)> = (0..3)
            .map(|_| {
                let socket = TcpListener::bind("127.0.0.1:0").unwrap();
                (socket.local_addr().unwrap().to_string(), socket.into())
            })
            .collect();
        write(&mut ours, &FromSuccessor::Take).unwrap();
        write_sockets(&ours, &sockets).unwrap();
        assert_eq!(read::<FromSuccessor>(&mut theirs).unwrap(), FromSuccessor::Take);
        let received = read_sockets(&theirs).unwrap();
        assert_eq!(received.len(), 3);
        drop(sockets);
        for (address, socket) in received {
            let socket = TcpListener::from(socket);
            assert_eq!(socket.local_addr().unwrap().to_string(), address);
            assert!(std::net::TcpStream::connect(address).is_ok(), "it listens on although its maker closed it");
        }
    }

    #[test]
    fn a_process_that_ends_is_told_from_one_that_speaks() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(matches!(read::<FromSuccessor>(&mut theirs), Err(WireError::Io(_))));
        assert!(matches!(read_sockets(&theirs), Err(WireError::Io(_))));
    }

    #[test]
    fn a_line_of_the_largest_length_is_read_and_a_longer_one_refused() {
        for (bytes, fits) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false)] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            let text = format!("\"{}\"\n", "x".repeat(bytes - 2));
            let writer = std::thread::spawn(move || ours.write_all(text.as_bytes()));
            let heard = read::<String>(&mut theirs);
            assert_eq!(heard.is_ok(), fits, "{bytes}");
            assert_eq!(matches!(heard, Err(WireError::TooLong)), !fits);
            drop(theirs);
            let _ = writer.join().unwrap();
        }
    }

    #[test]
    fn sockets_that_are_missing_are_noticed() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        write(&mut ours, &FromPredecessor::Given(vec!["127.0.0.1:1".into()])).unwrap();
        assert!(matches!(read_sockets(&theirs), Err(WireError::Sockets { sockets: 0, addresses: 1 })));
    }
}
