//! The caller mode of a config, stored as the number that the Go plugin uses.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How callers get tokens of an org.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum CallerMode {
    /// A write mints, a read fetches.
    #[default]
    Standard,
    /// A read mints. Callers cannot fetch tokens.
    Sidecar,
}

impl CallerMode {
    /// Returns the mode of this name, in any letter case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "standard" => Some(Self::Standard),
            "sidecar" => Some(Self::Sidecar),
            _ => None,
        }
    }

    /// Returns the name of this mode.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Sidecar => "sidecar",
        }
    }
}

impl Serialize for CallerMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Standard => 1,
            Self::Sidecar => 2,
        })
    }
}

impl<'de> Deserialize<'de> for CallerMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // For Go's zero value, and for any unknown value, a read must not mint.
        Ok(if u64::deserialize(deserializer)? == 2 { Self::Sidecar } else { Self::Standard })
    }
}
