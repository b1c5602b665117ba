//! Responses of a backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::data::{DataText, Map};
use super::error::Error;
use super::lease::Secret;

/// The result of a handler: a response, nothing (404 on a read or list, 204 on a write, patch or delete), or an error.
pub type Answer = Result<Option<Response>, Error>;

/// The response to a successful request. It has no `Debug`, because `data` may hold secrets.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Response {
    /// The data shown to the caller; `None` is JSON `null`. Parts that are text already are not in it: see
    /// [`Response::whole_data`].
    ///
    /// The host reads numbers as 64-bit floats: send integers above 2^53 as strings.
    pub data: Option<Map>,
    pub(crate) written: Written,
    /// The lease that the host creates for this response.
    pub secret: Option<Secret>,
    /// Warnings, shown to the caller with the data.
    pub warnings: Vec<String>,
    /// Response headers. The client sees only headers that the mount lists in `allowed_response_headers`.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Runs if the caller hangs up while the response travels.
    pub undelivered: Option<Undelivered>,
}

/// Data that is JSON text already. It goes to the host as it is, so large or unchanging data does not become a tree of
/// values for each response.
#[derive(Clone, Default)]
pub(crate) enum Written {
    #[default]
    Nothing,
    /// A member that is added to `data`: its name, and the text of its value.
    Member(&'static str, String),
    /// The whole data. `data` is not used.
    Whole(DataText),
}

/// Takes back the effect of a request whose response nobody received. Clones share it.
#[derive(Clone)]
pub struct Undelivered(Arc<dyn Fn() + Send + Sync>);

impl Undelivered {
    /// Runs it. The SDK calls this at most once.
    pub fn run(&self) {
        (self.0)();
    }
}

impl Response {
    /// Returns a response with this data.
    pub fn new(data: Map) -> Self {
        Self { data: Some(data), ..Self::default() }
    }

    /// Returns a response with data that is text already. Leave `data` as it is: it is not used.
    pub fn of_text(data: DataText) -> Self {
        Self { written: Written::Whole(data), ..Self::default() }
    }

    /// Returns the data with the parts that are text already; `None` is JSON `null`. It parses them, so it is for tests.
    pub fn whole_data(&self) -> Option<Map> {
        match &self.written {
            Written::Nothing => self.data.clone(),
            Written::Whole(text) => serde_json::from_str(text.as_str()).ok(),
            Written::Member(name, text) => {
                let mut data = self.data.clone().unwrap_or_default();
                data.insert((*name).to_owned(), serde_json::from_str(text).unwrap_or_default());
                Some(data)
            }
        }
    }

    /// Returns a list. Without keys, the response is empty, and the host returns 404.
    pub fn list(keys: impl IntoIterator<Item = String>) -> Self {
        let keys: Vec<Value> = keys.into_iter().map(Value::String).collect();
        let data = if keys.is_empty() { Map::new() } else { Map::from_iter([("keys".into(), Value::Array(keys))]) };
        Self::new(data)
    }

    /// Returns a list with details (`key_info`) for each key. The details of each entry become text before the next entry
    /// is taken, so a long list needs little memory.
    pub fn list_with_info(entries: impl IntoIterator<Item = (String, Value)>) -> Self {
        let (mut keys, mut all) = (Vec::new(), String::new());
        for (key, info) in entries {
            all.push(if keys.is_empty() { '{' } else { ',' });
            let key = Value::String(key);
            // The texts of values never fail.
            all.push_str(&serde_json::to_string(&key).unwrap_or_default());
            all.push(':');
            all.push_str(&serde_json::to_string(&info).unwrap_or_default());
            keys.push(key);
        }
        if keys.is_empty() {
            return Self::list([]);
        }
        all.push('}');
        let data = Map::from_iter([("keys".into(), Value::Array(keys))]);
        Self { written: Written::Member("key_info", all), ..Self::new(data) }
    }

    /// Returns an HTTP answer whose body is this text and not JSON, for clients other than Vault's. It cannot have a lease.
    pub fn raw(status: u16, content_type: &str, body: &str) -> Self {
        // The host decodes base64, and a text can look like base64.
        Self::new(Map::from_iter([
            ("http_status_code".into(), json!(status)),
            ("http_content_type".into(), json!(content_type)),
            ("http_raw_body".into(), json!(STANDARD.encode(body))),
        ]))
    }

    /// Adds a warning for the caller.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// Adds warnings for the caller.
    #[must_use]
    pub fn warnings(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// Adds a value of a response header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.entry(name.into()).or_default().push(value.into());
        self
    }

    /// Asks the host to create a lease.
    #[must_use]
    pub fn lease(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// How long after the response [`on_undelivered`](Self::on_undelivered) can run its `undo`.
    pub const UNDELIVERED_WINDOW: Duration = Duration::from_secs(5);

    /// Runs `undo` if the host drops the response because the caller has hung up. The host then makes no lease. `undo`
    /// must not block: start work with the mount's [`Tasks`](crate::tasks::Tasks).
    #[must_use]
    pub fn on_undelivered(mut self, undo: impl Fn() + Send + Sync + 'static) -> Self {
        self.undelivered = Some(Undelivered(Arc::new(undo)));
        self
    }

    /// If this is an empty list with warnings, adds an empty list of keys. Without these keys, the host returns 200.
    pub(crate) fn name_no_keys(&mut self) {
        if !matches!(self.written, Written::Nothing) {
            return;
        }
        let data = self.data.get_or_insert_default();
        if data.is_empty() && !self.warnings.is_empty() {
            data.insert("keys".into(), json!([]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_a_raw_answer_is_base64() {
        let data = Response::raw(200, "text/plain", "abcd").data.map(Value::Object);
        let expected =
            json!({ "http_status_code": 200, "http_content_type": "text/plain", "http_raw_body": "YWJjZA==" });
        assert_eq!(data, Some(expected));
    }

    #[test]
    fn a_list_has_keys_or_nothing() {
        let data = |response: Response| Value::Object(response.whole_data().unwrap());
        assert_eq!(data(Response::list(["b".to_owned(), "a/".to_owned()])), json!({ "keys": ["b", "a/"] }));
        // The host returns 404 for this response, and for an empty list.
        assert_eq!(data(Response::list([])), json!({}));
        assert_eq!(data(Response::list_with_info([])), json!({}));
        assert_eq!(
            data(Response::list_with_info([("a".to_owned(), json!({ "n": 1 }))])),
            json!({ "keys": ["a"], "key_info": { "a": { "n": 1 } } })
        );
    }
}
