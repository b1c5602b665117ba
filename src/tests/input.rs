//! Wrong input returns 400 with the name of the field, and changes nothing.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation::{self, Delete, List, Patch, Read, Update};

use super::{ORG, ROLE_ID, ROOT, World, order, refused};

/// A request with one wrong field: operation, path, the other fields, the name of the field, and its wrong values.
type Row = (Operation, &'static str, Value, &'static str, Vec<Value>);

fn names() -> Vec<Value> {
    ["", "a/b", "a:b", "a\nb", "..", &"x".repeat(256)].map(|text| json!(text)).to_vec()
}

fn types() -> Vec<Value> {
    vec![json!(["a"]), json!({"a": 1})]
}

fn ids() -> Vec<Value> {
    [names(), types(), vec![Value::Null]].concat()
}

fn durations() -> Vec<Value> {
    vec![json!("-5"), json!(-5), json!("1w"), json!("soon"), json!(true), json!([1])]
}

fn bools() -> Vec<Value> {
    vec![json!("maybe"), json!({}), json!([true, false])]
}

fn table() -> Vec<Row> {
    [configs(), roles(), tokens()].concat()
}

fn configs() -> Vec<Row> {
    let config = json!({"org_id": ORG, "astra_token": ROOT, "verify_connection": false});
    let mut rows = vec![
        (Patch, "config", config.clone(), "org_id", ids()),
        (Read, "config", json!({}), "org_id", ids()),
        (Delete, "config", json!({}), "org_id", ids()),
        (Delete, "config", json!({"org_id": ORG}), "force", bools()),
    ];
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (field, values) in [
        ("org_id", ids()),
        ("astra_token", root_tokens()),
        ("url", urls()),
        ("logical_name", [types(), names()[1..].to_vec()].concat()),
        ("caller_mode", [types(), vec![json!("both"), json!("")]].concat()),
        ("verify_connection", bools()),
        ("ca_cert", [types(), vec![json!("no PEM"), json!(certificate)]].concat()),
        ("request_timeout", [durations(), vec![json!(0), json!("11m")]].concat()),
        ("description", bools()),
        ("token_expiry", bools()),
    ] {
        rows.push((Update, "config", config.clone(), field, values));
    }
    rows
}

fn root_tokens() -> Vec<Value> {
    let long = format!("AstraCS:a:{}", "b".repeat(4096));
    let texts = ["", "x", "AstraCS:", "AstraCS:a", "AstraCS::b", "AstraCS:a:", "AstraCS:a:b:c", "AstraCS:a b:c"];
    let texts = texts.into_iter().chain(["AstraCS:a:\u{e9}", &long]).map(|text| json!(text)).collect();
    [types(), texts, vec![Value::Null]].concat()
}

fn urls() -> Vec<Value> {
    let long = format!("https://x/{}", "y".repeat(2048));
    let texts = ["", "astra", "ftp://x", "https://u:p@x", "https://x?y=1"].into_iter();
    // A URL parser would remove these characters.
    let texts = texts.chain(["https://x\r\n.y", "https://x\t", " https://x", "https://x ", &long]);
    [types(), texts.map(|text| json!(text)).collect()].concat()
}

fn roles() -> Vec<Row> {
    let role = json!({"org_id": ORG, "role_name": "r", "role_id": ROLE_ID});
    let role_ids = vec![json!(""), json!(" "), json!("a\u{0}"), json!("x".repeat(256)), Value::Null];
    let mut rows = vec![
        (Update, "role", role.clone(), "role_id", [types(), role_ids].concat()),
        (List, "roles/", json!({}), "org_id", [names(), types()].concat()),
    ];
    for field in ["ttl", "max_ttl"] {
        let values = [durations(), vec![json!("999999999999h"), json!("4000000000")]].concat();
        rows.push((Update, "role", role.clone(), field, values));
    }
    for operation in [Update, Patch, Read, Delete] {
        rows.push((operation, "role", role.clone(), "org_id", ids()));
        rows.push((operation, "role", role.clone(), "role_name", ids()));
    }
    rows
}

fn tokens() -> Vec<Row> {
    let (token, org) = (order("x"), json!({"org_id": ORG}));
    let name = json!({"org_id": ORG, "role_name": "r_w_user"});
    let pairs = vec![
        json!("novalue"),
        json!(["=v"]),
        json!({"a": {"b": 1}}),
        json!({"a": "x".repeat(64 << 10)}),
        json!((0..8000).map(|n| format!("key{n}=value")).collect::<Vec<_>>()),
    ];
    let mut rows = vec![
        (List, "org/tokens/", json!({}), "org_id", [names(), types()].concat()),
        (List, "org/tokens/", json!({}), "limit", vec![json!(-1), json!("many"), json!([1])]),
        (List, "org/tokens/", json!({}), "after", types()),
        (Update, "org/token", token.clone(), "logical_name", ids()),
        (Update, "org/token", token.clone(), "client_id", vec![json!("abc")]),
        (Update, "org/token", token.clone(), "ttl", durations()),
        (Update, "org/token", token.clone(), "metadata", pairs),
        (Read, "org/token", name, "logical_name", ids()),
        (Read, "org/token", org.clone(), "client_id", [names(), types()].concat()),
        (Delete, "org/token", org, "client_id", [names(), types(), vec![Value::Null]].concat()),
    ];
    for operation in [Update, Read, Delete] {
        rows.push((operation, "org/token", token.clone(), "org_id", ids()));
        rows.push((operation, "org/token", token.clone(), "role_name", ids()));
    }
    rows
}

