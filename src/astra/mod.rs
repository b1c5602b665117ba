//! The engine: application tokens of DataStax Astra DB.
