//! Files: by signed URL for whoever holds it, or by shown name for their owner.
//!
//! *Answers the attack*: guessing or altering another's URL (an HMAC over everything that decides), stored scripts run in our origin (an allowlist of
//! types, `nosniff`, `sandbox`), and a shared cache that answers for us (`private`); facts §11, 83-86, 94, 105.

pub mod file;
pub mod links;
pub mod signature;
pub mod signing_key;
pub mod view;

/// Types that are shown as what they are; everything else is a download. SVG, HTML, XML and PDF can run scripts and are not here.
const INLINE: [(&str, &str); 11] = [
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

/// What anything else is served as.
pub const OCTET_STREAM: &str = "application/octet-stream";

/// The type of a file by its extension.
pub fn content_type(filename: &str) -> &'static str {
    let extension = filename.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
    INLINE.iter().find(|(known, _)| *known == extension).map_or(OCTET_STREAM, |(_, kind)| *kind)
}

/// Whether a stored type is shown as what it is.
fn is_inline(content_type: &str) -> bool {
    INLINE.iter().any(|(_, kind)| *kind == content_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_run_nothing_are_shown() {
        assert_eq!(content_type("a.PNG"), "image/png");
        assert_eq!(content_type("a.opus"), "audio/ogg");
        for other in ["a.svg", "a.html", "a.js", "a.xml", "a.pdf", "a", "png", "a.png.gz", ""] {
            assert_eq!(content_type(other), OCTET_STREAM, "{other}");
            assert!(!is_inline(content_type(other)));
        }
    }
}
