//! String formats of OpenAPI. Formats nobody checks upstream are accepted here too.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use base64::Engine as _;
use regex::Regex;

static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$")
        .expect("a literal, compiled in a test")
});
static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[^@\s]+@[^@\s]+$").expect("a literal, compiled in a test"));
static MAC: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}([:-][0-9a-fA-F]{2}){0,2}$")
        .expect("a literal, compiled in a test")
});
static URI: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([a-zA-Z][a-zA-Z0-9+.-]*:|/)\S*$").expect("a literal, compiled in a test")
});
static DURATION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^-?([0-9]+(\.[0-9]*)?\s*(ns|us|µs|μs|ms|s|m|h|d|w|[a-z]+)\s*)+$|^0$")
        .expect("a literal, compiled in a test")
});

/// Whether `text` has the format.
pub(super) fn matches(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => MAC.is_match(text),
        "uri" => URI.is_match(text),
        "email" => EMAIL.is_match(text),
        "hostname" => text.len() <= 253 && HOSTNAME.is_match(text),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "uuid3" => is_uuid(text, 3),
        "uuid4" => is_uuid(text, 4),
        "uuid5" => is_uuid(text, 5),
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "duration" => DURATION.is_match(text),
        _ => true,
    }
}

fn is_uuid(text: &str, version: usize) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|uuid| uuid.get_version_num() == version)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let most = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uri", "https://example.com/x", "not a uri"),
            ("email", "a@b.c", "a"),
            ("hostname", "a.example", "-a"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123"),
            ("byte", "aGk=", "?"),
            ("date", "2026-01-31", "2026-02-31"),
            ("date-time", "2026-01-31T10:00:00Z", "yesterday"),
            ("duration", "1h30m", "soon"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("anything-else", "x"));
    }
}
