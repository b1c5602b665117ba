//! Durations as Go and Vault write and read them.
//!
//! We wrote this module because no crate reads Vault's mix of bare seconds, whole days and Go's syntax.

use std::fmt::Write as _;
use std::time::Duration;

/// Reads a duration as Vault does, truncated to whole seconds: `"3600"` (seconds), `"2d"` (whole days), or Go's syntax,
/// such as `"1h30m"` or `"1.5h"`. Empty text is zero. The longest duration is Go's longest, about 292 years.
///
/// Source: `ParseDurationSecond` in go-secure-stdlib `parseutil`, `time.ParseDuration` of Go.
///
/// # Errors
/// Returns the expected form. The error never contains the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    if let Ok(seconds) = text.parse() {
        return from_seconds(seconds);
    }
    if let Some(days) = text.strip_suffix('d') {
        let days: i64 = days.parse().map_err(|_| EXPECTED)?;
        return from_seconds(days.checked_mul(24 * 60 * 60).ok_or(EXPECTED)?);
    }
    let (negative, rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let seconds = parse_go(rest).ok_or(EXPECTED)? / SECOND;
    from_seconds(if negative { -seconds } else { seconds })
}

/// Returns a duration of whole seconds, or an error if Go could not hold the duration.
pub(super) fn from_seconds(seconds: i64) -> Result<Duration, String> {
    match u64::try_from(seconds) {
        Err(_) => Err(NEGATIVE.into()),
        Ok(_) if seconds > i64::MAX / SECOND => Err(EXPECTED.into()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

/// Writes a duration as Go prints it: `1h0m0s`, `24h0m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    let mut text = String::with_capacity(16);
    match (seconds, nanoseconds) {
        (0, 1..1_000) => push_decimal(&mut text, 0, nanoseconds, 0, "ns"),
        (0, 1_000..1_000_000) => push_decimal(&mut text, 0, nanoseconds, 3, "µs"),
        (0, 1_000_000..) => push_decimal(&mut text, 0, nanoseconds, 6, "ms"),
        _ => {
            if seconds >= 3600 {
                let _ = write!(text, "{}h", seconds / 3600);
            }
            if seconds >= 60 {
                let _ = write!(text, "{}m", seconds / 60 % 60);
            }
            push_decimal(&mut text, seconds % 60, nanoseconds, 9, "s");
        }
    }
    text
}

/// Appends `whole` + `fraction` / 10^`digits` without trailing zeros.
fn push_decimal(text: &mut String, whole: u64, fraction: u32, digits: u32, unit: &str) {
    let scale = 10_u32.pow(digits);
    let _ = write!(text, "{}", whole + u64::from(fraction / scale));
    let mut fraction = fraction % scale;
    if fraction > 0 {
        let mut width = digits as usize;
        while fraction.is_multiple_of(10) {
            (fraction, width) = (fraction / 10, width - 1);
        }
        let _ = write!(text, ".{fraction:0width$}");
    }
    text.push_str(unit);
}

/// Reads Go's syntax without the sign: decimal numbers with units, in sequence. Returns nanoseconds.
fn parse_go(mut text: &str) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    let mut total: i64 = 0;
    while !text.is_empty() {
        let (whole, rest) = split_digits(text);
        let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (unit, rest) = rest.split_at(rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len()));
        let unit = unit_of(unit)?;
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?.checked_add(parse_fraction(fraction, unit))?;
        text = rest;
    }
    Some(total)
}

