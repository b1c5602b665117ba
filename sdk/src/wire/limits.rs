//! The limits of one mount: requests in flight, and the size of a request.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::logical::{Error, Operation};
use crate::plugin::Limits;

/// Admits the requests of one mount.
pub(super) struct Gate {
    /// `None` if the number of requests has no limit.
    places: Option<Arc<Semaphore>>,
    body: usize,
}

/// The place of a request. `None` needs no place.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        let has_limit = limits.requests <= Semaphore::MAX_PERMITS;
        Self { places: has_limit.then(|| Arc::new(Semaphore::new(limits.requests))), body: limits.body }
    }

    /// Admits a request with a body of so many bytes. The host's own requests are always admitted: a revocation that is
    /// refused costs the host one of its attempts.
    ///
    /// # Errors
    /// If the body is too large (status 413), or if too many requests are in flight (status 503).
    pub(super) fn admit(&self, operation: Operation, body: usize) -> Result<Place, Error> {
        if operation.is_lease() || operation == Operation::Rollback {
            return Ok(None);
        }
        if body > self.body {
            let text = format!("the request has {body} bytes, and this plugin takes {}; send less", self.body);
            return Err(Error::status(413, text));
        }
        let Some(places) = &self.places else { return Ok(None) };
        let busy = |_| Error::status(503, "the mount handles as many requests as it may; try again");
        places.clone().try_acquire_owned().map(Some).map_err(busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mount_refuses_clients_and_admits_the_host() {
        let gate = Gate::new(Limits { requests: 2, body: 10 });
        let places = [gate.admit(Operation::Read, 0), gate.admit(Operation::Update, 10)];
        assert!(places.iter().all(Result::is_ok));
        assert!(matches!(gate.admit(Operation::Read, 0), Err(Error::Status { status: 503, .. })));
        for operation in [Operation::Renew, Operation::Revoke, Operation::Rollback] {
            assert!(gate.admit(operation, 11).is_ok(), "{operation:?}");
        }
        drop(places);
        assert!(gate.admit(Operation::Read, 0).is_ok());
        assert!(matches!(gate.admit(Operation::Read, 11), Err(Error::Status { status: 413, .. })));
    }

    #[test]
    fn without_limits_everything_is_admitted() {
        let gate = Gate::new(Limits::NONE);
        let places: Vec<_> = (0..10_000).map(|_| gate.admit(Operation::Read, usize::MAX)).collect();
        assert!(places.iter().all(Result::is_ok));
    }
}
