//! Converts messages to plain data and back. A conversion never waits and never panics. It never shows data that it
//! could not read.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use prost_types::Timestamp as WireTimestamp;
use serde_json::Value;

use crate::logical::{
    Alias, Caller, Entity, Error, Group, HangUp, Map, Operation, Request, Response, Secret, SpecialPaths, Wrap,
    Written, response_text, text,
};
use crate::pb::logical as pb_logical;
use crate::pb::pb;

/// Reads a request whose operation is already parsed.
///
/// # Errors
/// [`Error::InvalidRequest`] if the data is not a JSON object, [`Error::Internal`] if the lease cannot be read.
pub(super) fn request(operation: Operation, request: pb::Request) -> Result<Request, Error> {
    let connection = request.connection.unwrap_or_default();
    Ok(Request {
        id: request.id,
        operation,
        path: request.path,
        data: parse_data(&request.data).map_err(Error::invalid)?,
        secret: request.secret.map(secret).transpose()?,
        caller: Caller {
            display_name: request.display_name,
            entity_id: request.entity_id,
            token_accessor: request.client_token_accessor,
            remote_address: connection.remote_addr,
        },
        mount_point: request.mount_point,
        headers: request.headers.into_iter().map(|(name, header)| (name, header.header)).collect(),
        mount_accessor: request.mount_accessor,
        wrap: request.wrap_info.filter(|wrap| wrap.ttl > 0).map(|wrap| Wrap {
            ttl: duration(wrap.ttl),
            format: wrap.format,
            seal_wrap: wrap.seal_wrap,
        }),
        unauthenticated: request.unauthenticated,
        snapshot_id: Some(request.requires_snapshot_id).filter(|id| !id.is_empty()),
        deadline: None,
        hang_up: HangUp::default(),
    })
}

/// Reads the JSON of a request. A request without data has `null`. The error never quotes the data.
fn parse_data(data: &str) -> Result<Map, &'static str> {
    if data.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(data) {
        Ok(Value::Null) => Ok(Map::new()),
        Ok(Value::Object(data)) if data.values().all(is_finite) => Ok(data),
        Ok(Value::Object(_)) => Err("request data has a number that is out of range"),
        Ok(_) => Err("request data must be a JSON object"),
        Err(_) => Err("request data is not valid JSON"),
    }
}

