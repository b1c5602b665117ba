//! A caller of a server: address, token, namespace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::answer::{Output, Reply};

/// Runs async code for tests, which are not async.
fn block_on<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("runtime"));
    RUNTIME.block_on(future)
}

/// Returns whether a response has all the bytes that its head announces.
fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

/// A caller with a Vault token, in a namespace.
#[derive(Clone)]
pub(crate) struct Client {
    pub(super) bin: PathBuf,
    pub(super) home: PathBuf,
    pub(super) log: PathBuf,
    pub(super) address: String,
    pub(super) token: String,
    pub(super) namespace: String,
    /// Whether a standby may forward requests to the active node.
    pub(super) forwarding: bool,
}

impl Client {
    /// Returns the same caller with another Vault token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.into(), ..self.clone() }
    }

    /// Returns the same caller in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..self.clone() }
    }

    /// Returns the same caller without forwarding: a standby that cannot answer redirects this caller instead.
    pub(crate) fn without_forwarding(&self) -> Self {
        Self { forwarding: false, ..self.clone() }
    }

    /// Returns the base URL of the server.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Returns the Vault token.
    #[allow(dead_code, reason = "only the benchmarks need it")]
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Sends a request to `/v1/<path>`. Null means no body.
    pub(crate) fn http(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.try_http(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request to a server that may not run.
    pub(crate) fn try_http(&self, method: &str, path: &str, body: &Value) -> Result<Reply, reqwest::Error> {
        let text = if body.is_null() { None } else { Some(body.to_string()) };
        self.send(method, path, text)
    }

    /// Sends a request with any text as the body, JSON or not.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<String>) -> Result<Reply, reqwest::Error> {
        static HTTP: LazyLock<reqwest::Client> = LazyLock::new(|| {
            reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().expect("HTTP client")
        });
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut call = HTTP
            .request(method.parse().expect("HTTP method"), format!("{}/v1/{path}", self.address))
            .timeout(Duration::from_secs(100))
            .header("X-Vault-Token", &self.token)
            .header("X-Vault-Request", "true");
        if !self.namespace.is_empty() {
            call = call.header("X-Vault-Namespace", &self.namespace);
        }
        if !self.forwarding {
            call = call.header("X-Vault-No-Request-Forwarding", "true");
        }
        // Cut: a long body does not help in the text of a failure.
        let request = format!("{method} /v1/{path} {:.1000}", body.as_deref().unwrap_or_default());
        if let Some(body) = body {
            call = call.header("Content-Type", content_type).body(body);
        }
        let (status, text) = block_on(async {
            let response = call.send().await?;
            Ok::<_, reqwest::Error>((response.status().as_u16(), response.text().await?))
        })?;
        let body =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        Ok(Reply { request, log: self.log.clone(), status, body })
    }

    /// Sends a request without normalizing its path. Null means no body. Redirections are not followed.
    pub(crate) fn send_raw_path(&self, method: &str, path: &str, body: &Value) -> Reply {
        let host = self.address.trim_start_matches("http://");
        let sent = if body.is_null() { String::new() } else { body.to_string() };
        // In this version of HTTP, responses have no chunks. A response has a length, or ends with the connection.
        let request = format!(
            "{method} /v1/{path} HTTP/1.0\r\nHost: {host}\r\nX-Vault-Token: {}\r\nX-Vault-Request: true\r\n\
             Content-Length: {}\r\n\r\n{sent}",
            self.token,
            sent.len()
        );
        let mut stream = TcpStream::connect(host).expect("connect to the server");
        stream.set_read_timeout(Some(Duration::from_secs(100))).expect("set the socket's options");
        stream.write_all(request.as_bytes()).expect("send a request");
        let mut answer = Vec::new();
        let mut part = [0; 16 << 10];
        // Vault refuses some paths without reading the body, and then resets the connection.
        while !is_complete(&answer) {
            match stream.read(&mut part).expect("read the answer") {
                0 => break,
                length => answer.extend_from_slice(&part[..length]),
            }
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, text) = answer.split_once("\r\n\r\n").expect("an answer with a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an answer with a status");
        let parsed = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        Reply { request: format!("{method} /v1/{path} {body}"), log: self.log.clone(), status, body: parsed }
    }

    /// Sends a request, and hangs up after `patience`. Returns false if a response had started by then.
    pub(crate) fn hang_up(&self, method: &str, path: &str, body: &Value, patience: Duration) -> bool {
        let host = self.address.trim_start_matches("http://");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: {host}\r\nX-Vault-Token: {}\r\nX-Vault-Request: true\r\n\
             Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        let mut stream = TcpStream::connect(host).expect("connect to the server");
        stream.set_nodelay(true).expect("set the socket's options");
        stream.write_all(request.as_bytes()).expect("send a request");
        if patience.is_zero() {
            return true;
        }
        stream.set_read_timeout(Some(patience)).expect("set the socket's options");
        stream.read(&mut [0]).is_err()
    }

    /// Reads a path.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.http("GET", path, &Value::Null)
    }

    /// Writes to a path.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.http("POST", path, body)
    }

    /// Changes some fields of a path.
    pub(crate) fn patch(&self, path: &str, body: &Value) -> Reply {
        self.http("PATCH", path, body)
    }

    /// Deletes a path. Parameters go into the query.
    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.http("DELETE", path, &Value::Null)
    }

    /// Lists a path.
    pub(crate) fn list(&self, path: &str) -> Reply {
        self.http("LIST", path, &Value::Null)
    }

    /// Returns the keys of a list. An empty list returns 404.
    #[track_caller]
    pub(crate) fn keys(&self, path: &str) -> Vec<String> {
        let reply = self.list(path);
        if reply.status == 404 && reply.errors().is_empty() {
            return Vec::new();
        }
        let data = reply.data();
        data["keys"].as_array().expect("keys").iter().map(|key| key.as_str().expect("key").to_owned()).collect()
    }

    /// Runs the server's own CLI.
    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        let output = self.command().args(args).output().expect("run the CLI");
        Output {
            command: format!("{} {}", self.bin.display(), args.join(" ")),
            log: self.log.clone(),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns the CLI with this caller's environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.bin);
        command.env_clear().env("HOME", &self.home).env("PATH", super::search_path());
        for prefix in ["VAULT", "BAO"] {
            command.env(format!("{prefix}_ADDR"), &self.address);
            command.env(format!("{prefix}_TOKEN"), &self.token);
            // A retry would hide the result of the first request.
            command.env(format!("{prefix}_MAX_RETRIES"), "0");
            if !self.namespace.is_empty() {
                command.env(format!("{prefix}_NAMESPACE"), &self.namespace);
            }
        }
        command
    }
}
