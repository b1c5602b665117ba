//! The faults that tests can set, and the requests that they affect.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::armed::Stage;
use super::http::BodyForm;
use super::routes::Route;

/// A fault: its kind, the requests that it affects, and when the operation takes effect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AstraFault {
    #[serde(rename = "match", default)]
    pub on: Match,
    #[serde(default)]
    pub phase: Phase,
    pub kind: Kind,
}

impl AstraFault {
    /// Returns a fault that occurs instead of the operation.
    pub fn before(kind: Kind) -> Self {
        Self { on: Match::default(), phase: Phase::Before, kind }
    }

    /// Returns a fault that occurs after the operation has taken effect.
    pub fn after(kind: Kind) -> Self {
        Self { on: Match::default(), phase: Phase::After, kind }
    }

    /// Returns a fault before which the operation has not taken effect. It takes effect later.
    pub fn late(kind: Kind, delay: Delay) -> Self {
        Self { on: Match::default(), phase: Phase::Late(delay), kind }
    }

    /// Returns a fault that occurs after the operation has taken effect. It takes effect again later.
    pub fn twice(kind: Kind, delay: Delay) -> Self {
        Self { on: Match::default(), phase: Phase::Twice(delay), kind }
    }

    pub fn route(mut self, route: Route) -> Self {
        self.on.route = Some(route);
        self
    }

    pub fn org(mut self, org_id: impl Into<String>) -> Self {
        self.on.org = Some(org_id.into());
        self
    }

    /// Affects only requests with the token of this client id.
    pub fn caller(mut self, client_id: impl Into<String>) -> Self {
        self.on.caller = Some(client_id.into());
        self
    }

    /// Affects only requests with this id in their path.
    pub fn target(mut self, id: impl Into<String>) -> Self {
        self.on.target = Some(id.into());
        self
    }

    /// Starts at the n-th matching request. 1 means the next request.
    pub fn nth(mut self, nth: u64) -> Self {
        self.on.nth = Some(nth);
        self
    }

    /// Occurs at most `count` times.
    pub fn times(mut self, count: u64) -> Self {
        self.on.count = Some(count);
        self
    }

    pub fn once(self) -> Self {
        self.times(1)
    }

    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.on.probability = Some(probability);
        self.on.seed = seed;
        self
    }

    /// Whether this fault can occur together with another fault.
    pub fn stacks(&self) -> bool {
        self.kind.stacks() && self.phase.delay().is_none()
    }
}

/// The requests that a fault affects. An unset member matches every request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    pub route: Option<Route>,
    pub method: Option<String>,
    pub org: Option<String>,
    /// The client id of the calling token.
    pub caller: Option<String>,
    /// The id in the path.
    pub target: Option<String>,
    pub nth: Option<u64>,
    pub count: Option<u64>,
    pub probability: Option<f64>,
    pub seed: u64,
    /// The start of the fault, in milliseconds of the simulator's clock after the fault was set.
    pub from_ms: Option<u64>,
    pub until_ms: Option<u64>,
}

/// When the operation of a request takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The fault occurs instead of the operation.
    #[default]
    Before,
    /// The operation takes effect before the fault.
    After,
    /// The operation takes effect this much later than the fault, as behind a gateway that gives up waiting. The answer
    /// to alter is a 504.
    Late(Delay),
    /// The operation takes effect before the fault, and again this much later, as behind a gateway that repeats the
    /// request. A second mint creates a second token. A second delete does not find the token.
    Twice(Delay),
}

impl Phase {
    /// Returns when the operation takes effect after the fault, if it does.
    pub fn delay(self) -> Option<Delay> {
        match self {
            Self::Before | Self::After => None,
            Self::Late(delay) | Self::Twice(delay) => Some(delay),
        }
    }

    /// Returns the name of a phase in which the operation takes effect after the fault, for the log and the counters.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Before | Self::After => None,
            Self::Late(_) => Some("late"),
            Self::Twice(_) => Some("twice"),
        }
    }
}

/// The least and the longest time until a late effect, in milliseconds of the simulator's clock. The time is random
/// between them. The seed of the fault determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    pub min_ms: u64,
    pub max_ms: u64,
}

