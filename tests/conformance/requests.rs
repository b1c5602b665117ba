//! Points 22 to 30: the contents of requests, and how a host can use the replies.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::mount::request;
use crate::host::pb::pb;
use crate::host::storage::{READ_ONLY, StorageFault};
use crate::host::{Host, Launch, Mount, Reply, Setup, Storage};

/// Paths that exist, paths that could exist, and paths that do not exist.
const PATHS: [&str; 9] =
    ["", "config", "creds/org/role", "org/token", "accounts/a", "cards/a", "teller/panic", "accounts/", "no/such/path"];

#[tokio::test(flavor = "multi_thread")]
async fn p22_an_unknown_operation_is_unsupported_and_makes_no_call() {
    for launch in [Launch::astra(), Launch::passbook()] {
        let host = Host::start(launch).await;
        let mount = quiet(&host).await;
        mount.storage.insert("accounts/a", b"{\"owner\":\"x\"}");
        forget_calls(&mount);
        for operation in ["resolve-path", "header", "foo", "", "READ", "alias-lookahead", "recover", "rotate"] {
            for path in PATHS {
                for data in [json!(null), json!({}), json!({"path": "other", "org_id": "x", "ttl": "5"})] {
                    let reply = mount.call(operation, path, &data).await;
                    assert_eq!(reply.error_type(), Some(5), "{operation:?} {path:?}");
                    assert!(reply.response.is_none(), "{operation:?} {path:?}");
                }
            }
        }
        assert_untouched(&mount);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p23_resolve_path_with_a_hostile_body_makes_no_call() {
    const SIZE: usize = 1 << 20;
    let bodies = [
        ("deep arrays", "[".repeat(SIZE)),
        ("deep objects", "{\"a\":".repeat(SIZE / 5)),
        ("no JSON", "\u{0}".repeat(SIZE)),
        ("no object", format!("\"{}\"", "x".repeat(SIZE))),
        (
            "many members",
            json!((0..60_000).map(|n| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>()).to_string(),
        ),
        ("a long number", format!("{{\"ttl\":{}}}", "9".repeat(SIZE))),
        ("nothing at all", String::new()),
    ];
    for launch in [Launch::astra(), Launch::passbook()] {
        let host = Host::start(launch).await;
        let mount = quiet(&host).await;
        forget_calls(&mount);
        for (what, body) in &bodies {
            // The client also chooses the path, so long paths count, too.
            for path in ["org/token", "accounts/a", &"x/".repeat(SIZE / 2)] {
                let started = Instant::now();
                let request = pb::Request { data: body.clone(), ..request("resolve-path", path, &Value::Null) };
                let reply = mount.send(request).await.unwrap_or_else(|status| panic!("{what}: {}", status.code()));
                assert_eq!(reply.error_type(), Some(5), "{what}");
                assert!(started.elapsed() < Duration::from_secs(2), "{what} took {:?}", started.elapsed());
            }
        }
        assert_untouched(&mount);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_text_values_work_like_typed_values() {
    let typed = json!({
        "owner": "Ada", "currency": "EUR", "limit": 500, "rate": 1.5, "active": false, "grace": 5400,
        "labels": {"a": "1", "b": "x=y"}, "notes": ["one", "two"], "tags": ["p", "q"], "branches": [3, 5],
        "terms": {"k": [1, null]},
    });
    // The forms that `vault write path k=v` and query parameters send. Only objects have no text form.
    let text = json!({
        "owner": "Ada", "currency": "eur", "limit": "500", "rate": "1.5", "active": "false", "grace": "1h30m",
        "labels": ["a=1", "b=x=y"], "notes": ["one", "two"], "tags": "p, q", "branches": "3,5",
        "terms": {"k": [1, null]},
    });
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    let mut answers = Vec::new();
    for data in [typed, text] {
        assert_eq!(mount.write("accounts/a", data).await.http(), 204);
        answers.push(mount.read("accounts/a").await.data());
        mount.delete("accounts/a").await;
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0]["limit"], 500);
    assert_eq!(answers[0]["grace"], "1h30m0s");
    assert_eq!(answers[0]["currency"], "eur");
    assert_eq!(answers[0]["labels"], json!({"a": "1", "b": "x=y"}));

    mount.write("accounts/a", json!({"owner": "Ada", "limit": 7})).await;
    let before = mount.read("accounts/a").await.data();
    for data in [json!(null), json!({})] {
        assert_eq!(mount.write("accounts/a", data.clone()).await.http(), 204);
        assert_eq!(mount.call("patch", "accounts/a", &data).await.http(), 204);
        for path in ["accounts/a", "cards/a"] {
            assert_eq!(mount.call("read", path, &data).await.http(), 200);
        }
        assert_eq!(mount.call("list", "accounts/", &data).await.http(), 200);
        assert_eq!(mount.rollback(&data).await.http(), 204);
    }
    assert_eq!(mount.read("accounts/a").await.data(), before);
    let spellings: [(&str, Value, Value); 10] = [
        ("active", json!("T"), json!(true)),
        ("active", json!(0), json!(false)),
        ("active", json!(""), json!(false)),
        ("limit", json!("0x1f"), json!(31)),
        ("limit", json!(""), json!(0)),
        ("limit", json!(true), json!(1)),
        ("grace", json!("2d"), json!("48h0m0s")),
        ("grace", json!("90"), json!("1m30s")),
        ("tags", json!(""), json!([])),
        ("labels", json!("k=v"), json!({"k": "v"})),
    ];
    for (field, given, read) in spellings {
        assert_eq!(mount.write("accounts/a", json!({field: given})).await.http(), 204, "{field}={given}");
        assert_eq!(mount.read("accounts/a").await.data()[field], read, "{field}={given}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p24_a_number_out_of_range_returns_400() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    // Vault passes numbers on as the client wrote them, first to the existence check.
    let bodies =
        [r#"{"limit":1e400}"#, r#"{"rate":-1e400}"#, r#"{"grace":99999999999999999999}"#, r#"{"branches":[1e999]}"#];
    for body in bodies {
        let data = |operation| pb::Request { data: body.into(), ..request(operation, "accounts/a", &Value::Null) };
        let existence = mount.send_existence(data("update")).await;
        if let Some(err) = existence.err {
            assert_eq!(err.err_type, 1, "{body}: {}", err.err_msg);
        }
        for operation in ["create", "update", "patch"] {
            let reply = mount.send(data(operation)).await.unwrap();
            assert_eq!(reply.http(), 400, "{operation} {body}");
        }
    }
    // Data that is not a JSON object comes from a broken host. The plugin must not crash.
    for body in ["", "nonsense", "[]", "5", "{"] {
        let request = pb::Request { data: body.into(), ..request("update", "accounts/a", &Value::Null) };
        drop(mount.send(request).await);
    }
    assert_eq!(mount.read("accounts/a").await.http(), 404);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p25_unknown_and_replaced_parameters_give_warnings() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    let reply = mount.call("read", "accounts/a", &json!({"zeta": "1", "alpha": "2", "name": "b"})).await;
    assert_eq!(
        reply.warnings(),
        [
            "Endpoint ignored these unrecognized parameters: [alpha zeta]",
            "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: [name]",
        ]
    );
    assert_eq!(reply.data()["owner"], "x");
    assert_eq!(mount.call("read", "accounts/a", &json!({})).await.warnings(), Vec::<String>::new());
    host.stop().await;
}

/// Sends every kind of request to passbook, and returns the replies.
async fn all_requests(mount: &Mount) -> Vec<(String, Reply)> {
    let calls = [
        ("list", "accounts/", json!(null)),
        ("create", "accounts/a", json!({"owner": "x"})),
        ("update", "accounts/a", json!({"limit": "5"})),
        ("update", "accounts/b", json!({"limit": "5"})),
        ("patch", "accounts/a", json!({"limit": null})),
        ("update", "accounts/a", json!({"limit": "five"})),
        ("read", "accounts/a", json!(null)),
        ("read", "accounts/none", json!(null)),
        ("list", "accounts/", json!(null)),
        ("list", "cards/", json!(null)),
        ("scan", "accounts/", json!(null)),
        ("read", "cards/a", json!({"ttl": "60"})),
        ("read", "cards/none", json!(null)),
        ("update", "cards/a", json!({})),
        ("update", "teller/fail", json!({})),
        ("update", "teller/none", json!({})),
        ("update", "teller/panic", json!({"text": "x"})),
        ("read", "no/such/path", json!(null)),
        ("help", "", json!(null)),
        ("help", "accounts/a", json!(null)),
        ("help", "no/such/path", json!(null)),
        ("rollback", "", json!(null)),
        ("renew", "cards/a", json!(null)),
        ("revoke", "cards/a", json!(null)),
        ("delete", "accounts/a", json!(null)),
        ("delete", "accounts/a", json!(null)),
        ("list", "accounts/", json!(null)),
    ];
    let mut replies = Vec::new();
    for (operation, path, data) in calls {
        replies.push((format!("{operation} {path}"), mount.call(operation, path, &data).await));
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn p26_replies_hold_json_wherever_a_host_parses_json() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    // `Reply` panics on empty data, empty internal data and a missing issue time.
    let replies = all_requests(&mount).await;
    let leases: Vec<&Reply> = replies
        .iter()
        .map(|(_, reply)| reply)
        .filter(|reply| reply.response.as_ref().is_some_and(|r| r.secret.is_some()))
        .collect();
    assert_eq!(leases.len(), 1);
    assert!(!leases[0].internal_data().is_empty());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p27_status_and_text_match_those_of_built_in_engines() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    let replies = all_requests(&mount).await;
    let statuses: Vec<(&str, u16)> = replies.iter().map(|(call, reply)| (call.as_str(), reply.http())).collect();
    assert_eq!(
        statuses,
        [
            ("list accounts/", 404),
            ("create accounts/a", 204),
            ("update accounts/a", 204),
            ("update accounts/b", 400),
            ("patch accounts/a", 204),
            ("update accounts/a", 400),
            ("read accounts/a", 200),
            ("read accounts/none", 404),
            ("list accounts/", 200),
            // A name does not end in a slash, so no path matches.
            ("list cards/", 404),
            ("scan accounts/", 405),
            ("read cards/a", 200),
            ("read cards/none", 400),
            ("update cards/a", 405),
            ("update teller/fail", 500),
            ("update teller/none", 400),
            ("update teller/panic", 500),
            ("read no/such/path", 404),
            ("help ", 200),
            ("help accounts/a", 200),
            ("help no/such/path", 404),
            ("rollback ", 204),
            // A renewal or revocation without a lease is the host's fault.
            ("renew cards/a", 500),
            ("revoke cards/a", 500),
            ("delete accounts/a", 204),
            ("delete accounts/a", 204),
            ("list accounts/", 404),
        ]
    );
    let text = |call: &str, status| {
        let found = replies.iter().find(|(known, reply)| known == call && reply.http() == status);
        found.map(|(_, reply)| reply.error()).unwrap()
    };
    assert_eq!(text("read cards/none", 400), r#"account "none" does not exist"#);
    let text = text("update accounts/a", 400);
    assert!(text.starts_with(r#"Field validation failed: error converting input for field "limit":"#), "{text}");
    assert!(!text.contains("five"), "the text quotes the value");
    mount.write("accounts/c", json!({"owner": "x", "active": false})).await;
    let reply = mount.read("cards/c").await;
    assert_eq!(
        (reply.http(), reply.error_type(), reply.error()),
        (409, Some(3), r#"account "c" is not active"#.into())
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p28_hosts_can_read_the_reply_after_every_fault() {
    let host = Host::start(Launch::passbook()).await;
    for fault in [StorageFault::Missing, StorageFault::Error("barrier is sealed"), StorageFault::Write(READ_ONLY)] {
        for facts_are_missing in [false, true] {
            let mount = host.mount().await;
            mount.write("accounts/z", json!({"owner": "x"})).await;
            mount.storage.fail(fault);
            mount.system.set(|facts| facts.missing = facts_are_missing);
            // `Reply` panics on error types above 10, on coded errors without a status, and on errors that are not
            // text.
            for (call, reply) in all_requests(&mount).await {
                assert!((200..600).contains(&reply.http()), "{call}");
                if fault == StorageFault::Write(READ_ONLY) && call == "create accounts/a" {
                    assert!(reply.is_forwarded(), "{call} on a read-only node is not forwarded: {}", reply.error());
                }
            }
            let reply = mount.read("accounts/z").await;
            let expected = if fault == StorageFault::Write(READ_ONLY) { 200 } else { 500 };
            assert_eq!(reply.http(), expected, "{fault:?}: {}", reply.error());
        }
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p28_hosts_can_read_the_reply_of_every_path() {
    for launch in [Launch::astra(), Launch::passbook()] {
        let host = Host::start(launch).await;
        let mount = host.mount().await;
        let paths = declared_paths(&mount).await;
        let odd = "\u{0}/../:*";
        for fault in [
            StorageFault::None,
            StorageFault::Missing,
            StorageFault::Error("barrier is sealed"),
            StorageFault::Write(READ_ONLY),
        ] {
            mount.storage.fail(fault);
            for path in &paths {
                for data in [json!(null), json!({"org_id": odd, "role_name": odd, "owner": odd, "ttl": "-1"})] {
                    // `Reply` panics on a reply that a host could not read.
                    for operation in ["create", "update", "patch", "read", "delete"] {
                        let status = mount.call(operation, path, &data).await.http();
                        assert!((200..600).contains(&status), "{operation} {path}: {status}");
                    }
                    drop(mount.call("list", &format!("{path}/"), &data).await);
                    let err = mount.exists(path, &data).await.err;
                    assert!(err.is_none_or(|err| err.err_type <= 10), "existence check of {path}");
                }
            }
        }
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p28_the_storage_calls_of_vault_are_sufficient() {
    let host = Host::start(Launch::passbook().by_vault()).await;
    let setup = Setup { storage: Storage::of_vault(), ..Setup::default() };
    let mount = host.mount_with(setup).await.expect("Setup");
    mount.initialize().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    assert_eq!(mount.list("accounts").await.data()["keys"], json!(["a"]));
    assert_eq!(mount.read("cards/a").await.http(), 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p29_existence_checks_only_distinguish_create_and_update() {
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    mount.write("accounts/a", json!({"owner": "x"})).await;
    mount.storage.take_calls();
    for (path, check_found, exists) in [
        ("accounts/a", true, true),
        ("accounts/b", true, false),
        ("cards/a", false, false),
        ("teller/panic", false, false),
        ("no/such/path", false, false),
        ("", false, false),
    ] {
        for data in [json!(null), json!({"owner": "y", "unknown": 1})] {
            let found = mount.exists(path, &data).await;
            assert_eq!((found.check_found, found.exists), (check_found, exists), "{path}");
            // The host reads type 6 as "not found". It would show any other error, or fail the write.
            assert!(found.err.is_none_or(|err| err.err_type == 6), "{path}");
        }
    }
    let calls = mount.storage.take_calls();
    assert!(calls.iter().all(|call| call.starts_with("get ")), "{calls:?}");
    assert_eq!(mount.storage.keys(), ["accounts/a"]);

    // A caller without the right to write sees the text of a user's mistake. So a storage failure must not be a user's
    // mistake.
    mount.storage.fail(StorageFault::Error("no such key: secret/detail"));
    let err = mount.exists("accounts/a", &json!({})).await.err.expect("the check succeeded without storage");
    assert_ne!(err.err_type, 1, "{}", err.err_msg);
    assert!(err.err_type <= 10);
    mount.storage.fail(StorageFault::None);
    let err = mount.exists("accounts/a", &json!({"limit": "hush-hush"})).await.err;
    assert!(err.is_none_or(|err| !err.err_msg.contains("hush-hush")), "the text quotes the value");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p30_every_path_has_help_that_hosts_can_read() {
    for launch in [Launch::astra(), Launch::passbook()] {
        let host = Host::start(launch).await;
        let mount = quiet(&host).await;
        forget_calls(&mount);
        // The host sends this request when it builds the document of the whole server.
        let request = pb::Request {
            operation: "help".into(),
            data: json!({"requestResponsePrefix": "engine"}).to_string(),
            ..pb::Request::default()
        };
        let root = mount.send(request).await.unwrap().data();
        check_document(&root["openapi"]);
        for path in [String::new()].into_iter().chain(declared_paths(&mount).await) {
            let data = mount.call("help", &path, &json!(null)).await.data();
            assert!(!data["help"].as_str().expect("a text in help").is_empty(), "{path}");
            assert!(data["see_also"].is_null() || data["see_also"].is_array(), "{path}");
            check_document(&data["openapi"]);
        }
        // A path that does not exist has no help. But the reply must not be empty, because hosts crash on that.
        assert_eq!(mount.call("help", "no/such/path", &json!(null)).await.error_type(), Some(6));
        assert_untouched(&mount);
        host.stop().await;
    }
    let host = Host::start(Launch::passbook()).await;
    let help = host.mount().await.call("help", "accounts/a", &json!(null)).await.data();
    assert!(help["help"].as_str().unwrap().contains("How much may be overdrawn."));
    assert!(help["openapi"]["paths"].as_object().unwrap().contains_key("/accounts/{name}"));
    host.stop().await;
}

/// Returns a request path for each path of the engine's own document.
async fn declared_paths(mount: &Mount) -> Vec<String> {
    let document = mount.call("help", "", &json!(null)).await.data();
    let paths = document["openapi"]["paths"].as_object().expect("paths is an object");
    paths.keys().map(|route| route.trim_start_matches('/').replace(['{', '}'], "")).collect()
}

/// Checks the types that a host requires (OpenBao `sdk/framework/openapi.go`, `NewOASDocumentFromMap`).
fn check_document(document: &Value) {
    if document.is_null() {
        return;
    }
    assert_eq!(document["openapi"], "3.0.2");
    for member in ["title", "description", "version"] {
        assert!(document["info"][member].is_string(), "info.{member}");
    }
    for (path, item) in document["paths"].as_object().expect("paths is an object") {
        assert!(path.starts_with('/'), "{path}");
        check_members(path, item);
        for parameter in item["parameters"].as_array().into_iter().flatten() {
            check_members(path, parameter);
            assert!(parameter["name"].is_string() && parameter["in"].is_string(), "{path}");
        }
        for method in ["get", "post", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            check_members(path, operation);
            assert!(operation["operationId"].is_string(), "{method} {path}");
            assert!(
                operation["tags"].as_array().is_some_and(|tags| tags.iter().all(Value::is_string)),
                "{method} {path}"
            );
            for code in operation["responses"].as_object().expect("responses is an object").keys() {
                assert!(code.parse::<u16>().is_ok_and(|code| (100..600).contains(&code)), "{method} {path}: {code}");
            }
        }
    }
}

/// Checks the members whose type is the same everywhere.
fn check_members(path: &str, object: &Value) {
    for (name, value) in object.as_object().unwrap_or_else(|| panic!("{path}: no object")) {
        let right = match name.as_str() {
            "description" | "summary" | "operationId" | "name" | "in" => value.is_string(),
            "required" | "deprecated" | "x-vault-sudo" | "x-vault-unauthenticated" | "x-vault-createSupported" => {
                value.is_boolean()
            }
            "tags" | "parameters" => value.is_array(),
            "schema" | "responses" | "requestBody" | "x-vault-displayAttrs" => value.is_object(),
            _ => true,
        };
        assert!(right, "{path}: {name} has the wrong type");
    }
}

/// Returns an instance without Initialize, so that it only handles the requests of the test.
async fn quiet(host: &Host) -> Mount {
    host.mount_with(Setup::default()).await.expect("Setup")
}

fn forget_calls(mount: &Mount) {
    mount.storage.take_calls();
    mount.system.take_calls();
}

fn assert_untouched(mount: &Mount) {
    assert_eq!(mount.storage.take_calls(), Vec::<String>::new());
    assert_eq!(mount.system.take_calls(), 0);
}
