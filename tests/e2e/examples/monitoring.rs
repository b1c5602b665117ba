//! The files in `docs/examples/monitoring`, and a real Prometheus that scrapes a mount.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::kubernetes::YAML;
use super::{block, example, parsed, run, skip, text};
use crate::bao::wait;
use crate::creds::rule;
use crate::world::{Mode, Org, World};

const SOON: Duration = Duration::from_secs(60);

/// A mount with a token of the role `reader`.
fn mount() -> (World, Org) {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.mint(&org, "reader", "checkout");
    (world, org)
}

/// Sends a request of HTTP/1.0. Returns the head and the body of the answer.
fn get(address: &str, path: &str, token: &str) -> (String, String) {
    let host = address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("connect");
    let token = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n{token}\r\n").expect("send a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read the answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an empty line");
    (head.to_owned(), body.to_owned())
}

/// Returns a token with this policy alone.
fn token(world: &World, name: &str, policy: &str) -> String {
    let name = format!("{}-{name}", world.mount);
    world.server.post(&format!("sys/policies/acl/{name}"), &json!({"policy": policy})).ok();
    let body = json!({"policies": [name], "no_default_policy": true});
    let made = world.server.post("auth/token/create", &body).ok();
    made["auth"]["client_token"].as_str().expect("a token").to_owned()
}

fn metrics_path(world: &World) -> String {
    format!("/v1/{}/metrics", world.mount)
}

/// Returns a text of an example about this mount.
fn here(world: &World, name: &str) -> String {
    text(&format!("monitoring/{name}"))
        .replace("v1/astra/", &format!("v1/{}/", world.mount))
        .replace("path \"astra/", &format!("path \"{}/", world.mount))
}

