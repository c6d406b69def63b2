//! One line of JSON Lines: the field `text` of an object.

use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// The fields that are read; all others are skipped.
#[derive(Deserialize)]
struct Row {
    #[serde(default, deserialize_with = "present")]
    text: Option<Option<RawText>>,
}

/// The bytes of a JSON string, escapes resolved. A lone surrogate gives bytes that are not UTF-8.
struct RawText(Vec<u8>);

/// The text of a row; `null` is an empty document.
///
/// # Errors
///
/// What the line is instead of an object with a string `text`.
pub(super) fn text_of(line: &[u8]) -> Result<Vec<u8>, String> {
    let row: Row = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    match row.text {
        Some(text) => Ok(text.map(|RawText(bytes)| bytes).unwrap_or_default()),
        None => Err("an object without the field `text`".to_owned()),
    }
}

/// Tells a field that is `null` from one that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<RawText>>, D::Error> {
    Option::<RawText>::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(RawTextVisitor)
    }
}

struct RawTextVisitor;

impl de::Visitor<'_> for RawTextVisitor {
    type Value = RawText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string in `text`")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RawText, E> {
        Ok(RawText(bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_among_others() {
        let line = r#"{"id": [1, {"text": 2}], "text": "a\n\u4e2d\ud83d\ude00", "n": null}"#;
        assert_eq!(text_of(line.as_bytes()).unwrap(), "a\n中😀".as_bytes());
        assert_eq!(text_of(br#"{"text": null}"#).unwrap(), b"");
        assert!(std::str::from_utf8(&text_of(br#"{"text": "\ud83d"}"#).unwrap()).is_err());
        for (line, part) in
            [("{}", "`text`"), ("[1]", "invalid"), (r#"{"text": 1}"#, "a string"), (r#"{"text": "a"#, "EOF")]
        {
            let error = text_of(line.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
