//! Creating, listing and revoking tokens.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::http::{BodyForm, Response};
use super::knobs::{BadExpiry, DeleteSuccess, FieldPolicy, UnknownId, Unset};
use super::roles::built_in_id;
use super::routes::Caller;
use super::state::{LETTERS, SECRET_ALPHABET, State, Token, later, sha256_hex};

impl State {
    pub fn create_token(&mut self, caller: &Caller, body: &Value) -> Response {
        match self.prepare_token(caller, body) {
            Err(rejection) => rejection,
            Ok(token) => {
                let answer = self.create_answer(&token);
                self.data.minted += 1;
                self.fresh = Some(token.client_id.clone());
                self.data.tokens.insert(token.client_id.clone(), token);
                answer
            }
        }
    }

    pub fn list_tokens(&mut self, caller: &Caller) -> Response {
        let now = self.now();
        let listed = |token: &&Token| {
            token.org_id == caller.org_id
                && !token.enterprise
                && token.listed(now)
                && (self.knobs.list_expired || !token.expired(now))
        };
        let mut clients: Vec<Value> =
            self.data.tokens.values().filter(listed).map(|token| list_entry(token, self.knobs.list_unset)).collect();
        if self.knobs.list_shuffle {
            for last in (1..clients.len()).rev() {
                clients.swap(last, self.rng.below(last as u64 + 1) as usize);
            }
        }
        Response::json(200, &json!({ "clients": clients }))
    }

    pub fn delete_token(&mut self, caller: &Caller, client_id: &str) -> Response {
        let own = self.data.tokens.get(client_id).is_some_and(|token| token.org_id == caller.org_id);
        if !own || !self.remove_token(client_id) {
            let message = "token not found";
            return match self.knobs.unknown_id {
                UnknownId::NotFoundErrors => Response::error(404, BodyForm::Errors, Some(340_004), message),
                UnknownId::NotFoundText => Response::error(404, BodyForm::Text, None, message),
                UnknownId::BadRequestString => Response::error(400, BodyForm::JsonString, None, message),
                UnknownId::NoContent => Response::empty(204),
                UnknownId::ServerErrorString => Response::error(500, BodyForm::JsonString, None, message),
            };
        }
        match self.knobs.delete_success {
            DeleteSuccess::NoContent => Response::empty(204),
            DeleteSuccess::OkEmpty => Response::empty(200),
            DeleteSuccess::OkJson => Response::json(200, &json!({ "clientId": client_id })),
            DeleteSuccess::Accepted => Response::empty(202),
        }
    }

    /// Deletes a token of any organization. Returns false if the token does not exist, or was deleted before.
    pub fn remove_token(&mut self, client_id: &str) -> bool {
        let listed_until = self.after_ms(self.knobs.list_delay_after_delete_ms);
        let usable_until = self.after_ms(self.knobs.auth_delay_after_delete_ms);
        let Some(token) = self.data.tokens.get_mut(client_id).filter(|token| !token.deleted) else {
            return false;
        };
        token.deleted = true;
        token.listed_until = Some(listed_until);
        token.usable_until = Some(usable_until);
        true
    }

    /// Stores a token that somebody made in the portal. Returns it.
    pub fn make_in_portal(&mut self, org_id: &str, description: Option<&str>, expiry: Option<Timestamp>) -> Token {
        let mut token = self.generate_token(org_id, vec![built_in_id("RO User").into()]);
        token.description = description.map(str::to_owned);
        token.token_expiry = expiry;
        self.data.tokens.insert(token.client_id.clone(), token.clone());
        token
    }

    /// Generates a token with a new id and secret. Does not store it.
    pub fn generate_token(&mut self, org_id: &str, roles: Vec<String>) -> Token {
        let secret = self.rng.text(128, SECRET_ALPHABET);
        let now = self.now();
        Token {
            client_id: self.rng.text(24, LETTERS),
            digest: sha256_hex(&secret),
            secret,
            org_id: org_id.to_owned(),
            enterprise: false,
            roles,
            generated_on: now,
            description: None,
            token_expiry: None,
            creator: None,
            deleted: false,
            delivered: false,
            listed_from: now,
            listed_until: None,
            usable_from: now,
            usable_until: None,
        }
    }

    fn prepare_token(&mut self, caller: &Caller, body: &Value) -> Result<Token, Response> {
        let roles = self.requested_roles(body)?;
        let (org_id, enterprise) = self.target_org(caller, body)?;
        if self.knobs.strict_roles && roles.iter().any(|id| self.role(&org_id, id).is_none()) {
            return Err(self.bad_body("unknown role"));
        }
        if self.knobs.escalation_check {
            let wanted = self.actions(&org_id, &roles);
            if !caller.enterprise && wanted.iter().any(|action| !caller.actions.contains(action)) {
                return Err(self.forbidden("a token cannot have higher permissions than its creator"));
            }
        }
        let description = self.requested_description(body)?;
        let token_expiry = self.requested_expiry(&org_id, body)?;
        let mut token = self.generate_token(&org_id, roles);
        token.enterprise = enterprise;
        token.description = description;
        token.token_expiry = token_expiry;
        token.creator = Some(caller.client_id.clone());
        token.listed_from = later(token.generated_on, self.knobs.list_delay_after_create_ms);
        token.usable_from = later(token.generated_on, self.knobs.auth_delay_after_create_ms);
        Ok(token)
    }

