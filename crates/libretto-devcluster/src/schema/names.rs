//! Syntax of names, labels and annotations.

use std::sync::LazyLock;

use regex::Regex;

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        pub(crate) static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($text).expect("a literal, compiled in a test"));
    };
}

pattern!(DNS1123_LABEL, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
pattern!(
    DNS1123_SUBDOMAIN,
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
);
pattern!(DNS1035_LABEL, "^[a-z]([-a-z0-9]*[a-z0-9])?$");
pattern!(QUALIFIED_NAME, "^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$");
pattern!(LABEL_VALUE, "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$");
pattern!(CONFIG_KEY, "^[-._a-zA-Z0-9]+$");

pub(crate) const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(crate) const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
     '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub(crate) const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
     an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
     '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
     character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
     must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// What is wrong with a DNS-1123 label.
pub(crate) fn dns1123_label(name: &str) -> Option<String> {
    limited(name, 63, &DNS1123_LABEL, DNS1123_LABEL_MESSAGE)
}

/// What is wrong with a DNS-1123 subdomain, the name of most objects.
pub(crate) fn dns1123_subdomain(name: &str) -> Option<String> {
    limited(name, 253, &DNS1123_SUBDOMAIN, DNS1123_SUBDOMAIN_MESSAGE)
}

/// What is wrong with a DNS-1035 label, the name of a Service.
pub(crate) fn dns1035_label(name: &str) -> Option<String> {
    limited(name, 63, &DNS1035_LABEL, DNS1035_LABEL_MESSAGE)
}

/// What is wrong with a label or annotation key (`prefix/name` or `name`).
pub(crate) fn qualified_name(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            return Some(format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                NAME_PART.trim_start_matches("name part ")
            ));
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            return Some("prefix part must be non-empty".to_owned());
        }
        if let Some(why) = dns1123_subdomain(prefix) {
            return Some(format!("prefix part {why}"));
        }
    }
    if name.is_empty() {
        return Some("name part must be non-empty".to_owned());
    }
    if name.len() > 63 {
        return Some("name part must be no more than 63 bytes".to_owned());
    }
    (!QUALIFIED_NAME.is_match(name)).then(|| NAME_PART.to_owned())
}

/// Everything that is wrong with a label or annotation key: an empty one is wrong in two ways.
pub(crate) fn key_problems(key: &str) -> Vec<String> {
    let mut problems: Vec<String> = qualified_name(key).into_iter().collect();
    let name = key.rsplit('/').next().unwrap_or(key);
    let long_or_empty = name.is_empty() || name.len() > 63;
    if long_or_empty && !problems.is_empty() && !QUALIFIED_NAME.is_match(name) {
        problems.push(NAME_PART.to_owned());
    }
    problems
}

/// What is wrong with the value of a label.
pub(crate) fn label_value(value: &str) -> Option<String> {
    limited(value, 63, &LABEL_VALUE, LABEL_VALUE_MESSAGE)
}

/// What is wrong with a key of a ConfigMap or Secret.
pub(crate) fn config_key(key: &str) -> Option<String> {
    if key == "." || key == ".." {
        return Some(format!("must not be '{key}'"));
    }
    limited(key, 253, &CONFIG_KEY, CONFIG_KEY_MESSAGE)
}

fn limited(text: &str, most: usize, pattern: &Regex, message: &str) -> Option<String> {
    if text.len() > most {
        return Some(format!("must be no more than {most} bytes"));
    }
    (!pattern.is_match(text)).then(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "a-b", "1a", "a.b"] {
            assert_eq!(dns1123_subdomain(name), None, "{name}");
        }
        for name in ["", "A", "a_b", "-a", "a..b"] {
            assert!(dns1123_subdomain(name).is_some(), "{name}");
        }
        assert!(dns1123_label("a.b").is_some());
        assert!(dns1035_label("1a").is_some());
    }

    #[test]
    fn labels() {
        for key in ["a", "app.kubernetes.io/name", "A_b.c"] {
            assert_eq!(qualified_name(key), None, "{key}");
        }
        for key in ["", "/a", "a/b/c", "a b", "UPPER.example/x"] {
            assert!(qualified_name(key).is_some(), "{key}");
        }
        assert_eq!(label_value(""), None);
        assert!(label_value("a/b").is_some());
        assert!(label_value(&"a".repeat(64)).is_some());
        assert_eq!(config_key("redis.conf"), None);
        assert!(config_key("..").is_some());
    }
}
