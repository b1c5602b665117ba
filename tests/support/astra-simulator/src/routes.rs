//! Routing, and the order of the checks of every request. The real service was observed to route before it
//! authenticates. The rest of the order is inferred, and only [`State::check`] defines it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::{BodyForm, Request, Response};
use super::knobs::{MalformedToken, PermissionFailure};
use super::state::State;

/// A call of the API. The two paths that create tokens are one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    CreateToken,
    ListTokens,
    DeleteToken,
    ListRoles,
    ReadRole,
    CreateRole,
    UpdateRole,
    DeleteRole,
    CurrentOrg,
    ListUsers,
    InviteUser,
    ReadUser,
    DeleteUser,
    UpdateUserRoles,
    CreateOrg,
}

impl Route {
    /// Returns the route of a request and the id in its path.
    pub fn of<'a>(method: &str, path: &'a str) -> Option<(Self, &'a str)> {
        let segments: Vec<&str> = path.strip_prefix("/v2/")?.split('/').collect();
        Some(match (method, segments.as_slice()) {
            ("POST", ["clientIdSecrets" | "tokens"]) => (Self::CreateToken, ""),
            ("GET", ["clientIdSecrets"]) => (Self::ListTokens, ""),
            ("DELETE", ["clientIdSecrets", id]) if !id.is_empty() => (Self::DeleteToken, id),
            ("GET", ["organizations", "roles"]) => (Self::ListRoles, ""),
            ("POST", ["organizations", "roles"]) => (Self::CreateRole, ""),
            ("GET", ["organizations", "roles", id]) if !id.is_empty() => (Self::ReadRole, id),
            ("PUT", ["organizations", "roles", id]) if !id.is_empty() => (Self::UpdateRole, id),
            ("DELETE", ["organizations", "roles", id]) if !id.is_empty() => (Self::DeleteRole, id),
            ("GET", ["currentOrg"]) => (Self::CurrentOrg, ""),
            ("GET", ["organizations", "users"]) => (Self::ListUsers, ""),
            ("PUT", ["organizations", "users"]) => (Self::InviteUser, ""),
            ("GET", ["organizations", "users", id]) if !id.is_empty() => (Self::ReadUser, id),
            ("DELETE", ["organizations", "users", id]) if !id.is_empty() => (Self::DeleteUser, id),
            ("PUT", ["organizations", "users", id, "roles"]) if !id.is_empty() => (Self::UpdateUserRoles, id),
            ("POST", ["enterprises", "organizations"]) => (Self::CreateOrg, ""),
            _ => return None,
        })
    }

    fn needs(self) -> Option<&'static str> {
        Some(match self {
            Self::CreateToken | Self::DeleteToken => "org-token-write",
            Self::ListTokens => "org-token-read",
            Self::ReadRole => "org-role-read",
            Self::CreateRole | Self::UpdateRole => "org-role-write",
            Self::DeleteRole => "org-role-delete",
            Self::ListUsers | Self::ReadUser => "org-user-read",
            Self::InviteUser | Self::DeleteUser | Self::UpdateUserRoles => "org-user-write",
            Self::ListRoles | Self::CurrentOrg | Self::CreateOrg => return None,
        })
    }

    fn has_body(self) -> bool {
        use Route::{CreateOrg, CreateRole, CreateToken, InviteUser, UpdateRole, UpdateUserRoles};
        matches!(self, CreateToken | CreateRole | UpdateRole | InviteUser | UpdateUserRoles | CreateOrg)
    }
}

/// The token that makes a request.
#[derive(Clone)]
pub struct Caller {
    pub client_id: String,
    pub org_id: String,
    pub enterprise: bool,
    pub actions: Vec<String>,
}

/// A request that passed all checks.
pub struct Checked<'a> {
    pub route: Route,
    pub id: &'a str,
    pub caller: Caller,
    /// `null` if the route has no body.
    pub body: Value,
}

