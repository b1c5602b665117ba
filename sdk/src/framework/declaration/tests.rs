use std::sync::Arc;

use super::*;
use crate::framework::sample::{Shelf, backend};
use crate::framework::{Call, Field, FieldSpec, Handler, WRITES};
use crate::logical::{Answer, Operation, SpecialPaths};

const WRONG_DEFAULT: &[FieldSpec] = &[Field::int("n", "").default("many").spec()];
const WRONG_ALLOWED: &[FieldSpec] = &[Field::int("n", "").allowed(&["1", "many"]).spec()];
const TWICE: &[FieldSpec] = &[Field::int("n", "").spec(), Field::int("m", "").aliases(&["n"]).spec()];

fn no_handler() -> Handler<Shelf> {
    Handler::new("", async |_: Arc<Shelf>, _: Call| Answer::Ok(None))
}

#[test]
#[should_panic(expected = "default cannot be read")]
fn a_wrong_default_stops_the_start() {
    let _ = backend().path(Path::new("x", WRONG_DEFAULT));
}

#[test]
#[should_panic(expected = "allowed value cannot be read")]
fn a_wrong_allowed_value_stops_the_start() {
    let _ = backend().path(Path::new("x", WRONG_ALLOWED));
}

#[test]
#[should_panic(expected = "is there twice")]
fn two_fields_of_one_name_stop_the_start() {
    let _ = backend().path(Path::new("x", TWICE));
}

#[test]
#[should_panic(expected = "the path has none of its operations")]
fn a_field_of_a_missing_operation_stops_the_start() {
    let fields = const { &[Field::int("n", "").only(WRITES).spec()] };
    let _ = backend().path(Path::new("x", fields).read(no_handler()));
}

#[test]
#[should_panic(expected = "is hidden by \"books/(?P<name>")]
fn a_hidden_path_stops_the_start() {
    let _ = backend().path(Path::new("books/index", &[]));
}

#[test]
#[should_panic(expected = "write the pattern as \"x/?\"")]
fn a_list_that_no_request_reaches_stops_the_start() {
    let _ = backend().path(Path::new("x", &[]).list(no_handler()));
}

#[test]
fn a_list_of_the_root_and_a_list_with_a_slash_start() {
    let path = |pattern| Path::new(pattern, &[]).list(no_handler());
    let _ = backend().path(path("")).path(path("x/?")).path(path("y/"));
}

#[test]
#[should_panic(expected = "is declared twice")]
fn two_paths_of_one_pattern_stop_the_start() {
    let path = || Path::new("x/(?P<n>[a-z]+)", const { &[Field::string("n", "").spec()] });
    let _ = backend().path(path()).path(path());
}

#[test]
#[should_panic(expected = "captures \"n\"")]
fn a_capture_without_a_field_stops_the_start() {
    let _ = Path::<Shelf>::new("x/(?P<n>[a-z]+)", &[]);
}

#[test]
#[should_panic(expected = "takes leases without a type")]
fn two_types_that_take_leases_without_a_type_stop_the_start() {
    let kind = |name| SecretType::<Shelf>::new(name).takes_untyped().revoke(|_, _| async { Ok::<(), Error>(()) });
    let _ = backend().secret(kind("one")).secret(kind("two"));
}

#[test]
#[should_panic(expected = "has no revoke handler")]
fn a_lease_without_end_stops_the_start() {
    let _ = backend().secret(SecretType::new("gift"));
}

#[test]
#[should_panic(expected = "path \"x/(?P<n>[^/]+)\" has a list")]
fn a_list_of_a_pattern_without_a_slash_stops_the_start() {
    let fields = const { &[Field::string("n", "").spec()] };
    let _ = backend().path(Path::new("x/(?P<n>[^/]+)", fields).list(no_handler()));
}

#[test]
fn a_list_of_a_pattern_that_matches_a_slash_starts() {
    let fields = const { &[Field::string("n", "").spec()] };
    for pattern in ["x/(?P<n>[^/]+)/?", "x/(?P<n>.+)", "x/(?P<n>[^/]+)/", "x(/(?P<n>[^/]+))?/?"] {
        let _ = backend().path(Path::new(pattern, fields).list(no_handler()));
    }
}

#[test]
#[should_panic(expected = "has a create that no request reaches")]
fn a_create_without_a_check_of_existence_stops_the_start() {
    let _ = backend().path(Path::new("x", &[]).operation(Operation::Create, no_handler()));
}

#[test]
fn captures_with_several_spellings_stop_the_start() {
    const FIELDS: &[FieldSpec] = &[
        Field::lowercase("lower", "").spec(),
        Field::int("int", "").spec(),
        Field::bool("bool", "").spec(),
        Field::duration("duration", "").spec(),
        Field::string("text", "").spec(),
        Field::name_string("name", "").spec(),
    ];
    let starts = |pattern: &'static str, one_spelling: bool| {
        std::panic::catch_unwind(|| {
            let path = Path::new(pattern, FIELDS).read(no_handler());
            drop(backend().path(if one_spelling { path.one_spelling() } else { path }));
        })
        .is_ok()
    };
    for (pattern, without, with) in [
        (r"x/(?P<lower>\w+)", false, true),
        (r"x/(?P<int>\w+)", false, true),
        (r"x/(?P<bool>\w+)", false, true),
        (r"x/(?P<duration>\w+)", false, false),
        (r"x/(?P<text>\w+)", true, true),
        (r"x/(?P<name>\w+)", true, true),
    ] {
        assert_eq!((starts(pattern, false), starts(pattern, true)), (without, with), "{pattern}");
    }
}

#[test]
fn special_paths_that_the_host_cannot_read_stop_the_start() {
    let starts = |special: SpecialPaths| {
        std::panic::catch_unwind(|| drop(Backend::<Shelf>::new("").special_paths(special.clone()))).is_ok()
    };
    let special = SpecialPaths::default;
    for path in ["a", "a/*", "a*", "a/+/b", "+/a", "+"] {
        assert!(starts(special().unauthenticated([path])), "{path}");
    }
    for path in ["a*b", "a**", "a/+*", "a+/b", "/a"] {
        assert!(!starts(special().unauthenticated([path])), "{path}");
    }
    for path in ["a*b", "/a"] {
        assert!(!starts(special().root([path])) && !starts(special().allow_snapshot_read([path])), "{path}");
    }
}
