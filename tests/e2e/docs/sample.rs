//! Captures the samples of the reference: makes each call with the CLI and with HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::page::agrees;
use super::shell::{Ran, Shell};
use super::speaks_as_documented;
use crate::bao::{Reply, redact};
use crate::servers::on_vault;
use crate::world::World;

/// The API reference.
pub(super) const API: &str = "docs/api.md";

/// The verb of the CLI and the method of each operation.
const METHODS: [(&str, &str); 5] =
    [("read", "GET"), ("write", "POST"), ("patch", "PATCH"), ("delete", "DELETE"), ("list", "LIST")];

/// A call: the verb of the CLI, the path, the parameters.
pub(super) struct Call<'a>(pub(super) &'a str, pub(super) &'a str, pub(super) &'a [(&'a str, Value)]);

/// Makes calls, and keeps their samples.
pub(super) struct Recorder {
    pub(super) world: World,
    pub(super) shell: Shell,
    /// The findings, each with the name of its place in the document.
    found: BTreeMap<String, String>,
}

impl Recorder {
    pub(super) fn new(world: World) -> Self {
        let shell = Shell::new(&world.server, &world.mount, world.url());
        Self { world, shell, found: BTreeMap::new() }
    }

    /// Shows `name` in place of a value: `$NAME` in commands, `<name>` in answers.
    pub(super) fn mask(&mut self, value: &str, name: &str) {
        self.shell.mask(value, name);
    }

    /// Makes a call with the CLI, runs `between`, then makes the call with HTTP. Returns the HTTP response.
    pub(super) fn sample(&mut self, name: &str, call: &Call, between: impl FnOnce(&mut Self)) -> Value {
        let line = cli(call);
        let (_, told) = self.tell(&line);
        let mut text = format!("```console\n$ {}\n{told}```\n\n", self.command(&line));
        between(self);

        let reply = self.send(call);
        assert!(reply.status < 300, "{name}\n{reply}");
        let body = self.answered(call, reply, &mut text);
        self.found.insert(format!("seen: {name}"), text);
        body
    }

    /// Runs a command, which must succeed. Returns its output, without and with masks.
    #[track_caller]
    pub(super) fn tell(&mut self, line: &str) -> (Ran, String) {
        let ran = self.shell.run(line);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 0, "{line}\n{}", redact::clean(&told));
        self.learn(&told);
        let told = self.shell.masks.output(&told);
        (ran, told)
    }

    /// Makes a call with the CLI, then the same call with HTTP.
    pub(super) fn twice(&mut self, name: &str, call: &Call) -> Value {
        self.sample(name, call, |_| {})
    }

    fn answered(&mut self, call: &Call, reply: Reply, text: &mut String) -> Value {
        let (status, body) = (reply.status, reply.body);
        self.learn(&body.to_string());
        let line = curl(call);
        let (command, data) = line.split_once(" -d ").unwrap_or((&line, ""));
        let data = if data.is_empty() { String::new() } else { format!(" \\\n    -d {}", self.answer(data)) };
        let _ = write!(text, "```console\n$ {}{data}\n```\n\n", self.command(command));
        let shown = shown(&body);
        if shown.as_object().is_none_or(Map::is_empty) {
            let _ = writeln!(text, "Response: {status}");
        } else {
            let json = serde_json::to_string_pretty(&shown).expect("JSON");
            let _ = write!(text, "Response: {status}\n\n```json\n{}\n```\n", self.answer(&json));
        }
        body
    }

    /// Makes calls that must fail, and adds a table of the errors. Each call has a text that names the mistake.
    pub(super) fn error_table(&mut self, name: &str, calls: &[(&str, Call)]) {
        let place = format!("seen: errors of {name}");
        let head = "| request | status | error |\n| --- | --- | --- |\n";
        for (what, call) in calls {
            let reply = self.send(call);
            assert!(reply.status >= 400, "{name}: {what}\n{reply}");
            // The server prints several errors on several lines.
            let errors = reply.errors().split_whitespace().collect::<Vec<_>>().join(" ");
            let errors = errors.trim_start_matches("1 error occurred: * ").replace('|', "\\|");
            let errors = if errors.is_empty() { "none".to_owned() } else { format!("`{}`", self.answer(&errors)) };
            let row = format!("| {} {what} | {} | {errors} |\n", call.0, reply.status);
            self.found.entry(place.clone()).or_insert_with(|| head.to_owned()).push_str(&row);
        }
    }

    fn send(&self, Call(verb, path, parameters): &Call) -> Reply {
        let method = METHODS.iter().find(|(name, _)| name == verb).expect("a verb of the CLI").1;
        let path = if path.starts_with("sys/") { (*path).to_owned() } else { self.world.at(path) };
        let mut body = json!({});
        for (name, value) in *parameters {
            body[*name] = value.clone();
        }
        if path.ends_with("/config") && body.get("astra_token").is_some() {
            body["url"] = self.world.url().into();
        }
        match method {
            "POST" | "PATCH" => self.world.server.http(method, &path, &body),
            _ => self.world.server.http(method, &format!("{path}{}", query(parameters)), &Value::Null),
        }
    }

    /// Masks the tokens, client ids and lease ids of a response.
    pub(super) fn learn(&mut self, text: &str) {
        let text = self.shell.documented(text);
        self.shell.masks.learn(&text).into_iter().for_each(redact::hide);
    }

    pub(super) fn command(&self, text: &str) -> String {
        self.shell.masks.command(&self.shell.documented(text))
    }

    fn answer(&self, text: &str) -> String {
        self.shell.masks.text(&self.shell.documented(text))
    }

    /// Adds a finding that is not a sample.
    pub(super) fn put(&mut self, place: String, text: String) {
        self.found.insert(place, text);
    }

    /// Compares the document with all findings, or writes the findings into it.
    pub(super) fn compare(self) {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md")).expect("the reference");
        for place in text.lines().filter_map(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->")) {
            let known = self.found.contains_key(place) || place == "end" || !place.contains(": ");
            assert!(known, "{API} has the place {place:?}, but no test fills it");
        }
        let comparable = speaks_as_documented(API);
        for (place, found) in self.found {
            self.world.assert_no_secret(&place, &found);
            if place.starts_with("seen: ") && !comparable {
                continue;
            }
            if place == "seen: lease lookup" && on_vault("lease lookup") {
                assert!(!found.contains("path  ") && !found.contains("\"path\""), "{found}");
                continue;
            }
            agrees(API, &format!("<!-- {place} -->\n"), "<!-- end -->", &found, "docs::reference");
        }
    }
}

/// Returns the members of a response that are not null, false, 0 or empty.
fn shown(body: &Value) -> Value {
    let silent = |value: &Value| value.is_null() || *value == json!(false) || *value == json!("") || *value == json!(0);
    let members = body.as_object().into_iter().flatten();
    let more = |name: &str| name == "mount_type" && on_vault("type of the mount");
    members
        .filter(|(name, value)| *name != "request_id" && !silent(value) && !more(name))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the parameters for the CLI and for queries: each pair is a parameter.
fn flat(parameters: &[(&str, Value)]) -> Vec<(String, String)> {
    let each = |(name, value): &(&str, Value)| match value {
        Value::Object(pairs) => {
            pairs.iter().map(|(key, value)| ((*name).to_owned(), format!("{key}={}", text_of(value)))).collect()
        }
        value => vec![((*name).to_owned(), text_of(value))],
    };
    parameters.iter().flat_map(each).collect()
}

/// Returns the command of the CLI. Its lists have no parameters.
fn cli(Call(verb, path, parameters): &Call) -> String {
    let mount = if path.starts_with("sys/") { "" } else { "astra/" };
    if *verb == "list" {
        return format!("vault list {mount}{path}");
    }
    let word = |(name, value): (String, String)| match value
        .contains(|c: char| !c.is_ascii_alphanumeric() && !"_-=.".contains(c))
    {
        true => format!(" {name}='{value}'"),
        false => format!(" {name}={value}"),
    };
    let flag = if *verb == "write" && parameters.is_empty() { " -force" } else { "" };
    format!("vault {verb}{flag} {mount}{path}{}", flat(parameters).into_iter().map(word).collect::<String>())
}

/// Returns the same call as a command of curl.
fn curl(Call(verb, path, parameters): &Call) -> String {
    let method = METHODS.iter().find(|(name, _)| name == verb).expect("a verb of the CLI").1;
    let mount = if path.starts_with("sys/") { "" } else { "astra/" };
    let start = format!("curl -H \"X-Vault-Token: $VAULT_TOKEN\" -X {method}");
    let url = format!("$VAULT_ADDR/v1/{mount}{path}");
    match method {
        "POST" | "PATCH" => {
            let body: Map<String, Value> =
                parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            let media = match method {
                "PATCH" => " -H \"Content-Type: application/merge-patch+json\"",
                _ => "",
            };
            let data = if body.is_empty() { String::new() } else { format!(" -d '{}'", Value::Object(body)) };
            format!("{start}{media} \\\n    \"{url}\"{data}")
        }
        _ => {
            let url = format!("{url}{}", query(parameters));
            let space = if url.len() > 70 { " \\\n    " } else { " " };
            format!("{start}{space}\"{url}\"")
        }
    }
}

fn query(parameters: &[(&str, Value)]) -> String {
    let mut text = String::new();
    for (name, value) in flat(parameters) {
        let start = if text.is_empty() { '?' } else { '&' };
        let _ = write!(text, "{start}{name}={}", value.replace('=', "%3D"));
    }
    text
}
