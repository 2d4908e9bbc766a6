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
    /// A value that is made when the Secret that it stands in is first written, and kept from then on. Text:
    /// `secret:made:<letters>:<length>`.
    Made { letters: Letters, length: u16 },
}

/// What a made value consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Letters {
    /// `A-Z a-z 0-9`: about 6 bits each, and safe in every configuration file and URL.
    Alnum,
    /// `0-9 a-f`.
    Hex,
    /// `0-9`.
    Digits,
}

impl Letters {
    /// Every kind, by its name.
    pub const ALL: &[(&str, Self)] = &[
        ("alnum", Self::Alnum),
        ("hex", Self::Hex),
        ("digits", Self::Digits),
    ];

    /// The letters themselves.
    pub fn all(self) -> &'static [u8] {
        match self {
            Self::Alnum => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Self::Hex => b"0123456789abcdef",
            Self::Digits => b"0123456789",
        }
    }

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, letters)| *letters == self)
            .map_or("", |(name, _)| name)
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, letters)| *letters)
    }
}

impl SecretHandle {
    /// The text that stands for the value.
    pub fn text(&self) -> String {
        match self {
            Self::Key { name, key } => format!("{MARK}secret:key:{name}:{key}{MARK}"),
            Self::Field { field, digest } => format!("{MARK}secret:field:{field}:{digest}{MARK}"),
            Self::Made { letters, length } => {
                format!("{MARK}secret:made:{}:{length}{MARK}", letters.name())
            }
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
            "made" => Some(Self::Made {
                letters: Letters::named(first)?,
                length: second.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// What to make, when the text is nothing but the handle of a made value.
    pub fn made(text: &str) -> Option<(Letters, u16)> {
        match pieces(text).as_slice() {
            [Piece::Handle(Self::Made { letters, length })] => Some((*letters, *length)),
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
    fn a_made_value_stands_alone() {
        for (name, letters) in Letters::ALL {
            let handle = SecretHandle::Made {
                letters: *letters,
                length: 24,
            };
            assert!(handle.text().contains(name));
            assert_eq!(SecretHandle::made(&handle.text()), Some((*letters, 24)));
            assert_eq!(SecretHandle::made(&format!("x{}", handle.text())), None);
        }
        assert_eq!(SecretHandle::made("plain"), None);
    }

    #[test]
    fn text_without_handles_is_itself() {
        assert_eq!(pieces("plain"), [Piece::Text("plain")]);
        assert_eq!(redact(""), "");
    }
}
