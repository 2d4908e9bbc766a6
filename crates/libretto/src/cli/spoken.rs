//! How a secret is spoken about where people read: by the name of its handle, never by its value.

use libretto_api::secret::{MARK, Piece, SecretHandle, pieces};
use serde_json::Value;

/// The text with every handle as `<secret NAME/KEY>` or `<field NAME>`.
pub(crate) fn text(text: &str) -> String {
    if !text.contains(MARK) {
        return text.to_owned();
    }
    pieces(text)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Handle(SecretHandle::Key { name, key }) => format!("<secret {name}/{key}>"),
            Piece::Handle(SecretHandle::Field { field, .. }) => format!("<field {field}>"),
            Piece::Handle(SecretHandle::Made { length, .. }) => format!("<random({length})>"),
        })
        .collect()
}

/// A value with every handle in it as [`text`] has it.
pub(crate) fn value(value: &Value) -> Value {
    match value {
        Value::String(string) => text(string).into(),
        Value::Array(items) => items.iter().map(self::value).collect(),
        Value::Object(map) => map
            .iter()
            .map(|(key, member)| (text(key), self::value(member)))
            .collect(),
        other => other.clone(),
    }
}

/// One line of at most `most` characters.
pub(crate) fn short(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    let mut cut: String = line.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn handles_are_named() {
        let key = SecretHandle::Key {
            name: "auth".into(),
            key: "password".into(),
        };
        let field = SecretHandle::Field {
            field: "token".into(),
            digest: "d1".into(),
        };
        let said = value(&json!({"a": [format!("x{}", key.text())], "b": field.text(), "c": 1}));
        assert_eq!(
            said,
            json!({"a": ["x<secret auth/password>"], "b": "<field token>", "c": 1})
        );
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(short("a\n b", 10), "a b");
        assert_eq!(short("abcdef", 4), "abc…");
    }
}