/// Returns `0.<digits>` of a unit. Like Go, drops digits that do not fit into a 64-bit integer.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the rounding of Go is the point")]
fn parse_fraction(digits: &str, unit: i64) -> i64 {
    let (mut value, mut scale) = (0_i64, 1_f64);
    for digit in digits.bytes() {
        let Some(next) = value.checked_mul(10).and_then(|v| v.checked_add(i64::from(digit - b'0'))) else { break };
        value = next;
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as i64
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_of(name: &str) -> Option<i64> {
    Some(match name {
        "ns" => 1,
        // U+00B5 is the micro sign, U+03BC the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" => 60 * SECOND,
        "h" => 3600 * SECOND,
        _ => return None,
    })
}

const SECOND: i64 = 1_000_000_000;
pub(super) const EXPECTED: &str = r#"expected seconds, or a duration such as "1h30m" or "2d""#;
pub(super) const NEGATIVE: &str = "cannot provide negative value";

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(super) mod fuzz {
    use regex_lite::Regex;

    use super::*;

    /// Checks against exact arithmetic that durations are read correctly, and that writing loses nothing.
    pub fn fuzz_durations(data: &[u8]) {
        if let Ok(text) = std::str::from_utf8(data) {
            read(text);
            text.parse().map(write).unwrap_or_default();
        }
        data.first_chunk().map(|bytes| write(u64::from_be_bytes(*bytes))).unwrap_or_default();
    }

    fn read(text: &str) {
        const SECOND: i128 = super::SECOND as i128;
        let read = parse_duration(text).map(|duration| {
            for written in [format_duration(duration), duration.as_secs().to_string()] {
                assert_eq!(parse_duration(&written), Ok(duration), "{text:?} as {written:?}");
            }
            i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
        });
        // Go rounds each fraction.
        let slack = i128::try_from(text.len()).unwrap_or(i128::MAX);
        match (exact(text), read) {
            (None, read) => assert_eq!(read, Err(EXPECTED.into()), "{text:?}"),
            (Some(exact), Ok(read)) => {
                let least = (exact - slack).max(0) / SECOND * SECOND;
                assert!(read >= least && read <= exact.max(0) + slack && read % SECOND == 0, "{text:?}");
                assert!(exact > -SECOND - slack, "{text:?}");
            }
            (Some(exact), Err(reason)) if reason == NEGATIVE => assert!(exact <= slack - SECOND, "{text:?}"),
            (Some(exact), Err(reason)) => {
                assert!(reason == EXPECTED && exact.abs() + slack > i128::from(i64::MAX) - SECOND, "{text:?}");
            }
        }
    }

    fn write(number: u64) {
        for duration in [Duration::from_nanos(number), Duration::from_secs(number)] {
            let nanoseconds = i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
            assert_eq!(exact(&format_duration(duration)), Some(nanoseconds), "{duration:?}");
        }
    }

    /// Returns the nanoseconds of a text by exact arithmetic. A fraction counts up to 18 digits, and a huge sum is
    /// capped.
    fn exact(text: &str) -> Option<i128> {
        const FORM: &str = r"^([-+]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|\d+d?)$";
        const PART: &str = r"(\d*)\.?(\d*)([^\d.]*)";
        // Far above Go's limit. Several of these still fit into `i128`.
        const MANY: i128 = 1 << 100;
        if text.is_empty() {
            return Some(0);
        }
        let form = Regex::new(FORM).ok()?.captures(text)?;
        let part = Regex::new(PART).ok()?;
        let parts = part.captures_iter(&form[2]).filter(|part| !part[0].is_empty()).map(|part| {
            let unit = match &part[3] {
                "" => SECOND,
                "d" => 86_400 * SECOND,
                unit => unit_of(unit).unwrap_or_default(),
            };
            let whole =
                part[1].parse().map_or(if part[1].is_empty() { 0 } else { MANY }, |whole: i128| whole.min(MANY));
            let fraction: i128 = format!("{:0<18.18}", &part[2]).parse().unwrap_or_default();
            whole.saturating_mul(i128::from(unit)).min(MANY) + fraction * i128::from(unit) / 1_000_000_000_000_000_000
        });
        let sum = parts.fold(0, |sum: i128, part| (sum + part).min(MANY));
        Some(if &form[1] == "-" { -sum } else { sum })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Results of `time.ParseDuration` in Go 1.26, in nanoseconds.
    const GO_PARSES: &[(&str, i64)] = &[
        ("1h30m", 5_400_000_000_000),
        ("1.5h", 5_400_000_000_000),
        ("1h1m1s", 3_661_000_000_000),
        ("+5s", 5_000_000_000),
        ("300ms", 300_000_000),
        ("1500ms", 1_500_000_000),
        ("1us", 1_000),
        ("1\u{b5}s", 1_000),
        ("1\u{3bc}s", 1_000),
        ("1ns", 1),
        ("0.9999999999999999999s", 1_000_000_000),
        ("1.9999999999s", 1_999_999_999),
        (".5h", 1_800_000_000_000),
        ("1.s", 1_000_000_000),
        ("2540400h", 9_145_440_000_000_000_000),
        ("2562047h47m16.854775807s", i64::MAX),
        ("9223372036854775807ns", i64::MAX),
        ("1h1h", 7_200_000_000_000),
        ("1m1h", 3_660_000_000_000),
        ("00005s", 5_000_000_000),
        ("0.100000000000000000000h", 360_000_000_000),
        ("0.33333333333333333333h", 1_200_000_000_000),
        ("1m0.9s1s", 61_900_000_000),
    ];

    /// Texts that Go 1.26 refuses and that are neither whole seconds nor days.
    const GO_REFUSES: &[&str] = &[
        ".s",
        "s",
        "-",
        "+",
        "1h-1m",
        "1H",
        "30 s",
        " 30s",
        "30s ",
        "1w",
        "1d12h",
        "1.5d",
        "d",
        "2562047h47m16.854775808s",
        "9223372036854775808ns",
        "9223372037s",
        "1e3s",
        "0x1s",
        "1_0s",
        "1..5s",
        "1.5",
        "m",
        "3000000h",
        "99999999999999999999s",
        "99999999999999999999",
        "--5s",
        "null",
    ];

    /// Results of `time.Duration.String` in Go 1.26.
    const GO_PRINTS: &[(u64, &str)] = &[
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1_000, "1µs"),
        (1_500, "1.5µs"),
        (1_001, "1.001µs"),
        (999_999, "999.999µs"),
        (1_000_000, "1ms"),
        (1_500_000, "1.5ms"),
        (100_000_000, "100ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (1_000_000_001, "1.000000001s"),
        (1_500_000_000, "1.5s"),
        (59_999_999_999, "59.999999999s"),
        (60_000_000_000, "1m0s"),
        (100_000_000_000, "1m40s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_600_000_000_001, "1h0m0.000000001s"),
        (3_660_100_000_000, "1h1m0.1s"),
        (5_400_000_000_000, "1h30m0s"),
        (86_400_000_000_000, "24h0m0s"),
        (90_061_000_000_000, "25h1m1s"),
        (2_764_800_000_000_000, "768h0m0s"),
        (9_223_372_036_854_775_807, "2562047h47m16.854775807s"),
    ];

    #[test]
    fn go_durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in GO_PARSES {
            assert_eq!(parse_go(text.trim_start_matches('+')), Some(*nanoseconds), "{text}");
            let seconds = u64::try_from(nanoseconds / SECOND).unwrap();
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in GO_REFUSES {
            assert_eq!(parse_duration(text), Err(EXPECTED.into()), "{text}");
        }
    }

    #[test]
    fn seconds_and_days_need_no_unit_of_go() {
        for (text, seconds) in
            [("", 0), ("0", 0), ("-0", 0), ("3600", 3600), ("+5", 5), ("007", 7), ("2d", 172_800), ("+1d", 86_400)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse_duration("9223372036"), Ok(Duration::from_secs(9_223_372_036)));
        assert_eq!(parse_duration("106751d"), Ok(Duration::from_secs(106_751 * 86_400)));
    }

    #[test]
    fn overflow_is_an_error() {
        for text in ["9223372037", "9223372036854775807", "106752d", "9223372036854775807d"] {
            assert_eq!(parse_duration(text), Err(EXPECTED.into()), "{text}");
        }
    }

    #[test]
    fn negative_durations_are_refused() {
        for text in ["-1", "-5s", "-1.5s", "-2d", "-1h30m", "-9223372036854775808"] {
            assert_eq!(parse_duration(text), Err(NEGATIVE.into()), "{text}");
        }
        // Like Go engines, checks the sign only after it drops the fraction.
        for text in ["-0s", "-0.5s", "-1ns"] {
            assert_eq!(parse_duration(text), Ok(Duration::ZERO), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in GO_PRINTS {
            assert_eq!(format_duration(Duration::from_nanos(*nanoseconds)), *text);
        }
        assert!(format_duration(Duration::MAX).starts_with("5124095576030431h"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanoseconds in 0..=i64::MAX) {
            let duration = Duration::from_nanos(nanoseconds.unsigned_abs());
            let text = format_duration(duration);
            // Go computes fractions in floating point, so the result can be a nanosecond off.
            let back = parse_go(&text).unwrap();
            prop_assert!(back.abs_diff(nanoseconds) <= 1, "{text}");
            let whole = Duration::from_secs(duration.as_secs());
            prop_assert_eq!(parse_duration(&format_duration(whole)), Ok(whole));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,24}") {
            if let Err(reason) = parse_duration(&text) {
                prop_assert!(reason == EXPECTED || reason == NEGATIVE);
            }
        }

        #[test]
        fn text_like_a_duration_is_read_or_refused(text in "[-+]?([0-9]{0,20}(\\.[0-9]{0,22})?(ns|us|µs|ms|s|m|h|d)?){0,4}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration.as_secs() <= i64::MAX.unsigned_abs() / 1_000_000_000);
            }
        }
    }
}
