//! The JSON that requests, responses and leases carry.

/// A JSON object.
pub type Map = serde_json::Map<String, serde_json::Value>;
