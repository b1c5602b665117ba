//! Built-in and custom roles, and the styles of their keys in answers of the real service.

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{BodyForm, Response};
use super::knobs::RoleStyle;
use super::routes::Caller;
use super::state::State;

#[derive(Clone)]
pub struct Role {
    pub id: String,
    pub name: String,
    pub description: String,
    pub resources: Vec<String>,
    pub actions: Vec<String>,
    pub effect: String,
    pub built_in: bool,
    pub updated: Option<Timestamp>,
    /// The client id of the token that made the last change.
    pub updated_by: String,
    /// The actions before the last edit, and the time at which the edit takes effect.
    pub previous: Option<(Vec<String>, Timestamp)>,
}

impl Role {
    pub fn actions_at(&self, now: Timestamp) -> &[String] {
        match &self.previous {
            Some((actions, until)) if now < *until => actions,
            _ => &self.actions,
        }
    }

    fn render(&self, style: RoleStyle, org_id: &str) -> Value {
        let policy = json!({
            "description": self.description,
            "resources": self.resources,
            "actions": self.actions,
            "effect": self.effect,
        });
        let updated = self.updated.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |time| format!("{time:.3}"));
        let by = &self.updated_by;
        match style {
            RoleStyle::Lower => json!({
                "id": self.id, "name": self.name, "policy": policy,
                "last_update_date_time": updated, "last_update_user_id": by,
            }),
            RoleStyle::Spec => json!({
                "id": self.id, "name": self.name, "policy": policy,
                "last_update_datetime": updated, "last_update_userid": by,
            }),
            RoleStyle::Pascal | RoleStyle::PascalStringPolicy => {
                let policy = if style == RoleStyle::Pascal { policy } else { policy.to_string().into() };
                json!({
                    "OrgID": org_id, "ID": self.id, "Name": self.name, "Policy": policy,
                    "LastUpdateDateTime": updated, "LastUpdateUserID": by,
                })
            }
        }
    }
}

impl State {
    pub fn list_roles(&self, caller: &Caller) -> Response {
        let custom = self.data.roles.get(&caller.org_id).into_iter().flatten();
        let roles = built_in().iter().chain(custom);
        let roles: Vec<Value> = roles.map(|role| role.render(self.knobs.role_style, &caller.org_id)).collect();
        Response::json(200, &roles.into())
    }

    pub fn read_role(&self, caller: &Caller, id: &str) -> Response {
        match self.role(&caller.org_id, id) {
            Some(role) => Response::json(200, &role.render(self.knobs.role_style, &caller.org_id)),
            None => unknown_role(),
        }
    }

    pub fn create_role(&mut self, caller: &Caller, body: &Value) -> Response {
        let Some(mut role) = parse(body) else {
            return Response::error(400, BodyForm::JsonString, None, "invalid role");
        };
        let roles = self.data.roles.entry(caller.org_id.clone()).or_default();
        if built_in().iter().chain(&*roles).any(|other| other.name == role.name) {
            return Response::error(409, BodyForm::JsonString, None, "unable to create role");
        }
        role.id = self.rng.uuid();
        role.updated_by.clone_from(&caller.client_id);
        role.updated = Some(self.now());
        let answer = role.render(self.knobs.role_create_style, &caller.org_id);
        self.data.roles.entry(caller.org_id.clone()).or_default().push(role);
        Response::json(201, &answer)
    }

    pub fn update_role(&mut self, caller: &Caller, id: &str, body: &Value) -> Response {
        if let Some(rejection) = self.reject_built_in(id) {
            return rejection;
        }
        let Some(new) = parse(body) else {
            return Response::error(400, BodyForm::JsonString, None, "invalid role");
        };
        let now = self.now();
        let until = self.after_ms(self.knobs.role_edit_delay_ms);
        let style = self.knobs.role_style;
        let roles = self.data.roles.entry(caller.org_id.clone()).or_default();
        let Some(role) = roles.iter_mut().find(|role| role.id == id) else {
            return unknown_role();
        };
        let previous = Some((role.actions_at(now).to_vec(), until));
        let (id, updated_by) = (role.id.clone(), caller.client_id.clone());
        *role = Role { id, updated: Some(now), updated_by, previous, ..new };
        Response::json(200, &role.render(style, &caller.org_id))
    }

