//! Building blocks for engines. An engine declares each path once. Routing, field coercion, warnings, help, OpenAPI,
//! existence checks and patch follow from the declaration. An engine also declares its types of leases, with renew and
//! revoke, and its kinds of WAL entries.
//!
//! ```text
//! request -> Backend::handle -> renew/revoke: SecretType
//!                            -> rollback:     periodic, then the WalKind of each entry whose change is not in progress
//!                            -> help:         help + openapi
//!                            -> else:         first matching Path -> Fields -> handler -> warnings
//! ```
//!
//! A whole engine, with one path that remembers a greeting:
//!
//! ```
//! use std::sync::Arc;
//!
//! use serde_json::json;
//! use vault_plugin_sdk::framework::{Backend, Call, Field, FieldSpec, Handler, Path};
//! use vault_plugin_sdk::logical::{Answer, Factory, Map, Mount, Response, StorageExt};
//!
//! const TEXT: Field<String> = Field::string("text", "What to say.").default("hello");
//! const FIELDS: &[FieldSpec] = &[TEXT.spec()];
//!
//! async fn read(mount: Arc<Mount>, _: Call) -> Answer {
//!     let text: Option<String> = mount.storage.get_json("greeting").await?;
//!     Ok(text.map(|text| Response::new(Map::from_iter([("text".into(), json!(text))]))))
//! }
//!
//! async fn write(mount: Arc<Mount>, call: Call) -> Answer {
//!     mount.storage.put_json("greeting", &call.fields.get(&TEXT)).await?;
//!     Ok(None)
//! }
//!
//! let greeting = Path::new("greeting", FIELDS)
//!     .help("What the engine says.", "There is one greeting for each mount.")
//!     .read(Handler::new("Read the greeting", read))
//!     .write(Handler::new("Change the greeting", write));
//! let factory: Factory = Backend::new("An engine that greets.").path(greeting).factory(Mount::clone);
//! ```
//!
//! The modules import each other in this order only; `tests/repository/layering.rs` checks it:
//!
//! ```text
//! lower, duration -> field -> coerce -> fields -> pattern -> path -> secret, wal -> declaration -> openapi -> help -> mounted
//! ```
//!
//! Architecture invariant: a path's one declaration is the source of everything that users can learn about the path.

mod coerce;
mod declaration;
mod duration;
mod field;
mod fields;
mod help;
mod lower;
mod mounted;
#[cfg(feature = "openapi")]
mod openapi;
mod path;
mod pattern;
#[cfg(test)]
mod sample;
mod secret;
mod wal;

#[cfg(any(test, fuzzing, feature = "testing"))]
#[doc(hidden)]
pub use self::{coerce::fuzz::fuzz_coercion, duration::fuzz::fuzz_durations, fields::fuzz::fuzz_fields};

pub use declaration::Backend;
pub use duration::{format_duration, parse_duration};
pub use field::{Field, FieldKind, FieldSpec, FieldType, FieldValue, WRITES};
pub use fields::{Change, Fields};
pub use lower::to_lower;
pub use path::{Call, Handler, Path};
pub use secret::{LeaseCall, SecretType};
pub use wal::{OpenEntry, Tick, Undo, Wal, WalEntry, WalKind};
