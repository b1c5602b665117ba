//! What is asked for, where it is stopped, and what is found then.

use std::fmt;

use crate::host::gate::{Phase, When};

/// How an org mints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    Standard,
    Sidecar,
    /// Standard, and Astra is told no description.
    Undescribed,
}

/// What a host asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    Mint,
    /// Of `org/token`.
    Delete,
    Renew,
    Revoke,
    /// Of the root token.
    Rotate,
    /// A tick that leaves no entry of the log for later.
    Rollback,
    /// A tick as it comes by itself.
    Tick,
}

/// Where in a piece of work a process is stopped.
#[derive(Clone, Debug)]
pub struct Point {
    pub place: Place,
    pub phase: Phase,
}

/// A call that a process makes.
#[derive(Clone, Debug)]
pub enum Place {
    /// To storage, or for a fact.
    Host(When),
    /// To Astra: the n-th from now.
    Astra(u64),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Host(When::Nth(number)) => write!(f, "call {number} to the host, {}", self.phase),
            Place::Host(When::Call(start)) => write!(f, "{start}, {}", self.phase),
            Place::Astra(number) => write!(f, "call {number} to Astra, {}", self.phase),
        }
    }
}

/// What could not be undone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Left {
    /// Tokens of the inventory that no lease is for. They were swept as soon as no lease could exist any more.
    pub unleased: usize,
    /// Live tokens that the inventory does not have.
    pub unknown: usize,
}

/// The calls of a piece of work that nothing disturbed, as `method key`.
pub struct Calls {
    pub host: Vec<String>,
    pub astra: Vec<String>,
    /// Whether nobody got what was asked for.
    pub failed: bool,
}