    pub fn delete_role(&mut self, caller: &Caller, id: &str) -> Response {
        if let Some(rejection) = self.reject_built_in(id) {
            return rejection;
        }
        if self.remove_role(&caller.org_id, id) { Response::empty(204) } else { unknown_role() }
    }

    /// Deletes a custom role. Tokens with the role stay in the list, and lose its permissions.
    pub fn remove_role(&mut self, org_id: &str, id: &str) -> bool {
        let Some(roles) = self.data.roles.get_mut(org_id) else {
            return false;
        };
        let before = roles.len();
        roles.retain(|role| role.id != id);
        roles.len() < before
    }

    fn reject_built_in(&self, id: &str) -> Option<Response> {
        let built_in = built_in().iter().any(|role| role.id == id);
        let status = self.knobs.built_in_role_status;
        built_in.then(|| Response::error(status, BodyForm::JsonString, None, "unable to change default role"))
    }
}

/// Returns the id of a built-in role, given its name in the API.
pub fn built_in_id(name: &str) -> &'static str {
    let role = built_in().iter().find(|role| role.name == name);
    role.map(|role| role.id.as_str()).unwrap_or_else(|| panic!("no built-in role {name:?}"))
}

/// Returns a custom role with these actions.
pub fn custom(id: String, name: &str, org_id: &str, actions: &[&str]) -> Role {
    Role {
        id,
        name: name.to_owned(),
        description: name.to_owned(),
        resources: RESOURCES[..4].iter().map(|resource| resource.replace("__ORG_ID__", org_id)).collect(),
        actions: actions.iter().map(|&action| action.to_owned()).collect(),
        effect: "allow".into(),
        built_in: false,
        updated: None,
        updated_by: String::new(),
        previous: None,
    }
}

pub fn built_in() -> &'static [Role] {
    static ROLES: LazyLock<Vec<Role>> = LazyLock::new(|| BUILT_IN.iter().map(from_table).collect());
    &ROLES
}

fn from_table((name, id, actions, resources): &(&str, &str, &str, &[usize])) -> Role {
    let mut expanded = Vec::new();
    for word in actions.split_whitespace() {
        match SETS.iter().find(|(set, _)| *set == word) {
            Some((_, members)) => expanded.extend(members.split_whitespace()),
            None => expanded.push(word),
        }
    }
    let mut role = custom((*id).to_owned(), name, "__ORG_ID__", &expanded);
    role.built_in = true;
    role.resources = resources.iter().map(|&index| RESOURCES[index].to_owned()).collect();
    role
}

fn parse(body: &Value) -> Option<Role> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| value.as_array()?.iter().map(text).collect::<Option<Vec<_>>>();
    let policy = &body["policy"];
    Some(Role {
        id: String::new(),
        name: text(&body["name"]).filter(|name| !name.is_empty())?,
        description: text(&policy["description"])?,
        resources: texts(&policy["resources"])?,
        actions: texts(&policy["actions"])?,
        effect: text(&policy["effect"])?,
        built_in: false,
        updated: None,
        updated_by: String::new(),
        previous: None,
    })
}

fn unknown_role() -> Response {
    Response::error(404, BodyForm::JsonString, None, "unable to get role for organization")
}

/// Answers of the real service contain the placeholder `__ORG_ID__` itself.
const RESOURCES: [&str; 6] = [
    "drn:astra:org:__ORG_ID__",
    "drn:astra:org:__ORG_ID__:db:*",
    "drn:astra:org:__ORG_ID__:db:*:keyspace:*",
    "drn:astra:org:__ORG_ID__:db:*:keyspace:*:table:*",
    "drn:astra:org:__ORG_ID__:stream:*",
    "drn:astra:org:__ORG_ID__:role:*",
];
const R2: &[usize] = &[0, 1];
const R4: &[usize] = &[0, 1, 2, 3];
const R4S: &[usize] = &[0, 1, 2, 3, 4];
const R4SR: &[usize] = &[0, 1, 2, 3, 4, 5];

