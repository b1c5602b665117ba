//! `metrics`: the numbers of the mount, as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex_lite::Regex;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::{ORG, ROLE_ID, ROOT, World, lease, ok, order, refused, some, status, text};
use crate::metrics::{LimitSample, OrgSample, RoleSample, Scrape};

impl World {
    /// Returns the text of `metrics`.
    pub(super) async fn metrics(&self) -> String {
        let data = some(self.read("metrics", json!({})).await).whole_data().unwrap();
        assert_eq!(data["http_status_code"], 200);
        assert_eq!(data["http_content_type"], "text/plain; version=0.0.4; charset=utf-8");
        let body = STANDARD.decode(data["http_raw_body"].as_str().unwrap()).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Returns the series and their values.
    pub(super) async fn series(&self) -> BTreeMap<String, f64> {
        let text = self.metrics().await;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let mut series = BTreeMap::new();
        for line in samples {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let earlier = series.insert(name.to_owned(), value.parse().unwrap());
            assert_eq!(earlier, None, "{name} is there twice");
        }
        series
    }
}

fn of_role(name: &str) -> String {
    format!("astra_{name}{{org=\"{ORG}\",role=\"r_w_user\"}}")
}

#[tokio::test]
async fn counters_follow_what_the_engine_did() {
    let world = World::with_role("standard").await;
    let minted = world.mint("first").await;
    world.mint("second").await;
    some(world.read("org/token", order("first")).await);
    some(world.renew(&lease(&minted), json!({})).await);
    ok(world.revoke(&lease(&minted)).await);
    refused(world.read("org/token", order("first")).await);
    world.astra.answer("POST", ResponseTemplate::new(429));
    world.mint("limited").await;
    world.astra.answer_all("POST", ResponseTemplate::new(500));
    status(world.write("org/token", order("failed")).await);
    world.astra.heal();

    let series = world.series().await;
    let value = |name: &str| series.get(name).copied();
    for (name, count) in
        [("mints_total", 3.0), ("reads_total", 1.0), ("renewals_total", 1.0), ("revocations_total", 1.0)]
    {
        assert_eq!(value(&of_role(name)), Some(count), "{name}");
    }
    assert_eq!(value("astra_failures_total{kind=\"refused\"}"), Some(1.0));
    assert_eq!(value("astra_failures_total{kind=\"server_failed\"}"), Some(1.0));
    for (route, result, count) in [
        ("mint", "2xx", 3.0),
        ("mint", "429", 1.0),
        ("mint", "5xx", 1.0),
        ("delete", "2xx", 1.0),
        ("list_roles", "2xx", 0.0),
    ] {
        let name = format!("astra_calls_total{{result=\"{result}\",route=\"{route}\"}}");
        assert_eq!(value(&name), Some(count), "{name}");
    }
    assert_eq!(value("astra_call_duration_seconds_count{route=\"mint\"}"), Some(5.0));
    assert_eq!(value("astra_call_duration_seconds_bucket{route=\"mint\",le=\"+Inf\"}"), Some(5.0));
    assert!(value("astra_queue_wait_seconds_count").unwrap() >= 6.0);
    assert_eq!(value(&format!("astra_org_rate_limited_total{{org=\"{ORG}\"}}")), Some(1.0));
    assert_eq!(value(&format!("astra_org_state{{org=\"{ORG}\",state=\"failing\"}}")), Some(1.0));
    assert_eq!(value("astra_orgs{state=\"failing\"}"), Some(1.0));
    assert_eq!(value("astra_active"), Some(1.0));
    let build = format!("astra_build_info{{version=\"{}\",commit=\"unknown\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&build), Some(1.0));
}

#[tokio::test]
async fn no_label_holds_a_client_id_a_token_name_or_a_secret() {
    let world = World::with_role("standard").await;
    let minted = world.mint("checkout-service").await;
    world.astra.answer_all("POST", ResponseTemplate::new(403).set_body_json(format!("{ROOT} is dead")));
    status(world.write("org/token", order("checkout-service-2")).await);
    ok(world.revoke(&lease(&minted)).await);
    let shown = world.metrics().await;
    for secret in
        [&text(&minted, "clientId"), &text(&minted, "token"), "checkout", "AstraCS", "s3cret", "608ba9", "token-bob"]
    {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}

#[tokio::test]
async fn names_with_any_character_are_escaped() {
    let world = World::with_role("standard").await;
    let org = "a \"quoted\" \\ label";
    let config = json!({"org_id": org, "astra_token": ROOT, "url": world.astra.url(), "verify_connection": false});
    ok(world.write("config", config).await);
    let series = world.series().await;
    assert!(series.contains_key(r#"astra_org_state{org="a \"quoted\" \\ label",state="unknown"}"#));
}

#[tokio::test]
async fn ten_thousand_orgs_have_a_bounded_number_of_series() {
    let world = World::with_orgs(10_000).await;
    some(world.read("creds/retailOrg/r_w_user", json!({})).await);
    for n in 0..3 {
        let role = json!({"org_id": format!("org-{:05}", 9_000 + n), "role_name": "reader", "role_id": ROLE_ID});
        ok(world.write("role", role).await);
    }
    let series = world.series().await;
    println!("10,001 orgs: {} series, {} bytes", series.len(), world.metrics().await.len());
    assert!(series.len() < 15_000, "{} series", series.len());
    assert_eq!(series.get("astra_orgs_without_series"), Some(&9_001.0));
    assert_eq!(series.get("astra_orgs{state=\"unknown\"}"), Some(&10_000.0));
    // The first org that minted has its own series.
    assert_eq!(series.get(&of_role("mints_total")), Some(&1.0));
    some(world.read("creds/name9000/reader", json!({})).await);
    some(world.read("creds/name9001/reader", json!({})).await);
    let series = world.series().await;
    assert_eq!(series.get("astra_mints_total{org=\"(other)\",role=\"(other)\"}"), Some(&2.0));
}

#[tokio::test]
async fn a_deleted_org_loses_its_series() {
    let world = World::with_role("standard").await;
    some(world.read("creds/retailOrg/r_w_user", json!({})).await);
    assert!(world.metrics().await.contains(ORG));
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let shown = world.metrics().await;
    assert!(!shown.contains(ORG) && shown.contains("astra_orgs_without_series 0"), "{shown}");
}

#[tokio::test]
async fn a_role_with_a_limit_shows_how_full_it_is() {
    let world = World::with_role("standard").await;
    world.write_role(json!({"ttl": 3600, "max_tokens": 3})).await;
    for _ in 0..2 {
        some(world.read("creds/retailOrg/r_w_user", json!({})).await);
    }
    let series = world.series().await;
    assert_eq!(series.get(&of_role("role_tokens")), Some(&2.0));
    assert_eq!(series.get(&of_role("role_max_tokens")), Some(&3.0));
}

/// Returns numbers of every kind.
fn complete() -> Scrape {
    let (org, role) = (ORG.to_owned(), "reader".to_owned());
    Scrape {
        build: ["3.0.0".to_owned(), "unknown".to_owned()],
        started_at: 1_790_000_000,
        is_active: true,
        states: vec![("ok", 1)],
        failures: vec![("refused", 1)],
        wal: vec![("token-mint".to_owned(), 1)],
        oldest_wal: Some(60),
        next_root_expiry: Some(1_800_000_000),
        next_root_expiry_without_rotation: Some(1_800_000_000),
        next_root_rotation: Some(1_799_000_000),
        orgs: vec![OrgSample {
            org: org.clone(),
            state: "ok",
            last_success: Some(1_790_000_060),
            tokens: Some(2),
            root_created: Some(1_780_000_000),
            root_expires: Some(1_800_000_000),
            next_root_rotation: Some(1_799_000_000),
            ..OrgSample::default()
        }],
        roles: vec![RoleSample { org: org.clone(), role: role.clone(), counts: [2, 0, 1, 0] }],
        limits: vec![LimitSample { org, role, live: 2, max: 5 }],
        ..Scrape::default()
    }
}

#[test]
fn each_kind_of_number_has_its_series() {
    insta::assert_snapshot!("metrics", complete().into_text().unwrap());
}

/// Returns the labels of each series name.
fn labels(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sample = Regex::new(r"^([a-z_]+)(?:\{(.*)\})? \S+$").unwrap();
    let label = Regex::new("([a-z_]+)=\"").unwrap();
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let found = sample.captures(line).unwrap_or_else(|| panic!("no sample: {line}"));
        let names = found.get(2).map_or("", |labels| labels.as_str());
        let names = label.captures_iter(names).map(|name| name[1].to_owned());
        known.entry(found[1].to_owned()).or_default().extend(names);
    }
    known
}

/// Fails if an expression has a series or a label that `metrics` does not have. Every label of a grouping or a matcher must
/// belong to one of the series of the expression.
fn check_expression(expression: &str, known: &BTreeMap<String, BTreeSet<String>>) {
    // Labels that Prometheus itself adds.
    let mut labels: BTreeSet<&str> = ["instance", "job"].into();
    let series = Regex::new("\\bastra_[a-z_]+").unwrap();
    let mut is_used = false;
    for name in series.find_iter(expression) {
        let of_series = known.get(name.as_str()).unwrap_or_else(|| panic!("no series {}: {expression}", name.as_str()));
        labels.extend(of_series.iter().map(String::as_str));
        is_used = true;
    }
    assert!(is_used || expression.starts_with("up{"), "no series of the engine: {expression}");
    let matchers = Regex::new("([a-z_]+) *(?:=~|!~|!=|=) *\"").unwrap();
    let groups = Regex::new(r"\b(?:by|on|without|ignoring|group_left) *\(([^)]*)\)").unwrap();
    let grouped = groups.captures_iter(expression).flat_map(|group| {
        group
            .get(1)
            .map_or("", |names| names.as_str())
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect::<Vec<_>>()
    });
    let matched = matchers.captures_iter(expression).filter_map(|label| label.get(1)).map(|label| label.as_str());
    for label in matched.chain(grouped) {
        assert!(labels.contains(label), "no label {label}: {expression}");
    }
}

/// Returns all values of a member, at any depth.
fn members<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| members(value, name, found)),
        Value::Object(object) => {
            found.extend(object.get(name).and_then(Value::as_str));
            object.values().for_each(|value| members(value, name, found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_use_series_that_exist() {
    let known = labels(&complete().into_text().unwrap());
    let types =
        |text: &str| text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>();
    let world = World::with_role("standard").await;
    assert_eq!(types(&world.metrics().await), types(&complete().into_text().unwrap()));

    let dashboard: Value = serde_json::from_str(include_str!("../../docs/examples/monitoring/dashboard.json")).unwrap();
    let (mut expressions, mut queries) = (Vec::new(), Vec::new());
    members(&dashboard, "expr", &mut expressions);
    members(&dashboard, "query", &mut queries);
    let panels = dashboard["panels"].as_array().unwrap();
    let is_graph = |panel: &&Value| panel["type"] != "row";
    assert!(expressions.len() >= panels.iter().filter(is_graph).count(), "a panel has no expression");
    let variable = Regex::new(r"\$(\w+|\{\w+\})").unwrap();
    for expression in expressions.iter().chain(queries.iter().filter(|query| query.contains("astra_"))) {
        check_expression(&variable.replace_all(expression, "x"), &known);
    }
    let rules = include_str!("../../docs/examples/monitoring/rules.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(alerts.len() >= 8 && rules.matches("- alert: ").count() == alerts.len(), "{alerts:?}");
    alerts.iter().for_each(|alert| check_expression(alert, &known));
}
