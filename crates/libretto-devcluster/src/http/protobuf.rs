//! Reviews in protobuf, as kubectl sends them: the few fields decisions depend on, read by number. Pure. Nothing else of this server
//! reads protobuf.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Kubernetes puts these bytes before an envelope, `runtime.Unknown`.
const MAGIC: &[u8] = b"k8s\0";
/// The envelope's field with the object.
const RAW: u64 = 2;

/// A field by its number and name.
#[derive(Debug)]
struct Field(u64, &'static str, Kind);

#[derive(Debug)]
enum Kind {
    Text,
    Texts,
    Message(&'static [Field]),
}

use Kind::{Message, Text, Texts};

/// All reviews of access; those about oneself do not have the later fields of `spec`.
const ACCESS: &[Field] = &[
    Field(1, "metadata", Message(&[Field(3, "namespace", Text)])),
    Field(
        2,
        "spec",
        Message(&[
            Field(
                1,
                "resourceAttributes",
                Message(&[
                    Field(1, "namespace", Text),
                    Field(2, "verb", Text),
                    Field(3, "group", Text),
                    Field(4, "version", Text),
                    Field(5, "resource", Text),
                    Field(6, "subresource", Text),
                    Field(7, "name", Text),
                ]),
            ),
            Field(
                2,
                "nonResourceAttributes",
                Message(&[Field(1, "path", Text), Field(2, "verb", Text)]),
            ),
            Field(3, "user", Text),
            Field(4, "groups", Texts),
            Field(6, "uid", Text),
        ]),
    ),
];
const RULES: &[Field] = &[Field(2, "spec", Message(&[Field(1, "namespace", Text)]))];
const TOKEN: &[Field] = &[Field(
    2,
    "spec",
    Message(&[Field(1, "token", Text), Field(2, "audiences", Texts)]),
)];

/// The review of a kind.
pub(super) fn review(kind: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let fields = match kind {
        "SelfSubjectReview" => &[],
        "SelfSubjectRulesReview" => RULES,
        "TokenReview" => TOKEN,
        _ => ACCESS,
    };
    let object = bytes
        .strip_prefix(MAGIC)
        .and_then(raw)
        .and_then(|object| message(object, fields));
    object.ok_or_else(|| {
        ApiError::bad_request(format!(
            "the body is not a {kind} in Kubernetes' protobuf form"
        ))
    })
}

fn raw(envelope: &[u8]) -> Option<&[u8]> {
    let mut found = &[][..];
    let mut rest = envelope;
    while !rest.is_empty() {
        if let (RAW, content) = next(&mut rest)? {
            found = content;
        }
    }
    Some(found)
}

fn message(mut bytes: &[u8], fields: &[Field]) -> Option<Value> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, content) = next(&mut bytes)?;
        let Some(Field(_, name, kind)) = fields.iter().find(|field| field.0 == number) else {
            continue;
        };
        let text = || std::str::from_utf8(content).ok().map(Value::from);
        match kind {
            // Go writes empty texts too; in JSON they are left out.
            Text if content.is_empty() => {}
            Text => {
                object.insert((*name).to_owned(), text()?);
            }
            Texts => object
                .entry(*name)
                .or_insert_with(|| Value::Array(Vec::new()))
                .as_array_mut()?
                .push(text()?),
            Message(fields) => {
                object.insert((*name).to_owned(), message(content, fields)?);
            }
        }
    }
    Some(Value::Object(object))
}

/// Takes one field off `bytes`: its number and content. What is no text or message is passed over as field zero, which nothing is.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let tag = varint(bytes)?;
    let length = match tag & 7 {
        0 => {
            varint(bytes)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let number = if tag & 7 == 2 { tag >> 3 } else { 0 };
    Some((number, content))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let mut bytes = vec![number << 3 | 2];
        // As two bytes: lengths are numbers of any width.
        bytes.extend([length & 0x7f | 0x80, length >> 7]);
        bytes.extend(content);
        bytes
    }

    fn envelope(object: &[u8]) -> Vec<u8> {
        let kind = [field(1, b"authorization.k8s.io/v1"), field(2, b"X")].concat();
        [
            MAGIC,
            &field(1, &kind),
            &field(2, object),
            &field(3, b""),
            &field(4, b""),
        ]
        .concat()
    }

    #[test]
    fn the_fields_of_reviews_are_read() {
        let attributes = [
            field(1, b"n"),
            field(2, b"get"),
            field(3, b""),
            field(5, b"pods"),
            // A later field and a number, which are passed over.
            field(9, b"selector"),
            vec![12 << 3, 0x96, 1],
        ]
        .concat();
        let spec = [
            field(1, &attributes),
            field(3, b"u"),
            field(4, b"g"),
            field(4, b"h"),
        ]
        .concat();
        let object = [
            field(1, &field(1, b"ignored")),
            field(2, &spec),
            field(3, b"\x08\x00"),
        ]
        .concat();
        assert_eq!(
            review("SubjectAccessReview", &envelope(&object)).unwrap(),
            json!({
                "metadata": {},
                "spec": {
                    "resourceAttributes": {"namespace": "n", "verb": "get", "resource": "pods"},
                    "user": "u", "groups": ["g", "h"],
                },
            })
        );
        let rules = field(2, &field(1, b"n"));
        assert_eq!(
            review("SelfSubjectRulesReview", &envelope(&rules)).unwrap(),
            json!({"spec": {"namespace": "n"}})
        );
    }

    #[test]
    fn what_ends_early_is_refused() {
        let whole = envelope(&field(2, &field(2, &field(1, b"/metrics"))));
        assert_eq!(
            review("SelfSubjectAccessReview", &whole).unwrap(),
            json!({"spec": {"nonResourceAttributes": {"path": "/metrics"}}})
        );
        assert!(review("SelfSubjectAccessReview", &whole[1..]).is_err());
        // No prefix may bring the reader down.
        for length in 0..whole.len() {
            let _ = review("SelfSubjectAccessReview", &whole[..length]);
        }
        assert!(review("SelfSubjectAccessReview", b"k8s\0\x12\xff").is_err());
    }
}
