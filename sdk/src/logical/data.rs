//! The JSON that requests, responses and leases carry.

use std::sync::Arc;

use serde_json::Value;

/// A JSON object.
pub type Map = serde_json::Map<String, Value>;

/// The data of a response as JSON text. An engine can keep the text of data that seldom changes, and answer many requests
/// with it. It has no `Debug`, because the data may hold secrets.
#[derive(Clone)]
pub struct DataText(Arc<str>);

impl DataText {
    /// Writes the data.
    pub fn new(data: Map) -> Self {
        Self(response_text(data).into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the JSON text of an object. `Display` would check each part of the text for UTF-8 and copy it once more.
pub(crate) fn text(data: &Map) -> String {
    // Fails only for types that are no JSON.
    serde_json::to_string(data).unwrap_or_default()
}

/// Returns the JSON text of the data of a response. If `error` is not a string, the host stops handling the request
/// (OpenBao `response.go`, `Error`).
pub(crate) fn response_text(mut data: Map) -> String {
    let is_error = data.len() == 1 || (data.len() == 2 && data.contains_key("data"));
    if let Some(error) = data.get_mut("error").filter(|error| is_error && !error.is_string()) {
        *error = Value::String(error.to_string());
    }
    text(&data)
}
