//! Wrong input: a 400 that names the field, and nothing else happens.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;

use super::{ORG, ROLE_ID, ROOT, World, order, refused};

/// A request that is right but for one field, and the values that are wrong there.
fn table() -> Vec<(Operation, &'static str, Value, &'static str, Vec<Value>)> {
    use Operation::{Delete, List, Patch, Read, Update};

    let names = || ["", "a/b", "a:b", "a\nb", "..", &"x".repeat(256)].map(|text| json!(text)).to_vec();
    let types = || vec![json!(["a"]), json!({"a": 1})];
    let ids = || [names(), types(), vec![Value::Null]].concat();
    let config = json!({"org_id": ORG, "astra_token": ROOT, "verify_connection": false});
    let role = json!({"org_id": ORG, "role_name": "r", "role_id": ROLE_ID});
    let name = json!({"org_id": ORG, "role_name": "r_w_user"});
    let token = order("x");
    let durations = || vec![json!("-5"), json!(-5), json!("1w"), json!("soon"), json!(true), json!([1])];
    let bools = || vec![json!("maybe"), json!({}), json!([true, false])];
    let mut rows = vec![
        (Update, "config", config.clone(), "org_id", ids()),
        (Patch, "config", config.clone(), "org_id", ids()),
        (Read, "config", json!({}), "org_id", ids()),
        (Delete, "config", json!({}), "org_id", ids()),
        (Delete, "config", json!({"org_id": ORG}), "force", bools()),
        (
            Update,
            "config",
            config.clone(),
            "astra_token",
            [
                types(),
                vec![
                    json!(""),
                    json!("x"),
                    json!("AstraCS:"),
                    json!("AstraCS:a"),
                    json!("AstraCS::b"),
                    json!("AstraCS:a:"),
                    json!("AstraCS:a:b:c"),
                    json!("AstraCS:a b:c"),
                    json!("AstraCS:a:\u{e9}"),
                    json!(format!("AstraCS:a:{}", "b".repeat(4096))),
                    Value::Null,
                ],
            ]
            .concat(),
        ),
        (
            Update,
            "config",
            config.clone(),
            "url",
            [
                types(),
                vec![json!(""), json!("astra"), json!("ftp://x"), json!("https://u:p@x"), json!("https://x?y=1")],
                // What a URL parser takes and drops.
                vec![json!("https://x\r\n.y"), json!("https://x\t"), json!(" https://x"), json!("https://x ")],
                vec![json!(format!("https://x/{}", "y".repeat(2048)))],
            ]
            .concat(),
        ),
        (Update, "config", config.clone(), "logical_name", [types(), names()[1..].to_vec()].concat()),
        (Update, "config", config.clone(), "caller_mode", [types(), vec![json!("both"), json!("")]].concat()),
        (Update, "config", config.clone(), "verify_connection", bools()),
        (
            Update,
            "config",
            config.clone(),
            "ca_cert",
            [types(), vec![json!("no PEM"), json!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]]
                .concat(),
        ),
        (Update, "config", config.clone(), "request_timeout", [durations(), vec![json!(0), json!("11m")]].concat()),
        (Update, "config", config.clone(), "description", bools()),
        (Update, "config", config, "token_expiry", bools()),
        (List, "roles/", json!({}), "org_id", [names(), types()].concat()),
        (List, "org/tokens/", json!({}), "org_id", [names(), types()].concat()),
        (List, "org/tokens/", json!({}), "limit", vec![json!(-1), json!("many"), json!([1])]),
        (List, "org/tokens/", json!({}), "after", types()),
        (Update, "org/token", token.clone(), "logical_name", ids()),
        (Update, "org/token", token.clone(), "client_id", vec![json!("abc")]),
        (Update, "org/token", token.clone(), "ttl", durations()),
        (
            Update,
            "org/token",
            token,
            "metadata",
            vec![
                json!("novalue"),
                json!(["=v"]),
                json!({"a": {"b": 1}}),
                json!({"a": "x".repeat(64 << 10)}),
                json!((0..8000).map(|n| format!("key{n}=value")).collect::<Vec<_>>()),
            ],
        ),
        (Read, "org/token", name.clone(), "logical_name", ids()),
        (Read, "org/token", json!({"org_id": ORG}), "client_id", [names(), types()].concat()),
        (Delete, "org/token", json!({"org_id": ORG}), "client_id", [names(), types(), vec![Value::Null]].concat()),
        (
            Update,
            "role",
            role.clone(),
            "role_id",
            [types(), vec![json!(""), json!(" "), json!("a\u{0}"), json!("x".repeat(256)), Value::Null]].concat(),
        ),
    ];
    for field in ["ttl", "max_ttl"] {
        let values = [durations(), vec![json!("999999999999h"), json!("4000000000")]].concat();
        rows.push((Update, "role", role.clone(), field, values));
    }
    for (operation, path, right) in
        [(Update, "role", &role), (Patch, "role", &role), (Read, "role", &role), (Delete, "role", &role)]
    {
        rows.push((operation, path, right.clone(), "org_id", ids()));
        rows.push((operation, path, right.clone(), "role_name", ids()));
    }
    for operation in [Update, Read, Delete] {
        let right = order("x");
        rows.push((operation, "org/token", right.clone(), "org_id", ids()));
        rows.push((operation, "org/token", right, "role_name", ids()));
    }
    rows
}

#[tokio::test]
async fn wrong_values_are_refused_by_name_and_change_nothing() {
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
async fn required_fields_are_named() {
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
async fn a_wrong_root_token_is_not_echoed() {
    let world = World::new().await;
    let text = refused(world.write("config", json!({"org_id": ORG, "astra_token": "AstraCS:visible"})).await);
    assert!(!text.contains("visible"), "the token is echoed");
}

#[tokio::test]
async fn unknown_paths_and_fields_are_told() {
    let world = World::with_role("standard").await;
    let error = super::failed(world.read("nope", json!({})).await);
    assert!(matches!(error, vault_plugin_sdk::logical::Error::UnsupportedPath), "{error}");
    let response = super::some(world.read("role", json!({"org_id": ORG, "role": "r_w_user", "colour": "red"})).await);
    assert!(response.warnings[0].contains("[colour]"), "{:?}", response.warnings);
    // Of a mistyped setting that is not taken, a write tells as well.
    let writes = [
        (Operation::Update, "config", json!({"org_id": ORG, "caller_mod": "sidecar"}), "[caller_mod]"),
        (Operation::Patch, "role", json!({"org_id": ORG, "role": "r_w_user", "max_tttl": "1h"}), "[max_tttl]"),
        (Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user", "forse": "true"}), "[forse]"),
    ];
    for (operation, path, data, field) in writes {
        let response = super::some(world.ask(operation, path, data).await);
        assert!(response.data.is_none() && response.warnings[0].contains(field), "{:?}", response.warnings);
    }
}
