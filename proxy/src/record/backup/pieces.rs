//! An archive on its way from whoever makes it to whoever keeps it, in pieces: what does not fit the channel waits.

use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, Read, Write};
use std::sync::mpsc::Receiver;

/// Bytes of a piece.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may wait in a channel.
pub const PIECES_MAX: usize = 16;

/// Gives whole pieces to `send`, which may wait.
pub struct PieceWriter<F> {
    send: F,
    piece: BytesMut,
}

impl<F: FnMut(Bytes) -> io::Result<()>> PieceWriter<F> {
    /// `send` is an error once nobody takes pieces any more.
    pub fn new(send: F) -> Self {
        Self { send, piece: BytesMut::with_capacity(PIECE_BYTES) }
    }
}

impl<F: FnMut(Bytes) -> io::Result<()>> Write for PieceWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES.saturating_sub(self.piece.len()));
        self.piece.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { (self.send)(self.piece.split().freeze()) }
    }
}

/// Reads pieces from another thread. Its error is ours; its end is the end.
pub struct PieceReader {
    pieces: Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl PieceReader {
    /// From the first piece on.
    pub fn new(pieces: Receiver<io::Result<Bytes>>) -> Self {
        Self { pieces, current: Bytes::new() }
    }
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.recv() {
                Ok(piece) => self.current = piece?,
                Err(_) => return Ok(0),
            }
        }
        let count = into.len().min(self.current.len());
        self.current.copy_to_slice(into.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_arrives_in_order_and_an_error_after_it() {
        let (sender, pieces) = std::sync::mpsc::sync_channel(PIECES_MAX);
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|at| at.to_be_bytes()[7]).collect();
        let written = content.clone();
        let thread = std::thread::spawn(move || {
            let send = |piece| sender.send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into());
            let mut writer = PieceWriter::new(send);
            writer.write_all(&written).unwrap();
            writer.flush().unwrap();
            sender.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        });
        let (mut reader, mut read) = (PieceReader::new(pieces), Vec::new());
        assert_eq!(reader.read_to_end(&mut read).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(read, content);
        thread.join().unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
