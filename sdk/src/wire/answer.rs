//! Converts a backend's answer to the reply that the host expects.
//!
//! The host derives the HTTP status from the error's type, and sometimes from its text (OpenBao
//! `sdk/logical/response_util.go`). If a revocation fails with certain types, the host gives the lease up for good.

use prost_types::Timestamp;

use super::convert;
use crate::logical::{Answer, Error, Map, Operation, Response};
use crate::pb::pb;

/// Error types of the wire (`sdk/plugin/pb/translation.go`).
mod kind {
    pub(super) const PLAIN: u32 = 0;
    pub(super) const USER: u32 = 1;
    pub(super) const INTERNAL: u32 = 2;
    pub(super) const CODED: u32 = 3;
    pub(super) const BAD_REQUEST: u32 = 4;
    pub(super) const UNSUPPORTED_OPERATION: u32 = 5;
    pub(super) const UNSUPPORTED_PATH: u32 = 6;
    pub(super) const PERMISSION_DENIED: u32 = 8;
}

/// The parts of a renewal's request that its reply must repeat.
pub(super) type Renewed = Option<(String, Option<Timestamp>)>;

/// Returns the answer to an operation that backends do not support. OpenBao sends such an operation (`resolve-path`)
/// before each request. OpenBao would take any other error for the answer to the request itself.
pub(super) fn unsupported() -> pb::HandleRequestReply {
    failed(kind::UNSUPPORTED_OPERATION, "unsupported operation")
}

/// Returns the answer that names the path which a request means, relative to the mount.
pub(super) fn resolved(path: String) -> pb::HandleRequestReply {
    done(Response::new(Map::from_iter([("path".to_owned(), path.into())])), None)
}

/// Returns the answer to a request whose handler panicked.
pub(super) fn panicked() -> pb::HandleRequestReply {
    failed(kind::INTERNAL, INTERNAL)
}

/// Returns the reply to a request.
pub(super) fn reply(operation: Operation, answer: Answer, renewed: Renewed) -> pb::HandleRequestReply {
    match answer {
        // The host cannot handle a missing answer to help (OpenBao `vault/logical_system_paths.go`).
        Ok(None) if operation == Operation::Help => done(Response::default(), None),
        Ok(None) => pb::HandleRequestReply::default(),
        Ok(Some(response)) => done(response, renewed),
        Err(error) => {
            log(&error);
            match operation {
                Operation::Renew | Operation::Revoke | Operation::Rollback => failed_lease(&error),
                _ => failed_request(&error),
            }
        }
    }
}

fn done(response: Response, renewed: Renewed) -> pb::HandleRequestReply {
    pb::HandleRequestReply { response: Some(convert::response(response, renewed)), err: None }
}

fn failed_request(error: &Error) -> pb::HandleRequestReply {
    let text = error.to_string();
    match error {
        Error::InvalidRequest(text) => {
            pb::HandleRequestReply { response: Some(convert::error_response(text)), err: None }
        }
        Error::Status { status, .. } => coded(*status, text),
        Error::UnsupportedOperation => failed(kind::UNSUPPORTED_OPERATION, &text),
        Error::UnsupportedPath => failed(kind::UNSUPPORTED_PATH, &text),
        Error::PermissionDenied => failed(kind::PERMISSION_DENIED, &text),
        Error::ReadOnly => failed(kind::PLAIN, &text),
        Error::UnsupportedByHost(_) | Error::Internal { .. } => failed(kind::INTERNAL, &text),
    }
}

/// Returns the error reply for the lease manager. The lease manager must not give a lease up for an unsupported
/// operation or path, so these errors get a type that the host retries. There are no error responses, because the host
/// prints them in a debug form here.
fn failed_lease(error: &Error) -> pb::HandleRequestReply {
    let text = error.to_string();
    match error {
        Error::InvalidRequest(_) => failed(kind::BAD_REQUEST, &text),
        Error::Status { status, .. } => coded(*status, text),
        Error::UnsupportedOperation | Error::UnsupportedPath => {
            failed(kind::PLAIN, &format!("the engine says: {text}"))
        }
        Error::PermissionDenied => failed(kind::PERMISSION_DENIED, &text),
        Error::ReadOnly => failed(kind::PLAIN, &text),
        Error::UnsupportedByHost(_) | Error::Internal { .. } => failed(kind::INTERNAL, &text),
    }
}

/// Returns the reply to an existence check. Any Vault token can cause an existence check, so the reply only contains
/// the caller's own mistakes.
pub(super) fn existence(found: Result<Option<bool>, Error>) -> pb::HandleExistenceCheckReply {
    let error = match found {
        Ok(found) => {
            return pb::HandleExistenceCheckReply {
                check_found: found.is_some(),
                exists: found.unwrap_or_default(),
                err: None,
            };
        }
        Err(Error::UnsupportedOperation) => return pb::HandleExistenceCheckReply::default(),
        Err(error) => error,
    };
    log(&error);
    let err = match &error {
        Error::InvalidRequest(text) => proto_error(kind::USER, text),
        Error::UnsupportedPath => proto_error(kind::UNSUPPORTED_PATH, "unsupported path"),
        Error::ReadOnly => proto_error(kind::PLAIN, &error.to_string()),
        _ => proto_error(kind::INTERNAL, INTERNAL),
    };
    pb::HandleExistenceCheckReply { err: Some(err), ..pb::HandleExistenceCheckReply::default() }
}

