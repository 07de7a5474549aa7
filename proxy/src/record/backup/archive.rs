//! The archive's form: ustar (POSIX 1003.1-1988) with regular files only, so that `tar tf` and `tar xf` read it.
//!
//! Our own reader takes what our writer makes and nothing else: no links, no folders, no extended headers, no long names. A general tar library
//! would bring all of these, and with them the ways out of the target folder that archives are known for.

use super::{BackupError, EntryName};
use std::io::{self, Read, Write};

/// Heads and contents come in blocks of so many bytes.
const BLOCK: usize = 512;
/// Octal digits of a length; longer ones are written as a number of base 256 (GNU).
const OCTAL_MAX: u64 = 0o777_7777_7777;
/// Field of the length: 12 bytes at 124.
const LENGTH: std::ops::Range<usize> = 124..136;
/// Field of the checksum: 8 bytes at 148, counted as spaces.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Writes entries.
pub struct Writer<W> {
    out: W,
    seconds: u64,
}

impl<W: Write> Writer<W> {
    /// Entries get this time, in seconds since 1970.
    pub fn new(out: W, seconds: u64) -> Self {
        Self { out, seconds }
    }

    /// Writes one entry of exactly `length` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are fewer; what the target said.
    pub fn add(&mut self, name: &EntryName, length: u64, content: &mut dyn Read) -> io::Result<()> {
        self.out.write_all(&head(name.as_str(), length, self.seconds))?;
        if io::copy(&mut content.take(length), &mut self.out)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let padding = padding(length);
        self.out.write_all([0; BLOCK].get(..padding).unwrap_or_default())
    }

    /// Writes the end.
    ///
    /// # Errors
    /// What the target said.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Bytes up to the next block.
fn padding(length: u64) -> usize {
    match usize::try_from(length % BLOCK as u64) {
        Ok(rest) if rest > 0 => BLOCK - rest,
        _ => 0,
    }
}

fn head(name: &str, length: u64, seconds: u64) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| {
        for (to, from) in head.iter_mut().skip(at).zip(text) {
            *to = *from;
        }
    };
    // Names of a backup are shorter than the field of 100.
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if length <= OCTAL_MAX {
        put(LENGTH.start, format!("{length:011o}\0").as_bytes());
    } else {
        put(LENGTH.start, &[0x80, 0, 0, 0]);
        put(LENGTH.start + 4, &length.to_be_bytes());
    }
    put(136, format!("{:011o}\0", seconds.min(OCTAL_MAX)).as_bytes());
    put(CHECKSUM.start, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum = checksum(&head);
    for (to, from) in head.iter_mut().skip(CHECKSUM.start).zip(format!("{sum:06o}\0 ").as_bytes()) {
        *to = *from;
    }
    head
}

/// The sum of the head's bytes, with the checksum's own field as spaces.
fn checksum(head: &[u8; BLOCK]) -> u64 {
    let counted = |(at, byte): (usize, &u8)| if CHECKSUM.contains(&at) { u64::from(b' ') } else { u64::from(*byte) };
    head.iter().enumerate().map(counted).sum()
}

/// Reads entries, one after another.
pub struct Reader<R> {
    from: R,
    /// Bytes of the current entry that are not read yet.
    left: u64,
    padding: usize,
}

impl<R: Read> Reader<R> {
    /// From the first byte on.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0 }
    }

    /// The next entry's name and length; `None` at the end. What was not read of the last one is passed over.
    ///
    /// # Errors
    /// `NotWhole`, `Name`, `Stream`.
    pub fn next_entry(&mut self) -> Result<Option<(EntryName, u64)>, BackupError> {
        io::copy(&mut self.content(), &mut io::sink())?;
        if self.left > 0 {
            return Err(cut_off());
        }
        let mut rest = [0; BLOCK];
        self.exact(rest.get_mut(..self.padding).unwrap_or_default())?;
        self.padding = 0;
        let mut head = [0; BLOCK];
        self.exact(&mut head)?;
        if head == [0; BLOCK] {
            self.exact(&mut head)?;
            let zeros = head == [0; BLOCK] && io::copy(&mut self.from, &mut OnlyZeros).is_ok();
            return if zeros { Ok(None) } else { Err(damaged("there is more after its end")) };
        }
        let (name, length) = parsed(&head)?;
        (self.left, self.padding) = (length, padding(length));
        Ok(Some((name, length)))
    }

    /// What is left of the current entry.
    pub fn content(&mut self) -> impl Read {
        Content(self)
    }

    fn exact(&mut self, into: &mut [u8]) -> Result<(), BackupError> {
        self.from.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => cut_off(),
            _ => error.into(),
        })
    }
}

