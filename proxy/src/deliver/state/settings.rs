//! `/settings` (ComfyUI 0.8.0 `app/app_settings.py`): one object an owner, kept as the file `comfy.settings.json` of its userdata. Pure.

use super::{StateError, queue};
use serde_json::{Map, Value};

/// The settings in a stored file; a damaged one holds none, as for ComfyUI.
pub fn stored(content: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(content).unwrap_or_default()
}

/// The body of `POST /settings`: an object of settings, each once.
///
/// # Errors
/// A body that is none; ComfyUI answers 500.
pub fn changes(body: &[u8]) -> Result<Map<String, Value>, StateError> {
    queue::object(body)
}

/// The body of `POST /settings/{id}`: any JSON value.
///
/// # Errors
/// A body that is none; ComfyUI answers 500.
pub fn value(body: &[u8]) -> Result<Value, StateError> {
    serde_json::from_slice(body).map_err(|_| StateError::Body("the body must be a JSON value"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_body_is_an_object_or_a_value_and_nothing_else() {
        assert_eq!(changes(br#"{"a": 1}"#).unwrap(), *json!({"a": 1}).as_object().unwrap());
        for bad in [b"[1]".as_slice(), b"{", b"", br#"{"a":1,"a":2}"#, b"NaN"] {
            assert!(changes(bad).is_err(), "{bad:?}");
        }
        assert_eq!(value(b"\"1.35.9\"").unwrap(), json!("1.35.9"));
        for bad in [b"NaN".as_slice(), b"", b"1 2", b"x"] {
            assert!(value(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn damaged_settings_are_none() {
        assert_eq!(stored(b"{\"a\":").len(), 0);
        assert_eq!(stored(b"[]").len(), 0);
        assert_eq!(stored(b"{\"a\":null}").len(), 1);
    }
}
