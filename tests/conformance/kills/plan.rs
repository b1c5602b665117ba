//! The plan of a test: the work, the point at which it is stopped, and the result.

use std::fmt;

use crate::host::gate::{Phase, When};

/// How an organization mints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    Standard,
    Sidecar,
    /// Standard mode, without token descriptions in Astra.
    Undescribed,
}

/// The host's request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    Mint,
    /// A mint that replaces the token, which stays live for an hour.
    Replace,
    /// A delete of `org/token`.
    Delete,
    /// A delete of `orgs/:org/tokens/:client_id`.
    DeleteByPath,
    Renew,
    Revoke,
    /// A rotation of the root token.
    Rotate,
    /// A write of the config with another root token.
    WriteRoot,
    /// A write of a new static role.
    NewStatic,
    /// A rotation of the static role.
    RotateStatic,
    /// A deletion of the static role and its tokens.
    DeleteStatic,
    /// A tidy that deletes tokens of any age.
    Tidy,
    /// A tick that handles all WAL entries at once, whatever their age.
    Rollback,
    /// A tick as the host sends it every minute.
    Tick,
}

/// The point in a piece of work at which a process is stopped.
#[derive(Clone, Debug)]
pub struct Point {
    pub place: Place,
    pub phase: Phase,
}

/// A call of a process.
#[derive(Clone, Debug)]
pub enum Place {
    /// A call to storage, or for a fact.
    Host(When),
    /// A call to Astra: the n-th from now.
    Astra(u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Host(When::Nth(number, start)) => write!(f, "call {number} of {start}, {}", self.phase),
            Place::Host(When::Call(start)) => write!(f, "{start}, {}", self.phase),
            Place::Astra(number) => write!(f, "call {number} to Astra, {}", self.phase),
        }
    }
}

/// The rest that the engine could not undo.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Left {
    /// Tokens in the inventory without a lease. The sweep deletes them once their lease would have expired.
    pub unleased: usize,
    /// Live tokens that are not in the inventory.
    pub unknown: usize,
}

/// The calls of a piece of work without faults, as `method key`.
pub struct Calls {
    pub host: Vec<String>,
    pub astra: Vec<String>,
    /// Whether the work failed.
    pub failed: bool,
}
