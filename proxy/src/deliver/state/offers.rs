//! The lists of files in `/object_info`: each caller's own, put into an answer that is the same for everybody. Pure.

use crate::inspect::contents::ContentFamily;
use bytes::Bytes;
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

/// An answer with places for lists.
#[derive(Debug)]
pub struct Template {
    /// A piece, and the list that follows it.
    pieces: Vec<(Bytes, Option<Place>)>,
}

impl Template {
    /// What stands for the list at a place until it is known: `token` must be nowhere else in the answer.
    pub fn mark(token: &str, place: usize) -> Value {
        json!([format!("{token}{place}")])
    }

    /// Finds the marks that `token` begins in a serialised answer; they stand in the order of `places`.
    pub fn new(answer: Bytes, token: &str, places: Vec<Place>) -> Self {
        let mut pieces = Vec::new();
        let mut rest = answer;
        for (number, place) in places.into_iter().enumerate() {
            let mark = Self::mark(token, number).to_string();
            // A place that is not found, which can't be, offers nothing.
            let Some(at) = memmem::find(&rest, mark.as_bytes()) else { continue };
            pieces.push((rest.split_to(at), Some(place)));
            drop(rest.split_to(mark.len()));
        }
        pieces.push((rest, None));
        Self { pieces }
    }

    /// Whether it has a place for a list at all.
    pub fn is_personal(&self) -> bool {
        self.pieces.iter().any(|(_, offer)| offer.is_some())
    }

    /// The answer with the names of these files, in their order.
    pub fn filled(&self, files: &[(String, ContentFamily)]) -> Bytes {
        if let [(only, None)] = self.pieces.as_slice() {
            return only.clone();
        }
        let mut out = Vec::with_capacity(self.pieces.iter().map(|(piece, _)| piece.len()).sum());
        for (piece, place) in &self.pieces {
            out.extend_from_slice(piece);
            if let Some(place) = place {
                out.extend_from_slice(place.list(files).to_string().as_bytes());
            }
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
