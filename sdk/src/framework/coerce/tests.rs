use proptest::prelude::*;
use serde_json::json;

use super::fuzz::KINDS;
use super::*;

/// Reads JSON text, so that numbers arrive as a client writes them.
fn read(kind: FieldKind, json: &str) -> Coerced<FieldValue> {
    coerce(kind, &serde_json::from_str(json).unwrap())
}

#[track_caller]
fn reads(kind: FieldKind, cases: &[(&str, FieldValue)]) {
    for (json, expected) in cases {
        assert!(read(kind, json).is_ok_and(|value| value == *expected), "{kind:?} of {json}");
    }
}

#[track_caller]
fn refuses(kind: FieldKind, reason: &str, cases: &[&str]) {
    for json in cases {
        assert_eq!(read(kind, json).err().as_deref(), Some(reason), "{kind:?} of {json}");
    }
}

fn text_of(text: &str) -> FieldValue {
    FieldValue::String(text.into())
}

fn texts(texts: &[&str]) -> FieldValue {
    FieldValue::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn pairs_of(pairs: &[(&str, &str)]) -> FieldValue {
    FieldValue::Pairs(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

#[test]
fn text_takes_every_scalar() {
    reads(
        FieldKind::String,
        &[
            (r#""""#, text_of("")),
            (r#"" a ""#, text_of(" a ")),
            ("5", text_of("5")),
            ("-1.10", text_of("-1.10")),
            ("9007199254740993", text_of("9007199254740993")),
            ("1e3", text_of("1000")),
            ("1.5E-3", text_of("0.0015")),
            ("1e21", text_of("1000000000000000000000")),
            ("true", text_of("1")),
            ("false", text_of("0")),
        ],
    );
    refuses(FieldKind::String, "expected a string", &["[]", "{}", r#"["a"]"#]);
    refuses(FieldKind::String, "number out of range", &["1e400", "-1e999999999999"]);
    reads(
        FieldKind::LowercaseString,
        &[(r#""AbC""#, text_of("abc")), ("1E2", text_of("100")), (r#""İΟΔΟΣ""#, text_of("iοδοσ"))],
    );
}

#[test]
fn names_begin_and_end_with_a_word_character() {
    for name in ["a", "_", "a-b.c", "A_1", "9"] {
        assert!(read(FieldKind::NameString, &json!(name).to_string()).is_ok(), "{name}");
    }
    let reason = "expected letters, digits and underscores, with hyphens and dots only inside";
    refuses(FieldKind::NameString, reason, &[r#""""#, r#""-a""#, r#""a.""#, r#""a/b""#, r#""ä""#, r#""a\n""#]);
}

#[test]
fn whole_numbers_are_read_as_go_reads_them() {
    let cases = [
        ("5", 5),
        ("-5", -5),
        ("1.9", 1),
        ("-1.9", -1),
        ("1e3", 1000),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        (r#""""#, 0),
        (r#""0""#, 0),
        (r#""+7""#, 7),
        (r#""-0x1f""#, -31),
        (r#""0X1F""#, 31),
        (r#""017""#, 15),
        (r#""0o17""#, 15),
        (r#""0b101""#, 5),
        (r#""1_000""#, 1000),
        (r#""0_7""#, 7),
        (r#""0x_1""#, 1),
        (r#""-9223372036854775808""#, i64::MIN),
        ("true", 1),
        ("false", 0),
    ];
    for (json, expected) in cases {
        assert!(read(FieldKind::Int, json).is_ok_and(|value| value == FieldValue::Int(expected)), "{json}");
    }
    let bad = [
        r#""1.5""#,
        r#""x""#,
        r#"" 1""#,
        r#""089""#,
        r#""0x""#,
        r#""1__0""#,
        r#""_1""#,
        r#""1_""#,
        r#""+-1""#,
        r#""0x-1""#,
        r#""--1""#,
        r#""9223372036854775808""#,
        "[]",
        "{}",
        "[1]",
    ];
    refuses(FieldKind::Int, "expected a whole number", &bad);
    refuses(FieldKind::Int, "number out of range", &["9223372036854775808", "1e400", "-1e19"]);
}

#[test]
fn numbers_take_text_and_truth_values() {
    let cases = [("1.5", 1.5), (r#""1.5""#, 1.5), (r#""1e3""#, 1000.0), (r#""""#, 0.0), ("true", 1.0)];
    for (json, expected) in cases {
        assert!(read(FieldKind::Float, json).is_ok_and(|value| value == FieldValue::Float(expected)), "{json}");
    }
    refuses(FieldKind::Float, "expected a number", &[r#""x""#, r#""NaN""#, r#""inf""#, r#""1e400""#, "[]", "{}"]);
    refuses(FieldKind::Float, "number out of range", &["1e400"]);
}

#[test]
fn truth_values_are_those_of_go() {
    for json in ["true", "1", "-2", "0.1", r#""1""#, r#""t""#, r#""T""#, r#""true""#, r#""True""#, r#""TRUE""#] {
        assert!(read(FieldKind::Bool, json).is_ok_and(|value| value == FieldValue::Bool(true)), "{json}");
    }
    for json in ["false", "0", "0.0", r#""""#, r#""0""#, r#""f""#, r#""F""#, r#""false""#, r#""False""#, r#""FALSE""#] {
        assert!(read(FieldKind::Bool, json).is_ok_and(|value| value == FieldValue::Bool(false)), "{json}");
    }
    refuses(FieldKind::Bool, "expected true or false", &[r#""yes""#, r#""tRUE""#, r#""2""#, "[]", "{}"]);
}

#[test]
fn durations_are_seconds_or_text() {
    let cases = [
        ("3600", 3600),
        ("1.9", 1),
        ("-0.5", 0),
        (r#""-0.5s""#, 0),
        ("1e3", 1000),
        (r#""3600""#, 3600),
        (r#""""#, 0),
        (r#""2d""#, 172_800),
        (r#""1h30m""#, 5400),
        (r#""1.5h""#, 5400),
        (r#""1999ms""#, 1),
    ];
    for (json, seconds) in cases {
        let expected = FieldValue::Duration(Duration::from_secs(seconds));
        assert!(read(FieldKind::Duration, json).is_ok_and(|value| value == expected), "{json}");
    }
    let bad = [r#""1w""#, r#""1d12h""#, r#""30 s""#, r#""1.5""#, "true", "[]", "{}", "9223372037"];
    refuses(FieldKind::Duration, duration::EXPECTED, &bad);
    refuses(FieldKind::Duration, duration::NEGATIVE, &["-1", "-1.5", r#""-5""#, r#""-5s""#]);
    refuses(FieldKind::Duration, "number out of range", &["1e400", "9223372036854775808"]);
}

#[test]
fn times_are_rfc_3339_or_seconds() {
    let cases = [
        (r#""2024-02-29T12:00:00Z""#, 1_709_208_000, 0),
        (r#""2024-02-29T12:00:00.5Z""#, 1_709_208_000, 500_000_000),
        (r#""2024-02-29T14:00:00+02:00""#, 1_709_208_000, 0),
        (r#""1709208000""#, 1_709_208_000, 0),
        ("1709208000", 1_709_208_000, 0),
        (r#""-1""#, -1, 0),
    ];
    for (json, seconds, nanoseconds) in cases {
        let expected = FieldValue::Time(Timestamp::new(seconds, nanoseconds).unwrap());
        assert!(read(FieldKind::Time, json).is_ok_and(|value| value == expected), "{json}");
    }
    let bad = [
        r#""""#,
        r#""2024-02-30T12:00:00Z""#,
        r#""2024-02-29""#,
        r#""2024-02-29 12:00:00Z""#,
        r#""2024-02-29T12:00Z""#,
        r#""2024-02-29T12:00:00""#,
        r#""2024-02-29T12:00:60Z""#,
        r#""2024-02-29T12:00:00Z[UTC]""#,
        r#""99999999999999""#,
        "1.5",
        "true",
        "[]",
        "{}",
    ];
    let reason = "expected a time such as \"2006-01-02T15:04:05Z\", or seconds since 1970";
    refuses(FieldKind::Time, reason, &bad);
}

#[test]
fn pairs_come_as_object_list_or_text() {
    reads(
        FieldKind::Pairs,
        &[
            (r#"{"a":"b","n":1.10,"t":true,"z":null}"#, pairs_of(&[("a", "b"), ("n", "1.10"), ("t", "1"), ("z", "")])),
            (r#"["a=b","c=d=e","f="]"#, pairs_of(&[("a", "b"), ("c", "d=e"), ("f", "")])),
            (r#""a=b,c=d""#, pairs_of(&[("a", "b,c=d")])),
            ("{}", pairs_of(&[])),
            ("[]", pairs_of(&[])),
        ],
    );
    let bad = [r#""""#, r#""a""#, r#""=b""#, r#"["a"]"#, r#"[["a=b"]]"#, r#"{"a":["b"]}"#, r#"{"a":{}}"#, "5", "true"];
    refuses(FieldKind::Pairs, "expected key=value pairs, or an object of text", &bad);
}

#[test]
fn lists_of_text_are_trimmed() {
    reads(
        FieldKind::Strings,
        &[
            (r#"[" a ",5,true,"b,c"]"#, texts(&["a", "5", "1", "b,c"])),
            (r#""a,b""#, texts(&["a,b"])),
            (r#""""#, texts(&[])),
            ("[]", texts(&[])),
            ("5", texts(&["5"])),
        ],
    );
    reads(
        FieldKind::CommaStrings,
        &[
            (r#"[" a ","b,c"]"#, texts(&["a", "b,c"])),
            (r#"" a, b ,,c""#, texts(&["a", "b", "", "c"])),
            (r#""""#, texts(&[])),
            ("5", texts(&["5"])),
        ],
    );
    for kind in [FieldKind::Strings, FieldKind::CommaStrings] {
        refuses(kind, "expected a list of strings", &["{}", "[[]]", r#"[{"a":1}]"#]);
    }
}

#[test]
fn lists_of_numbers_come_in_three_forms() {
    reads(
        FieldKind::CommaInts,
        &[
            (r#"[1,"2",3.9]"#, FieldValue::Ints(vec![1, 2, 3])),
            (r#""1, 2,0x10""#, FieldValue::Ints(vec![1, 2, 16])),
            (r#""""#, FieldValue::Ints(vec![])),
            ("[]", FieldValue::Ints(vec![])),
            ("7", FieldValue::Ints(vec![7])),
        ],
    );
    refuses(FieldKind::CommaInts, "expected a list of whole numbers", &[r#""1,x""#, r#"["x"]"#, "[[1]]", "{}"]);
}

#[test]
fn objects_and_lists_of_anything() {
    let object = json!({"a": [1]});
    let expected = FieldValue::Map(object.as_object().unwrap().clone());
    assert!(coerce(FieldKind::Map, &object).is_ok_and(|value| value == expected));
    refuses(FieldKind::Map, "expected an object", &[r#""{}""#, "[]", "5"]);
    reads(
        FieldKind::List,
        &[
            (r#"[1,"a",{}]"#, FieldValue::List(vec![json!(1), json!("a"), json!({})])),
            (r#""a""#, FieldValue::List(vec![json!("a")])),
        ],
    );
}

#[test]
fn headers_come_in_four_forms() {
    let expected = |pairs: &[(&str, &[&str])]| {
        let owned = |(name, values): &(&str, &[&str])| {
            ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
        };
        FieldValue::Header(pairs.iter().map(owned).collect())
    };
    let json = r#"{"x-a":"1","X-B":["2","3"]}"#;
    let both = expected(&[("X-A", &["1"]), ("X-B", &["2", "3"])]);
    let quoted = json!(json).to_string();
    let encoded = json!(STANDARD.encode(json)).to_string();
    for form in [json, &quoted, &encoded, r#"["x-a: 1","x-b:2","x-B:3"]"#] {
        assert!(read(FieldKind::Header, form).is_ok_and(|value| value == both), "{form}");
    }
    let bad = [r#""x""#, r#"["x"]"#, "[5]", r#"{"a":5}"#, r#"{"a":[5]}"#, "5", r#""""#];
    refuses(FieldKind::Header, EXPECTED_HEADER, &bad);
}

proptest! {
    #[test]
    fn no_error_holds_the_value(text in "[A-Z]{8}", which in 0..KINDS.len()) {
        for value in [json!(text), json!([text]), json!({"k": text}), json!([[text]]), json!({"k": [[text]]})] {
            if let Err(reason) = coerce(KINDS[which], &value) {
                prop_assert!(!reason.contains(&text));
            }
        }
    }

    #[test]
    fn integers_survive_as_number_and_as_text(int: i64) {
        for value in [json!(int), json!(int.to_string())] {
            prop_assert!(coerce(FieldKind::Int, &value).is_ok_and(|value| value == FieldValue::Int(int)));
            prop_assert!(coerce(FieldKind::String, &value).is_ok_and(|value| value == text_of(&int.to_string())));
        }
    }

    #[test]
    fn any_number_is_read_or_refused(digits in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,12})?") {
        for kind in KINDS {
            if let Ok(FieldValue::String(text)) = read(kind, &digits) {
                prop_assert!(!text.contains(['e', 'E']));
                prop_assert!(text.len() < 1200);
            }
        }
    }
}
