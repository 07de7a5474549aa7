//! A form on its way in: fields in memory, the file in the blobs' spool.

use super::multipart::{FormError, FormEvent, FormReader, PartHead};
use super::names::{self, NameError};
use crate::admit::UploadSlot;
use crate::inspect::contents::{self, ContentError, ContentFacts};
use crate::record::blobs::{BlobError, BlobWriter, Blobs};
use crate::record::ledger::Directory;

/// Bytes of one field that is no file: `original_ref` is the longest, a name and a subfolder in JSON.
const FIELD_BYTES_MAX: usize = 4096;
/// The fields that mean something; others are read and forgotten, as ComfyUI does.
const FIELDS: [&str; 4] = ["type", "subfolder", "overwrite", "original_ref"];

/// Why an upload was not received.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The form.
    #[error(transparent)]
    Form(#[from] FormError),
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field twice: readers choose differently (facts §11, 91).
    #[error("the field `{0}` is there twice: send it once")]
    FieldRepeated(String),
    /// A field with another value than it may have.
    #[error("the field `{field}` {fault}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// No file, or the file is in another field.
    #[error("the form has no file in the field `image`: send one there, with a `filename`")]
    NoFile,
    /// A file beside `image`.
    #[error("a form has one file, in the field `image`: send others in forms of their own")]
    OtherFile,
    /// What the file is.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The disk, or more bytes than the route takes.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// A form that is arriving.
pub struct Reception {
    reader: FormReader,
    blobs: Blobs,
    bytes_max: u64,
    fields: Vec<(&'static str, Vec<u8>)>,
    file: Option<(String, BlobWriter)>,
    part: Part,
}

/// What the content that comes now belongs to.
enum Part {
    Field(usize),
    Ignored(usize),
    File,
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Reception {
    /// Waits for a form whose file has at most `bytes_max` bytes.
    pub fn new(boundary: &str, blobs: &Blobs, bytes_max: u64) -> Self {
        let (reader, blobs) = (FormReader::new(boundary), blobs.clone());
        Self { reader, blobs, bytes_max, fields: Vec::new(), file: None, part: Part::Ignored(0) }
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// [`UploadError`]; nothing of the upload stays.
    pub async fn take(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        self.reader.feed(piece);
        while let Some(event) = self.reader.next_event()? {
            match event {
                FormEvent::Part(head) => self.part = self.begin(head)?,
                FormEvent::Content(bytes) => self.content(&bytes).await?,
                FormEvent::End => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, head: PartHead) -> Result<Part, UploadError> {
        if let Some(filename) = head.filename {
            if head.name != "image" {
                return Err(UploadError::OtherFile);
            }
            if self.file.is_some() {
                return Err(UploadError::FieldRepeated(head.name));
            }
            let filename = names::filename(&filename)?.to_owned();
            self.file = Some((filename, self.blobs.writer(self.bytes_max)?));
            return Ok(Part::File);
        }
        if head.name == "image" {
            return Err(UploadError::NoFile);
        }
        let Some(known) = FIELDS.into_iter().find(|known| *known == head.name) else { return Ok(Part::Ignored(0)) };
        if self.fields.iter().any(|(name, _)| *name == known) {
            return Err(UploadError::FieldRepeated(head.name));
        }
        self.fields.push((known, Vec::new()));
        Ok(Part::Field(self.fields.len() - 1))
    }

    async fn content(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let too_long = |field| UploadError::Field { field, fault: "is longer than 4096 bytes" };
        match &mut self.part {
            Part::File => {
                if let Some((_, writer)) = &mut self.file {
                    writer.write(bytes).await?;
                }
            }
            Part::Field(place) => {
                if let Some((field, value)) = self.fields.get_mut(*place) {
                    if value.len() + bytes.len() > FIELD_BYTES_MAX {
                        return Err(too_long(field));
                    }
                    value.extend_from_slice(bytes);
                }
            }
            Part::Ignored(read) => {
                *read += bytes.len();
                if *read > FIELD_BYTES_MAX {
                    return Err(too_long("…"));
                }
            }
        }
        Ok(())
    }

    /// The body is over: reads what the file is.
    ///
    /// # Errors
    /// [`UploadError`]; nothing of the upload stays.
    pub async fn finish(self, mut slot: UploadSlot) -> Result<ReceivedForm, UploadError> {
        self.reader.finish()?;
        let field = |wanted: &str| {
            let found = self.fields.iter().find(|(name, _)| *name == wanted);
            found.map(|(field, value)| match std::str::from_utf8(value) {
                Ok(text) => Ok(text.to_owned()),
                Err(_) => Err(UploadError::Field { field, fault: "is not UTF-8" }),
            })
        };
        let directory = match field("type").transpose()?.as_deref() {
            None | Some("input") => Directory::Input,
            Some("temp") => Directory::Temp,
            // ComfyUI would take `output` too: among the results, over which an upload has no say here (facts §11, 88).
            Some(_) => return Err(UploadError::Field { field: "type", fault: "must be `input` or `temp`" }),
        };
        let subfolder = names::subfolder(&field("subfolder").transpose()?.unwrap_or_default())?;
        let overwrite = matches!(field("overwrite").transpose()?.as_deref(), Some("true" | "1"));
        let original = field("original_ref").transpose()?;
        let (filename, mut content) = self.file.ok_or(UploadError::NoFile)?;
        let read = content.read_back(|file, length| (contents::read(file, length), length)).await?;
        let facts = read.0?;
        slot.settle(read.1);
        Ok(ReceivedForm { directory, subfolder, overwrite, original, filename, content, facts, slot })
    }
}

/// A form that has arrived, its file in the spool and of a type that we take.
pub struct ReceivedForm {
    /// `type`.
    pub directory: Directory,
    /// `subfolder`, or an empty text.
    pub subfolder: String,
    /// `overwrite`.
    pub overwrite: bool,
    /// `original_ref` as written.
    pub original: Option<String>,
    /// The file's name.
    pub filename: String,
    /// The file.
    pub content: BlobWriter,
    /// What it is.
    pub facts: ContentFacts,
    /// Its place among the arriving ones; given back when the ledger has the file.
    pub slot: UploadSlot,
}

impl std::fmt::Debug for ReceivedForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceivedForm")
            .field("filename", &self.filename)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::UploadSlots;
    use crate::inspect::contents::ContentKind;

    const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
        [format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").as_bytes(), content, b"\r\n"].concat()
    }

    async fn received(parts: &[Vec<u8>], bytes_max: u64) -> (Result<ReceivedForm, UploadError>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let slot = UploadSlots::default().take(&"a".parse().unwrap()).unwrap();
        let mut reception = Reception::new("b", &Blobs::open(dir.path()).unwrap(), bytes_max);
        let body = [parts.concat(), b"--b--\r\n".to_vec()].concat();
        let taking = async {
            for piece in body.chunks(9) {
                reception.take(piece).await?;
            }
            reception.finish(slot).await
        };
        (taking.await, dir)
    }

    async fn fault(parts: &[Vec<u8>]) -> String {
        let (received, dir) = received(parts, 1000).await;
        let fault = received.err().unwrap().to_string();
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/tmp")).unwrap().count(), 0, "nothing stays: {fault}");
        fault
    }

    fn image() -> Vec<u8> {
        part("name=\"image\"; filename=\"a.png\"", PIXEL)
    }

    #[tokio::test]
    async fn a_form_is_read_whatever_the_order_of_its_fields() {
        let fields = [
            part("name=\"type\"", b"temp"),
            part("name=\"hash\"", b"ignored"),
            image(),
            part("name=\"subfolder\"", b"clipspace"),
            part("name=\"overwrite\"", b"true"),
        ];
        let (received, _dir) = received(&fields, PIXEL.len() as u64).await;
        let form = received.unwrap();
        assert_eq!((form.directory, form.subfolder.as_str(), form.overwrite), (Directory::Temp, "clipspace", true));
        assert_eq!((form.filename.as_str(), form.facts.kind), ("a.png", ContentKind::Gif));
    }

    #[tokio::test]
    async fn a_byte_over_the_limit_is_refused() {
        let (received, _dir) = received(&[image()], PIXEL.len() as u64 - 1).await;
        assert!(matches!(received, Err(UploadError::Blob(BlobError::TooLarge { .. }))));
    }

    #[tokio::test]
    async fn fields_that_stand_twice_and_second_files_are_refused() {
        for name in ["type", "subfolder", "overwrite", "original_ref"] {
            let twice = part(&format!("name=\"{name}\""), b"input");
            assert!(fault(&[image(), twice.clone(), twice]).await.contains("twice"), "{name}");
        }
        assert!(fault(&[image(), image()]).await.contains("twice"));
        assert!(fault(&[image(), part("name=\"mask\"; filename=\"b.png\"", PIXEL)]).await.contains("one file"));
        assert!(fault(&[part("name=\"image\"", PIXEL)]).await.contains("no file"));
        assert!(fault(&[part("name=\"type\"", b"input")]).await.contains("no file"));
    }

    #[tokio::test]
    async fn values_that_mean_nothing_are_refused() {
        for kind in ["output", "Input", "", "models"] {
            assert!(
                fault(&[image(), part("name=\"type\"", kind.as_bytes())]).await.contains("`type` must be"),
                "{kind}"
            );
        }
        assert!(fault(&[image(), part("name=\"subfolder\"", b"../x")]).await.contains("no file name"));
        assert!(fault(&[image(), part("name=\"subfolder\"", b"\xff")]).await.contains("UTF-8"));
        assert!(fault(&[image(), part("name=\"subfolder\"", &[b'x'; 4097])]).await.contains("4096"));
        assert!(fault(&[image(), part("name=\"other\"", &[b'x'; 4097])]).await.contains("4096"));
        assert!(fault(&[part("name=\"image\"; filename=\"../a.png\"", PIXEL)]).await.contains("no file name"));
        assert!(fault(&[part("name=\"image\"; filename=\"\"", PIXEL)]).await.contains("no name"));
        assert!(fault(&[part("name=\"image\"; filename=\"a.png\"", b"<svg/>")]).await.contains("none of the files"));
    }
}
