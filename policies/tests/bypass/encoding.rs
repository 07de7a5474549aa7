//! Entries 4 to 13: texts that JSON readers disagree about.

use comfygate_policy::{BODY_BYTES_MAX, NODES_MAX, PROMPT_DEPTH_MAX, PROMPT_STRING_BYTES_MAX, parse};
use serde_json::{Value, json};

use super::{node, parses, raw, unparsable};

#[test]
fn bypass_004_duplicate_keys() {
    unparsable(r#"{"client_id":"mine","client_id":"victim","prompt":{}}"#, "duplicate_key");
    unparsable(&raw(r#"{"steps":1,"st\u0065ps":10000}"#), "duplicate_key");
    // Of nodes, of a node, of what is dropped, and of what lies deep in it.
    for body in [
        r#"{"prompt":{"1":{"class_type":"A","inputs":{}},"\u0031":{"class_type":"B","inputs":{}}}}"#,
        r#"{"prompt":{"1":{"class_type":"A","class_type":"B","inputs":{}}}}"#,
        r#"{"prompt":{"1":{"class_type":"A","inputs":{},"inputs":{"steps":9}}}}"#,
        r#"{"prompt":{"1":{"class_type":"A","inputs":{},"_meta":{"title":"a","title":"b"}}}}"#,
        r#"{"prompt":{"1":{"class_type":"A","inputs":{}}},"zzz":{"a":[{"b":1,"b":2}]}}"#,
        r#"{"prompt":{"1":{"class_type":"A","inputs":{}}},"extra_data":{"extra_pnginfo":{"workflow":{"a":1,"\u0061":2}}}}"#,
        r#"{"prompt":{"1":{"class_type":"A","inputs":{}}},"p\u0072ompt":{}}"#,
        "{\"prompt\":{\"1\":{\"class_type\":\"A\",\"inputs\":{\"é\":1,\"\\u00e9\":2}}}}",
    ] {
        unparsable(body, "duplicate_key");
    }
    // Two spellings of one letter are two keys, in Python too; and so are keys of different objects.
    parses("{\"prompt\":{\"1\":{\"class_type\":\"A\",\"inputs\":{\"é\":1,\"e\u{301}\":2,\"E\":{\"é\":1}}}}}");
}

#[test]
fn bypass_005_numbers_that_are_not_finite() {
    for number in ["NaN", "Infinity", "1e400", "-1e309", "1e99999"] {
        unparsable(&raw(&format!(r#"{{"cfg":{number}}}"#)), "not_finite");
    }
    for number in ["-Infinity", "-NaN", "nan", "inf", "+1", ".5", "1.", "0x10", "1_0", "01", "１"] {
        unparsable(&raw(&format!(r#"{{"cfg":{number}}}"#)), "invalid_json");
    }
    // Where nobody looks they are refused as well: ComfyUI keeps what it is given.
    unparsable(r#"{"prompt":{},"zzz":[NaN]}"#, "not_finite");
    unparsable(r#"{"extra_data":{"extra_pnginfo":{"workflow":{"x":1e400}}},"prompt":{}}"#, "not_finite");
    for number in ["1E2", "-0", "-0.0", "1e308", "0.1e1"] {
        parses(&raw(&format!(r#"{{"cfg":{number}}}"#)));
    }
}

#[test]
fn bypass_006_integers_of_thousands_of_digits() {
    unparsable(&raw(&format!(r#"{{"seed":{}}}"#, "9".repeat(4301))), "number_too_long");
    unparsable(&raw(&format!(r#"{{"seed":{}}}"#, "9".repeat(30))), "integer_out_of_range");
    unparsable(&raw(&format!(r#"{{"seed":-{}}}"#, "0".repeat(4301))), "number_too_long");
    unparsable(&raw(&format!(r#"{{"cfg":0.{}1}}"#, "0".repeat(4301))), "number_too_long");
    unparsable(&raw(&format!(r#"{{"cfg":1e{}}}"#, "0".repeat(4301))), "number_too_long");
    for integer in ["18446744073709551616", "-9223372036854775809"] {
        unparsable(&raw(&format!(r#"{{"seed":{integer}}}"#)), "integer_out_of_range");
    }
    for integer in ["18446744073709551615", "-9223372036854775808"] {
        parses(&raw(&format!(r#"{{"seed":{integer}}}"#)));
    }
}

#[test]
fn bypass_007_lone_surrogates() {
    unparsable(&raw(r#"{"text":"\ud800"}"#), "lone_surrogate");
    unparsable(&raw(r#"{"\udfff":1}"#), "lone_surrogate");
    for text in [r"\udc00\ud800", r"\ud800A", r"\ud83d\ud83d\ude00", r"\uD800\uDBFF", r"\ud800\n"] {
        unparsable(&raw(&format!(r#"{{"text":"{text}"}}"#)), "lone_surrogate");
    }
    // The same as bytes.
    let mut body = raw(r#"{"text":"?"}"#).into_bytes();
    let at = body.iter().position(|byte| *byte == b'?').unwrap();
    body.splice(at..=at, [0xED, 0xA0, 0x80]);
    assert_eq!(parse(&body).map(|_| ()).unwrap_err().code(), "invalid_utf8");
    parses(&raw(r#"{"text":"\ud83d\ude00"}"#));
}

#[test]
fn bypass_008_deep_nesting() {
    unparsable(&raw(&format!(r#"{{"x":{}1{}}}"#, "[".repeat(500), "]".repeat(500))), "too_deep");
    let page = |open: &str, close: &str, levels: usize| {
        format!(
            r#"{{"extra_data":{{"extra_pnginfo":{{"workflow":{}1{}}}}},"prompt":{{"1":{{"class_type":"A","inputs":{{}}}}}}}}"#,
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    unparsable(&page("[", "]", 900), "too_deep");
    // By objects, by both in turn, never closed, and where it is dropped.
    unparsable(&page("{\"a\":", "}", 900), "too_deep");
    unparsable(&page("[{\"a\":", "}]", 450), "too_deep");
    unparsable(&raw(&format!(r#"{{"x":{}"#, "{\"a\":".repeat(500))), "too_deep");
    unparsable(&format!(r#"{{"prompt":{{}},"zzz":{}1{}}}"#, "[".repeat(500), "]".repeat(500)), "too_deep");
    unparsable(
        &format!(r#"{{"prompt":{{}},"partial_execution_targets":{}1{}}}"#, "[".repeat(500), "]".repeat(500)),
        "too_deep",
    );
    // `prompt`, the node and its inputs are three levels.
    let objects = |levels: usize| raw(&format!(r#"{{"x":{}1{}}}"#, "{\"a\":".repeat(levels), "}".repeat(levels)));
    parses(&objects(PROMPT_DEPTH_MAX - 3));
    unparsable(&objects(PROMPT_DEPTH_MAX - 2), "too_deep");
    parses(&page("{\"a\":", "}", 60));
}

#[test]
fn bypass_009_byte_order_mark() {
    unparsable(&format!("\u{feff}{}", raw("{}")), "byte_order_mark");
    unparsable(&format!(" \u{feff}{}", raw("{}")), "invalid_json");
    unparsable(&format!("{}\u{feff}", raw("{}")), "trailing_data");
    // Other encodings, with a mark and without.
    for bytes in [b"\xff\xfe{\0}\0".to_vec(), b"\xfe\xff\0{\0}".to_vec(), b"\x84\x31\x95\x33{}".to_vec()] {
        assert_eq!(parse(&bytes).map(|_| ()).unwrap_err().code(), "invalid_utf8");
    }
    assert!(parse(b"{\0\"\0").is_err());
    parses(&format!(" \r\n\t{}\n", raw("{}")));
}

#[test]
fn bypass_013_a_body_of_too_many_nodes_or_too_long_strings() {
    let nodes = |count: usize| -> serde_json::Map<String, Value> {
        (0..count).map(|n| (n.to_string(), node("A", json!({})))).collect()
    };
    parses(&json!({ "prompt": nodes(NODES_MAX) }).to_string());
    unparsable(&json!({ "prompt": nodes(NODES_MAX + 1) }).to_string(), "too_many_nodes");
    let text = |bytes: usize| raw(&format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes)));
    parses(&text(PROMPT_STRING_BYTES_MAX));
    unparsable(&text(PROMPT_STRING_BYTES_MAX + 1), "string_too_long");
    // Lengths count after unescaping, and keys are strings.
    parses(&raw(&format!(r#"{{"text":"{}"}}"#, r"\u0041".repeat(PROMPT_STRING_BYTES_MAX))));
    unparsable(
        &raw(&format!(r#"{{"text":"{}"}}"#, r"\u20ac".repeat(PROMPT_STRING_BYTES_MAX / 3 + 1))),
        "string_too_long",
    );
    unparsable(&raw(&format!(r#"{{"{}":1}}"#, "k".repeat(PROMPT_STRING_BYTES_MAX + 1))), "string_too_long");
    unparsable(&raw(&format!(r#"{{"{}":1}}"#, "k".repeat(257))), "invalid_input_name");
    // Many values, many inputs, many bytes.
    let many = |count: usize| raw(&format!(r#"{{"x":{{"a":[{}0]}}}}"#, "0,".repeat(count)));
    unparsable(&many(100_000), "too_many_values");
    let inputs = |count: usize| (0..count).map(|n| format!("\"i{n}\":1")).collect::<Vec<_>>().join(",");
    parses(&raw(&format!("{{{}}}", inputs(256))));
    unparsable(&raw(&format!("{{{}}}", inputs(257))), "too_many_inputs");
    unparsable(&" ".repeat(BODY_BYTES_MAX + 1), "body_too_large");
}
