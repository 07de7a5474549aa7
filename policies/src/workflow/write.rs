//! Our own serialisation: compact JSON, in the form of `serde_json`, straight from what was read.

use super::json::Json;
use super::node::NodeId;
use super::text::Text;

/// Writes a string of a body with its quotes.
pub(crate) fn text(out: &mut Vec<u8>, value: &Text) {
    if value.is_verbatim() {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else {
        string(out, value);
    }
}

/// Writes the id of a node with its quotes: none of its characters is escaped.
pub(crate) fn id(out: &mut Vec<u8>, id: &NodeId) {
    out.push(b'"');
    out.extend_from_slice(id.as_str().as_bytes());
    out.push(b'"');
}

/// Writes a whole number, such as an output's, of which nearly all have one digit.
pub(crate) fn small(out: &mut Vec<u8>, number: usize) {
    match u8::try_from(number) {
        Ok(digit @ 0..=9) => out.push(b'0' + digit),
        _ => integer(out, i128::try_from(number).unwrap_or(0)),
    }
}

/// Writes any string with its quotes.
pub(crate) fn string(out: &mut Vec<u8>, value: &str) {
    // Writing a string into memory doesn't fail.
    let _ = serde_json::to_writer(out, value);
}

/// Writes a value. Depth is bounded by the reader.
pub(crate) fn json(out: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Null => out.extend_from_slice(b"null"),
        Json::Bool(true) => out.extend_from_slice(b"true"),
        Json::Bool(false) => out.extend_from_slice(b"false"),
        Json::Int(number) => integer(out, *number),
        Json::Float(number) => {
            let _ = serde_json::to_writer(out, number);
        }
        Json::Text(value) => text(out, value),
        Json::Pair(first, second) => {
            out.push(b'[');
            text(out, first);
            out.push(b',');
            integer(out, i128::from(*second));
            out.push(b']');
        }
        Json::List(items) => list(out, items, json),
        Json::Object(members) => {
            out.push(b'{');
            for (place, (key, value)) in members.iter().enumerate() {
                separate(out, place);
                text(out, key);
                out.push(b':');
                json(out, value);
            }
            out.push(b'}');
        }
    }
}

/// Writes a list, each item by `item`.
pub(crate) fn list<T>(out: &mut Vec<u8>, items: &[T], item: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (place, value) in items.iter().enumerate() {
        separate(out, place);
        item(out, value);
    }
    out.push(b']');
}

/// The comma before all members but the first.
pub(crate) fn separate(out: &mut Vec<u8>, place: usize) {
    if place > 0 {
        out.push(b',');
    }
}

pub(crate) fn integer(out: &mut Vec<u8>, number: i128) {
    let _ = match (i64::try_from(number), u64::try_from(number)) {
        (Ok(number), _) => serde_json::to_writer(out, &number),
        (_, Ok(number)) => serde_json::to_writer(out, &number),
        // The reader takes no such number.
        _ => serde_json::to_writer(out, &()),
    };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::json::{Limits, Reader};
    use super::*;

    #[test]
    fn what_is_written_is_what_serde_json_writes() {
        let limits = Limits { depth_max: 9, string_bytes_max: 999, values_max: 99, bytes_max: 9999 };
        let text: Arc<str> = Arc::from(
            r#"{"a\u0041é\n\"\\\/\u0001":[1,-1,18446744073709551615,-9223372036854775808,1.5,1e300,-0.0,0.1,2E3,true,false,null,"\u007f/é"],"":{},"x":[]}"#,
        );
        let value = Reader::new(&text, limits).part(limits).unwrap();
        let mut out = Vec::new();
        json(&mut out, &value);
        assert_eq!(String::from_utf8(out).unwrap(), value.to_value().to_string());
    }
}
