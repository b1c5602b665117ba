//! The bodies of the fuzz targets. They panic if the tested code breaks an invariant.

pub use crate::framework::{fuzz_coercion, fuzz_durations, fuzz_fields};
pub use crate::wire::{fuzz_wire_data, fuzz_wire_request};
