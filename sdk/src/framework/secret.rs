//! Types of leases, told apart by `secret_type` in the lease's internal data.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, TryFutureExt as _};
use serde_json::Value;

use crate::logical::{Answer, Error, Request, Response, Secret};

/// Member of a lease's internal data that names its type (OpenBao `sdk/framework/secret.go`).
const SECRET_TYPE: &str = "secret_type";

/// A renewal or revocation on its way into its handler.
#[non_exhaustive]
pub struct LeaseCall {
    /// The request as the host sent it: its path is that of the first request, its data the answer of that time.
    pub request: Request,
    /// The lease.
    pub secret: Secret,
}

type RenewFn<E> = Arc<dyn Fn(Arc<E>, LeaseCall) -> BoxFuture<'static, Answer> + Send + Sync>;
type RevokeFn<E> = Arc<dyn Fn(Arc<E>, LeaseCall) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A type of lease.
pub struct SecretType<E> {
    pub(super) name: &'static str,
    /// Whether this type takes the leases without a type.
    pub(super) untyped: bool,
    pub(super) renew: Option<RenewFn<E>>,
    pub(super) revoke: Option<RevokeFn<E>>,
}

impl<E: Send + Sync + 'static> SecretType<E> {
    /// Declares a type of lease. Its name is stored with each lease and must never change.
    pub fn new(name: &'static str) -> Self {
        Self { name, untyped: false, renew: None, revoke: None }
    }

    /// Takes the leases without a type as well. An older plugin may have lost the internal data of some leases, and a
    /// lease that no type takes can never be revoked.
    #[must_use]
    pub fn takes_untyped(mut self) -> Self {
        self.untyped = true;
        self
    }

    /// Answers renewals. The answer's `data` and lease replace the stored ones, so both must be complete.
    #[must_use]
    pub fn renew<F, Fut, Failure>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>, LeaseCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Response>, Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.renew = Some(Arc::new(move |engine, call| Box::pin(run(engine, call).map_err(Into::into))));
        self
    }

    /// Ends the lease. It succeeds if there is nothing left to end; an error is tried again by the host.
    #[must_use]
    pub fn revoke<F, Fut, Failure>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>, LeaseCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.revoke = Some(Arc::new(move |engine, call| Box::pin(run(engine, call).map_err(Into::into))));
        self
    }
}

impl Secret {
    /// Marks a new lease as one of the [`SecretType`] of this name, which will renew and revoke it.
    #[must_use]
    pub fn of_type(mut self, name: &str) -> Self {
        mark(&mut self, name);
        self
    }
}

/// Whether a lease has no type.
pub(super) fn is_untyped(secret: &Secret) -> bool {
    !secret.internal_data.contains_key(SECRET_TYPE)
}

/// Whether a lease is of this type.
pub(super) fn is_of_type(secret: &Secret, name: &str) -> bool {
    secret.internal_data.get(SECRET_TYPE).and_then(Value::as_str) == Some(name)
}

/// Marks a lease as one of this type.
pub(super) fn mark(secret: &mut Secret, name: &str) {
    secret.internal_data.insert(SECRET_TYPE.into(), Value::String(name.into()));
}
