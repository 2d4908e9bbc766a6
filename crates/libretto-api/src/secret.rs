//! Secret values are spoken about by handle and resolved at the last moment, inside an action.
//!
//! A template or a row only ever sees the *handle text*: `\u{1}secret:<kind>:…\u{1}`. It may stand alone in a leaf or inside a
//! longer string. `libretto-actions` replaces handles just before the effect; every other sink (status, events, logs,
//! fingerprints) sees the handle. U+0001 cannot occur in a YAML document, so no user text can forge a handle.

use serde::{Deserialize, Serialize};

/// First and last character of a handle's text.
pub const MARK: char = '\u{1}';

/// Where a secret value is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SecretHandle {
    /// Key of a Secret in the instance's namespace. Text: `secret:key:<name>:<key>`.
    Key { name: String, key: String },
    /// A sensitive field of the instance itself, by the name the package declared it under. Text:
    /// `secret:field:<field>:<digest>`; the digest (first 16 hex digits of a SHA-256 salted with the instance's uid)
    /// makes a changed value a changed row without telling what it is.
    Field { field: String, digest: String },
}

impl SecretHandle {
    /// The text that stands for the value.
    pub fn text(&self) -> String {
        match self {
            Self::Key { name, key } => format!("{MARK}secret:key:{name}:{key}{MARK}"),
            Self::Field { field, digest } => format!("{MARK}secret:field:{field}:{digest}{MARK}"),
        }
    }

    /// Reads one handle's text without its marks.
    fn parse(body: &str) -> Option<Self> {
        let mut parts = body.splitn(4, ':');
        if parts.next() != Some("secret") {
            return None;
        }
        let (kind, first, second) = (parts.next()?, parts.next()?, parts.next()?);
        match kind {
            "key" => Some(Self::Key {
                name: first.to_owned(),
                key: second.to_owned(),
            }),
            "field" => Some(Self::Field {
                field: first.to_owned(),
                digest: second.to_owned(),
            }),
            _ => None,
        }
    }
}

/// A string cut into literal text and handles, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    Text(&'a str),
    Handle(SecretHandle),
}

/// Cuts a string at its handles; a malformed handle is kept as text.
pub fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    for (index, part) in text.split(MARK).enumerate() {
        // Odd parts stand between two marks.
        match (index % 2 == 1)
            .then(|| SecretHandle::parse(part))
            .flatten()
        {
            Some(handle) => pieces.push(Piece::Handle(handle)),
            None if part.is_empty() => {}
            None => pieces.push(Piece::Text(part)),
        }
    }
    pieces
}

/// Replaces every handle by `***`, for logs, events and messages.
pub fn redact(text: &str) -> String {
    pieces(text)
        .into_iter()
        .map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Handle(_) => "***",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_being_embedded() {
        let handle = SecretHandle::Key {
            name: "auth".into(),
            key: "password".into(),
        };
        let text = format!("redis://:{}@host", handle.text());
        assert_eq!(
            pieces(&text),
            [
                Piece::Text("redis://:"),
                Piece::Handle(handle),
                Piece::Text("@host")
            ]
        );
        assert_eq!(redact(&text), "redis://:***@host");
    }

    #[test]
    fn text_without_handles_is_itself() {
        assert_eq!(pieces("plain"), [Piece::Text("plain")]);
        assert_eq!(redact(""), "");
    }
}
