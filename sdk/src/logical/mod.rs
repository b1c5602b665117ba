//! Plain data and traits for backends: requests, responses, errors, leases, storage, the host's facts.
//!
//! Architecture invariant: no gRPC, no TLS and no process in here, so a backend can be tested without any of them.

mod backend;
mod data;
mod error;
mod lease;
mod request;
mod response;
mod storage;
mod system;

pub use backend::{Backend, Factory, Mount, Resolver, SpecialPaths};
pub use data::{DataText, Map};
pub(crate) use data::{response_text, text};
pub use error::Error;
pub use lease::Secret;
pub use request::{Caller, HangUp, Operation, Request, Wrap};
pub(crate) use response::Written;
pub use response::{Answer, Response, Undelivered};
pub use storage::{Entry, Storage, StorageError, StorageExt, Transaction};
pub use system::{
    Alias, Entity, Event, Group, HostVersion, IdentityToken, ReplicationState, RotationJob, SystemView, Wrapped,
};
