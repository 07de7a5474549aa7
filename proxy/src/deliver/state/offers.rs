//! The lists of files in `/object_info`: each caller's own, put into an answer that is the same for everybody. Pure.

use super::gzip::{self, Deflated};
use crate::inspect::contents::ContentFamily;
use bytes::Bytes;
use comfygate_policy::Digest;
use memchr::memmem;
use serde_json::{Value, json};

/// What a list offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Pictures: `LoadImage` and its like.
    Pictures,
    /// Sound, and films for their sound: `LoadAudio`.
    Sounds,
    /// Films: `LoadVideo`.
    Films,
}

impl Offer {
    /// Whether a file of that sort is in the list.
    pub fn has(self, family: ContentFamily) -> bool {
        match self {
            Self::Pictures => family == ContentFamily::Picture,
            Self::Sounds => matches!(family, ContentFamily::Sound | ContentFamily::Film),
            Self::Films => family == ContentFamily::Film,
        }
    }
}

/// Where a list stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it offers of the caller's own.
    pub offer: Offer,
    /// What it offers to everybody who gets this answer, after that.
    pub kept: Vec<String>,
}

impl Place {
    fn list(&self, files: &[(String, ContentFamily)]) -> Value {
        let own = files.iter().filter(|(_, family)| self.offer.has(*family)).map(|(name, _)| name);
        let mut names: Vec<&String> = own.collect();
        names.extend(self.kept.iter().filter(|kept| !files.iter().any(|(name, _)| name == *kept)));
        json!(names)
    }
}

/// An answer with places for lists, ready to be sent plain and compressed.
#[derive(Debug)]
pub struct Template {
    pieces: Vec<Piece>,
    digest: Digest,
}

#[derive(Debug)]
struct Piece {
    text: Bytes,
    deflated: Deflated,
    /// The list that follows it.
    place: Option<Place>,
}

impl Template {
    /// What stands for the list at a place until it is known: `token` must be nowhere else in the answer.
    pub fn mark(token: &str, place: usize) -> Value {
        json!([format!("{token}{place}")])
    }

    /// Finds the marks that `token` begins in a serialised answer; they stand in the order of `places`.
    pub fn new(answer: Bytes, token: &str, places: Vec<Place>) -> Self {
        let mut pieces = Vec::new();
        let mut digests = Vec::new();
        let mut add = |text: Bytes, place| {
            digests.extend_from_slice(Digest::of(&text).as_bytes());
            let deflated = Deflated::of(&text);
            pieces.push(Piece { text, deflated, place });
        };
        let mut rest = answer;
        for (number, place) in places.into_iter().enumerate() {
            let mark = Self::mark(token, number).to_string();
            // A place that is not found, which can't be, offers nothing.
            let Some(at) = memmem::find(&rest, mark.as_bytes()) else { continue };
            add(rest.split_to(at), Some(place));
            drop(rest.split_to(mark.len()));
        }
        add(rest, None);
        Self { pieces, digest: Digest::of(&digests) }
    }

    /// Whether it has a place for a list at all.
    pub fn is_personal(&self) -> bool {
        self.pieces.iter().any(|piece| piece.place.is_some())
    }

    /// The answer with the names of these files, in their order.
    pub fn filled(&self, files: &[(String, ContentFamily)]) -> Bytes {
        if let [Piece { text, place: None, .. }] = self.pieces.as_slice() {
            return text.clone();
        }
        let mut out = Vec::with_capacity(self.pieces.iter().map(|piece| piece.text.len()).sum());
        for Piece { text, place, .. } in &self.pieces {
            out.extend_from_slice(text);
            if let Some(place) = place {
                out.extend_from_slice(place.list(files).to_string().as_bytes());
            }
        }
        out.into()
    }

    /// The same by gzip. Only the lists are compressed now.
    pub fn filled_gzip(&self, files: &[(String, ContentFamily)]) -> Bytes {
        let lists = self.pieces.iter().filter_map(|piece| piece.place.as_ref());
        let lists: Vec<Deflated> = lists.map(|place| Deflated::of(place.list(files).to_string().as_bytes())).collect();
        let mut lists = lists.iter();
        let parts = self.pieces.iter().flat_map(|piece| {
            let list = if piece.place.is_some() { lists.next() } else { None };
            std::iter::once(&piece.deflated).chain(list)
        });
        gzip::joined(parts)
    }

