//! Files: by signed URL for whoever has it, by shown name for their owner.
//!
//! [`signature`] says what a URL proves, [`links`] makes and checks URLs, [`signing_key`] keeps the keys, [`view`] reads ComfyUI's plain form, [`file`]
//! answers with the content. No browser is ever given a file that it would run (facts §7.1): types from an allowlist, all else as a download.

pub mod file;
pub mod links;
pub mod signature;
pub mod signing_key;
pub mod view;

/// What is not on the list.
pub const OPAQUE: &str = "application/octet-stream";

/// Extension and type of what a browser may show: pictures, films and sound without script power. No SVG, no PDF, no HTML.
const SHOWN: [(&str, &str); 11] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("gif", "image/gif"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("flac", "audio/flac"),
    ("mp3", "audio/mpeg"),
    ("opus", "audio/ogg"),
    ("ogg", "audio/ogg"),
];

/// The type of a file of that name: from the allowlist, else [`OPAQUE`].
pub fn content_type(filename: &str) -> &'static str {
    let extension = filename.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let found = SHOWN.iter().find(|(known, _)| Some(*known) == extension.as_deref());
    found.map_or(OPAQUE, |(_, kind)| kind)
}

/// The allowlist's own text of a stored type, if it is on it.
fn shown_type(stored: &str) -> Option<&'static str> {
    SHOWN.iter().map(|(_, kind)| *kind).find(|kind| *kind == stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_films_and_sound_are_shown_and_everything_else_is_opaque() {
        assert_eq!(content_type("a.PNG"), "image/png");
        assert_eq!(content_type("a.b.opus"), "audio/ogg");
        for name in ["a.svg", "a.html", "a.png.js", "a.pdf", "png", "", "a.", "a.png "] {
            assert_eq!(content_type(name), OPAQUE, "{name}");
        }
    }
}
