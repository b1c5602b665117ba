//! The organization of a token, its users, and organizations of an enterprise.

use serde_json::{Value, json};

use super::http::{BodyForm, Response};
use super::knobs::UserStyle;
use super::routes::Caller;
use super::state::{Organization, State, User};

impl State {
    pub fn current_org(&self, caller: &Caller) -> Response {
        let mut answer = json!({ "id": caller.org_id });
        if self.knobs.current_org_name {
            answer["name"] = self.org_name(&caller.org_id).into();
        }
        Response::json(200, &answer)
    }

    pub fn list_users(&self, caller: &Caller) -> Response {
        let users = self.data.users.get(&caller.org_id).into_iter().flatten();
        let users: Vec<Value> = users.map(|user| self.render_user(user, &caller.org_id)).collect();
        let name = self.org_name(&caller.org_id);
        Response::json(
            200,
            &match self.knobs.user_style {
                UserStyle::Pascal => json!({ "OrgID": caller.org_id, "OrgName": name, "Users": users }),
                UserStyle::LowerCamel => json!({ "orgID": caller.org_id, "orgName": name, "users": users }),
            },
        )
    }

    pub fn invite_user(&mut self, caller: &Caller, body: &Value) -> Response {
        let (Some(email), Some(roles)) = (body["email"].as_str(), strings(&body["roles"])) else {
            return self.bad_body("email and roles are required");
        };
        let user = User { id: self.rng.uuid(), email: email.to_owned(), status: "invited", roles };
        self.data.users.entry(caller.org_id.clone()).or_default().push(user);
        Response::empty(200)
    }

    pub fn read_user(&self, caller: &Caller, id: &str) -> Response {
        let user = self.data.users.get(&caller.org_id).and_then(|users| users.iter().find(|user| user.id == id));
        user.map_or_else(unknown_user, |user| Response::json(200, &self.render_user(user, &caller.org_id)))
    }

    pub fn delete_user(&mut self, caller: &Caller, id: &str) -> Response {
        let users = self.data.users.entry(caller.org_id.clone()).or_default();
        let before = users.len();
        users.retain(|user| user.id != id);
        if users.len() < before { Response::empty(204) } else { unknown_user() }
    }

    pub fn update_user_roles(&mut self, caller: &Caller, id: &str, body: &Value) -> Response {
        let Some(roles) = strings(&body["roles"]) else {
            return self.bad_body("roles are required");
        };
        let users = self.data.users.entry(caller.org_id.clone()).or_default();
        let Some(user) = users.iter_mut().find(|user| user.id == id) else {
            return unknown_user();
        };
        user.roles = roles;
        Response::empty(204)
    }

    pub fn create_org(&mut self, caller: &Caller, body: &Value) -> Response {
        let field = |key: &str| body[key].as_str().map(str::to_owned);
        let (Some(name), Some(email), Some(_)) = (field("name"), field("email"), field("adminUserID")) else {
            return Response::error(400, BodyForm::Text, None, "name, email and adminUserID are required");
        };
        let id = self.rng.uuid();
        let now = format!("{:.3}", self.now());
        let enterprise = Some(caller.org_id.clone());
        self.data.orgs.push(Organization { id: id.clone(), name: name.clone(), enterprise, max_token_age: None });
        Response::json(
            201,
            &json!({
                "OrganizationName": name, "OrganizationID": id, "OrganizationEmail": email, "MarketplaceData": null,
                "CreatedAt": now, "LastModified": now, "OrgType": "enterprise", "EnterpriseId": caller.org_id,
            }),
        )
    }

    fn org_name(&self, org_id: &str) -> &str {
        self.data.org(org_id).map_or("", |org| &org.name)
    }

    fn render_user(&self, user: &User, org_id: &str) -> Value {
        let pascal = self.knobs.user_style == UserStyle::Pascal;
        let roles = user.roles.iter().map(|id| {
            let name = self.role(org_id, id).map_or("", |role| &role.name);
            if pascal { json!({ "ID": id, "Name": name }) } else { json!({ "id": id, "name": name }) }
        });
        let roles: Vec<Value> = roles.collect();
        if pascal {
            json!({ "UserID": user.id, "Email": user.email, "Status": user.status, "Roles": roles })
        } else {
            json!({ "userID": user.id, "email": user.email, "status": user.status, "roles": roles })
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}

fn unknown_user() -> Response {
    Response::error(404, BodyForm::Errors, Some(340_004), "user not found")
}
