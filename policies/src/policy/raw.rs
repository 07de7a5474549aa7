//! The document as written. It is walked by hand, not by serde, because all its faults are reported at once, each with its place.
//!
//! A document may extend another, which may extend a third. All are read with the same walker, the last base first, into one [`Draft`]: scalars of a later document take the place of
//! earlier ones, lists are added to. The draft becomes the policy.

mod draft;
pub(super) mod sections;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{PolicyError, PolicyErrors, nearest};
use super::{DOCUMENTS, Mode, PaidNodes, Policy, Posture, RouteBundle};
use crate::digest::Digest;
use crate::workflow::json::position;
use draft::Draft;

/// Bytes of a policy document.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Documents that a document may extend, one the other.
const BASES_MAX: usize = 8;
/// Raised when the engine's fixed rules change, so that held verdicts are made anew.
const RULES_VERSION: u32 = 4;

/// What a document may hold at its top.
pub(super) const SECTIONS: [&str; 18] = [
    "name",
    "description",
    "extends",
    "posture",
    "mode",
    "routes",
    "paid_nodes",
    "cost_limit",
    "classes",
    "packs",
    "samplers",
    "schedulers",
    "models",
    "texts",
    "files",
    "network",
    "caps",
    "annotations",
];

/// One document of a chain.
struct Layer {
    /// The name by which another extends it; none for the one that is asked for.
    document: Option<String>,
    text: String,
}

/// Reads a document and those it extends. `files` gives the text of a file that is named.
pub(super) fn read(text: &str, files: &dyn Fn(&str) -> Option<String>) -> Result<Policy, PolicyErrors> {
    let mut faults = Vec::new();
    let layers = layers(text, files, &mut faults);
    if !faults.is_empty() {
        // What is missing would only make more faults of the rest.
        return Err(PolicyErrors(faults));
    }
    let mut draft = Draft::default();
    let mut told: Vec<Vec<PolicyError>> = Vec::new();
    for layer in layers.iter().rev() {
        let mut reader = DocumentReader::of(layer);
        let (table, errors) = DeTable::parse_recoverable(&layer.text);
        for error in errors {
            reader.fault(&error.span().unwrap_or(0..0), "", error.message().to_owned());
        }
        reader.layer(table.get_ref(), &mut draft);
        reader.faults.sort_by_key(|fault| (fault.line, fault.column));
        told.push(reader.faults);
    }
    // The document that was asked for speaks first.
    faults.extend(told.into_iter().rev().flatten());
    if !faults.is_empty() {
        return Err(PolicyErrors(faults));
    }
    let extended = layers.iter().filter_map(|layer| layer.document.clone()).collect();
    draft.policy(digest(&layers), extended).map_err(|message| {
        PolicyErrors(vec![PolicyError { document: None, line: 1, column: 1, key: String::new(), message }])
    })
}

/// Over the rules of the engine and the texts of all documents, with lengths before texts: no two chains read alike.
fn digest(layers: &[Layer]) -> Digest {
    let mut all = format!("{RULES_VERSION}\n");
    for layer in layers {
        all.push_str(&format!("{}\n{}\n", layer.text.len(), layer.text));
    }
    Digest::of(all.as_bytes())
}

/// The document and its bases, in this order. Shipped names are ours: a file can't take the place of one.
fn layers(text: &str, files: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<PolicyError>) -> Vec<Layer> {
    let mut layers = vec![Layer { document: None, text: text.to_owned() }];
    while let Some(layer) = layers.last() {
        let mut reader = DocumentReader::of(layer);
        if layer.text.len() > DOCUMENT_BYTES_MAX {
            reader.fault(&(0..0), "", format!("the document has more than {DOCUMENT_BYTES_MAX} bytes: shorten it"));
            faults.extend(reader.faults);
            break;
        }
        let (table, _) = DeTable::parse_recoverable(&layer.text);
        let Some(value) = table.get_ref().get("extends") else { break };
        let name = reader.text_of(value, "extends");
        let known = layers.iter().any(|layer| layer.document.as_ref() == Some(&name));
        let shipped = DOCUMENTS.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| (*text).to_owned());
        let base = match name.is_empty() || known || layers.len() > BASES_MAX {
            true => None,
            false => shipped.or_else(|| files(&name)),
        };
        match base {
            Some(text) => layers.push(Layer { document: Some(name), text }),
            None => {
                let message = match known {
                    true => format!("`{name}` extends itself, by way of other documents: take one `extends` out"),
                    false if layers.len() > BASES_MAX => {
                        format!("more than {BASES_MAX} documents extend one another: write what they say into fewer")
                    }
                    false => format!(
                        "there is no policy `{name}`: write the name of one that ships ({}) or of a file",
                        shipped_names()
                    ),
                };
                if !name.is_empty() {
                    reader.fault(&value.span(), "extends", message);
                }
                faults.extend(reader.faults);
                break;
            }
        }
    }
    layers
}

fn shipped_names() -> String {
    DOCUMENTS.map(|(name, _)| format!("`{name}`")).join(", ")
}

/// Walks one document.
struct DocumentReader<'a> {
    text: &'a str,
    document: Option<&'a str>,
    faults: Vec<PolicyError>,
}

impl<'a> DocumentReader<'a> {
    fn of(layer: &'a Layer) -> Self {
        Self { text: &layer.text, document: layer.document.as_deref(), faults: Vec::new() }
    }

