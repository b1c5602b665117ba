//! The client of Astra's DevOps API, version 2.
//!
//! Architecture invariant: knows nothing of Vault. Of an answer, an error contains only the status and Astra's message.

mod answer;
mod body;
mod connect;
mod delete;
mod described;
mod description;
mod error;
mod list;
mod listing;
mod meter;
mod pool;
mod probe;
mod proxy;
mod queue;
mod resolve;
mod retry;
mod roles;
mod settings;
mod types;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, Request};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};
use url::Url;

use self::answer::Answer;
use self::body::Body;
pub(crate) use self::delete::Patience;
use self::delete::{Unlimited, confirms_success};
use self::described::Described;
pub(crate) use self::description::describe;
pub(crate) use self::error::{Case, Error, LIST_ROLES, MINT, PREPARE};
pub(crate) use self::list::{ListReader, ListedToken};
pub(crate) use self::listing::Listing;
pub(crate) use self::meter::{Distribution, Meter, Outcome, Route};
use self::pool::Pool;
pub(crate) use self::pool::{Pools, are_certificates};
pub(crate) use self::probe::{Answered, Probe};
pub(crate) use self::proxy::Proxies;
pub(crate) use self::queue::{Load, Queue};
pub(crate) use self::roles::{AstraRole, RoleList};
use self::settings::headers;
pub(crate) use self::settings::{Settings, can_name, parse_url};
use self::types::is_org_id;
pub(crate) use self::types::{CreatedToken, MAX_TOKEN, NewToken, TOKEN_PREFIX, TokenDates, token_parts};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    error::fuzz::fuzz_astra_error, list::fuzz::fuzz_astra_list, retry::fuzz::fuzz_retry_after,
    types::fuzz::fuzz_astra_token,
};

/// The most bytes of an answer that is not a list.
const ANSWER_LIMIT: usize = 1 << 20;

/// The most bytes of a list of roles.
const ROLES_LIMIT: usize = 64 << 20;

/// The most tokens that one look into the list of tokens can be for. A gateway can repeat a mint, but not this often.
const MOST_FOUND: usize = 1000;

const LIST: &str = "list the tokens";
const DELETE: &str = "delete a token";

/// Calls Astra with the root token of one org.
pub(crate) struct Client {
    pool: Pool,
    base: Url,
    /// The headers of each request. They hold the root token.
    headers: HeaderMap,
    /// Client id of the root token.
    root_id: String,
    /// Astra's id of the organization whose tokens the client manages; empty if this is not known.
    astra_org_id: String,
    /// Whether Astra has confirmed that the root token belongs to this organization.
    is_own_org: AtomicBool,
    queue: Arc<Queue>,
    timeout: Duration,
}

impl Client {
    /// Returns a client. Can block for some milliseconds, because it can read the CA certificates of the machine from
    /// disk.
    ///
    /// # Errors
    /// When the settings cannot be used, when there is no CA certificate to trust for an `https` URL, or when the proxy
    /// in the environment cannot be used.
    pub(crate) fn new(settings: &Settings, pools: &Pools, queue: Arc<Queue>) -> Result<Self, Error> {
        let bad_settings = |reason| Error::bad_settings(PREPARE, reason);
        let base =
            parse_url(&settings.url).map_err(|reason| bad_settings(format!("the url of the config {reason}")))?;
        let headers = headers(settings).map_err(|reason| bad_settings(reason.to_owned()))?;
        let pool = pools.pool(&base, &settings.ca_cert)?;
        let root_id = settings.token.expose_secret().split(':').nth(1).unwrap_or_default().to_owned();
        let (astra_org_id, is_own_org) = (settings.astra_org_id.clone(), AtomicBool::new(false));
        Ok(Self { pool, base, headers, root_id, astra_org_id, is_own_org, queue, timeout: settings.timeout })
    }