const SETS: [(&str, &str); 9] = [
    (
        "KS",
        "db-all-keyspace-create db-all-keyspace-describe db-keyspace-alter db-keyspace-authorize db-keyspace-create \
         db-keyspace-describe db-keyspace-drop db-keyspace-grant db-keyspace-modify",
    ),
    (
        "TB",
        "db-table-alter db-table-authorize db-table-create db-table-describe db-table-drop db-table-grant \
         db-table-modify db-table-select",
    ),
    (
        "LIFE",
        "org-db-create org-db-passwordreset org-db-terminate org-db-suspend org-db-addpeering \
         org-db-managemigratorproxy org-db-expand org-db-view",
    ),
    ("INFRA", "db-manage-privateendpoint db-manage-region"),
    ("BILL", "org-billing-read org-billing-write"),
    ("USER", "org-user-read org-user-write"),
    ("CMK", "org-cmk-read org-cmk-write"),
    ("READ", "db-all-keyspace-describe db-keyspace-describe db-table-select db-table-describe"),
    ("API", "db-graphql db-rest"),
];

/// Name, id, actions (with names of the sets above) and resources of a role, as recorded in 2022.
type Row = (&'static str, &'static str, &'static str, &'static [usize]);
const BUILT_IN: [Row; 16] = [
    (
        "Organization Administrator",
        "ad0566b5-2a67-49de-89e8-92258c2f2c98",
        "KS TB LIFE INFRA BILL USER CMK API accesslist-read accesslist-write db-cql db-manage-thirdpartymetrics \
         org-audits-read org-external-auth-read org-external-auth-write org-notification-write org-read org-write \
         org-role-read org-role-write org-role-delete org-stream-manage org-token-read org-token-write",
        R4SR,
    ),
    (
        "Database Administrator",
        "1faa93f2-b889-4190-9585-4bc6e3c3595a",
        "KS TB LIFE INFRA CMK API accesslist-read accesslist-write db-cql db-manage-thirdpartymetrics org-user-read \
         org-token-read org-token-write",
        R4,
    ),
    (
        "Admin User",
        "43745b73-ad46-46e4-b826-c15d06d2cea0",
        "KS TB LIFE INFRA BILL USER CMK API db-cql db-manage-thirdpartymetrics org-read",
        R4,
    ),
    (
        "Admin Svc Acct",
        "892c45bb-d395-488c-9428-8a50f7013e2b",
        "KS TB LIFE INFRA BILL USER CMK API db-cql db-manage-thirdpartymetrics org-stream-manage",
        R4S,
    ),
    (
        "API Admin User",
        "67c4b5dc-dd3f-4b2d-be51-09be12836d57",
        "KS TB LIFE INFRA BILL USER API accesslist-read org-stream-manage org-db-view",
        R4S,
    ),
    (
        "API Admin Svc Acct",
        "dde8a0e9-f4ae-4b42-b642-9f257436c8da",
        "KS TB LIFE INFRA BILL USER API accesslist-read org-stream-manage",
        R4S,
    ),
    (
        "R/W User",
        "b73e44b2-b9e9-43b8-a7c1-c6a2fe2dab50",
        "READ API accesslist-read db-cql db-table-modify org-db-view org-user-read",
        R4,
    ),
    ("R/W Svc Acct", "b4ed0e9e-67e8-47b6-8b58-c6629be961a9", "READ API accesslist-read db-cql db-table-modify", R4),
    (
        "API R/W User",
        "946cfbde-24cc-4953-9355-d57bfd61bf39",
        "READ API accesslist-read db-table-modify org-db-view org-user-read",
        R4,
    ),
    ("API R/W Svc Acct", "efdfd41f-6184-4891-8400-b5779a0551d9", "READ API accesslist-read db-table-modify", R4),
    (
        "RO User",
        "d2cfcd63-055c-4a58-b957-8916d4a007a5",
        "READ API accesslist-read db-cql org-db-view org-user-read",
        R4,
    ),
    ("RO Svc Acct", "16a4b1d7-a615-41f8-95ca-52b0280f4d77", "READ API accesslist-read db-cql", R4),
    ("API RO User", "5dc84d0d-4fdd-4ec2-a223-71341b6d7685", "READ API accesslist-read org-db-view org-user-read", R4),
    ("API RO Svc Acct", "74b7d8b1-ecf1-48e5-a35f-0f999d369889", "READ API accesslist-read", R4),
    ("Billing Admin", "c5fabb3c-1ae1-4648-898f-d3b98167d62e", "BILL org-db-view org-user-read", R2),
    ("UI View Only", "a25baf86-1bde-43d2-86ac-647e3d884bac", "accesslist-read org-db-view org-user-read", R2),
];
