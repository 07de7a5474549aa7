//! What a newer `object_info` has that this catalogue does not know: read before a pin is moved, and before new classes are annotated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Catalogue, ClassSignature, DeclaredType, InputSignature};

/// The outcome of [`Catalogue::news`], each list in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Classes that are new.
    pub added: Vec<String>,
    /// Classes that are gone.
    pub gone: Vec<String>,
    /// Classes whose signature is another.
    pub changed: Vec<ChangedClass>,
    /// What of the new and changed ones of ComfyUI's own nobody has judged yet: numbers whose meaning is not known, outputs with a size, lists.
    pub unjudged: Vec<Unjudged>,
}

/// A class whose signature is another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedClass {
    /// Its name.
    pub class: String,
    /// Inputs that are new.
    pub inputs_added: Vec<String>,
    /// Inputs that are gone.
    pub inputs_gone: Vec<String>,
    /// Inputs of another type, or required where they were not, or the other way round.
    pub inputs_changed: Vec<String>,
    /// Whether its outputs are others, or whether it is an output node.
    pub outputs_changed: bool,
}

impl fmt::Display for ChangedClass {
    /// One line: `KSampler: new inputs a, b; changed inputs c; other outputs`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("new inputs", &self.inputs_added),
            ("gone inputs", &self.inputs_gone),
            ("changed inputs", &self.inputs_changed),
        ];
        let mut parts: Vec<String> = lists
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        parts.extend(self.outputs_changed.then(|| "other outputs".to_owned()));
        write!(f, "{}: {}", self.class, parts.join("; "))
    }
}

/// Something that needs a word in the annotations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unjudged {
    /// The class.
    pub class: String,
    /// Where in it.
    pub part: UnjudgedPart,
}

/// A part of a class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnjudgedPart {
    /// An INT or FLOAT input, by its full name, without a kind.
    Number(String),
    /// An output with a size, by its slot, without a rule.
    Size(usize),
    /// A list, by its slot, whose length nobody bounds.
    List(usize),
}

impl fmt::Display for Unjudged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = &self.class;
        match &self.part {
            UnjudgedPart::Number(input) => {
                write!(f, "{class}.{input}: a number of which nobody has said what it means")
            }
            UnjudgedPart::Size(slot) => write!(f, "{class}: the size of output {slot} is said by no rule"),
            UnjudgedPart::List(slot) => write!(f, "{class}: output {slot} is a list of unknown length"),
        }
    }
}

/// Types whose size an annotation tells.
const SIZED: [&str; 6] = ["IMAGE", "LATENT", "MASK", "VIDEO", "AUDIO", "TRACKS"];

impl News {
    pub(super) fn between(known: &Catalogue, live: &BTreeMap<String, ClassSignature>) -> Self {
        let mut out = Self::default();
        out.gone.extend(
            known.classes().map(ClassSignature::name).filter(|name| !live.contains_key(*name)).map(str::to_owned),
        );
        for class in live.values() {
            match known.class(class.name()) {
                None => out.added.push(class.name().to_owned()),
                Some(old) if old.shape() == class.shape() => continue,
                Some(old) => out.changed.push(ChangedClass::between(old, class)),
            }
            if class.is_core() && !class.is_paid() {
                // A rule that is known for an output stays good for it only while the class is the same.
                out.unjudged.extend(unjudged(class));
            }
        }
        out
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.gone.is_empty() && self.changed.is_empty()
    }
}

impl ChangedClass {
    fn between(old: &ClassSignature, new: &ClassSignature) -> Self {
        let by_name = |class: &ClassSignature| -> BTreeMap<String, String> {
            class.inputs().iter().map(|input| (input.name().to_owned(), input.shape())).collect()
        };
        let (before, after) = (by_name(old), by_name(new));
        let names = |of: &BTreeMap<String, String>| of.keys().cloned().collect::<BTreeSet<_>>();
        let (had, has) = (names(&before), names(&after));
        let differs = |name: &&String| before.get(*name) != after.get(*name);
        Self {
            class: new.name().to_owned(),
            inputs_added: has.difference(&had).cloned().collect(),
            inputs_gone: had.difference(&has).cloned().collect(),
            inputs_changed: had.intersection(&has).filter(differs).cloned().collect(),
            outputs_changed: old.outputs_shape() != new.outputs_shape(),
        }
    }
}

