//! The reasons of failed requests, as metrics name them.

use vault_plugin_sdk::logical;

use crate::api::Case;
use crate::error::Error;

/// Returns the reason of a failed request; `None` if the request did not fail, because the active node answers it.
pub(super) fn of(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Host(logical::Error::ReadOnly) => return None,
        Error::Field { .. } => "invalid_field",
        Error::Refused(_) => "refused",
        Error::NotFound(_) => "not_found",
        Error::NotYet(_) => "not_yet",
        Error::OutOfTime(_) => "out_of_time",
        Error::Api(error) | Error::RootCall { error, .. } => of_case(error.case()),
        Error::Unfinished { cause, .. } => return of(cause),
        Error::EveryOrg(errors) => return errors.first().and_then(|(_, error)| of(error)),
        Error::Unreadable(_) => "unreadable_entry",
        Error::Storage(_) => "storage",
        Error::Host(_) => "host",
    })
}

fn of_case(case: Case) -> &'static str {
    match case {
        Case::BadSettings => "bad_settings",
        Case::NoTls => "no_tls",
        Case::BadProxy => "bad_proxy",
        Case::Stopping => "stopping",
        Case::HostNotResolved | Case::HostNotResolvedInTime => "host_not_resolved",
        Case::NotReachable | Case::NotReachableInTime => "not_reachable",
        Case::NoPermit => "no_permit",
        Case::ConnectionBroken => "connection_broken",
        Case::NoAnswer => "no_answer",
        Case::UnusableAnswer => "unusable_answer",
        Case::RootTokenRejected => "root_token_rejected",
        Case::IsRootToken => "is_root_token",
        Case::OtherOrganization => "other_organization",
        Case::RequestRejected { .. } => "request_rejected",
        Case::ProxyLogin => "proxy_login",
        Case::RateLimited => "rate_limited",
        Case::TimedOut => "timed_out",
        Case::Unavailable => "unavailable",
        Case::NotAstra => "not_astra",
        Case::ServerFailed => "server_failed",
        Case::UnexpectedStatus => "unexpected_status",
    }
}
