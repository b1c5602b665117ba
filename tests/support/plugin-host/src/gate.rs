//! A gate for the plugin's calls to its host. It counts the calls, and can stop the plugin at a chosen call.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

/// The phase of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Phase {
    /// The call has not taken effect.
    Before,
    /// The call has taken effect, but is not answered yet.
    After,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Before { "before" } else { "after" })
    }
}

/// Selects a call. Calls that run at the same time arrive in any order, so a call is selected by its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum When {
    /// The n-th call that starts with this text. 1 is the next one.
    Nth(usize, String),
    /// The next call that starts with this text.
    Call(&'static str),
}

/// The action at the selected call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Kills the process. The call is never answered.
    Kill(Pid),
    /// The call returns an error.
    Fail,
}

/// Text of the error of a call that fails at the gate.
pub const INJECTED_ERROR: &str = "the test injected this error";

/// A gate. Clones share the state.
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
    /// Resets the gate: counts from zero and stops nothing.
    pub fn open(&self) {
        *self.state() = State::default();
    }

    /// Blocks one call until [`Gate::release`].
    pub fn hold(&self, when: When, phase: Phase) {
        self.state().hold = Some((when, phase));
    }

    /// Waits until a call is blocked.
    pub async fn held(&self) {
        while !self.state().held {
            sleep(POLL).await;
        }
    }

    /// Releases the blocked call. No call is blocked any more.
    pub fn release(&self) {
        let mut state = self.state();
        (state.hold, state.held) = (None, false);
    }

    /// Makes one call fail before the plugin reaches the call at which it is stopped.
    pub fn trouble(&self, when: When, phase: Phase) {
        self.state().trouble = Some((when, phase));
    }

    /// Counts from zero, and stops the plugin once.
    pub fn stop(&self, when: When, phase: Phase, act: Act) {
        let mut state = self.state();
        (state.calls, state.stop, state.hit) = (Vec::new(), Some((when, phase, act)), None);
    }

    /// Returns the counted calls, as `method key`.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Returns the call at which the plugin was stopped.
    pub fn hit(&self) -> Option<String> {
        self.state().hit.clone()
    }

    /// Enters the gate before a call takes effect. Returns the call's number, or the text of an error.
    pub(super) async fn enter(&self, call: &str) -> Result<usize, &'static str> {
        let number = {
            let mut state = self.state();
            state.calls.push(call.to_owned());
            state.calls.len()
        };
        self.pass(number, call, Phase::Before).await.map(|()| number)
    }

    /// Leaves the gate after a call has taken effect.
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
            Some(Act::Fail) => Err(INJECTED_ERROR),
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
    /// Whether this selects a call. The last of `calls` is this call.
    fn meets(&self, call: &str, calls: &[String]) -> bool {
        match self {
            Self::Nth(nth, start) => {
                call.starts_with(start) && calls.iter().filter(|call| call.starts_with(start)).count() == *nth
            }
            Self::Call(start) => call.starts_with(start),
        }
    }
}

impl State {
    fn holds(&mut self, number: usize, call: &str, phase: Phase) -> bool {
        let calls = self.calls.get(..number).unwrap_or_default();
        let held = self.hold.take_if(|(when, wanted)| *wanted == phase && when.meets(call, calls)).is_some();
        self.held |= held;
        held
    }

    fn due(&mut self, number: usize, call: &str, phase: Phase) -> Option<Act> {
        let calls = self.calls.get(..number).unwrap_or_default();
        let stop = self.stop.take_if(|(when, wanted, _)| *wanted == phase && when.meets(call, calls));
        if let Some((_, _, act)) = stop {
            self.hit = Some(call.to_owned());
            return Some(act);
        }
        let trouble = self.trouble.take_if(|(when, wanted)| *wanted == phase && when.meets(call, calls));
        trouble.map(|_| Act::Fail)
    }
}

const POLL: Duration = Duration::from_millis(1);
