//! Times of a rule: cron expressions of five fields, in a time zone.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use libretto_api::intent::Millis;

/// When a rule's rows are due.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pattern: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// `0 3 * * *`, `@daily`; the zone by its IANA name, such as `Europe/Berlin`.
    pub(crate) fn parse(cron: &str, zone: Option<&str>) -> Result<Self, String> {
        let pattern = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(cron)
            .map_err(|error| format!("`{cron}` is no schedule: {error}"))?;
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => {
                TimeZone::get(name).map_err(|_error| format!("there is no time zone `{name}`"))?
            }
        };
        let schedule = Self { pattern, zone };
        if schedule.after(0).is_none() {
            return Err(format!("`{cron}` never comes"));
        }
        Ok(schedule)
    }

    /// The last time that was not after `now`.
    pub(crate) fn before(&self, now: Millis) -> Option<Millis> {
        let found = self
            .pattern
            .find_previous_occurrence(&self.here(now)?, true)
            .ok()?;
        Some(found.timestamp().as_millisecond())
    }

    /// The first time after `now`.
    pub(crate) fn after(&self, now: Millis) -> Option<Millis> {
        let found = self
            .pattern
            .find_next_occurrence(&self.here(now)?, false)
            .ok()?;
        Some(found.timestamp().as_millisecond())
    }

    fn here(&self, at: Millis) -> Option<Zoned> {
        let at = Timestamp::from_millisecond(at).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ms(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn the_times_before_and_after_a_moment() {
        for (cron, zone, now, before, after) in [
            (
                "0 3 * * *",
                None,
                "2026-05-01T10:00:00Z",
                "2026-05-01T03:00:00Z",
                "2026-05-02T03:00:00Z",
            ),
            (
                "0 3 * * *",
                None,
                "2026-05-01T03:00:00Z",
                "2026-05-01T03:00:00Z",
                "2026-05-02T03:00:00Z",
            ),
            (
                "0 3 * * *",
                Some("Europe/Berlin"),
                "2026-05-01T10:00:00Z",
                "2026-05-01T01:00:00Z",
                "2026-05-02T01:00:00Z",
            ),
            (
                "*/5 * * * *",
                None,
                "2026-05-01T10:07:30Z",
                "2026-05-01T10:05:00Z",
                "2026-05-01T10:10:00Z",
            ),
            (
                "@hourly",
                None,
                "2026-05-01T10:07:30Z",
                "2026-05-01T10:00:00Z",
                "2026-05-01T11:00:00Z",
            ),
        ] {
            let schedule = Schedule::parse(cron, zone).unwrap();
            assert_eq!(schedule.before(ms(now)), Some(ms(before)), "{cron} {now}");
            assert_eq!(schedule.after(ms(now)), Some(ms(after)), "{cron} {now}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_told() {
        for (cron, zone, told) in [
            ("3am", None, "`3am` is no schedule: "),
            ("0 0 0 3 * * *", None, "is no schedule: "),
            (
                "0 3 * * *",
                Some("Europe/Nowhere"),
                "there is no time zone `Europe/Nowhere`",
            ),
            ("0 0 31 2 *", None, "`0 0 31 2 *` never comes"),
        ] {
            let error = Schedule::parse(cron, zone).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