struct Content<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.0.from).take(self.0.left).read(into)?;
        self.0.left = self.0.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// Takes the zeros with which some programs fill up an archive.
struct OnlyZeros;

impl Write for OnlyZeros {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.iter().all(|byte| *byte == 0) { Ok(bytes.len()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn cut_off() -> BackupError {
    damaged("it ends in the middle")
}

fn damaged(what: &str) -> BackupError {
    BackupError::NotWhole(what.to_owned())
}

fn parsed(head: &[u8; BLOCK]) -> Result<(EntryName, u64), BackupError> {
    let field = |range: std::ops::Range<usize>| head.get(range).unwrap_or_default();
    if field(257..263) != b"ustar\0" || octal(field(CHECKSUM)) != Some(checksum(head)) {
        return Err(damaged("this is no archive that `comfygate backup` made, or a damaged one"));
    }
    if field(156..157) != b"0" || field(345..500).iter().any(|byte| *byte != 0) {
        return Err(damaged(
            "it holds something that is no plain file: take the archive as `comfygate backup` made it",
        ));
    }
    let name = field(0..100).split(|byte| *byte == 0).next().unwrap_or_default();
    let name = EntryName::parse(&String::from_utf8_lossy(name))?;
    let length = match field(LENGTH) {
        [0x80, 0, 0, 0, bytes @ ..] => <[u8; 8]>::try_from(bytes).ok().map(u64::from_be_bytes),
        digits => octal(digits),
    };
    Ok((name, length.ok_or_else(|| damaged("an entry has no length"))?))
}

/// Octal digits up to the first space or zero byte.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.split(|byte| matches!(byte, 0 | b' ')).next()?;
    if digits.is_empty() || !digits.iter().all(|byte| matches!(byte, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EntryName {
        EntryName::parse(text).unwrap()
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), 1_700_000_000);
        for (text, content) in entries {
            writer.add(&name(text), content.len() as u64, &mut &**content).unwrap();
        }
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, BackupError> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some((name, _)) = reader.next_entry()? {
            let mut content = Vec::new();
            reader.content().read_to_end(&mut content)?;
            found.push((name.to_string(), content));
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_whatever_its_length() {
        let contents = [vec![], vec![1; 511], vec![2; 512], vec![3; 513]];
        let entries: Vec<(&str, &[u8])> =
            ["a", "b", "c", "d"].into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
        let bytes = archive(&entries);
        assert_eq!(bytes.len() % 512, 0);
        let expected: Vec<_> = entries.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        assert_eq!(read(&bytes).unwrap(), expected);
        // An entry that nobody reads is passed over.
        let mut reader = Reader::new(bytes.as_slice());
        let names: Vec<_> = std::iter::from_fn(|| reader.next_entry().unwrap())
            .map(|(name, length)| (name.to_string(), length))
            .collect();
        assert_eq!(names[3], ("d".to_owned(), 513));
        assert_eq!(names.len(), 4);
    }

    #[test]
    fn a_length_beyond_the_octal_field_is_kept() {
        for length in [OCTAL_MAX, OCTAL_MAX + 1, u64::MAX] {
            assert_eq!(parsed(&head("a", length, 0)).unwrap(), (name("a"), length));
        }
    }

    #[test]
    fn an_archive_that_ends_early_or_goes_on_is_not_whole() {
        let whole = archive(&[("a", &[7; 700])]);
        for length in [0, 1, 511, 512, 600, 1536, whole.len() - 512, whole.len() - 1] {
            assert!(matches!(read(&whole[..length]), Err(BackupError::NotWhole(_))), "{length}");
        }
        let filled = [whole.as_slice(), &[0; 8192]].concat();
        assert_eq!(read(&filled).unwrap().len(), 1);
        let longer = [whole.as_slice(), &[0, 1]].concat();
        assert!(matches!(read(&longer), Err(BackupError::NotWhole(_))));
    }

    #[test]
    fn a_flipped_bit_in_a_head_is_seen_and_other_kinds_of_entries_are_refused() {
        let whole = archive(&[("a", b"x")]);
        for at in [0, 99, 124, 150, 156, 257, 400] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
        for (at, value) in [(156, b'2'), (156, b'5'), (345, b'p')] {
            let mut head = head("a", 0, 0);
            head[at] = value;
            let sum = format!("{:06o}\0 ", checksum(&head));
            head[CHECKSUM].copy_from_slice(sum.as_bytes());
            assert!(matches!(parsed(&head), Err(BackupError::NotWhole(_))), "{at}");
        }
    }

    #[test]
    fn fewer_bytes_than_announced_are_an_error_of_the_writer() {
        let mut writer = Writer::new(Vec::new(), 0);
        assert!(writer.add(&name("a"), 3, &mut &b"ab"[..]).is_err());
    }
}
