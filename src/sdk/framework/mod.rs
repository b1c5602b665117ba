//! What engines are written with: paths declared once, from which routing, field coercion, warnings, help, OpenAPI,
//! existence checks and patch all follow; secret types with renew and revoke; a write-ahead log.
//!
//! ```text
//! request -> Backend::handle -> renew/revoke: SecretType
//!                            -> rollback:     periodic, then each WalKind
//!                            -> help:         help + openapi
//!                            -> else:         first matching Path -> Fields -> handler -> warnings
//! ```
//!
//! Architecture invariant: everything a user can learn about a path is derived from its one declaration.

mod backend;
mod coerce;
mod duration;
mod field;
mod fields;
mod help;
mod openapi;
mod path;
mod pattern;
#[cfg(test)]
mod sample;
mod secret;
mod wal;

pub use backend::Backend;
pub use duration::{format_duration, parse_duration};
pub use field::{Field, FieldKind, FieldSpec, FieldType, FieldValue};
pub use fields::{Change, Fields};
pub use path::{Call, Handler, Path};
pub use secret::{LeaseCall, SecretType};
pub use wal::{Wal, WalEntry, WalKind};
