//! Types of leases. The member `secret_type` in the lease's internal data names the type.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, TryFutureExt as _};
use serde_json::Value;

use crate::logical::{Answer, Error, Request, Response, Secret};

/// Member of a lease's internal data with the name of its type (OpenBao `sdk/framework/secret.go`).
const SECRET_TYPE: &str = "secret_type";

/// The input of a renew or revoke handler.
#[non_exhaustive]
pub struct LeaseCall {
    /// The request as the host sent it. Its path is the path of the first request, and its data is the response of that
    /// time.
    pub request: Request,
    /// The lease.
    pub secret: Secret,
}

type RenewFn<E> = Arc<dyn Fn(Arc<E>, LeaseCall) -> BoxFuture<'static, Answer> + Send + Sync>;
type RevokeFn<E> = Arc<dyn Fn(Arc<E>, LeaseCall) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A type of lease.
pub struct SecretType<E> {
    pub(super) name: &'static str,
    /// Whether this type also takes the leases without a type.
    pub(super) untyped: bool,
    pub(super) renew: Option<RenewFn<E>>,
    pub(super) revoke: Option<RevokeFn<E>>,
}

impl<E: Send + Sync + 'static> SecretType<E> {
    /// Declares a type of lease. The name is stored with each lease and must never change.
    pub fn new(name: &'static str) -> Self {
        Self { name, untyped: false, renew: None, revoke: None }
    }

    /// Also takes the leases without a type. An older plugin may have lost the internal data of some leases. Without a
    /// type that takes such a lease, the lease can never be revoked.
    #[must_use]
    pub fn takes_untyped(mut self) -> Self {
        self.untyped = true;
        self
    }

    /// Sets the handler for renewals. The response's `data` and lease replace the stored `data` and lease, so both must
    /// be complete.
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

    /// Sets the handler for revocations. The handler must succeed if there is nothing left to revoke.
    ///
    /// If the handler returns an error, of any kind, the host tries again: six attempts in about ten minutes, each with
    /// 90 seconds at most. After the sixth failed attempt, the lease is *irrevocable*: the host keeps the lease, and
    /// retries once a day, after a restart, and after a change of the active node. A revocation with `-sync` is a single
    /// attempt, and its caller sees the error. The host logs the text of the error.
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
    /// Marks a new lease with the name of a [`SecretType`], which will renew and revoke the lease.
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

/// Marks a lease with this type.
pub(super) fn mark(secret: &mut Secret, name: &str) {
    secret.internal_data.insert(SECRET_TYPE.into(), Value::String(name.into()));
}
