//! Attacks by callers of the server's API who have some rights and try to get more, or to do damage.

use serde_json::{Map, Value, json};

use super::attack;
use super::peer::Peer;
use crate::astra::{Astra, Certificate};
use crate::bao::Reply;
use crate::openapi;
use crate::servers::on_vault;
use crate::world::{Mode, Org, ROLE_ID, World};

/// Values that break careless programs, as JSON.
fn hostile_values() -> Vec<String> {
    let texts = [
        "x".repeat(1 << 20),
        String::new(),
        "a\u{0}b".into(),
        "../../etc/passwd".into(),
        "..".into(),
        "config/../../core".into(),
        "a:b".into(),
        "a/b".into(),
        "a\r\nX-Vault-Token: root".into(),
        // Similar letters, invisible characters, and characters that reverse the text direction.
        "sh\u{43e}p".into(),
        "\u{ff52}eader".into(),
        "reader\u{200b}".into(),
        "\u{202e}redaer".into(),
        "\u{feff}reader".into(),
        "\u{130}".repeat(200),
        "\u{1f600}".repeat(64),
        "%2e%2e%2f".into(),
        "{{identity.entity.id}}".into(),
        "${HOME} $(id) `id`; id".into(),
        "\u{1b}[2J".into(),
    ];
    let mut values: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    let odd = [
        "true",
        "-1",
        "0.5",
        "1e400",
        "-9223372036854775809",
        "18446744073709551616",
        "[]",
        "{}",
        r#"[null]"#,
        r#"{"a":{"b":["c"]}}"#,
        r#""\ud800""#,
        r#"[1,"a",{}]"#,
    ];
    values.extend(odd.map(str::to_owned));
    // Deeper than any parser goes, and as deep as the host's parser goes.
    values.extend([64, 900, 100_000].map(|depth| "[".repeat(depth) + &"]".repeat(depth)));
    values.push("{\"a\":".repeat(900) + "1" + &"}".repeat(900));
    values
}

/// Two orgs with a role each: a target of the attacks, and a bystander that must stay unchanged.
struct AttackedMount {
    world: World,
    target: Org,
    bystander: Org,
}

impl AttackedMount {
    fn new() -> Self {
        let world = World::with(Astra::builder().orgs(2));
        let target = world.configured("target", Mode::Standard);
        let bystander = world.configured("bystander", Mode::Standard);
        let mount = Self { world, target, bystander };
        mount.repair();
        mount.world.role(&mount.bystander, "reader", 3600, 36000);
        mount.world.mint(&mount.bystander, "reader", "cart");
        mount
    }

    /// Restores the settings of the target after a successful request.
    fn repair(&self) {
        for id in self.world.keys("configs") {
            if id != self.target.id && id != self.bystander.id {
                self.world.delete(&format!("config?force=true&org_id={}", encoded(&json!(id).to_string()))).ok();
            }
        }
        let fields = json!({"logical_name": "target", "caller_mode": "standard", "ca_cert": "", "verify_connection": false,
            "request_timeout": "2s", "description": true, "token_expiry": true});
        self.world.configure(&self.target, &fields);
        let body = json!({"org_id": self.target.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": 3600,
            "max_ttl": 36000, "max_tokens": 0});
        self.world.post("role", &body).ok();
    }

    /// Returns the whole state of the bystander.
    fn state(&self) -> Value {
        let id = &self.bystander.id;
        json!({
            "config": self.world.get(&format!("config?org_id={id}")).data(),
            "role": self.world.get(&format!("role?org_id={id}&role_name=reader")).data(),
            "tokens": self.world.list(&format!("org/tokens?org_id={id}")).body["data"],
            "alive": self.world.alive(&self.bystander),
            "plugins": self.world.server.plugins(),
        })
    }

    /// Returns the fields of a valid request.
    fn valid_fields(&self, path: &str) -> Value {
        let id = &self.target.id;
        match path {
            "config" => json!({"org_id": id, "astra_token": self.target.root_token, "url": self.world.url(),
                "verify_connection": false}),
            "role" => json!({"org_id": id, "role_name": "reader", "role_id": ROLE_ID}),
            "org/token" => json!({"org_id": id, "role_name": "reader", "logical_name": "hostile"}),
            "configs" | "creds/{org}/{role}" | "status" | "metrics" => json!({}),
            _ => json!({"org_id": id}),
        }
    }

