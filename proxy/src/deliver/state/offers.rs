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
    const ALL: [Self; 3] = [Self::Pictures, Self::Sounds, Self::Films];

    fn name(self) -> &'static str {
        match self {
            Self::Pictures => "pictures",
            Self::Sounds => "sounds",
            Self::Films => "films",
        }
    }

    /// Whether a file of that sort is in the list.
    pub fn has(self, family: ContentFamily) -> bool {
        match self {
            Self::Pictures => family == ContentFamily::Picture,
            Self::Sounds => matches!(family, ContentFamily::Sound | ContentFamily::Film),
            Self::Films => family == ContentFamily::Film,
        }
    }

    /// What stands for the list until it is known: `token` must be nowhere else in the answer.
    pub fn mark(self, token: &str) -> Value {
        json!([format!("{token}{}", self.name())])
    }
}

/// An answer with places for lists.
#[derive(Debug)]
pub struct Template {
    /// A piece, and the list that follows it.
    pieces: Vec<(Bytes, Option<Offer>)>,
}

impl Template {
    /// Finds the marks that `token` begins in a serialised answer.
    pub fn new(answer: Bytes, token: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = answer;
        let start = format!("[\"{token}");
        while let Some(at) = memmem::find(&rest, start.as_bytes()) {
            let piece = rest.split_to(at);
            let found = Offer::ALL.into_iter().find_map(|offer| {
                let mark = offer.mark(token).to_string();
                rest.starts_with(mark.as_bytes()).then_some((offer, mark.len()))
            });
            let Some((offer, length)) = found else {
                // No mark of ours: left as it is.
                let odd = rest.split_to(start.len());
                pieces.extend([(piece, None), (odd, None)]);
                continue;
            };
            drop(rest.split_to(length));
            pieces.push((piece, Some(offer)));
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
        let lists = Offer::ALL.map(|offer| {
            let names: Vec<&str> =
                files.iter().filter(|(_, family)| offer.has(*family)).map(|(name, _)| name.as_str()).collect();
            (offer, json!(names).to_string())
        });
        let mut out = Vec::with_capacity(self.pieces.iter().map(|(piece, _)| piece.len()).sum());
        for (piece, offer) in &self.pieces {
            out.extend_from_slice(piece);
            let list = lists.iter().find(|(of, _)| Some(*of) == *offer);
            out.extend_from_slice(list.map_or(&[], |(_, list)| list.as_bytes()));
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_has_its_sort_of_files_and_the_rest_stays() {
        let answer = json!({"a": Offer::Pictures.mark("T"), "b": {"c": Offer::Films.mark("T"), "d": Offer::Sounds.mark("T")}, "e": ["x"]});
        let template = Template::new(answer.to_string().into(), "T");
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
    fn an_answer_without_marks_is_given_as_it_is() {
        let answer = Bytes::from_static(b"{\"a\":[\"Tother\"],\"b\":[\"T");
        assert_eq!(Template::new(answer.clone(), "T").filled(&[("a".into(), ContentFamily::Picture)]), answer);
        assert!(!Template::new(Bytes::from_static(b"{}"), "T").is_personal());
    }
}