fn unjudged(class: &ClassSignature) -> Vec<Unjudged> {
    let mut parts = Vec::new();
    numbers(class.inputs(), "", &mut parts);
    for (slot, output) in class.outputs().iter().enumerate() {
        if SIZED.contains(&output.type_name()) || output.template().is_some() {
            parts.push(UnjudgedPart::Size(slot));
        }
        if output.is_list() {
            parts.push(UnjudgedPart::List(slot));
        }
    }
    parts.into_iter().map(|part| Unjudged { class: class.name().to_owned(), part }).collect()
}

/// The numbers among inputs, by full name. Choices within choices are bounded by the reader of the `object_info`.
fn numbers(inputs: &[InputSignature], before: &str, out: &mut Vec<UnjudgedPart>) {
    for input in inputs {
        let full = format!("{before}{}", input.name());
        match input.declared() {
            DeclaredType::Int { .. } | DeclaredType::Float { .. } => out.push(UnjudgedPart::Number(full)),
            DeclaredType::DynamicCombo(options) => {
                options.iter().for_each(|(_, nested)| numbers(nested, &format!("{full}."), out));
            }
            DeclaredType::Autogrow { item, .. }
                if matches!(item.declared(), DeclaredType::Int { .. } | DeclaredType::Float { .. }) =>
            {
                out.push(UnjudgedPart::Number(full));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live(edit: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut value: serde_json::Value = serde_json::from_str(super::super::shipped::COMFYUI_0_8_0).unwrap();
        edit(&mut value);
        value.to_string().into_bytes()
    }

    #[test]
    fn what_a_newer_object_info_brings_is_told() {
        let pinned = Catalogue::from_object_info(&live(|_| {})).unwrap();
        assert!(pinned.news(&live(|_| {})).unwrap().is_empty());
        let newer = live(|value| {
            value["KSampler"]["input"]["required"]["speed"] = json!(["INT", {}]);
            value["KSampler"]["input"]["required"].as_object_mut().unwrap().remove("cfg");
            value["VAEDecode"]["output"] = json!(["LATENT"]);
            value["ImageScale"]["input"]["required"]["width"] = json!(["FLOAT", {}]);
            value["Widen"] = value["ImageScale"].clone();
            value.as_object_mut().unwrap().remove("LoadImage");
        });
        let news = pinned.news(&newer).unwrap();
        assert_eq!(
            (news.added.as_slice(), news.gone.as_slice()),
            (&["Widen".to_owned()][..], &["LoadImage".to_owned()][..])
        );
        let of = |name: &str| news.changed.iter().find(|changed| changed.class == name).unwrap();
        assert_eq!(of("KSampler").inputs_added, ["speed"]);
        assert_eq!(of("KSampler").inputs_gone, ["cfg"]);
        assert_eq!(of("ImageScale").inputs_changed, ["width"]);
        assert!(of("VAEDecode").outputs_changed && !of("KSampler").outputs_changed);
        let unjudged =
            |class: &str, part: UnjudgedPart| news.unjudged.contains(&Unjudged { class: class.to_owned(), part });
        assert!(
            unjudged("Widen", UnjudgedPart::Size(0)) && unjudged("Widen", UnjudgedPart::Number("width".to_owned()))
        );
        assert!(unjudged("KSampler", UnjudgedPart::Number("speed".to_owned())));
        assert_eq!(of("KSampler").to_string(), "KSampler: new inputs speed; gone inputs cfg");
        assert_eq!(of("VAEDecode").to_string(), "VAEDecode: other outputs");
        let lines: Vec<String> = news.unjudged.iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.starts_with("KSampler.speed: a number")), "{lines:?}");
        assert!(lines.contains(&"Widen: the size of output 0 is said by no rule".to_owned()), "{lines:?}");
        assert!(!unjudged("VAEEncode", UnjudgedPart::Size(0)));
    }
}