    fn requested_roles(&self, body: &Value) -> Result<Vec<String>, Response> {
        let roles = body["roles"].as_array().filter(|roles| !roles.is_empty());
        let roles = roles.and_then(|roles| roles.iter().map(|role| role.as_str().map(str::to_owned)).collect());
        roles.ok_or_else(|| self.bad_body("roles must be a non-empty array of strings"))
    }

    /// Returns the organization of the new token, and whether the token is an enterprise token.
    fn target_org(&self, caller: &Caller, body: &Value) -> Result<(String, bool), Response> {
        let Some(org_id) = body.get("orgId").filter(|org_id| !org_id.is_null()) else {
            return Ok((caller.org_id.clone(), caller.enterprise));
        };
        let org_id = org_id.as_str().ok_or_else(|| self.bad_body("orgId must be a string"))?;
        if org_id == caller.org_id {
            return Ok((org_id.to_owned(), caller.enterprise));
        }
        let Some(org) = self.data.org(org_id) else {
            return Err(Response::error(404, BodyForm::Text, None, "organization not found"));
        };
        if caller.enterprise && org.enterprise.as_ref() == Some(&caller.org_id) {
            return Ok((org_id.to_owned(), false));
        }
        Err(self.forbidden("token does not belong to the organization"))
    }

    fn requested_description(&self, body: &Value) -> Result<Option<String>, Response> {
        let Some(description) = body.get("description").filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        let description = description.as_str().ok_or_else(|| self.bad_body("description must be a string"))?;
        match self.knobs.description {
            FieldPolicy::Reject => Err(self.bad_body("unknown field description")),
            FieldPolicy::Ignore => Ok(None),
            FieldPolicy::Accept if self.knobs.description_cut => {
                let longest = self.knobs.description_max.unwrap_or(usize::MAX);
                Ok(Some(description.chars().take(longest).collect()))
            }
            FieldPolicy::Accept if self.knobs.description_max.is_some_and(|max| description.chars().count() > max) => {
                Err(self.bad_body("description is too long"))
            }
            FieldPolicy::Accept => Ok(Some(description.to_owned())),
        }
    }

    fn requested_expiry(&self, org_id: &str, body: &Value) -> Result<Option<Timestamp>, Response> {
        let now = self.now();
        let longest = self.data.org(org_id).and_then(|org| org.max_token_age);
        let longest = longest.map(|age| now.saturating_add(age).expect("a signed duration can be added"));
        let Some(wanted) = body.get("tokenExpiry").filter(|value| !value.is_null()) else {
            return Ok(longest);
        };
        match self.knobs.token_expiry {
            FieldPolicy::Reject => return Err(self.bad_body("unknown field tokenExpiry")),
            FieldPolicy::Ignore => return Ok(longest),
            FieldPolicy::Accept => {}
        }
        let expiry: Option<Timestamp> = wanted.as_str().and_then(|text| text.parse().ok());
        let is_valid = |expiry: &Timestamp| *expiry > now && longest.is_none_or(|longest| *expiry <= longest);
        match (expiry.filter(is_valid), self.knobs.bad_expiry) {
            (Some(expiry), _) => Ok(Some(expiry)),
            (None, BadExpiry::Reject) => Err(self.bad_body("invalid tokenExpiry")),
            (None, BadExpiry::Clamp) => Ok(longest),
            (None, BadExpiry::Ignore) => Ok(None),
        }
    }

    fn create_answer(&self, token: &Token) -> Response {
        let mut answer = json!({
            "clientId": token.client_id,
            "secret": token.secret,
            "orgId": token.org_id,
            "roles": token.roles,
            "token": token.text(),
            "generatedOn": format!("{:.9}", token.generated_on),
        });
        if self.knobs.create_echo {
            answer["description"] = token.description.clone().unwrap_or_default().into();
            answer["tokenExpiry"] = expiry_text(token).into();
        }
        for key in &self.knobs.create_omit {
            answer.as_object_mut().expect("built as an object").remove(key);
        }
        Response::json(self.knobs.create_status, &answer)
    }
}

fn list_entry(token: &Token, unset: Unset) -> Value {
    let mut entry = Map::new();
    entry.insert("clientId".into(), token.client_id.clone().into());
    entry.insert("roles".into(), token.roles.clone().into());
    entry.insert("generatedOn".into(), format!("{:.3}", token.generated_on).into());
    if token.description.is_some() || unset == Unset::Empty {
        entry.insert("description".into(), token.description.clone().unwrap_or_default().into());
    }
    if token.token_expiry.is_some() || unset == Unset::Empty {
        entry.insert("tokenExpiry".into(), expiry_text(token).into());
    }
    entry.into()
}

fn expiry_text(token: &Token) -> Option<String> {
    token.token_expiry.map(|expiry| expiry.to_string())
}