/// Whether all numbers fit a number type. Numbers arrive as the client wrote them, so some do not fit.
fn is_finite(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(f64::is_finite),
        Value::Array(values) => values.iter().all(is_finite),
        Value::Object(values) => values.values().all(is_finite),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

fn secret(secret: pb::Secret) -> Result<Secret, Error> {
    let options = secret.lease_options.unwrap_or_default();
    let internal_data = parse_data(&secret.internal_data);
    Ok(Secret {
        ttl: duration(options.ttl),
        max_ttl: duration(options.max_ttl),
        renewable: options.renewable,
        increment: duration(options.increment),
        lease_id: secret.lease_id,
        issue_time: options.issue_time.and_then(timestamp),
        internal_data: internal_data.map_err(|_| Error::internal("the internal data of the lease cannot be read"))?,
    })
}

/// Writes a response. A renewal repeats the values that it does not replace: `renewed` is the request's data and lease.
pub(super) fn response(response: Response, renewed: Option<(String, Option<WireTimestamp>)>) -> pb::Response {
    let (old_data, issue_time) = renewed.map_or((None, None), |(data, time)| (Some(data), time));
    let data = match (response.written, response.data, old_data) {
        (Written::Whole(text), ..) => text.as_str().to_owned(),
        (Written::Member(name, value), data, _) => with_member(&data.unwrap_or_default(), name, &value),
        (Written::Nothing, Some(data), _) => response_text(data),
        (Written::Nothing, None, Some(old)) if !old.is_empty() => old,
        (Written::Nothing, None, _) => "null".into(),
    };
    pb::Response {
        secret: response.secret.map(|secret| write_secret(secret, issue_time)),
        data,
        redirect: String::new(),
        warnings: response.warnings,
        headers: write_headers(response.headers),
    }
}

/// Returns the JSON text of an object with one more member. The text of the member can be large, so it is copied only once.
fn with_member(data: &Map, name: &str, value: &str) -> String {
    let mut all = text(data);
    all.pop();
    all.reserve_exact(name.len() + value.len() + 5);
    if all.len() > 1 {
        all.push(',');
    }
    for part in ["\"", name, "\":", value, "}"] {
        all.push_str(part);
    }
    all
}

/// Returns the response that makes the host return 400 with exactly this text.
pub(super) fn error_response(text: &str) -> pb::Response {
    pb::Response { data: serde_json::json!({ "error": text }).to_string(), ..pb::Response::default() }
}

fn write_secret(secret: Secret, renewed: Option<WireTimestamp>) -> pb::Secret {
    // The host refuses a lease without an issue time. In a new lease, the host sets the issue time.
    let issue_time = secret.issue_time.map(write_timestamp).or(renewed);
    pb::Secret {
        lease_options: Some(pb::LeaseOptions {
            ttl: nanoseconds(secret.ttl),
            renewable: secret.renewable,
            increment: nanoseconds(secret.increment),
            issue_time: Some(issue_time.unwrap_or_else(|| write_timestamp(Timestamp::now()))),
            max_ttl: nanoseconds(secret.max_ttl),
        }),
        internal_data: text(&secret.internal_data),
        lease_id: String::new(),
    }
}

fn write_headers(headers: BTreeMap<String, Vec<String>>) -> HashMap<String, pb::Header> {
    headers.into_iter().map(|(name, header)| (name, pb::Header { header })).collect()
}

/// Writes special paths.
pub(super) fn special_paths(paths: SpecialPaths) -> pb::Paths {
    pb::Paths {
        root: paths.root,
        unauthenticated: paths.unauthenticated,
        local_storage: paths.local_storage,
        seal_wrap_storage: paths.seal_wrap_storage,
        write_forwarded_storage: paths.write_forwarded_storage,
        binary: paths.binary,
        limited: paths.limited,
        allow_snapshot_read: paths.allow_snapshot_read,
    }
}

/// Reads nanoseconds. A negative value means "none", as zero does.
pub(super) fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// Reads an identity entity.
pub(super) fn entity(entity: pb_logical::Entity) -> Entity {
    Entity {
        id: entity.id,
        name: entity.name,
        disabled: entity.disabled,
        metadata: entity.metadata.into_iter().collect(),
        namespace_id: entity.namespace_id,
        aliases: entity.aliases.into_iter().map(alias).collect(),
    }
}

fn alias(alias: pb_logical::Alias) -> Alias {
    Alias {
        id: alias.id,
        name: alias.name,
        mount_type: alias.mount_type,
        mount_accessor: alias.mount_accessor,
        metadata: alias.metadata.into_iter().collect(),
        custom_metadata: alias.custom_metadata.into_iter().collect(),
        local: alias.local,
    }
}

/// Reads a group of identity entities.
pub(super) fn group(group: pb_logical::Group) -> Group {
    Group {
        id: group.id,
        name: group.name,
        metadata: group.metadata.into_iter().collect(),
        namespace_id: group.namespace_id,
    }
}

/// Writes a JSON object as the wire's own type for such objects. That type has only floating-point numbers.
pub(super) fn structure(data: &Map) -> prost_types::Struct {
    prost_types::Struct { fields: data.iter().map(|(name, value)| (name.clone(), structured(value))).collect() }
}

fn structured(value: &Value) -> prost_types::Value {
    use prost_types::value::Kind;

    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(0.0)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(structured).collect() })
        }
        Value::Object(data) => Kind::StructValue(structure(data)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Writes nanoseconds. The longest duration is 292 years.
pub(super) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Reads a time. Go's zero time (the year 1) means "none". An invalid time also means "none".
fn timestamp(time: WireTimestamp) -> Option<Timestamp> {
    const GO_ZERO: i64 = -62_135_596_800;
    if time.seconds <= GO_ZERO || !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)).ok()
}