/// Returns the folder of Prometheus' programs.
fn programs() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/prometheus.sh");
    let output = Command::new("sh").arg(script).output().expect("run sh");
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Runs promtool, which must find no fault.
#[track_caller]
fn check(programs: &Path, arguments: &[&str], input: &str) {
    let mut tool = Command::new(programs.join("promtool"))
        .args(arguments)
        .current_dir(example("monitoring"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool");
    tool.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write the input");
    let output = tool.wait_with_output().expect("wait for promtool");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
    // It can tell of a fault and succeed.
    assert!(arguments != ["check", "metrics"] || told.is_empty(), "{told}");
}

#[test]
fn metrics_are_plain_text_that_only_the_policy_opens() {
    let (world, org) = mount();
    let (address, path) = (world.server.address(), metrics_path(&world));
    let refused = |token: &str| get(address, &path, token).0;
    let other = token(&world, "other", &rule(&format!("{}/status", world.mount), "\"read\""));
    for head in [refused(""), refused(&other)] {
        assert!(head.contains(" 403 "), "{head}");
    }
    let monitoring = token(&world, "monitoring", &here(&world, "policy.hcl"));
    let (head, body) = get(address, &path, &monitoring);
    assert!(head.contains(" 200 ") && head.contains("text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let series = format!("astra_mints_total{{org=\"{}\",role=\"reader\"}} 1\n", org.id);
    assert!(body.contains(&series) && body.starts_with("# HELP astra_"), "{body}");
    world.assert_no_secret("the metrics", &body);
    assert!(!body.contains("checkout"), "{body}");

    let monitoring = world.server.with_token(&monitoring);
    let status = monitoring.get(&format!("{}/status", world.mount)).ok();
    assert_eq!(status["data"]["orgs"][&org.id]["state"], "ok");
    let checked = monitoring.get(&format!("{}/status?check=true&org_id={}", world.mount, org.id)).ok();
    assert_eq!((&checked["data"]["active"], &checked["data"]["states"]["ok"]), (&true.into(), &1.into()));
    monitoring.get(&format!("{}/configs?list=true", world.mount)).fails(403);
}

#[test]
fn the_commands_create_a_token_that_reads_the_metrics() {
    let world = World::named("astra-monitoring", crate::astra::Astra::builder().orgs(1));
    world.configured("retail", Mode::Standard);
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join("policy.hcl"), here(&world, "policy.hcl")).expect("write the policy");
    for name in ["monitoring token", "monitoring curl"] {
        let commands = block("monitoring/README.md", name).replace("v1/astra/", &format!("v1/{}/", world.mount));
        run(&world.server, &commands.replace(" astra/", &format!(" {}/", world.mount)), dir.path());
    }
}

/// A Prometheus, killed when dropped.
struct Prometheus {
    process: Child,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with the example's configuration, for this mount.
    fn start(programs: &Path, world: &World, token: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = |name: &str| dir.path().join(name).display().to_string();
        let targets = "          - vault-0.example.com:8200\n          - vault-1.example.com:8200\n          - vault-2.example.com:8200\n";
        let config = here(world, "prometheus.yml");
        assert!(config.contains(targets), "{config}");
        let target = format!("          - {}\n", world.server.address().trim_start_matches("http://"));
        let config = config
            .replace(targets, &target)
            .replace("scheme: https", "scheme: http")
            .replace("scrape_interval: 30s", "scrape_interval: 1s")
            .replace("/etc/prometheus/vault-token", &place("vault-token"));
        fs::write(place("prometheus.yml"), format!("global:\n  evaluation_interval: 1s\n{config}"))
            .expect("write a file");
        fs::write(place("rules.yml"), text("monitoring/rules.yml")).expect("write a file");
        fs::write(place("vault-token"), token).expect("write a file");
        let log = fs::File::create(place("log")).expect("create a file");
        let process = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", place("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", place("data")))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start Prometheus");
        Self { process, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Returns the address that it chose.
    fn address(&self) -> String {
        wait("Prometheus to listen", SOON, || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("\"Listening on\""))?;
            Some(line.split_once("address=")?.1.split_whitespace().next()?.to_owned())
        })
    }

    fn ask(&self, path: &str) -> Value {
        let body = get(&self.address(), path, "").1;
        serde_json::from_str(&body).unwrap_or(Value::Null)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_a_mount_and_evaluates_the_alerts() {
    let Some(programs) = programs() else { return skip("a scrape by Prometheus", "Prometheus") };
    let (world, org) = mount();
    let monitoring = token(&world, "monitoring", &here(&world, "policy.hcl"));
    check(&programs, &["check", "metrics"], &get(world.server.address(), &metrics_path(&world), &monitoring).1);
    check(&programs, &["check", "config", "--syntax-only", "prometheus.yml"], "");
    check(&programs, &["check", "rules", "rules.yml"], "");
    check(&programs, &["test", "rules", "rules_test.yml"], "");

    let prometheus = Prometheus::start(&programs, &world, &monitoring);
    let found = wait("a scraped series", SOON, || {
        let answer = prometheus.ask("/api/v1/query?query=astra_mints_total");
        Some(answer["data"]["result"].as_array()?.first()?.clone())
    });
    assert_eq!((&found["metric"]["org"], &found["metric"]["role"]), (&org.id.as_str().into(), &"reader".into()));
    assert_eq!(found["value"][1], "1", "{found}");
    // All rules were evaluated without an error.
    let rules = parsed(YAML, &text("monitoring/rules.yml"))[0]["groups"][0]["rules"].as_array().expect("rules").len();
    wait("the evaluation of the alerts", SOON, || {
        let answer = prometheus.ask("/api/v1/rules");
        let healthy = |rule: &&Value| rule["health"] == "ok";
        let known = answer["data"]["groups"][0]["rules"].as_array()?;
        (known.iter().filter(healthy).count() == rules).then_some(())
    });
}

#[test]
fn the_alerts_have_a_severity_and_a_summary_and_each_has_a_test() {
    let rules = parsed(YAML, &text("monitoring/rules.yml"));
    let tests = text("monitoring/rules_test.yml");
    for rule in rules[0]["groups"][0]["rules"].as_array().expect("rules") {
        let name = rule["alert"].as_str().expect("a name");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")), "{name}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        // In one test it fires, in another it does not.
        let is_named = |end: &str| tests.matches(&format!("alertname: {name}{end}")).count();
        assert!(is_named("\n") + is_named("}") >= 2, "{name}");
    }
}
