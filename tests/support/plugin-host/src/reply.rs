//! A reply of the plugin, read as a host reads it.

use serde_json::{Map, Value};

use super::pb::pb;
use super::storage::READ_ONLY;

/// The reply to a request. It exists only if it follows the rules of every host.
pub struct Reply {
    operation: String,
    pub response: Option<pb::Response>,
    pub err: Option<pb::ProtoError>,
}

impl Reply {
    /// Reads a reply. Panics if the reply would break a host, or if its error would be lost.
    pub fn new(operation: &str, reply: pb::HandleRequestReply) -> Self {
        let reply = Self { operation: operation.into(), response: reply.response, err: reply.err };
        reply.check();
        reply
    }

    /// Returns the HTTP status that OpenBao returns to the client (`sdk/logical/response_util.go`,
    /// `sdk/plugin/pb/translation.go`).
    pub fn http(&self) -> u16 {
        if let Some(err) = &self.err {
            return match err.err_type {
                0 if self.response.is_some() => 400,
                3 => err.err_code.try_into().unwrap(),
                4 | 7 => 400,
                5 => 405,
                6 => 404,
                8 => 403,
                _ => 500,
            };
        }
        let lists = matches!(self.operation.as_str(), "list" | "scan");
        match &self.response {
            None if lists || matches!(self.operation.as_str(), "read" | "header") => 404,
            None => 204,
            Some(_) if self.error_response().is_some() => 400,
            Some(response) if lists && response.warnings.is_empty() && is_empty_list(&self.data()) => 404,
            Some(_) => 200,
        }
    }

    /// Returns the error text that the caller sees. Empty if there is none.
    pub fn error(&self) -> String {
        let fixed = |err: &pb::ProtoError| err.err_msg.clone();
        self.error_response().or_else(|| self.err.as_ref().map(fixed)).unwrap_or_default()
    }

    /// Whether a host would forward the request to the active node.
    pub fn is_forwarded(&self) -> bool {
        self.err.as_ref().is_some_and(|err| err.err_type == 0 && err.err_msg.contains(READ_ONLY))
    }

    /// Returns the type of the error, or `None` if there is none.
    pub fn error_type(&self) -> Option<u32> {
        self.err.as_ref().map(|err| err.err_type)
    }

    /// Returns the data of the response.
    pub fn data(&self) -> Value {
        let response = self.response.as_ref().unwrap_or_else(|| panic!("no response: {}", self.error()));
        serde_json::from_str(&response.data).expect("JSON in data")
    }

    /// Returns the warnings of the response.
    pub fn warnings(&self) -> &[String] {
        self.response.as_ref().map(|response| response.warnings.as_slice()).unwrap_or_default()
    }

    /// Returns the lease of the response.
    pub fn secret(&self) -> &pb::Secret {
        let response = self.response.as_ref().unwrap_or_else(|| panic!("no response: {}", self.error()));
        response.secret.as_ref().expect("a lease")
    }

    /// Returns the internal data of the lease.
    pub fn internal_data(&self) -> Map<String, Value> {
        serde_json::from_str(&self.secret().internal_data).expect("a JSON object in internal_data")
    }

    fn error_response(&self) -> Option<String> {
        let data: Value = serde_json::from_str(&self.response.as_ref()?.data).ok()?;
        let data = data.as_object()?;
        let only = data.keys().all(|key| key == "error" || key == "data");
        data.get("error").filter(|_| only).map(|error| error.as_str().expect("a string in error").to_owned())
    }

    fn check(&self) {
        if let Some(response) = &self.response {
            let data: Value = serde_json::from_str(&response.data).expect("valid JSON in data");
            assert!(data.is_object() || data.is_null(), "data is neither an object nor null");
            drop(self.error_response());
            if let Some(keys) = data.get("keys").filter(|_| self.operation == "list") {
                assert!(
                    keys.as_array().expect("keys is an array").iter().all(Value::is_string),
                    "a key is not a string"
                );
            }
            if let Some(secret) = &response.secret {
                let internal: Value = serde_json::from_str(&secret.internal_data).expect("valid JSON in internal_data");
                assert!(internal.is_object(), "internal_data is not an object");
                let options = secret.lease_options.as_ref().expect("lease options");
                assert!(options.issue_time.is_some(), "no issue_time");
                assert_eq!(secret.lease_id, "", "the plugin set a lease id");
            }
        }
        if let Some(err) = &self.err {
            assert!(err.err_type <= 10, "the host reads error type {} as success", err.err_type);
            if err.err_type == 3 {
                assert!((400..600).contains(&err.err_code), "coded error with status {}", err.err_code);
                assert!(self.response.is_none(), "a coded error together with a response");
            }
        }
    }
}

fn is_empty_list(data: &Value) -> bool {
    match data.as_object() {
        None => true,
        Some(data) => data.is_empty() || data.get("keys").and_then(Value::as_array).is_some_and(Vec::is_empty),
    }
}
