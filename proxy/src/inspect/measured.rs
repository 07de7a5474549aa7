//! What was found out about contents by reading them, kept in memory: a result that prompts name again and again is read once (a FLAC is read whole).
//!
//! A content never changes under its digest, so what is known of it holds for as long as anybody remembers it. What it is depends on its bytes alone, so whoever's
//! they are, everyone is told the same.

use super::contents::{self, ContentError, ContentFacts};
use crate::record::blobs::Blobs;
use comfygate_policy::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Contents that are remembered in each of two generations: 4096 in all, of some 200 bytes each.
const GENERATION_MAX: usize = 2048;

/// What a content is, or why it is not taken. Whoever asks while it is read waits for that.
type Found = Arc<OnceCell<Result<ContentFacts, ContentError>>>;

/// Facts of contents, by digest.
#[derive(Debug, Default)]
pub struct Measured(Mutex<Generations>);

/// When the young ones are as many as may be they become the old ones, and those that nobody asked for since are forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Found>,
    old: HashMap<Digest, Found>,
}

impl Measured {
    /// The facts of a content in `blobs`: read at most once at a time, and never again while they are remembered.
    ///
    /// # Errors
    /// Why it can be no input, which is remembered too; [`ContentError::Io`] is not.
    pub async fn facts(&self, blobs: &Blobs, content: Digest) -> Result<ContentFacts, ContentError> {
        let place = self.0.lock().unwrap_or_else(PoisonError::into_inner).place(content);
        let found = place.get_or_try_init(|| async {
            match read(blobs, content).await {
                Err(ContentError::Io(error)) => Err(ContentError::Io(error)),
                found => Ok(found),
            }
        });
        match found.await? {
            Ok(facts) => Ok(*facts),
            Err(error) => Err(error.again()),
        }
    }
}

impl Generations {
    fn place(&mut self, content: Digest) -> Found {
        if let Some(found) = self.young.get(&content) {
            return Arc::clone(found);
        }
        let found = self.old.remove(&content).unwrap_or_default();
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(content, Arc::clone(&found));
        found
    }
}

async fn read(blobs: &Blobs, content: Digest) -> Result<ContentFacts, ContentError> {
    let path = blobs.path(&content).ok_or(std::io::Error::from(std::io::ErrorKind::NotFound))?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        contents::read(&mut file, length)
    });
    reading.await.map_err(|error| ContentError::Io(error.into()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::contents::ContentKind;

    /// A second of silence.
    fn wav() -> Vec<u8> {
        let (rate, data) = (8_000_u32, 16_000_u32);
        let mut wav = [&b"RIFF"[..], &(36 + data).to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes()].concat();
        wav.extend([1_u16, 1].iter().flat_map(|word| word.to_le_bytes()));
        wav.extend([rate, 2 * rate].iter().flat_map(|word| word.to_le_bytes()));
        wav.extend([2_u16, 16].iter().flat_map(|word| word.to_le_bytes()));
        wav.extend([&b"data"[..], &data.to_le_bytes(), &[0; 16_000]].concat());
        wav
    }

    async fn kept(blobs: &Blobs, content: &[u8]) -> Digest {
        let mut writer = blobs.writer(1 << 20).unwrap();
        writer.write(content).await.unwrap();
        writer.finish().await.unwrap().content
    }

    #[tokio::test]
    async fn a_content_is_read_once_and_what_it_is_or_why_it_is_not_taken_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let (sound, odd) = (kept(&blobs, &wav()).await, kept(&blobs, b"odd").await);
        let measured = Measured::default();
        for gone in [false, true] {
            if gone {
                for content in [sound, odd] {
                    std::fs::remove_file(blobs.place(&content)).unwrap();
                }
            }
            let facts = measured.facts(&blobs, sound).await.unwrap();
            assert_eq!((facts.kind, facts.seconds), (ContentKind::Wav, Some(1)), "gone: {gone}");
            assert!(matches!(measured.facts(&blobs, odd).await, Err(ContentError::Unknown)), "gone: {gone}");
        }
    }

    #[tokio::test]
    async fn a_content_that_could_not_be_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let measured = Measured::default();
        assert!(matches!(measured.facts(&blobs, Digest::of(&wav())).await, Err(ContentError::Io(_))));
        let content = kept(&blobs, &wav()).await;
        assert!(measured.facts(&blobs, content).await.is_ok());
    }

    #[test]
    fn as_many_contents_are_remembered_as_two_generations_take_and_those_asked_for_stay() {
        let mut generations = Generations::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        let first = generations.place(digest(0));
        let lone = generations.place(digest(1));
        for number in 2..10 * GENERATION_MAX {
            generations.place(digest(number));
            // Asked for once in a generation.
            if number % GENERATION_MAX == 0 {
                assert!(Arc::ptr_eq(&first, &generations.place(digest(0))), "{number}");
            }
            assert!(generations.young.len() <= GENERATION_MAX && generations.old.len() <= GENERATION_MAX);
        }
        assert!(!Arc::ptr_eq(&lone, &generations.place(digest(1))), "nobody asked for it again");
    }
}
