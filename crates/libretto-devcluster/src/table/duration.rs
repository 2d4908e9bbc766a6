//! Spans of time as kubectl prints them.

/// Upstream's `duration.HumanDuration`: at most two units, and the second only while the first is small.
pub(crate) fn human(seconds: i64) -> String {
    // A clock slightly ahead is no reason to print nonsense.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// The age of a time stamp, or how kubectl shows a missing or broken one.
pub(crate) fn age(timestamp: Option<&str>, now: i64) -> String {
    match timestamp {
        None | Some("") => "<unknown>".to_owned(),
        Some(text) => since(text, now).unwrap_or_else(|| "<invalid>".to_owned()),
    }
}

/// The age of a time stamp that can be read.
pub(crate) fn since(timestamp: &str, now: i64) -> Option<String> {
    let then = timestamp.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    // Whole seconds that have passed, however the stamp is cut.
    Some(human((now * 1000 - then).div_euclid(1000)))
}

/// Seconds since the epoch.
pub(crate) fn seconds(timestamp: &str) -> Option<i64> {
    timestamp
        .parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_durations() {
        const H: i64 = 3600;
        const D: i64 = 24 * H;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (179 * 60 + 59, "179m"),
            (3 * H, "3h"),
            (3 * H + 60, "3h1m"),
            (8 * H, "8h"),
            (47 * H, "47h"),
            (48 * H, "2d"),
            (49 * H, "2d1h"),
            (8 * D, "8d"),
            (729 * D, "729d"),
            (730 * D, "2y"),
            (731 * D, "2y1d"),
            (8 * 365 * D, "8y"),
        ] {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
        assert_eq!(age(None, 0), "<unknown>");
        assert_eq!(age(Some("1970-01-01T00:00:05Z"), 10), "5s");
        assert_eq!(age(Some("soon"), 10), "<invalid>");
    }
}
