//! The control endpoint, for the simulator as a program: JSON over HTTP on a separate port, without authentication. No
//! answer contains a token.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /tokens`, `/requests`, `/counters`, `/faults`, `/knobs` | shows the state |
//! | `POST /faults` | sets the fault in the body, returns its `id` |
//! | `DELETE /faults`, `/faults/<id>` | removes all faults, or one |
//! | `POST /knobs` | changes the knobs in the body |
//! | `POST /tokens/<org>` | creates a token in the portal, with `description` and `token_expiry` of the body |
//! | `DELETE /tokens/<client id>`, `/roles/<org>/<role id>` | deletes a token or role outside the API |
//! | `POST /tokens/<client id>/expire` | lets a token expire now |
//! | `POST /clock` | sets the clock forward by `{"advance_ms": n}` |
//! | `POST /reset` | restores the state at the start |

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::fault::AstraFault;
use super::http::{Connection, Framing, Request, Response};
use super::server::accept;
use super::state::{Shared, State, later};

pub async fn serve(shared: Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    accept(&listener, &mut JoinSet::new(), |stream| connection(Arc::clone(&shared), stream)).await
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) -> io::Result<()> {
    let mut connection = Connection::new(Box::new(stream));
    while let Some(request) = connection.read_request().await? {
        let response = shared.update(|state| answer(state, &request));
        // When the client has the answer, new knobs must be in force.
        while !shared.lock().knobs_in_force() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let head = response.head(Framing::Length(response.body.len() as u64));
        connection.stream.write_all(&[head, response.body].concat()).await?;
        connection.stream.flush().await?;
    }
    Ok(())
}

fn answer(state: &mut State, request: &Request) -> Response {
    let body = if request.body.is_empty() { Ok(json!({})) } else { serde_json::from_slice(&request.body) };
    let result = body.map_err(|error| error.to_string()).and_then(|body| route(state, request, body));
    match result {
        Ok(Some(value)) => Response::json(200, &value),
        Ok(None) => Response::page_not_found(),
        Err(message) => Response::json(400, &json!({ "error": message })),
    }
}

fn route(state: &mut State, request: &Request, body: Value) -> Result<Option<Value>, String> {
    let segments: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
    let found = |found: bool| found.then(|| json!({}));
    Ok(match (request.method.as_str(), segments.as_slice()) {
        ("GET", ["tokens"]) => Some(json!({ "tokens": state.views(None), "minted": state.data.minted })),
        ("GET", ["requests"]) => Some(json!({ "requests": state.log.calls().collect::<Vec<_>>() })),
        ("GET", ["counters"]) => Some(state.log.counters()),
        ("GET", ["faults"]) => Some(json!({ "faults": state.faults.list() })),
        ("GET", ["knobs"]) => Some(serde_json::to_value(&state.knobs).map_err(text)?),
        ("POST", ["faults"]) => {
            let fault: AstraFault = serde_json::from_value(body).map_err(text)?;
            let now = state.now();
            Some(json!({ "id": state.faults.add(fault, now) }))
        }
        ("DELETE", ["faults"]) => {
            state.faults.clear();
            Some(json!({}))
        }
        ("DELETE", ["faults", id]) => {
            state.faults.remove(id.parse().map_err(text)?);
            Some(json!({}))
        }
        ("POST", ["knobs"]) => {
            let mut knobs = serde_json::to_value(&state.knobs).map_err(text)?;
            for (key, value) in body.as_object().ok_or("the body must be an object")? {
                knobs[key] = value.clone();
            }
            state.knobs = serde_json::from_value(knobs).map_err(text)?;
            Some(json!({}))
        }
        ("POST", ["tokens", org_id]) => {
            let expiry = body["token_expiry"].as_str().map(str::parse).transpose().map_err(text)?;
            let token = state.make_in_portal(org_id, body["description"].as_str(), expiry);
            Some(json!({ "client_id": token.client_id }))
        }
        ("DELETE", ["tokens", client_id]) => found(state.remove_token(client_id)),
        ("POST", ["tokens", client_id, "expire"]) => {
            let now = state.now();
            let token = state.data.tokens.get_mut(*client_id);
            found(token.map(|token| token.token_expiry = Some(now)).is_some())
        }
        ("DELETE", ["roles", org_id, role_id]) => found(state.remove_role(org_id, role_id)),
        ("POST", ["clock"]) => {
            let by = body["advance_ms"].as_u64().ok_or("advance_ms must be a number")?;
            state.clock = later(state.now(), by).duration_since(jiff::Timestamp::now());
            Some(json!({ "now": state.now().to_string() }))
        }
        ("POST", ["reset"]) => {
            state.reset();
            Some(json!({}))
        }
        _ => None,
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
