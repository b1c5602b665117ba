//! Points 41 to 43: large requests, the log, and secrets.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::host::storage::StorageFault;
use crate::host::{Host, Launch, Reply};

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_request_of_16_mib_is_handled() {
    let owner = "x".repeat(16 << 20);
    let host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    assert_eq!(mount.write("accounts/a", json!({"owner": owner})).await.http(), 204);
    assert_eq!(mount.read("accounts/a").await.data()["owner"].as_str().map(str::len), Some(owner.len()));
    host.stop().await;

    let host = Host::start(Launch::astra()).await;
    let mount = host.mount().await;
    // The engine must decide whether a request is too large. The transport must not refuse it with a gRPC status.
    let status = mount.write("config", json!({"org_id": "x", "url": owner})).await.http();
    assert!((400..500).contains(&status), "{status}");
    assert_eq!(mount.call("help", "", &Value::Null).await.http(), 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_a_list_of_large_records_adds_at_most_48_mib() {
    for metadata in [json!({"note": "x".repeat(64 << 10)}), pairs()] {
        let host = Host::start(Launch::astra()).await;
        let mount = host.mount().await;
        let record = json!({"token_id": "x", "role_name": "reader", "metadata": metadata}).to_string();
        for n in 0..1000 {
            mount.storage.insert(&format!("client/org/ID{n:04}"), record.as_bytes());
        }
        let before = peak(&host);
        let listed = mount.list("org/tokens").await;
        assert_eq!(listed.data()["keys"].as_array().map(Vec::len), Some(1000));
        let grown = (peak(&host) - before) >> 10;
        assert!(grown <= 48, "the list added {grown} MiB");
        host.stop().await;
    }
}

/// Metadata of 64 KiB in short pairs.
fn pairs() -> Value {
    (0..8000).map(|n| (format!("k{n:04}"), json!("abc"))).collect()
}

/// Returns the highest memory use of the plugin so far, in KiB.
fn peak(host: &Host) -> u64 {
    let pid = host.plugin.pid().as_raw_pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the plugin");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_hosts_can_read_each_line_on_stderr() {
    let mut host = Host::start(Launch::passbook().env("BAO_LOG_LEVEL", "trace")).await;
    let mount = host.mount().await;
    let texts = [
        "plain".to_owned(),
        "two\nlines\r\nand a \u{0} and a \u{7f} and \"quotes\" and \\".to_owned(),
        r#"{"@message":5,"@level":null,"@timestamp":[]}"#.to_owned(),
        "[ERROR] not one".to_owned(),
        "ü".repeat(50 * 1024),
        "\u{1}".repeat(100 * 1024),
        "x".repeat(100 * 1024),
    ];
    for text in &texts {
        for errand in ["log", "panic"] {
            let reply = mount.write(&format!("teller/{errand}"), json!({"text": text})).await;
            assert_eq!(reply.http(), if errand == "log" { 204 } else { 500 });
        }
    }
    let hostile = host.plugin.logged(|line| line["@message"].as_str().unwrap().contains("hostile")).await;
    assert_eq!(hostile["@level"], "warn");
    let panicked = host
        .plugin
        .logged(|line| {
            line["@level"] == "error" && line.values().any(|v| v.as_str().is_some_and(|text| text.contains("plain")))
        })
        .await;
    assert!(panicked["@message"].as_str().unwrap().contains("panic"), "the log line does not say that it is a panic");
    // Stopping also checks every line.
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_a_killed_plugin_has_written_the_lines_of_each_answered_request() {
    for n in 0..5 {
        let mut host = Host::start(Launch::passbook()).await;
        let mount = host.mount().await;
        let text = format!("line {n}");
        assert_eq!(mount.write("teller/log", json!({"text": text})).await.http(), 204);
        host.plugin.signal(Signal::KILL);
        host.plugin.exit(Duration::from_secs(10)).await;
        host.plugin.logged(|line| line["@message"] == text.as_str()).await;
        host.plugin.check_output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_only_the_request_that_panics_fails() {
    let mut host = Host::start(Launch::passbook()).await;
    let (one, other) = (host.mount().await, host.mount().await);
    other.write("accounts/a", json!({"owner": "x"})).await;
    let slow = one.write("teller/sleep", json!({"milliseconds": 300}));
    let panic = async {
        host.plugin.logged(|line| line["@message"] == "sleeps").await;
        one.write("teller/panic", json!({"text": "the text of a panic"})).await
    };
    let (slow, panicked) = tokio::join!(slow, panic);
    assert_eq!(slow.http(), 204);
    assert_eq!((panicked.http(), panicked.error_type()), (500, Some(2)));
    assert!(!panicked.error().contains("the text of a panic"), "the caller sees the text of the panic");
    assert_eq!(one.list("accounts").await.http(), 404);
    assert_eq!(other.read("accounts/a").await.http(), 200);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p42_an_unread_log_blocks_no_request_and_no_shutdown() {
    let mut host = Host::start(Launch::passbook()).await;
    let mount = host.mount().await;
    let text = json!({"text": "x".repeat(30 * 1024)});
    // Much more than a pipe and a reasonable queue can hold.
    let fill = async || {
        for _ in 0..500 {
            assert_eq!(mount.call("update", "teller/log", &text).await.http(), 204);
        }
    };
    host.plugin.hold_stderr(true);
    fill().await;
    host.plugin.hold_stderr(false);
    let lost = host.plugin.logged(|line| line["@message"].as_str().unwrap().contains("dropped")).await;
    assert_eq!(lost["@level"], "warn");

    host.plugin.hold_stderr(true);
    fill().await;
    host.shutdown().await.expect("Shutdown");
    // A host waits this long before it kills. The pipe is read to its end, so the last line may be incomplete.
    assert!(host.plugin.exit(Duration::from_secs(2)).await.success());
    host.plugin.check_cut_output();
}

const ROOT: &str = "AstraCS:qHxZdWkLpVbNcRtYsMfG:0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const DIGEST: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const PIN: &str = "pin-7318-5520";

/// Secrets of the environment that a plugin inherits from its server.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("VAULT_TOKEN", "hvs.environmentTokenOfTheServer"),
    ("BAO_TOKEN", "s.environmentTokenOfTheOtherServer"),
    ("AWS_SECRET_ACCESS_KEY", "environmentKeyOfTheCloud"),
    ("HTTPS_PROXY", "http://someone:environmentPasswordOfTheProxy@127.0.0.1:1"),
];

const SECRETS: [&str; 4] = [ROOT, DIGEST, PIN, "environmentPasswordOfTheProxy"];

/// Makes a plugin log everything. The host then fails if a secret is on stdout or stderr.
fn with_trace_log(mut launch: Launch) -> Launch {
    launch = launch.env("BAO_LOG_LEVEL", "trace").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    for (name, value) in ENVIRONMENT {
        launch = launch.env(name, value).secret(value);
    }
    SECRETS.iter().fold(launch, |launch, secret| launch.secret(secret))
}

/// Returns the engine's answers to requests with secrets. Some requests succeed, the others fail in every way.
async fn answers_of_the_engine() -> Vec<Reply> {
    let mut shown = Vec::new();
    let org = "2dc8ba1f-5a4e-4a0e-8a0c-2f5f0a9f4b11";
    let host = Host::start(with_trace_log(Launch::astra())).await;
    let mount = host.mount().await;
    // Nobody listens at this URL. So the check of the token fails, but a write without the check succeeds.
    let config = json!({"org_id": org, "astra_token": ROOT, "url": "http://127.0.0.1:1", "logical_name": "org"});
    let mut skipped = config.clone();
    skipped["verify_connection"] = json!(false);
    let garbled = json!({"org_id": {"x": ROOT}, "astra_token": [ROOT], "url": ROOT, "caller_mode": ROOT, "request_timeout": ROOT});
    for data in [&config, &skipped, &garbled, &config] {
        shown.push(mount.write("config", data.clone()).await);
        shown.push(mount.call("patch", "config", data).await);
    }
    for (operation, path) in [
        ("read", "config"),
        ("list", "configs/"),
        ("read", "org/token"),
        ("update", "config/rotate-root"),
        ("read", "creds/org/r"),
        ("delete", "config"),
    ] {
        for fault in [StorageFault::None, StorageFault::Error("barrier is sealed")] {
            mount.storage.fail(fault);
            shown.push(mount.call(operation, path, &json!({"org_id": org, "role_name": "r"})).await);
        }
    }
    shown.push(mount.call("help", "", &json!({"astra_token": ROOT})).await);
    host.stop().await;
    shown
}

/// Returns the answers of the example engine, whose fields have every type, to requests with a secret.
async fn answers_of_the_example() -> Vec<Reply> {
    let mut shown = Vec::new();
    let host = Host::start(with_trace_log(Launch::passbook())).await;
    let mount = host.mount().await;
    shown.push(mount.write("accounts/a", json!({"owner": "x", "pin": PIN})).await);
    shown.push(mount.read("accounts/a").await);
    for field in ["limit", "rate", "active", "grace", "labels", "branches", "terms"] {
        let data = json!({"owner": "x", field: PIN});
        shown.push(mount.call("update", "accounts/a", &data).await);
        shown.push(mount.call("update", "accounts/a", &json!({field: [[PIN]]})).await);
        let existence = mount.exists("accounts/a", &data).await;
        assert!(existence.err.is_none_or(|err| !err.err_msg.contains(PIN)), "the existence check shows {field}");
    }
    // A stored value of the wrong type.
    mount.storage.insert("accounts/b", format!(r#"{{"owner": {{"{PIN}": 1}}}}"#).as_bytes());
    shown.push(mount.read("accounts/b").await);
    host.stop().await;
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn p43_no_secret_is_on_stdout_or_stderr_or_in_an_answer() {
    for (engine, answers) in
        [("the engine", answers_of_the_engine().await), ("the example", answers_of_the_example().await)]
    {
        for (number, reply) in answers.iter().enumerate() {
            let data = reply.response.as_ref().map(|response| response.data.clone()).unwrap_or_default();
            let text = format!("{data} {} {:?}", reply.error(), reply.warnings());
            for (which, secret) in SECRETS.into_iter().chain(ENVIRONMENT.map(|(_, value)| value)).enumerate() {
                assert!(!text.contains(secret), "secret {which} is in answer {number} of {engine}");
            }
        }
    }
}