    /// Returns Astra's id of the organization that the root token belongs to.
    pub(crate) async fn current_org(&self) -> Result<String, Error> {
        const CALL: &str = "ask whose token this is";
        let answer =
            self.call(&Unlimited, CALL, Method::GET, &["currentOrg"], None, |answer| answer.json(ANSWER_LIMIT)).await?;
        match object(CALL, &answer)?.remove("id") {
            Some(Value::String(id)) if is_org_id(&id) => {
                self.note_org(&id);
                Ok(id)
            }
            _ => Err(Error::garbled(CALL, "it has no id of an organization")),
        }
    }

    /// Mints a token. Not idempotent: see [`Error::may_have_happened`].
    pub(crate) async fn create_token(&self, token: &NewToken) -> Result<CreatedToken, Error> {
        let answer = self
            .call(&Unlimited, MINT, Method::POST, &["clientIdSecrets"], Some(token), |answer| answer.json(ANSWER_LIMIT))
            .await?;
        let created = CreatedToken::read(object(MINT, &answer)?);
        self.note_org(&created.org_id);
        Ok(created)
    }

    /// Deletes a token. Succeeds if Astra no longer has the token. Never deletes the root token.
    ///
    /// # Errors
    /// Also when Astra does not have the token because the root token belongs to another organization.
    pub(crate) async fn delete_token(&self, client_id: &str) -> Result<(), Error> {
        self.delete_token_with(&Unlimited, client_id).await
    }

    /// As [`Client::delete_token`]. After a failed request, makes only the requests that `patience` allows.
    pub(crate) async fn delete_token_with(&self, patience: &dyn Patience, client_id: &str) -> Result<(), Error> {
        if !can_name(client_id) {
            return Err(Error::bad_settings(DELETE, "the client id fits no URL"));
        }
        if client_id == self.root_id {
            return Err(Error::is_root_token(DELETE));
        }
        let path = ["clientIdSecrets", client_id];
        let answer = self.call(patience, DELETE, Method::DELETE, &path, None, |answer| answer.json(ANSWER_LIMIT));
        let error = match answer.await {
            Ok(answer) if answer.is_empty() || confirms_success(&answer) => return Ok(()),
            Ok(_) => Error::garbled(DELETE, "it is not JSON, or tells of errors"),
            Err(error) if error.is_not_found() => return self.require_own_org(DELETE).await,
            Err(error) => error,
        };
        // Astra's answer for an unknown token is not documented, and a proxy can send any answer. Only the list of
        // tokens is certain. Astra works if it rejects the request, so patience does not matter then.
        if !error.is_unclear() || !error.is_refusal() && !patience.may_list() {
            return Err(error);
        }
        match self.has_token(client_id).await {
            Ok(false) => Ok(()),
            Err(other) if other.case() == Case::OtherOrganization => Err(other),
            Ok(true) | Err(_) => Err(error),
        }
    }

    /// Whether Astra has a token.
    ///
    /// # Errors
    /// When this is not certain: the list is empty, one of its entries cannot be parsed, or the root token belongs to
    /// another organization.
    pub(crate) async fn has_token(&self, client_id: &str) -> Result<bool, Error> {
        let named = |token: ListedToken<'_>| (token.client_id == client_id).then_some(());
        let found = self.tokens(MOST_FOUND, named).await?;
        if found.is_empty() {
            self.require_own_org(LIST).await?;
        }
        Ok(!found.is_empty())
    }

    /// Returns the client ids of the tokens whose description begins with this marker. There can be several: a gateway can
    /// repeat the request of a mint.
    ///
    /// # Errors
    /// When it is not certain which tokens these are, as in [`Client::has_token`].
    pub(crate) async fn find_tokens(&self, marker: &str) -> Result<Vec<String>, Error> {
        let of_marker = |token: ListedToken<'_>| token.is_marked(marker).then(|| token.client_id.into_owned());
        let found = self.tokens(MOST_FOUND, of_marker).await?;
        if found.is_empty() {
            self.require_own_org(LIST).await?;
        }
        Ok(found)
    }

    /// Lists the tokens of the org.
    ///
    /// # Errors
    /// When it is not certain that the list has all tokens of the right organization, as in [`Client::has_token`].
    pub(crate) async fn listing(&self) -> Result<Listing, Error> {
        let keep = |token: ListedToken<'_>| Some((Box::from(&*token.client_id), token.marker()));
        let tokens = self.tokens(usize::MAX, keep).await?;
        self.require_own_org(LIST).await?;
        Ok(Listing::new(tokens))
    }