impl State {
    /// Runs all checks between routing and the operation, in order.
    pub fn check<'a>(&self, request: &'a Request) -> Result<Checked<'a>, Response> {
        let (route, id) = Route::of(&request.method, &request.path).ok_or_else(Response::page_not_found)?;
        let caller = self.authenticate(request)?;
        if caller.enterprise && !matches!(route, Route::CreateToken | Route::CreateOrg) {
            return Err(Response::error(401, BodyForm::Errors, None, "organization ID not present"));
        }
        self.permit(route, &caller)?;
        let body = if route.has_body() {
            let body = serde_json::from_slice(&request.body).ok().filter(Value::is_object);
            body.ok_or_else(|| self.bad_body("invalid request body"))?
        } else {
            Value::Null
        };
        Ok(Checked { route, id, caller, body })
    }

    /// Runs the operation of a checked request.
    pub fn operate(&mut self, checked: &Checked<'_>) -> Response {
        let Checked { route, id, caller, body } = checked;
        match route {
            Route::CreateToken => self.create_token(caller, body),
            Route::ListTokens => self.list_tokens(caller),
            Route::DeleteToken => self.delete_token(caller, id),
            Route::ListRoles => self.list_roles(caller),
            Route::ReadRole => self.read_role(caller, id),
            Route::CreateRole => self.create_role(caller, body),
            Route::UpdateRole => self.update_role(caller, id, body),
            Route::DeleteRole => self.delete_role(caller, id),
            Route::CurrentOrg => self.current_org(caller),
            Route::ListUsers => self.list_users(caller),
            Route::InviteUser => self.invite_user(caller, body),
            Route::ReadUser => self.read_user(caller, id),
            Route::DeleteUser => self.delete_user(caller, id),
            Route::UpdateUserRoles => self.update_user_roles(caller, id, body),
            Route::CreateOrg => self.create_org(caller, body),
        }
    }

    fn authenticate(&self, request: &Request) -> Result<Caller, Response> {
        let reject = |status, id, message| Err(Response::error(status, BodyForm::Errors, Some(id), message));
        let Some(text) = request.bearer().filter(|text| !text.is_empty()) else {
            return reject(401, 340_002, "no bearer token in request");
        };
        let client_id = text.strip_prefix("AstraCS:").and_then(|rest| rest.split(':').next()).unwrap_or_default();
        let known = self.data.tokens.get(client_id).filter(|token| token.text() == text);
        // A root token of a test can have any shape, like the samples in users' guides.
        if known.is_none() && !well_formed(text) {
            return match self.knobs.malformed_token {
                MalformedToken::Id340016 => reject(401, 340_016, MALFORMED),
                MalformedToken::Id340012 => reject(401, 340_012, "invalid token format"),
                MalformedToken::Id340017 => reject(403, 340_017, MALFORMED_2023),
            };
        }
        let now = self.now();
        let Some(token) = known.filter(|token| token.usable(now)) else {
            return reject(401, 340_018, UNKNOWN_CALLER);
        };
        if token.expired(now) {
            return reject(401, self.knobs.expired_token_id, UNKNOWN_CALLER);
        }
        Ok(Caller {
            client_id: token.client_id.clone(),
            org_id: token.org_id.clone(),
            enterprise: token.enterprise,
            actions: self.actions(&token.org_id, &token.roles),
        })
    }

    fn permit(&self, route: Route, caller: &Caller) -> Result<(), Response> {
        let permitted = match route.needs() {
            Some(action) => caller.actions.iter().any(|held| held == action),
            // Any member of an organization may list roles. A token whose roles were deleted is not a member.
            None if route == Route::ListRoles => !caller.actions.is_empty(),
            None if route == Route::CreateOrg => caller.enterprise,
            None => true,
        };
        if permitted {
            return Ok(());
        }
        if route == Route::ListTokens && self.knobs.list_empty_without_permission {
            return Err(Response::json(200, &serde_json::json!({ "clients": [] })));
        }
        Err(self.forbidden("insufficient permissions"))
    }

    pub fn forbidden(&self, message: &str) -> Response {
        match self.knobs.permission_failure {
            PermissionFailure::Errors403 => Response::error(403, BodyForm::Errors, Some(340_003), message),
            PermissionFailure::Null401 => Response::error(401, BodyForm::Null, None, message),
            PermissionFailure::String403 => Response::error(403, BodyForm::JsonString, None, message),
            PermissionFailure::Text403 => Response::error(403, BodyForm::Text, None, message),
        }
    }

    pub fn bad_body(&self, message: &str) -> Response {
        Response::error(400, self.knobs.bad_body, Some(340_001), message)
    }
}

fn well_formed(text: &str) -> bool {
    let Some((client_id, digest)) = text.strip_prefix("AstraCS:").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    client_id.len() == 24
        && client_id.bytes().all(|byte| byte.is_ascii_alphabetic())
        && digest.len() == 64
        && digest.bytes().all(hex)
}

// The `%s` arrive literally from the real service.
const MALFORMED: &str =
    "Resource, token, was malformed. Error: auth-manager returned 400 for call %s/v2/admin/tokens?%s";
const MALFORMED_2023: &str =
    "Resource, token, was malformed. Error: auth-manager returned 403 for call %s/v2/admin/tokens";
const UNKNOWN_CALLER: &str =
    "Resource not found: token with identifier: auth-manager returned 404 for call %s/v2/admin/tokens?%s";