    /// Sends a request that is valid except for one field.
    ///
    /// Returns `None` if the server hangs up, as it does if a line is too long.
    fn send(&self, method: &str, path: &str, field: &str, value: &str) -> Option<Reply> {
        let mut right = self.valid_fields(path);
        let mut place = path.to_owned();
        for (name, is) in [("org", "target"), ("role", "reader")] {
            let with = if name == field { encoded(value) } else { is.to_owned() };
            place = place.replace(&format!("{{{name}}}"), &with);
        }
        let place = self.world.at(&place);
        let members = right.as_object_mut().expect("an object");
        members.remove(field);
        if matches!(method, "GET" | "DELETE" | "LIST") {
            let names =
                members.iter().filter(|(name, _)| matches!(name.as_str(), "org_id" | "role_name" | "logical_name"));
            let mut query: Vec<String> =
                names.map(|(name, value)| format!("{name}={}", value.as_str().expect("text"))).collect();
            query.push(format!("{field}={}", encoded(value)));
            return self.world.server.send(method, &format!("{place}?{}", query.join("&")), None).ok();
        }
        let members: Vec<String> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        let body = [members, vec![format!("{}:{value}", json!(field))]].concat().join(",");
        self.world.server.send(method, &place, Some(format!("{{{body}}}"))).ok()
    }
}

/// Whether Vault refused the body of a request before the engine saw it.
fn refused_by_vault(reply: &Reply) -> bool {
    const TOLD: [&str; 5] = [
        "JSON input exceeds allowed nesting depth",
        "JSON string value exceeds allowed length",
        "JSON object exceeds allowed entry count",
        "malformed JSON, unterminated surrogate pair in string",
        "malformed JSON, invalid number syntax for '1e400'",
    ];
    on_vault("limits of JSON") && reply.status == 500 && TOLD.iter().any(|told| reply.errors().ends_with(told))
}

