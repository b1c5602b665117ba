//! Requests that take effect after their answer, as behind a gateway that gives up waiting, or that repeats a request.

use std::collections::BTreeMap;
use std::mem;

use jiff::Timestamp;

use super::http::Request;
use super::state::State;

/// Requests by the time of their effect and the number of the request.
pub type LateRequests = BTreeMap<(Timestamp, u64), Request>;

impl State {
    /// Lets a request take effect later. Clearing the faults does not stop it.
    pub fn postpone(&mut self, due: Timestamp, seq: u64, request: &Request) {
        self.late.insert((due, seq), request.clone());
    }

    /// Lets the requests take effect whose time has come. Their answers reach nobody.
    pub fn catch_up(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let now = self.now();
        let waiting = self.late.split_off(&(now, u64::MAX));
        for ((_, seq), request) in mem::replace(&mut self.late, waiting) {
            // The token of the caller may have been deleted meanwhile.
            let Ok(checked) = self.check(&request) else { continue };
            self.operate(&checked);
            let minted = self.fresh.take();
            if let Some(call) = self.log.find(seq) {
                call.minted = call.minted.take().or(minted);
            }
        }
    }
}