    fn fault(&mut self, span: &Range<usize>, key: &str, message: String) {
        let (line, column) = position(self.text, span.start);
        let document = self.document.map(str::to_owned);
        self.faults.push(PolicyError { document, line, column, key: key.to_owned(), message });
    }

    /// What this document says, over what the draft holds already.
    fn layer(&mut self, table: &DeTable<'_>, draft: &mut Draft) {
        self.known_keys(table, "", &SECTIONS);
        draft.name = self.name(table);
        if let Some(posture) = self.choice(table, "posture", &Posture::NAMES) {
            draft.posture = posture;
        }
        if let Some(mode) = self.choice(table, "mode", &Mode::NAMES) {
            draft.mode = mode;
        }
        if let Some(paid) = self.choice(table, "paid_nodes", &PaidNodes::NAMES) {
            draft.paid_nodes = paid;
        }
        if let Some(value) = table.get("cost_limit") {
            draft.cost_limit = self.decimal(value, "cost_limit");
        }
        self.routes(table, draft);
        self.lists(table, "classes", &mut draft.classes);
        self.lists(table, "packs", &mut draft.packs);
        self.lists(table, "samplers", &mut draft.samplers);
        self.lists(table, "schedulers", &mut draft.schedulers);
        self.lists(table, "network", &mut draft.network);
        self.models(table, &mut draft.models);
        self.texts(table, &mut draft.texts);
        self.files(table, &mut draft.files);
        self.caps(table, &mut draft.caps);
        self.annotations(table, &mut draft.annotations);
    }

    fn known_keys(&mut self, table: &DeTable<'_>, prefix: &str, known: &[&str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let hint = nearest(name, known).map_or_else(
                || format!(": take it out, or write one of {}", known.join(", ")),
                |near| format!("; did you mean `{near}`?"),
            );
            self.fault(&key.span(), &format!("{prefix}{name}"), format!("unknown key{hint}"));
        }
    }

    fn name(&mut self, table: &DeTable<'_>) -> String {
        if let Some(value) = table.get("description") {
            self.text_of(value, "description");
        }
        match table.get("name") {
            Some(value) => self.text_of(value, "name"),
            None => {
                self.fault(&(0..0), "name", "a policy needs a name: write `name = \"mine\"`".to_owned());
                String::new()
            }
        }
    }

    /// One of a few words.
    fn choice<T: Copy>(&mut self, table: &DeTable<'_>, key: &str, known: &[(&'static str, T)]) -> Option<T> {
        let value = table.get(key)?;
        let text = self.text_of(value, key);
        let found = known.iter().find(|(name, _)| *name == text);
        if found.is_none() && !text.is_empty() {
            let names: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.fault(&value.span(), key, format!("`{text}` is none of {}", names.join(", ")));
        }
        found.map(|(_, choice)| *choice)
    }

    /// Bundles of routes; strangers never get one.
    fn routes(&mut self, table: &DeTable<'_>, draft: &mut Draft) {
        if let Some(value) = table.get("routes") {
            draft.routes = self.bundles(value);
        }
        if !draft.routes.is_empty() && draft.posture != Posture::Owner {
            let message = "bundles of routes are for `posture = \"owner\"` only, since they let callers change the backend: take them out";
            let span = table.get("routes").or(table.get("posture")).map_or(0..0, Spanned::span);
            self.fault(&span, "routes", message.to_owned());
        }
    }

    fn bundles(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<RouteBundle> {
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(&value.span(), "routes", "must be a list of names, such as [\"manager\"]".to_owned());
            return Vec::new();
        };
        let mut routes = Vec::new();
        for item in items {
            let text = self.text_of(item, "routes");
            match RouteBundle::NAMES.into_iter().find(|(name, _)| *name == text) {
                Some((_, bundle)) => routes.push(bundle),
                None if text.is_empty() => {}
                None => self.fault(&item.span(), "routes", format!("`{text}` is no bundle: there is `manager`")),
            }
        }
        routes
    }

    fn text_of(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> String {
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => text.to_string(),
            _ => {
                self.fault(&value.span(), key, "must be a string that is not empty".to_owned());
                String::new()
            }
        }
    }

    /// The table under `key`, if it is there.
    fn section<'t, 'd>(&mut self, table: &'t DeTable<'d>, key: &str, name: &str) -> Option<&'t DeTable<'d>> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::Table(section) => Some(section),
            _ => {
                self.fault(&value.span(), name, "must be a table".to_owned());
                None
            }
        }
    }

    /// Whether the section takes the place of what the documents before it say.
    fn replaces(&mut self, section: &DeTable<'_>, key: &str) -> bool {
        match section.get("replace") {
            None => false,
            Some(value) => match value.get_ref() {
                DeValue::Boolean(replace) => *replace,
                _ => {
                    self.fault(&value.span(), &format!("{key}.replace"), "must be true or false".to_owned());
                    false
                }
            },
        }
    }

    /// A whole number of at least 1.
    fn whole(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<i128> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| (1..=i128::from(i64::MAX)).contains(number));
        if number.is_none() {
            self.fault(&value.span(), key, "must be a whole number of at least 1".to_owned());
        }
        number
    }

    /// A finite number above 0.
    fn decimal(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<f64> {
        let number: Option<f64> = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| number.is_finite() && *number > 0.0 && *number <= 1e12);
        if number.is_none() {
            self.fault(&value.span(), key, "must be a number above 0 and at most 10^12".to_owned());
        }
        number
    }
}