/// Returns the answer to an existence check that panicked.
pub(super) fn existence_panicked() -> pb::HandleExistenceCheckReply {
    let err = proto_error(kind::INTERNAL, INTERNAL);
    pb::HandleExistenceCheckReply { err: Some(err), ..pb::HandleExistenceCheckReply::default() }
}

/// Returns the reply to the request to initialize.
pub(super) fn initialized(result: Result<(), Error>) -> pb::InitializeReply {
    let err = result.err().and_then(|error| {
        log(&error);
        failed_lease(&error).err
    });
    pb::InitializeReply { err }
}

/// Logs our own faults with their cause. Other errors only go to the caller.
fn log(error: &Error) {
    if let Error::Internal { .. } = error {
        tracing::error!(error = error as &(dyn std::error::Error + 'static), "request failed");
    }
}

fn coded(status: u16, text: String) -> pb::HandleRequestReply {
    // Any other number breaks the client's connection.
    let code = if (400..600).contains(&status) { i64::from(status) } else { 500 };
    let err = pb::ProtoError { err_type: kind::CODED, err_msg: text, err_code: code };
    pb::HandleRequestReply { response: None, err: Some(err) }
}

fn failed(err_type: u32, text: &str) -> pb::HandleRequestReply {
    pb::HandleRequestReply { response: None, err: Some(proto_error(err_type, text)) }
}

fn proto_error(err_type: u32, text: &str) -> pb::ProtoError {
    pb::ProtoError { err_type, err_msg: text.into(), err_code: 0 }
}

const INTERNAL: &str = "internal error";

#[cfg(test)]
mod tests {
    use super::*;

    fn errors() -> Vec<Error> {
        vec![
            Error::invalid("bad ttl"),
            Error::status(409, "busy"),
            Error::status(7, "strange"),
            Error::UnsupportedOperation,
            Error::UnsupportedPath,
            Error::PermissionDenied,
            Error::ReadOnly,
            Error::Internal { message: "no".into(), cause: Some("hidden".into()) },
        ]
    }

    fn types(operation: Operation) -> Vec<Option<(u32, String, i64)>> {
        let replies = errors().into_iter().map(|error| reply(operation, Err(error), None));
        replies.map(|reply| reply.err.map(|err| (err.err_type, err.err_msg, err.err_code))).collect()
    }

    #[test]
    fn callers_mistake_is_an_error_response() {
        let reply = reply(Operation::Read, Err(Error::invalid("bad \"ttl\"")), None);
        assert!(reply.err.is_none());
        assert_eq!(reply.response.unwrap().data, r#"{"error":"bad \"ttl\""}"#);
    }

    #[test]
    fn errors_of_requests_have_their_types() {
        let text = |text: &str| text.to_owned();
        assert_eq!(
            types(Operation::Update),
            [
                None,
                Some((3, text("busy"), 409)),
                Some((3, text("strange"), 500)),
                Some((5, text("unsupported operation"), 0)),
                Some((6, text("unsupported path"), 0)),
                Some((8, text("permission denied"), 0)),
                Some((0, text("cannot write to readonly storage"), 0)),
                Some((2, text("no"), 0)),
            ]
        );
    }

    #[test]
    fn errors_of_leases_never_make_them_irrevocable() {
        for operation in [Operation::Renew, Operation::Revoke, Operation::Rollback] {
            for (error, err) in errors().iter().zip(types(operation)) {
                let (err_type, text, _) = err.unwrap();
                assert!(![5, 6, 7, 10].contains(&err_type) && err_type <= 10, "{operation:?} {error:?}");
                assert!(!text.contains("hidden"));
            }
        }
    }

    #[test]
    fn help_is_always_answered_and_nothing_is_nothing_elsewhere() {
        assert_eq!(reply(Operation::Help, Ok(None), None).response.unwrap().data, "null");
        assert!(reply(Operation::Read, Ok(None), None).response.is_none());
    }

    #[test]
    fn existence_check_leaks_nothing() {
        let told = |found| {
            let reply = existence(found);
            (reply.check_found, reply.exists, reply.err.map(|err| (err.err_type, err.err_msg)))
        };
        assert_eq!(told(Ok(None)), (false, false, None));
        assert_eq!(told(Ok(Some(false))), (true, false, None));
        assert_eq!(told(Ok(Some(true))), (true, true, None));
        assert_eq!(told(Err(Error::UnsupportedOperation)), (false, false, None));
        assert_eq!(told(Err(Error::invalid("x"))).2, Some((1, "x".into())));
        for error in [Error::internal("path of a secret"), Error::status(503, "path of a secret")] {
            assert_eq!(told(Err(error)).2, Some((2, "internal error".into())));
        }
    }
}