/// The kind of a fault. In phase *before*, a kind that alters an answer alters the answer of a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Latency {
        min_ms: u64,
        max_ms: u64,
    },
    Status {
        code: u16,
        #[serde(default)]
        body: BodyForm,
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    },
    /// An error of the service, with this id and message.
    Error {
        code: u16,
        id: i64,
        message: String,
    },
    /// TCP RST.
    Reset,
    /// The server closes the connection without sending a byte.
    CleanClose,
    /// The body ends after `bytes` bytes, before its announced length.
    CutBody {
        bytes: usize,
        reset: bool,
    },
    /// A chunked body that ends without its last chunk.
    TruncatedChunk {
        bytes: usize,
    },
    /// Without a time, the server hangs forever.
    HangBeforeHeaders {
        for_ms: Option<u64>,
    },
    HangAfterHeaders {
        for_ms: Option<u64>,
    },
    /// One byte of the body at a time.
    SlowBody {
        interval_ms: u64,
    },
    /// The server delays its part of the TLS handshake.
    SlowTls {
        delay_ms: u64,
    },
    Malformed(Malformed),
    /// The unaltered body, with this content type.
    ContentType(String),
    /// A success with this body.
    Body {
        content_type: String,
        text: String,
    },
    Empty(Empty),
    DropFields(Vec<String>),
    SetField {
        field: String,
        value: Value,
    },
    /// `bytes` bytes of white space before the body. The body stays valid JSON.
    HugeBody {
        bytes: u64,
    },
    Redirect {
        code: u16,
        to: Redirect,
    },
    /// A 404 from a proxy, not from the API.
    ProxyNotFound {
        html: bool,
    },
    /// The header `date` differs from the real time.
    ClockSkew {
        seconds: i64,
    },
}

impl Kind {
    pub fn status(code: u16, body: BodyForm) -> Self {
        Self::Status { code, body, retry_after: None }
    }

    pub fn too_many_requests(retry_after: RetryAfter) -> Self {
        Self::Status { code: 429, body: BodyForm::Errors, retry_after: Some(retry_after) }
    }

    /// Returns the 401 with body `null`, which the real service was observed to send to a caller without permission.
    pub fn null_401() -> Self {
        Self::status(401, BodyForm::Null)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Latency { .. } => "latency",
            Self::Status { .. } => "status",
            Self::Error { .. } => "error",
            Self::Reset => "reset",
            Self::CleanClose => "clean_close",
            Self::CutBody { .. } => "cut_body",
            Self::TruncatedChunk { .. } => "truncated_chunk",
            Self::HangBeforeHeaders { .. } => "hang_before_headers",
            Self::HangAfterHeaders { .. } => "hang_after_headers",
            Self::SlowBody { .. } => "slow_body",
            Self::SlowTls { .. } => "slow_tls",
            Self::Malformed(_) => "malformed",
            Self::ContentType(_) => "content_type",
            Self::Body { .. } => "body",
            Self::Empty(_) => "empty",
            Self::DropFields(_) => "drop_fields",
            Self::SetField { .. } => "set_field",
            Self::HugeBody { .. } => "huge_body",
            Self::Redirect { .. } => "redirect",
            Self::ProxyNotFound { .. } => "proxy_not_found",
            Self::ClockSkew { .. } => "clock_skew",
        }
    }

    /// Whether this kind can occur together with another kind.
    pub fn stacks(&self) -> bool {
        matches!(self, Self::Latency { .. } | Self::ClockSkew { .. })
    }

    pub fn stage(&self, phase: Phase) -> Stage {
        match (self, phase) {
            (_, Phase::Late(_)) => Stage::Before,
            (Self::SlowTls { .. }, _) => Stage::Accept,
            (Self::Latency { .. } | Self::Reset | Self::CleanClose | Self::HangBeforeHeaders { .. }, Phase::Before) => {
                Stage::Arrival
            }
            (Self::ClockSkew { .. }, _) | (_, Phase::After | Phase::Twice(_)) => Stage::After,
            (_, Phase::Before) => Stage::Before,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// Can be negative or very large.
    Seconds(i64),
    /// An HTTP date this number of seconds ahead of the simulator's clock.
    DateIn(i64),
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    Cut,
    TrailingGarbage,
    NotANumber,
    /// Every key of the first object occurs twice, with the real value last.
    DuplicateKeys,
    ByteOrderMark,
    InvalidUtf8,
    /// An array instead of an object, or an object instead of an array.
    WrongTopLevel,
}

/// The body of a 200 without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Empty {
    Nothing,
    Null,
    Object,
    Array,
    String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redirect {
    /// The same path on the same host.
    Same,
    /// The same path, below another base URL.
    Other(String),
}