/// Encodes a value for a URL: a JSON text as its characters, any other value as it is.
fn encoded(value: &str) -> String {
    let text: String = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn hostile_values_in_any_field_change_no_other_org() {
    let mount = AttackedMount::new();
    let before = mount.state();
    let document = openapi::document(&mount.world);
    let mut operations = Vec::new();
    for (path, method, operation) in openapi::operations(&document) {
        let mut fields: Vec<&str> = openapi::fields(operation).into_iter().map(|(name, ..)| name).collect();
        let method = if fields.contains(&"list") { "LIST" } else { method };
        fields.retain(|&field| field != "list");
        if path.starts_with("creds") {
            fields.extend(["org", "role"]);
        }
        operations.extend(fields.into_iter().map(|field| (path.clone(), method.to_uppercase(), field.to_owned())));
    }
    assert!(operations.len() > 50, "{operations:?}");

    let values = hostile_values();
    let mut faults = Vec::new();
    let (mut refused, mut taken) = (0, 0);
    for (path, method, field) in &operations {
        for value in &values {
            let Some(reply) = mount.send(method, path, field, value) else {
                assert!(value.len() >= 1000, "{method} {path} {field}={value:.60}: the server hung up");
                continue;
            };
            let case = format!("{method} {path} {field}={value:.60}");
            let text = reply.body.to_string();
            mount.world.assert_no_secret(&case, &text.replace(&mount.minted(&reply), ""));
            match reply.status {
                200..300 => taken += 1,
                // The server redirects a path that it would spell differently.
                300..500 => refused += 1,
                _ if refused_by_vault(&reply) => refused += 1,
                status => faults.push(format!("{case}: {status} {text:.300}")),
            }
            if reply.status < 300 && (path.starts_with("config") || path.starts_with("role")) {
                mount.repair();
            }
            if text.len() > 20_000 && reply.status >= 300 {
                faults.push(format!("{case}: an error of {} bytes", text.len()));
            }
        }
    }
    assert!(faults.is_empty(), "{} cases\n{}", faults.len(), faults.join("\n"));
    // Most values are invalid for every field, but some are valid.
    assert!(refused > taken && taken > 100, "{refused} values were refused, {taken} were accepted");
    assert_eq!(mount.state(), before, "a request changed another org");
    mount.world.assert_no_secret("the log", &mount.world.server.log());
}

impl AttackedMount {
    /// Returns the token in the answer to a mint, or a placeholder for another answer.
    fn minted(&self, reply: &Reply) -> String {
        reply.body["data"]["token"].as_str().unwrap_or("there is none").to_owned()
    }

    fn assert_refused(&self, test: &str, path: &str, body: String) {
        let before = self.world.calls(crate::astra::Route::CreateToken);
        let reply = self.world.server.send("POST", &self.world.at(path), Some(body)).expect("an answer");
        attack(test).is_answered_with(reply.status, &reply.errors());
        self.world.assert_no_secret("an error", &reply.errors());
        assert_eq!(self.world.calls(crate::astra::Route::CreateToken), before, "a token was minted");
    }
}

#[test]
fn metadata_above_64_kib_is_refused() {
    let mount = AttackedMount::new();
    let before = mount.state();
    // Nearly as much as the server accepts.
    let keys: Map<String, Value> = (0..400).map(|n| (format!("key{n}"), json!("x".repeat(1000)))).collect();
    let list: Vec<String> = (0..400).map(|n| format!("key{n}={}", "x".repeat(1000))).collect();
    for metadata in [json!(keys), json!(list), json!({"a": "x".repeat(500 << 10)})] {
        mount.assert_refused(
            "metadata_above_64_kib_is_refused",
            "creds/target/reader",
            json!({"metadata": metadata}).to_string(),
        );
    }
    // The server itself may refuse a larger body.
    let keys: Vec<String> = (0..1_000_000).map(|n| format!("\"key{n}\":\"v\"")).collect();
    for metadata in [format!("{{{}}}", keys.join(",")), json!({"a": "x".repeat(20 << 20)}).to_string()] {
        let path = mount.world.at("creds/target/reader");
        let reply =
            mount.world.server.send("POST", &path, Some(format!("{{\"metadata\":{metadata}}}"))).expect("an answer");
        if on_vault("limits of JSON") {
            assert!(refused_by_vault(&reply), "{reply}");
        } else {
            assert!((400..500).contains(&reply.status), "{reply}");
        }
    }
    assert_eq!(mount.state(), before);
    assert!(mount.world.alive(&mount.target).is_empty());
}

#[test]
fn a_ca_cert_above_512_kib_is_refused() {
    let mount = AttackedMount::new();
    let pem = Astra::builder().tls(Certificate::Valid).spawn().ca_pem().expect("a CA").to_owned();
    let write =
        |pem: String| json!({"org_id": mount.target.id, "ca_cert": pem, "verify_connection": false}).to_string();
    let endless = write(pem.repeat(1 + (16 << 20) / pem.len()));
    if on_vault("limits of JSON") {
        let reply = mount.world.server.send("POST", &mount.world.at("config"), Some(endless)).expect("an answer");
        assert!(refused_by_vault(&reply), "{reply}");
    } else {
        mount.assert_refused("a_ca_cert_above_512_kib_is_refused", "config", endless);
    }
    mount.assert_refused(
        "a_ca_cert_above_512_kib_is_refused",
        "config",
        write(pem.repeat(1 + (512 << 10) / pem.len())),
    );
    // A shorter certificate list is accepted, so the length was the reason.
    mount.world.server.send("POST", &mount.world.at("config"), Some(write(pem.repeat(3)))).expect("an answer").ok();
}

#[test]
fn line_ends_in_a_config_are_refused() {
    let mount = AttackedMount::new();
    let (id, root) = (&mount.target.id, &mount.target.root_token);
    let tail = "\r\nX-Evil: 1\r\n\r\n";
    for (field, value) in [
        ("url", format!("{}{tail}", mount.world.url())),
        ("url", "http://127.0.0.1\r\n.evil.example".to_owned()),
        ("astra_token", format!("{root}{tail}")),
        ("org_id", format!("{id}{tail}")),
    ] {
        let mut body = json!({"org_id": id, "astra_token": root, "url": mount.world.url(), "verify_connection": false});
        body[field] = json!(value);
        let reply = mount.world.post("config", &body);
        attack("line_ends_in_a_config_are_refused").is_answered_with(reply.status, &reply.errors());
        mount.world.assert_no_secret("an error", &reply.errors());
    }
    assert_eq!(mount.world.get(&format!("config?org_id={id}")).data()["url"], mount.world.url());
}

#[test]
fn a_url_inside_the_network_reveals_no_answer() {
    let mount = AttackedMount::new();
    let write = |url: &str| json!({"org_id": mount.target.id, "astra_token": mount.target.root_token, "url": url});
    // The engine refuses URLs of files, sockets and other protocols.
    for url in
        ["file:///etc/passwd", "unix:///tmp/plugin.sock", "gopher://127.0.0.1:70/", "http+unix://%2Ftmp%2Fx", "//x"]
    {
        assert!(mount.world.post("config", &write(url)).fails(400).contains("url"), "{url}");
    }
    // A service that ignores the path, such as a cloud's service for the machine's credentials.
    let inside =
        Peer::saying("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\r\nINSIDE-SECRET-1");
    let json = Peer::saying(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 28\r\n\r\n{\"SecretKey\":\"INSIDE-SECRET\"}",
    );
    for peer in [&inside, &json] {
        let reply = mount.world.post("config", &write(&peer.url));
        attack("a_url_inside_the_network_reveals_no_answer").is_answered_with(reply.status, &reply.errors());
        assert!(peer.connections() > 0 && !reply.body.to_string().contains("INSIDE"), "{reply}");
    }
    // The server itself, which accepts Vault tokens in the same header.
    let reply = mount.world.post("config", &write(mount.world.server.address()));
    assert_eq!(reply.status, 400, "{reply}");
    assert_eq!(mount.world.get(&format!("config?org_id={}", mount.target.id)).data()["url"], mount.world.url());
}