    /// Lists the tokens of the org for a reader, which keeps what it needs of each token. A new attempt reads from the start.
    ///
    /// # Errors
    /// As [`Client::listing`].
    pub(crate) async fn survey<R: ListReader>(&self, reader: &R) -> Result<R::All, Error> {
        let add = &|all: &mut R::All, token: ListedToken<'_>| {
            reader.add(all, &token);
            Ok(())
        };
        let read = |answer: Answer| answer.fold(reader.begin(), add);
        let all = self.call(&Unlimited, LIST, Method::GET, &["clientIdSecrets"], None, read).await?;
        self.require_own_org(LIST).await?;
        Ok(all)
    }

    /// Lists the tokens of the org. Returns what `pick` returns for each token, so that only this is kept in memory.
    ///
    /// # Errors
    /// When the list is empty or one of its entries cannot be parsed, so that a missing token proves nothing. Also when
    /// `pick` picks more than `most` tokens.
    pub(crate) async fn tokens<T: Send>(
        &self,
        most: usize,
        pick: impl Fn(ListedToken<'_>) -> Option<T> + Sync,
    ) -> Result<Vec<T>, Error> {
        let pick = &pick;
        self.call(&Unlimited, LIST, Method::GET, &["clientIdSecrets"], None, |answer| answer.tokens(most, pick)).await
    }

    /// Returns the roles of the org, built-in and custom.
    ///
    /// # Errors
    /// Also when the list is empty. For a root token with permission to list roles, the list is never empty.
    pub(crate) async fn roles(&self) -> Result<RoleList, Error> {
        let path = ["organizations", "roles"];
        let answer =
            self.call(&Unlimited, LIST_ROLES, Method::GET, &path, None, |answer| answer.json(ROLES_LIMIT)).await?;
        RoleList::read(&answer)
    }

    /// Returns the ids of the Astra roles of a token, and its dates; `None` if Astra does not list the token.
    ///
    /// # Errors
    /// When it is not certain which roles the token has.
    pub(crate) async fn roles_of(&self, client_id: &str) -> Result<Option<(Vec<String>, TokenDates)>, Error> {
        let of_token = |token: ListedToken<'_>| {
            (token.client_id == client_id).then(|| {
                let dates = token.dates();
                token.into_roles().map(|roles| (roles, dates))
            })
        };
        match self.tokens(MOST_FOUND, of_token).await?.into_iter().next() {
            Some(None) => Err(Error::garbled(LIST, "the roles of the token are not a list of ids")),
            found => Ok(found.flatten()),
        }
    }

    /// Returns the dates of a token; `None` if Astra does not list the token.
    pub(crate) async fn dates_of(&self, client_id: &str) -> Result<Option<TokenDates>, Error> {
        let of_token = |token: ListedToken<'_>| (token.client_id == client_id).then(|| token.dates());
        Ok(self.tokens(MOST_FOUND, of_token).await?.into_iter().next())
    }

    /// Returns what Astra's list tells about a token; `None` if Astra does not list the token.
    ///
    /// # Errors
    /// When this is not certain, as in [`Client::has_token`].
    pub(crate) async fn described(&self, client_id: &str) -> Result<Option<Described>, Error> {
        let describe = |token: ListedToken<'_>| (token.client_id == client_id).then(|| Described::of(token));
        let found = self.tokens(MOST_FOUND, describe).await?.into_iter().next();
        if found.is_none() {
            self.require_own_org(LIST).await?;
        }
        Ok(found)
    }

    /// Fails if the root token belongs to another organization. Astra does not find the tokens of this organization then,
    /// although they are live. Asks Astra until it has confirmed the organization once. If Astra refuses the question,
    /// nothing more can be known.
    async fn require_own_org(&self, call: &'static str) -> Result<(), Error> {
        if self.astra_org_id.is_empty() || self.is_own_org.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.current_org().await {
            Ok(named) if !named.eq_ignore_ascii_case(&self.astra_org_id) => {
                Err(Error::other_organization(call, &named, &self.astra_org_id))
            }
            Err(error) if !error.is_refusal() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Notes the organization that an answer names.
    fn note_org(&self, named: &str) {
        if named.eq_ignore_ascii_case(&self.astra_org_id) {
            self.is_own_org.store(true, Ordering::Relaxed);
        }
    }

    /// Calls Astra. Retries until the deadline, if a retry does no harm. `read` reads a successful answer.
    async fn call<T, F>(
        &self,
        patience: &dyn Patience,
        call: &'static str,
        method: Method,
        path: &[&str],
        body: Option<&NewToken>,
        read: impl Fn(Answer) -> F + Sync,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let deadline = Instant::now() + self.timeout;
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v2").extend(path);
        }
        let is_idempotent = method.is_idempotent();
        let request = || match body {
            Some(body) => self.pool.http.request(method.clone(), url.clone()).json(body),
            None => self.pool.http.request(method.clone(), url.clone()),
        };
        let attempts = retry::until(deadline, is_idempotent, patience, || async {
            let request = request().headers(self.headers.clone()).build();
            let request = request.map_err(|error| Error::from_setup(call, &error))?;
            let no_permit = |_| Error::no_permit(call, self.timeout);
            let waiting = self.queue.wait(Route::of(&method, path));
            let _list_permit = match call {
                LIST => Some(timeout_at(deadline, self.queue.list_permits.acquire()).await.map_err(no_permit)?),
                _ => None,
            };
            // Held during the attempt, but not during the pause before the next one. The semaphore is never closed.
            let _permit = timeout_at(deadline, self.queue.permits.acquire()).await.map_err(no_permit)?;
            let running = waiting.end();
            let answered = async { read(self.exchange(call, request, deadline).await?).await }.await;
            running.end(answered.as_ref().map_or_else(Error::outcome, |_| Outcome::Success));
            answered
        });
        connect::within(deadline, attempts).await
    }

    /// Sends a request once. Returns the beginning of a successful answer.
    async fn exchange(&self, call: &'static str, request: Request, deadline: Instant) -> Result<Answer, Error> {
        let (timeout, proxy) = (self.timeout, self.pool.proxy);
        let sent = timeout_at(deadline, self.pool.http.execute(request)).await;
        let sent = sent.map_err(|_| Error::no_answer(call, timeout))?;
        let response = sent.map_err(|error| Error::from_transport(call, &error).through(proxy))?;
        let status = response.status();
        let wait = if matches!(status.as_u16(), 429 | 503) { retry::retry_after(response.headers()) } else { None };
        let mut answer = Answer { response, call, timeout, deadline, proxy };
        if status.is_success() {
            return Ok(answer);
        }
        let body = Body::parse(&answer.bytes(ANSWER_LIMIT).await?, answer.media_type().contains("html"));
        Err(Error::from_answer(call, status.as_u16(), body).with_retry_after(wait))
    }
}

/// Parses a JSON object.
fn object(call: &'static str, body: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::garbled(call, "it is not a JSON object")),
        Err(_) if body.is_empty() => Err(Error::garbled(call, "it is empty")),
        Err(_) => Err(Error::garbled(call, "it is not JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_gets_no_permit_is_not_sent() {
        let settings = Settings {
            // No server listens there: a sent request would fail at once, not after the time limit.
            url: "http://127.0.0.1:1".to_owned(),
            token: "t".into(),
            astra_org_id: String::new(),
            ca_cert: String::new(),
            timeout: Duration::from_secs(30),
            user_agent: "test".to_owned(),
        };
        let client = Client::new(&settings, &Pools::default(), Arc::default()).unwrap();
        let _permits = client.queue.permits.acquire_many(queue::CONCURRENT as u32).await.unwrap();
        let start = Instant::now();
        let token = NewToken { roles: vec![], description: None, token_expiry: None };
        let error = client.create_token(&token).await.err().unwrap();
        assert_eq!(
            (error.case(), error.may_have_happened(), start.elapsed().as_secs()),
            (Case::NoPermit, false, 30),
            "{error}"
        );
        assert!(error.to_string().contains("was not sent"), "{error}");
    }
}
