//! Holds the faults that are set, and selects the faults for a request.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::fault::{AstraFault, Kind, Phase};
use super::routes::Route;
use super::state::{Rng, later};

/// The stage of a connection or request at which a fault takes effect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A connection was accepted.
    Accept,
    /// A request was read, but not checked.
    Arrival,
    /// All checks passed, but the operation has not taken effect.
    Before,
    /// The operation took effect.
    After,
}

/// The properties of a request that a fault can match.
#[derive(Clone, Default)]
pub struct Context {
    pub route: Option<Route>,
    pub method: String,
    pub org: Option<String>,
    pub caller: Option<String>,
    pub target: String,
}

#[derive(Default)]
pub struct ArmedFaults {
    armed: Vec<Armed>,
    last_id: u64,
}

struct Armed {
    id: u64,
    fault: AstraFault,
    seen: u64,
    fired: u64,
    rng: Rng,
    since: Timestamp,
}

impl ArmedFaults {
    /// Sets a fault and returns its id.
    pub fn add(&mut self, fault: AstraFault, since: Timestamp) -> u64 {
        self.last_id += 1;
        let rng = Rng::new(fault.on.seed);
        self.armed.push(Armed { id: self.last_id, fault, seen: 0, fired: 0, rng, since });
        self.last_id
    }

    pub fn remove(&mut self, id: u64) {
        self.armed.retain(|armed| armed.id != id);
    }

    pub fn clear(&mut self) {
        self.armed.clear();
    }

    /// Returns how often the fault with this id took effect.
    pub fn fired(&self, id: u64) -> u64 {
        self.armed.iter().find(|armed| armed.id == id).map_or(0, |armed| armed.fired)
    }

    /// Returns the faults as they were set, with their ids and counts.
    pub fn list(&self) -> Vec<Value> {
        let describe = |armed: &Armed| {
            let mut value = serde_json::to_value(&armed.fault).expect("a fault is plain data");
            value["id"] = armed.id.into();
            value["seen"] = armed.seen.into();
            value["fired"] = armed.fired.into();
            value
        };
        self.armed.iter().map(describe).collect()
    }

    /// Returns the faults for a request at a stage: every fault that stacks, and the first of the others.
    pub fn take(&mut self, stage: Stage, context: &Context, now: Timestamp) -> Due {
        let mut due = Due::default();
        for armed in &mut self.armed {
            let (phase, stacks) = (armed.fault.phase, armed.fault.stacks());
            let wanted = stacks || due.main.is_none();
            if wanted && armed.fault.kind.stage(phase) == stage && armed.matches(context, now) {
                let kind = armed.fault.kind.clone();
                if stacks {
                    due.stacked.push(kind);
                } else {
                    due.main = Some(kind);
                    due.phase = phase;
                    due.late = phase.delay().map(|delay| later(now, armed.rng.between(delay.min_ms, delay.max_ms)));
                }
            }
        }
        due
    }
}

#[derive(Default)]
pub struct Due {
    pub stacked: Vec<Kind>,
    pub main: Option<Kind>,
    /// The phase of `main`.
    pub phase: Phase,
    /// When the operation takes effect after the fault, if it does.
    pub late: Option<Timestamp>,
}

impl Due {
    pub fn names(&self) -> impl Iterator<Item = String> {
        let kinds = self.stacked.iter().chain(&self.main).map(Kind::name);
        kinds.chain(self.phase.name()).map(str::to_owned)
    }

    pub fn latency(&self, rng: &mut Rng) -> Duration {
        let one = |kind: &Kind| match kind {
            Kind::Latency { min_ms, max_ms } => Duration::from_millis(rng.between(*min_ms, *max_ms)),
            _ => Duration::ZERO,
        };
        self.stacked.iter().chain(&self.main).map(one).sum()
    }
}

impl Armed {
    fn matches(&mut self, context: &Context, now: Timestamp) -> bool {
        let on = &self.fault.on;
        let selected = on.route.is_none_or(|route| context.route == Some(route))
            && on.method.as_ref().is_none_or(|method| *method == context.method)
            && on.org.as_ref().is_none_or(|org| context.org.as_ref() == Some(org))
            && on.caller.as_ref().is_none_or(|caller| context.caller.as_ref() == Some(caller))
            && on.target.as_ref().is_none_or(|target| *target == context.target)
            && on.from_ms.is_none_or(|from| later(self.since, from) <= now)
            && on.until_ms.is_none_or(|until| now < later(self.since, until));
        if !selected {
            return false;
        }
        self.seen += 1;
        let due = self.seen >= on.nth.unwrap_or(1)
            && on.count.is_none_or(|count| self.fired < count)
            && on.probability.is_none_or(|probability| self.rng.chance(probability));
        self.fired += u64::from(due);
        due
    }
}
