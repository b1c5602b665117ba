//! Plain data and traits that a backend is made of: requests, responses, errors, leases, storage, the host's facts.
//!
//! Architecture invariant: no gRPC, no TLS and no process in here, so a backend can be tested without any of them.

mod backend;
mod error;
mod lease;
mod request;
mod response;
mod storage;
mod system;

pub use backend::{Backend, Factory, Mount, SpecialPaths};
pub use error::Error;
pub use lease::Secret;
pub use request::{Caller, Operation, Request};
pub use response::Response;
pub use storage::{Entry, Storage, StorageError, StorageExt, Transaction};
pub use system::{Entity, ReplicationState, SystemView};

/// A JSON object, as requests, responses and leases carry it.
pub type Map = serde_json::Map<String, serde_json::Value>;

/// What a handler answers: a response, nothing (404 on a read or list, 204 on a write or delete), or an error.
pub type Answer = Result<Option<Response>, Error>;
