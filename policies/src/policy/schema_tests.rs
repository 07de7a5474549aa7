//! The JSON Schema for editors says what the reader takes: the same keys, and every document that ships is valid by it.

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::raw::sections;
use super::{DOCUMENTS, raw};

const SCHEMA: &str = include_str!("../../policy.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Keys of the object at `pointer`.
fn keys(schema: &Value, pointer: &str) -> Vec<String> {
    let properties = schema.pointer(&format!("{pointer}/properties")).and_then(Value::as_object);
    let mut keys: Vec<String> = properties.unwrap_or_else(|| panic!("{pointer}")).keys().cloned().collect();
    keys.sort();
    keys
}

#[test]
fn the_schema_has_exactly_the_keys_that_the_reader_takes() {
    let schema = schema();
    let places: [(&str, &[&str]); 12] = [
        ("", &raw::SECTIONS),
        ("/properties/classes", &sections::LISTS),
        ("/properties/packs", &sections::LISTS),
        ("/properties/samplers", &sections::LISTS),
        ("/properties/schedulers", &sections::LISTS),
        ("/properties/network", &sections::LISTS),
        ("/properties/files/properties/inputs", &sections::LISTS),
        ("/properties/models/items", &sections::MODELS),
        ("/properties/texts", &sections::TEXTS),
        ("/properties/files", &sections::FILES),
        ("/properties/files/properties/assumed_upload", &sections::ASSUMED),
        ("/properties/caps", &sections::CAPS),
    ];
    for (pointer, known) in places {
        let mut known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        assert_eq!(keys(&schema, pointer), known, "{pointer}");
        assert_eq!(schema.pointer(&format!("{pointer}/additionalProperties")), Some(&Value::Bool(false)), "{pointer}");
    }
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Integer(number) => number.as_str().parse::<i64>().unwrap().into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Datetime(_) => panic!("no policy holds a date"),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect::<Vec<_>>().into(),
        DeValue::Table(table) => {
            let members = table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())));
            Value::Object(members.collect())
        }
    }
}

/// What the schema has against a value: the part of JSON Schema that ours uses, and nothing else.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    let is_type = match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some(other) => panic!("{other}"),
    };
    let number = value.as_f64();
    let wrong = [
        (!is_type, "type"),
        (schema["enum"].as_array().is_some_and(|options| !options.contains(value)), "enum"),
        (schema["minLength"].as_u64().is_some_and(|_| value == ""), "minLength"),
        (schema["minimum"].as_f64().zip(number).is_some_and(|(least, number)| number < least), "minimum"),
        (schema["exclusiveMinimum"].as_f64().zip(number).is_some_and(|(least, number)| number <= least), "minimum"),
    ];
    out.extend(wrong.iter().filter(|(wrong, _)| *wrong).map(|(_, rule)| format!("{at}: {rule}")));
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap()).is_none() {
            out.push(format!("{at}: lacks {required}"));
        }
    }
    for (key, member) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{key}");
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(inner), _) => out.extend(faults(inner, member, &at)),
            (None, Value::Bool(false)) => out.push(format!("{at}: unknown")),
            (None, inner) => out.extend(faults(inner, member, &at)),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        out.extend(faults(&schema["items"], item, at));
    }
    out
}

fn faults_of(text: &str) -> Vec<String> {
    let table = DeTable::parse(text).unwrap();
    faults(&schema(), &json(&DeValue::Table(table.into_inner())), "")
}

#[test]
fn every_shipped_document_is_valid_and_names_the_schema() {
    for (name, text) in DOCUMENTS {
        assert_eq!(faults_of(text), Vec::<String>::new(), "{name}");
        assert!(text.starts_with("#:schema ../policy.schema.json\n"), "{name}");
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    for text in [
        "nam = \"x\"",
        "name = \"\"",
        "name = \"x\"\nposture = \"other\"",
        "name = \"x\"\ncost_limit = 0",
        "name = \"x\"\n[caps]\nsteps = 0",
        "name = \"x\"\n[caps]\nsteps = 1.5",
        "name = \"x\"\n[classes]\nallow = [5]",
        "name = \"x\"\n[[models]]\nallow = [\"a\"]",
        "name = \"x\"\n[files]\nassumed_upload = { width = 1 }",
        "name = \"x\"\n[files]\ndirectories = [\"other\"]",
    ] {
        assert!(!faults_of(text).is_empty(), "{text}");
        assert!(crate::Policy::from_toml(text).is_err(), "{text}");
    }
}