    /// Another one for another answer.
    pub fn digest(&self, files: &[(String, ContentFamily)]) -> Digest {
        let mut all = self.digest.as_bytes().to_vec();
        for list in self.pieces.iter().filter_map(|piece| Some(piece.place.as_ref()?.list(files))) {
            all.extend_from_slice(Digest::of(list.to_string().as_bytes()).as_bytes());
        }
        Digest::of(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn place(offer: Offer) -> Place {
        Place { offer, kept: Vec::new() }
    }

    #[test]
    fn each_list_has_its_sort_of_files_and_the_rest_stays() {
        let answer = json!({"a": Template::mark("T", 0), "b": {"c": Template::mark("T", 1), "d": Template::mark("T", 2)}, "e": ["x"]});
        let places = [Offer::Pictures, Offer::Films, Offer::Sounds].map(place);
        let template = Template::new(answer.to_string().into(), "T", places.to_vec());
        assert!(template.is_personal());
        let files =
            [("ä \"1\".png", ContentFamily::Picture), ("v.mp4", ContentFamily::Film), ("s.wav", ContentFamily::Sound)];
        let files = files.map(|(name, family)| (name.to_owned(), family));
        let filled: Value = serde_json::from_slice(&template.filled(&files)).unwrap();
        let expected = json!({"a": ["ä \"1\".png"], "b": {"c": ["v.mp4"], "d": ["v.mp4", "s.wav"]}, "e": ["x"]});
        assert_eq!(filled, expected);
        let empty: Value = serde_json::from_slice(&template.filled(&[])).unwrap();
        assert_eq!(empty, json!({"a": [], "b": {"c": [], "d": []}, "e": ["x"]}));
    }

    #[test]
    fn by_gzip_it_is_the_same_and_its_digest_follows_what_it_says() {
        let answer = json!({"a": Template::mark("T", 0), "b": "b".repeat(100_000), "c": Template::mark("T", 1)});
        let places = [Offer::Pictures, Offer::Sounds].map(place);
        let template = Template::new(answer.to_string().into(), "T", places.to_vec());
        let picture = |name: &str| [(name.to_owned(), ContentFamily::Picture)];
        for files in [vec![], picture("x.png").to_vec()] {
            let packed = template.filled_gzip(&files);
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
            assert!(text == template.filled(&files) && packed.len() < text.len() / 50);
        }
        let other = Template::new(answer.to_string().replace("bb", "cc").into(), "T", places.to_vec());
        let digests = [
            template.digest(&[]),
            template.digest(&picture("x.png")),
            template.digest(&picture("y.png")),
            other.digest(&[]),
        ];
        assert_eq!(digests.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(
            template.digest(&[("y.mp4".into(), ContentFamily::Film)]),
            template.digest(&[("y.mp4".into(), ContentFamily::Sound)])
        );
    }

    #[test]
    fn what_everybody_is_offered_follows_ones_own_once() {
        let kept = vec!["both.png".to_owned(), "old.png".to_owned()];
        let places = vec![Place { offer: Offer::Pictures, kept }];
        let template = Template::new(Template::mark("T", 0).to_string().into(), "T", places);
        let filled = template.filled(&[("both.png".to_owned(), ContentFamily::Picture)]);
        assert_eq!(filled, json!(["both.png", "old.png"]).to_string());
        assert_eq!(template.filled(&[]), json!(["both.png", "old.png"]).to_string());
    }

    #[test]
    fn an_answer_without_marks_is_given_as_it_is() {
        let answer = Bytes::from_static(b"{\"a\":[\"Tother\"],\"b\":[\"T");
        assert_eq!(Template::new(answer.clone(), "T", vec![]).filled(&[("a".into(), ContentFamily::Picture)]), answer);
        assert!(!Template::new(Bytes::from_static(b"{}"), "T", vec![]).is_personal());
    }
}
