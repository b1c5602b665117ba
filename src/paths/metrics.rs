//! `metrics`: the numbers of the mount, for Prometheus.

use std::sync::Arc;

use jiff::Timestamp;
use vault_plugin_sdk::framework::{Call, Path};
use vault_plugin_sdk::logical::{self, Response};

use super::shared::{Answered, handler};
use super::status;
use crate::backlog::Open;
use crate::clock;
use crate::engine::Engine;
use crate::error::Error;
use crate::health::State;
use crate::metrics::{CONTENT_TYPE, LimitSample, OTHER, OrgSample, ROLES, Scrape};
use crate::names::OrgId;
use crate::store::{Directory, RootTimes};

pub(crate) fn path() -> Path<Engine> {
    Path::new("metrics", &[]).read(handler("Show metrics for Prometheus", read)).help(
        "Shows metrics in the text format of Prometheus.",
        "The answer is plain text and not JSON, so read it with curl or let Prometheus scrape it. Counters begin at zero when \
         the plugin starts. Each node shows its own numbers. Organizations are labelled with their org_id, and roles with \
         their names. At most 1000 organizations and 5000 roles have series of their own, and the others share the label \
         (other).\n\nExample:\n    curl -H \"Authorization: Bearer $VAULT_TOKEN\" $VAULT_ADDR/v1/<mount>/metrics",
    )
}

async fn read(engine: Arc<Engine>, _call: Call) -> Answered {
    let is_active = engine.system.is_writable().await?;
    let directory = engine.store.directory().await?;
    let open = engine.backlog.look(engine.wal()).await?;
    let text = scrape(&engine, &directory, open, is_active).into_text();
    let text = text.map_err(|_| Error::Host(logical::Error::internal("the metrics have no text form")))?;
    Ok(Some(Response::raw(200, CONTENT_TYPE, &text)))
}

fn scrape(engine: &Engine, directory: &Directory, open: Open, is_active: bool) -> Scrape {
    let metrics = &engine.metrics;
    metrics.keep_only(directory.after(&OrgId::default()).map(|listed| listed.org), |org| directory.get(org).is_some());
    let own = metrics.orgs();
    let (states, load) = status::totals(engine, directory);
    let plugin = engine.plugin();
    let commit = plugin.commit.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let (roots, now) = (|| directory.after(&OrgId::default()).map(|listed| listed.root), clock::now());
    let first =
        |time: &dyn Fn(RootTimes) -> Option<Timestamp>| roots().filter_map(time).min().map(Timestamp::as_second);
    let limits = engine.store.known_limits(ROLES).into_iter();
    let limits = limits.filter(|(org, role, _)| own.binary_search(org).is_ok() && role.as_str() != OTHER);
    Scrape {
        build: [plugin.version.to_owned(), commit.to_owned()],
        started_at: engine.started_at.as_second(),
        is_active,
        states,
        orgs_without_series: (directory.len() as u64).saturating_sub(own.len() as u64),
        failures: metrics.failures_by_kind(),
        calls: engine.clients.meter(),
        load,
        oldest_wal: open.all.oldest_age(),
        next_root_expiry: first(&|root| root.expires),
        next_root_expiry_without_rotation: first(&|root| root.expires_without_rotation(now)),
        next_root_rotation: first(&|root| root.next_rotation),
        orgs: own.iter().map(|org| sample(engine, directory, &open, org)).collect(),
        wal: open.kinds.into_iter().collect(),
        roles: metrics.role_samples(),
        limits: limits
            .map(|(org, role, [live, max])| LimitSample {
                org: org.to_string(),
                role: role.to_string(),
                live: live as u64,
                max: max as u64,
            })
            .collect(),
    }
}

fn sample(engine: &Engine, directory: &Directory, open: &Open, org: &OrgId) -> OrgSample {
    let calls = engine.clients.seen(org);
    let health = calls.as_ref().map(|calls| &calls.health);
    let listed = directory.get(org);
    let is_readable = listed.is_none_or(|listed| listed.is_readable);
    let root = listed.map(|listed| listed.root).unwrap_or_default();
    let entries = open.orgs.get(org).copied().unwrap_or_default();
    let state = health.map_or(State::Unknown, |health| health.state());
    OrgSample {
        org: org.to_string(),
        state: if is_readable { state } else { State::Failing }.as_str(),
        last_success: health.and_then(|health| health.last_success()).map(|time| time.as_second()),
        load: calls.as_ref().map(|calls| calls.load()).unwrap_or_default(),
        tokens: engine.store.token_counts.live(org).map(|live| live as u64),
        wal_entries: entries.number,
        oldest_wal: entries.oldest_age(),
        root_created: root.created.map(|time| time.as_second()),
        root_expires: root.expires.map(|time| time.as_second()),
        next_root_rotation: root.next_rotation.map(|time| time.as_second()),
    }
}