#[tokio::test]
async fn wrong_values_return_400_with_the_field_and_change_nothing() {
    let world = World::with_role("standard").await;
    let snapshot = || world.storage.keys().iter().map(|key| (key.clone(), world.storage.json(key))).collect::<Vec<_>>();
    let (stored, asked) = (snapshot(), world.astra.state().requests.len());
    for (operation, path, right, field, values) in table() {
        for value in values {
            let mut wrong = right.clone();
            wrong[field] = value.clone();
            let answer = world.ask(operation, path, wrong).await;
            let case = format!("{} {path} with {field} {}", operation.as_str(), value.to_string().len());
            let text = match answer {
                Err(vault_plugin_sdk::logical::Error::InvalidRequest(text)) => text,
                Err(error) => panic!("{case}: not a 400: {error}"),
                Ok(_) => panic!("{case}: {value} succeeded"),
            };
            assert!(text.contains(field), "{case}: {text}");
        }
    }
    assert!(snapshot() == stored, "storage changed");
    assert_eq!(world.astra.state().requests.len(), asked, "Astra was asked");
}

#[tokio::test]
async fn errors_name_missing_required_fields() {
    let world = World::new().await;
    world.write_config("standard").await;
    let cases = [
        (Operation::Update, "config", json!({}), "org_id"),
        (Operation::Update, "config", json!({"org_id": "new"}), "astra_token"),
        (Operation::Read, "config", json!({}), "org_id"),
        (Operation::Delete, "config", json!({}), "org_id"),
        (Operation::Update, "role", json!({}), "org_id"),
        (Operation::Update, "role", json!({"org_id": ORG}), "role_name"),
        (Operation::Update, "role", json!({"org_id": ORG, "role": "r"}), "role_id"),
        (Operation::Read, "role", json!({"org_id": ORG}), "role_name"),
        (Operation::Update, "org/token", json!({}), "org_id"),
        (Operation::Update, "org/token", json!({"org_id": ORG}), "role_name"),
        (Operation::Update, "org/token", json!({"org_id": ORG, "role": "r"}), "logical_name"),
        (Operation::Read, "org/token", json!({"org_id": ORG}), "client_id"),
        (Operation::Read, "org/token", json!({"org_id": ORG, "role": "r"}), "logical_name"),
        (Operation::Read, "org/token", json!({"org_id": ORG, "logical_name": "r"}), "role_name"),
        (Operation::Delete, "org/token", json!({"org_id": ORG}), "client_id"),
    ];
    for (operation, path, data, field) in cases {
        let text = refused(world.ask(operation, path, data).await);
        assert!(text.starts_with(field), "{} {path}: {text}", operation.as_str());
    }
}

#[tokio::test]
async fn no_error_quotes_a_wrong_root_token() {
    let world = World::new().await;
    let text = refused(world.write("config", json!({"org_id": ORG, "astra_token": "AstraCS:visible"})).await);
    assert!(!text.contains("visible"), "the token is echoed");
}

#[tokio::test]
async fn unknown_paths_and_fields_are_reported() {
    let world = World::with_role("standard").await;
    let error = super::failed(world.read("nope", json!({})).await);
    assert!(matches!(error, vault_plugin_sdk::logical::Error::UnsupportedPath), "{error}");
    let response = super::some(world.read("role", json!({"org_id": ORG, "role": "r_w_user", "colour": "red"})).await);
    assert!(response.warnings[0].contains("[colour]"), "{:?}", response.warnings);
    // A write with a mistyped setting returns a warning.
    let writes = [
        (Operation::Update, "config", json!({"org_id": ORG, "caller_mod": "sidecar"}), "[caller_mod]"),
        (Operation::Patch, "role", json!({"org_id": ORG, "role": "r_w_user", "max_tttl": "1h"}), "[max_tttl]"),
        (Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user", "forse": "true"}), "[forse]"),
    ];
    for (operation, path, data, field) in writes {
        let response = super::some(world.ask(operation, path, data).await);
        assert!(response.whole_data().is_none() && response.warnings[0].contains(field), "{:?}", response.warnings);
    }
}
