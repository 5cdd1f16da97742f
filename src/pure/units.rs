//! Times and sizes as people write them: `90s`, `15m`, `32k`, `24GB`. A number without a unit
//! means whatever the option's own name says.

use std::fmt;
use std::time::Duration;

/// Reads a time with its unit, such as `90s`, `15m` or `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// What an option counts, and so what a number without a unit means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things: there is no unit to write.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Tokens.
    Tokens,
    /// MiB.
    Mebibytes,
}

impl Unit {
    /// Reads a number, or an amount with its unit.
    pub fn read(self, text: &str) -> Option<u64> {
        // `+5` parses as a number, and is no way to write one.
        if text.starts_with('+') {
            return None;
        }
        text.parse().ok().or_else(|| self.read_amount(text))
    }

    /// Reads an amount that is written with its unit.
    pub fn read_amount(self, text: &str) -> Option<u64> {
        match self {
            Self::Count => None,
            Self::Milliseconds => whole(parse_duration(text)?, 1_000_000),
            Self::Seconds => whole(parse_duration(text)?, 1_000_000_000),
            Self::Tokens => scaled(text, |suffix| match suffix {
                "k" => Some(1024),
                "m" => Some(1024 * 1024),
                _ => None,
            }),
            Self::Mebibytes => scaled(text, |suffix| match suffix.trim_end_matches('b').trim_end_matches('i') {
                "m" => Some(1),
                "g" => Some(1024),
                "t" => Some(1024 * 1024),
                _ => None,
            }),
        }
    }

    /// What is allowed between the two, as the end of a sentence that begins with "must be".
    pub fn allowed(self, least: u64, most: u64) -> String {
        match self {
            Self::Count => format!("a whole number from {least} to {most}"),
            Self::Milliseconds => format!("a time such as 90s or 15m, or milliseconds from {least} to {most}"),
            Self::Seconds => format!("a time such as 90s or 2h, or seconds from {least} to {most}"),
            Self::Tokens => format!("a number of tokens such as 32768 or 32k, from {least} to {most}"),
            Self::Mebibytes => format!("a size such as 24GB or 512MB, or MiB from {least} to {most}"),
        }
    }

    /// Shows an amount as it could be written.
    pub fn display(self, amount: u64) -> impl fmt::Display {
        let largest = |units: &[(u64, &'static str)]| {
            units.iter().find(|(size, _)| amount > 0 && amount.is_multiple_of(*size)).copied().unwrap_or((1, ""))
        };
        let (size, unit) = match self {
            Self::Count | Self::Tokens => (1, ""),
            Self::Milliseconds => largest(&[(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")]),
            Self::Seconds => largest(&[(3600, "h"), (60, "m"), (1, "s")]),
            Self::Mebibytes => largest(&[(1024, "GB"), (1, "MB")]),
        };
        format!("{}{unit}", amount / size)
    }
}

/// A time in units of so many nanoseconds, if it is a whole number of them.
fn whole(time: Duration, unit: u128) -> Option<u64> {
    let nanos = time.as_nanos();
    if nanos.is_multiple_of(unit) { u64::try_from(nanos / unit).ok() } else { None }
}

/// A number with a suffix that multiplies it, in any case, if the result is whole.
fn scaled(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.')?;
    let (number, suffix) = text.split_at(end);
    let factor = u128::from(factor(&suffix.trim_start().to_ascii_lowercase())?);
    let (digits, fraction) = number.split_once('.').unwrap_or((number, ""));
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 9)?;
    // `.5k` and `5.k` are no way to write a number.
    if digits.is_empty() || number.ends_with('.') {
        return None;
    }
    let scaled = format!("{digits}{fraction}").parse::<u128>().ok()?.checked_mul(factor)?;
    let divisor = 10_u128.pow(places);
    if scaled.is_multiple_of(divisor) { u64::try_from(scaled / divisor).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (unit, text, wanted) in [
            (Unit::Milliseconds, "2500", Some(2500)),
            (Unit::Milliseconds, "15m", Some(900_000)),
            (Unit::Milliseconds, "1h30m", Some(5_400_000)),
            (Unit::Milliseconds, "250ms", Some(250)),
            (Unit::Milliseconds, "1us", None),
            (Unit::Milliseconds, "soon", None),
            (Unit::Seconds, "3600", Some(3600)),
            (Unit::Seconds, "2h", Some(7200)),
            (Unit::Seconds, "90 s", Some(90)),
            (Unit::Seconds, "1500ms", None),
            (Unit::Tokens, "32768", Some(32768)),
            (Unit::Tokens, "32k", Some(32768)),
            (Unit::Tokens, "128K", Some(131_072)),
            (Unit::Tokens, "1m", Some(1_048_576)),
            (Unit::Tokens, "0.5k", Some(512)),
            (Unit::Tokens, "0.0001k", None),
            (Unit::Tokens, "32kb", None),
            (Unit::Tokens, "k", None),
            (Unit::Tokens, ".5k", None),
            (Unit::Tokens, "1.2.3k", None),
            (Unit::Mebibytes, "4096", Some(4096)),
            (Unit::Mebibytes, "24GB", Some(24 * 1024)),
            (Unit::Mebibytes, "24 GiB", Some(24 * 1024)),
            (Unit::Mebibytes, "1.5g", Some(1536)),
            (Unit::Mebibytes, "512M", Some(512)),
            (Unit::Mebibytes, "1TB", Some(1024 * 1024)),
            (Unit::Mebibytes, "100k", None),
            (Unit::Count, "4", Some(4)),
            (Unit::Count, "4k", None),
            (Unit::Count, "+4", None),
            (Unit::Tokens, "-1", None),
            (Unit::Tokens, "1.5", None),
            (Unit::Tokens, "99999999999999999999k", None),
        ] {
            assert_eq!(unit.read(text), wanted, "{text}");
        }
    }

    #[test]
    fn an_amount_is_shown_in_the_largest_unit_that_fits() {
        for (unit, amount, shown) in [
            (Unit::Milliseconds, 2500, "2500ms"),
            (Unit::Milliseconds, 90_000, "90s"),
            (Unit::Milliseconds, 900_000, "15m"),
            (Unit::Milliseconds, 0, "0"),
            (Unit::Seconds, 7200, "2h"),
            (Unit::Mebibytes, 4096, "4GB"),
            (Unit::Mebibytes, 1000, "1000MB"),
            (Unit::Tokens, 32768, "32768"),
        ] {
            assert_eq!(unit.display(amount).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same(amount in 0..u64::from(u32::MAX)) {
            for unit in [Unit::Count, Unit::Milliseconds, Unit::Seconds, Unit::Tokens, Unit::Mebibytes] {
                prop_assert_eq!(unit.read(&unit.display(amount).to_string()), Some(amount));
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "[0-9.]{0,25}[a-zA-Z ]{0,4}") {
            for unit in [Unit::Count, Unit::Milliseconds, Unit::Seconds, Unit::Tokens, Unit::Mebibytes] {
                let _ = unit.read(&text);
            }
        }
    }
}
