//! A gate that every call of a plugin to its host passes: it counts them, and stops the plugin at a chosen one.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// When, in the life of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It has not taken effect.
    Before,
    /// It has taken effect, and is not answered.
    After,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Before { "before" } else { "after" })
    }
}

/// Which call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum When {
    /// The one of this number; 1 is the next one.
    Nth(usize),
    /// The next one that begins so.
    Call(&'static str),
}

/// What happens at that call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// The process is killed, and the call never answered.
    Kill(Pid),
    /// The call answers an error.
    Fail,
}

/// Text of the error of a call that fails here.
pub const REFUSED: &str = "the call was chosen to fail";

/// A gate. Clones are the same.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: Vec<String>,
    hold: Option<(When, Phase)>,
    held: bool,
    trouble: Option<(When, Phase)>,
    stop: Option<(When, Phase, Act)>,
    hit: Option<String>,
}

impl Gate {
    /// Counts anew from here, and stops nothing.
    pub fn open(&self) {
        *self.state() = State::default();
    }

    /// Holds one call up until [`Gate::release`].
    pub fn hold(&self, when: When, phase: Phase) {
        self.state().hold = Some((when, phase));
    }

    /// Waits until a call is held up.
    pub async fn held(&self) {
        while !self.state().held {
            sleep(POLL).await;
        }
    }

    /// Holds no call up any more.
    pub fn release(&self) {
        let mut state = self.state();
        (state.hold, state.held) = (None, false);
    }

    /// Lets one call fail on the way to whatever the plugin is stopped at.
    pub fn trouble(&self, when: When, phase: Phase) {
        self.state().trouble = Some((when, phase));
    }

    /// Counts anew from here, and stops the plugin once.
    pub fn stop(&self, when: When, phase: Phase, act: Act) {
        let mut state = self.state();
        (state.calls, state.stop, state.hit) = (Vec::new(), Some((when, phase, act)), None);
    }

    /// Returns the calls that were counted, as `method key`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Returns the call that the plugin was stopped at.
    pub fn hit(&self) -> Option<String> {
        self.state().hit.clone()
    }

    /// Passes the gate with a call that has not taken effect. Returns its number, or the text of an error.
    pub(super) async fn enter(&self, call: &str) -> Result<usize, &'static str> {
        let number = {
            let mut state = self.state();
            state.calls.push(call.to_owned());
            state.calls.len()
        };
        self.pass(number, call, Phase::Before).await.map(|()| number)
    }

    /// Passes the gate with a call that has taken effect.
    pub(super) async fn leave(&self, number: usize, call: &str) -> Result<(), &'static str> {
        self.pass(number, call, Phase::After).await
    }

    async fn pass(&self, number: usize, call: &str, phase: Phase) -> Result<(), &'static str> {
        if self.state().holds(number, call, phase) {
            while self.state().held {
                sleep(POLL).await;
            }
        }
        let act = self.state().due(number, call, phase);
        match act {
            None => Ok(()),
            Some(Act::Fail) => Err(REFUSED),
            Some(Act::Kill(process)) => {
                kill_process(process, Signal::KILL).unwrap();
                pending().await
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl When {
    fn meets(&self, number: usize, call: &str) -> bool {
        match self {
            Self::Nth(nth) => number == *nth,
            Self::Call(start) => call.starts_with(start),
        }
    }
}

impl State {
    fn holds(&mut self, number: usize, call: &str, phase: Phase) -> bool {
        let held = self.hold.take_if(|(when, wanted)| *wanted == phase && when.meets(number, call)).is_some();
        self.held |= held;
        held
    }

    fn due(&mut self, number: usize, call: &str, phase: Phase) -> Option<Act> {
        let stop = self.stop.take_if(|(when, wanted, _)| *wanted == phase && when.meets(number, call));
        if let Some((_, _, act)) = stop {
            self.hit = Some(call.to_owned());
            return Some(act);
        }
        let trouble = self.trouble.take_if(|(when, wanted)| *wanted == phase && when.meets(number, call));
        trouble.map(|_| Act::Fail)
    }
}

const POLL: Duration = Duration::from_millis(1);