fn write_timestamp(time: Timestamp) -> WireTimestamp {
    // On the wire, the fraction counts forward, also before 1970.
    let nanoseconds = time.as_nanosecond();
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let fraction = nanoseconds.rem_euclid(1_000_000_000);
    WireTimestamp {
        seconds: i64::try_from(seconds).unwrap_or_default(),
        nanos: i32::try_from(fraction).unwrap_or_default(),
    }
}

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(super) mod fuzz {
    use prost::Message as _;
    use serde_json::json;

    use super::*;

    /// Checks that the JSON of a request or of a lease's internal data is unchanged after a round trip.
    pub fn fuzz_wire_data(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let Ok(data) = parse_data(text) else { return };
        assert!(data.values().all(is_finite));
        assert!(parse_data(&Value::Object(data.clone()).to_string()) == Ok(data.clone()));

        let lease = Secret::new(Duration::from_secs(1), Duration::MAX, data.clone());
        let answer = response(Response::new(data.clone()).lease(lease), None);
        let error = parse_data(&answer.data).ok().and_then(|mut shown| shown.remove("error"));
        let is_error = data.contains_key("error") && (data.len() == 1 || data.len() == 2 && data.contains_key("data"));
        if is_error {
            assert!(error.is_some_and(|error| error.is_string()), "the host cannot show this error");
        } else {
            assert!(parse_data(&answer.data) == Ok(data.clone()));
        }
        let lease = answer.secret.map(secret).transpose().ok().flatten();
        assert!(lease.is_some_and(|lease| lease.internal_data == data && lease.ttl.as_secs() == 1));
        // A renewal without its own data repeats the old data.
        let text = text.to_owned();
        let kept = response(Response::default(), Some((text.clone(), None))).data;
        assert!(kept == text || text.is_empty() && kept == "null");
    }

    /// Checks that no message makes the conversion panic, and that no time, duration or header is lost.
    pub fn fuzz_wire_request(data: &[u8]) {
        let Ok(message) = pb::Request::decode(data) else { return };
        let options = message.secret.as_ref().and_then(|secret| secret.lease_options).unwrap_or_default();
        let read = match request(Operation::Update, message.clone()) {
            Ok(read) => read,
            // The error does not show the unreadable data.
            Err(error) => return assert!(error.to_string().is_ascii() && error.to_string().len() < 64),
        };
        assert_eq!((&read.path, read.headers.len()), (&message.path, message.headers.len()));
        assert_eq!(read.caller.display_name, message.display_name);
        let Some(lease) = read.secret else { return assert!(message.secret.is_none()) };
        let written = write_secret(lease.clone(), None).lease_options.unwrap_or_default();
        let positive =
            |options: pb::LeaseOptions| [options.ttl, options.increment, options.max_ttl].map(|ns| ns.max(0));
        assert_eq!(positive(written), positive(options));
        assert!(lease.issue_time.is_none() || written.issue_time == options.issue_time);
        let data = json!(lease.internal_data);
        assert!(is_finite(&data));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::logical::DataText;

    fn read(data: &str) -> Result<Map, &'static str> {
        parse_data(data)
    }

    #[test]
    fn no_data_is_an_empty_object() {
        for data in ["", "null", "{}", " null "] {
            assert_eq!(read(data), Ok(Map::new()), "{data:?}");
        }
    }

    #[test]
    fn data_that_is_no_object_is_the_callers_mistake() {
        for data in ["[]", "1", "\"x\"", "{", "nul", "{\"a\":1e400}", "{\"a\":[{\"b\":-1e999}]}", "{\"a\":01}"] {
            assert!(read(data).is_err(), "{data:?}");
            let wire = pb::Request { data: data.into(), ..pb::Request::default() };
            let error = request(Operation::Update, wire).err().unwrap();
            assert!(matches!(error, Error::InvalidRequest(_)), "{data:?}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(read(&deep).is_err());
    }

    #[test]
    fn numbers_keep_the_digits_of_the_client() {
        let data = read(r#"{"a":9007199254740993,"b":1.10}"#).unwrap();
        assert_eq!((data["a"].to_string(), data["b"].to_string()), ("9007199254740993".into(), "1.10".into()));
    }

    #[test]
    fn request_keeps_what_backends_may_see() {
        let wire = pb::Request {
            id: "r".into(),
            path: "creds/a".into(),
            data: r#"{"ttl":"1h"}"#.into(),
            display_name: "token".into(),
            client_token_accessor: "accessor".into(),
            entity_id: "entity".into(),
            mount_point: "cards/".into(),
            connection: Some(pb::Connection { remote_addr: "192.0.2.1".into(), remote_port: 1 }),
            headers: HashMap::from([("X-A".into(), pb::Header { header: vec!["1".into(), "2".into()] })]),
            requires_snapshot_id: "s".into(),
            ..pb::Request::default()
        };
        let request = request(Operation::Read, wire).unwrap();
        assert_eq!(request.data["ttl"], "1h");
        assert_eq!(request.caller.remote_address, "192.0.2.1");
        assert_eq!(request.caller.token_accessor, "accessor");
        assert_eq!(request.headers["X-A"], ["1", "2"]);
        assert!(request.snapshot_id.is_some() && request.secret.is_none());
    }

    #[test]
    fn empty_response_is_null_and_a_strange_error_becomes_text() {
        assert_eq!(response(Response::default(), None).data, "null");
        let strange = json!({"error": {"a": 1}}).as_object().cloned().unwrap();
        assert_eq!(response(Response::new(strange), None).data, r#"{"error":"{\"a\":1}"}"#);
        let field = json!({"error": 1, "other": 2}).as_object().cloned().unwrap();
        assert_eq!(response(Response::new(field), None).data, r#"{"error":1,"other":2}"#);
    }

    #[test]
    fn data_that_is_text_already_is_the_same_for_the_host() {
        for data in [
            json!({}),
            json!({"b": [1, "\"\n"], "a": null}),
            json!({"error": {"a": 1}}),
            json!({"error": 1, "data": 2}),
        ] {
            let data = data.as_object().cloned().unwrap();
            let expected = response(Response::new(data.clone()), None).data;
            let reply = response(Response::of_text(DataText::new(data)), Some((r#"{"old":1}"#.into(), None)));
            assert_eq!(reply.data, expected);
        }
    }

    #[test]
    fn a_list_with_details_is_json_for_the_host() {
        let strange = "a\"\\\u{1}\u{2028}é/";
        for entries in
            [vec![], vec![("a", json!({}))], vec![(strange, json!({strange: [null, 1.5]})), ("b", json!("text"))]]
        {
            let keys: Vec<&str> = entries.iter().map(|(key, _)| *key).collect();
            let info: Map = entries.iter().map(|(key, info)| ((*key).to_owned(), info.clone())).collect();
            let expected = if keys.is_empty() { json!({}) } else { json!({"keys": keys, "key_info": info}) };
            let list = Response::list_with_info(entries.into_iter().map(|(key, info)| (key.to_owned(), info)));
            assert_eq!(list.whole_data().map(Value::Object).as_ref(), Some(&expected));
            assert_eq!(serde_json::from_str::<Value>(&response(list, None).data).unwrap(), expected);
        }
    }

    #[test]
    fn renewal_keeps_data_and_time_of_issue() {
        let secret = Secret::new(Duration::from_secs(60), Duration::ZERO, Map::new());
        let issued = WireTimestamp { seconds: 1_700_000_000, nanos: 5 };
        let renewed = response(Response::default().lease(secret), Some((r#"{"t":1}"#.into(), Some(issued))));
        assert_eq!(renewed.data, r#"{"t":1}"#);
        assert_eq!(renewed.secret.unwrap().lease_options.unwrap().issue_time, Some(issued));
    }

    #[test]
    fn zero_and_broken_times_are_none() {
        for (seconds, nanos) in [(-62_135_596_800, 0), (i64::MIN, 0), (i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(timestamp(WireTimestamp { seconds, nanos }), None);
        }
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        (-60_000_000_000_000_000_000_i128..250_000_000_000_000_000_000)
            .prop_map(|ns| Timestamp::from_nanosecond(ns).unwrap())
    }

    proptest! {
        #[test]
        fn durations_survive_the_wire(ns in 0..=i64::MAX) {
            prop_assert_eq!(nanoseconds(duration(ns)), ns);
        }

        #[test]
        fn durations_saturate(secs in any::<u64>(), ns in i64::MIN..0) {
            prop_assert!(nanoseconds(Duration::from_secs(secs)) >= 0);
            prop_assert_eq!(duration(ns), Duration::ZERO);
        }

        #[test]
        fn times_survive_the_wire(time in any_time()) {
            let wire = write_timestamp(time);
            prop_assert!((0..1_000_000_000).contains(&wire.nanos));
            prop_assert_eq!(timestamp(wire), Some(time));
        }

        #[test]
        fn every_reply_has_what_the_host_insists_on(
            data in proptest::option::of(proptest::collection::btree_map("(error|data|.*)", any::<i64>(), 0..3)),
            issued in proptest::option::of(any_time()),
            ttl in any::<u64>(),
            renewed in proptest::option::of("(|null|\\{\\})"),
        ) {
            let data = data.map(|data| data.into_iter().map(|(name, value)| (name, json!(value))).collect());
            let mut secret = Secret::new(Duration::from_secs(ttl), Duration::MAX, Map::new());
            secret.issue_time = issued;
            let reply = Response { data, secret: Some(secret), ..Response::default() };
            let reply = response(reply, renewed.map(|data| (data, None)));
            let data: Value = serde_json::from_str(&reply.data).unwrap();
            prop_assert!(data.is_null() || data.is_object());
            if let Some(error) = data.get("error") && data.as_object().unwrap().len() == 1 {
                prop_assert!(error.is_string());
            }
            let secret = reply.secret.unwrap();
            prop_assert!(serde_json::from_str::<Map>(&secret.internal_data).is_ok());
            let options = secret.lease_options.unwrap();
            prop_assert!(options.issue_time.is_some() && options.ttl >= 0 && options.max_ttl == i64::MAX);
        }

        #[test]
        fn no_data_makes_it_panic(data in any::<String>()) {
            let _ = parse_data(&data);
        }
    }
}
