//! The numbers of a mount in Prometheus' text format.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
pub(crate) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Counts, Event};
use crate::api::{Distribution, Load, Meter, Outcome, Route};

/// All numbers of a mount at one time.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// Version and commit of the plugin.
    pub(crate) build: [String; 2],
    /// When this process mounted the engine, in seconds since 1970.
    pub(crate) started_at: i64,
    pub(crate) is_active: bool,
    /// Number of orgs in each state.
    pub(crate) states: Vec<(&'static str, u64)>,
    pub(crate) orgs_without_series: u64,
    pub(crate) failures: Vec<(&'static str, u64)>,
    pub(crate) calls: Arc<Meter>,
    pub(crate) load: Load,
    /// Number of WAL entries of each kind.
    pub(crate) wal: Vec<(String, u64)>,
    /// Age of the oldest WAL entry, in seconds.
    pub(crate) oldest_wal: Option<u64>,
    /// When the next root token of all orgs expires, in seconds since 1970.
    pub(crate) next_root_expiry: Option<i64>,
    /// The same, of the root tokens without a planned rotation.
    pub(crate) next_root_expiry_without_rotation: Option<i64>,
    /// When the engine rotates the next root token of all orgs on its own, in seconds since 1970.
    pub(crate) next_root_rotation: Option<i64>,
    pub(crate) orgs: Vec<OrgSample>,
    pub(crate) roles: Vec<RoleSample>,
    pub(crate) limits: Vec<LimitSample>,
}

/// The numbers of one org. Times are seconds since 1970.
#[derive(Debug, Default)]
pub(crate) struct OrgSample {
    pub(crate) org: String,
    pub(crate) state: &'static str,
    pub(crate) last_success: Option<i64>,
    pub(crate) load: Load,
    pub(crate) tokens: Option<u64>,
    pub(crate) wal_entries: u64,
    pub(crate) oldest_wal: Option<u64>,
    pub(crate) root_created: Option<i64>,
    pub(crate) root_expires: Option<i64>,
    pub(crate) next_root_rotation: Option<i64>,
}

/// The numbers of one role.
#[derive(Debug)]
pub(crate) struct RoleSample {
    pub(crate) org: String,
    pub(crate) role: String,
    pub(crate) counts: [u64; Event::ALL.len()],
}

/// The live tokens of a role that has a limit.
#[derive(Debug)]
pub(crate) struct LimitSample {
    pub(crate) org: String,
    pub(crate) role: String,
    pub(crate) live: u64,
    pub(crate) max: u64,
}

impl RoleSample {
    pub(super) fn new(org: &str, role: &str, counts: &Counts) -> Self {
        let counts = Event::ALL.map(|event| counts.get(event));
        Self { org: org.to_owned(), role: role.to_owned(), counts }
    }
}

impl Scrape {
    /// Returns the numbers in the format of [`CONTENT_TYPE`].
    pub(crate) fn into_text(self) -> Result<String, fmt::Error> {
        let (mut registry, mut text) = (Registry::with_prefix("astra"), String::new());
        registry.register_collector(Box::new(self));
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn encode_mount(&self, families: &mut Families<'_>) -> fmt::Result {
        let [version, commit] = &self.build;
        families.info("build", "Version and commit of the plugin", &[("version", version), ("commit", commit)])?;
        families.gauge("start_time_seconds", "When this process mounted the engine", [([], Some(self.started_at))])?;
        families.gauge("active", "Whether this node can write", [([], Some(i64::from(self.is_active)))])?;
        let states = self.states.iter().map(|(state, number)| ([("state", *state)], Some(*number)));
        families.gauge("orgs", "Organizations with a config, by state", states)?;
        let shared = [([], Some(self.orgs_without_series))];
        families.gauge("orgs_without_series", "Organizations that share the series with the label (other)", shared)?;
        let failures = self.failures.iter().map(|(kind, number)| ([("kind", *kind)], *number));
        families.counter("failures", "Failed requests and failed lease operations, by reason", failures)?;
        families.gauge("calls_in_flight", "Requests that Astra has not answered", [([], Some(self.load.in_flight))])?;
        families.gauge("calls_queued", "Requests to Astra that wait for a permit", [([], Some(self.load.queued))])?;
        let entries = self.wal.iter().map(|(kind, number)| ([("kind", kind.as_str())], Some(*number)));
        families.gauge("wal_entries", "Entries of the write-ahead log, by kind", entries)?;
        let oldest = [([], Some(self.oldest_wal.unwrap_or(0)))];
        families.gauge("wal_oldest_entry_seconds", "Age of the oldest entry of the write-ahead log", oldest)?;
        self.encode_roots(families)
    }

    fn encode_roots(&self, families: &mut Families<'_>) -> fmt::Result {
        for (name, help, time) in [
            (
                "root_token_next_expiry_timestamp_seconds",
                "When the next root token of all organizations expires",
                self.next_root_expiry,
            ),
            (
                "root_token_next_expiry_without_rotation_timestamp_seconds",
                "When the next root token expires that no rotation is planned for. A rotation that is an hour late does not count",
                self.next_root_expiry_without_rotation,
            ),
            (
                "root_token_next_rotation_timestamp_seconds",
                "When the engine rotates the next root token of all organizations. In the past if the rotation fails",
                self.next_root_rotation,
            ),
        ] {
            families.gauge(name, help, [([], time)])?;
        }
        Ok(())
    }

    fn encode_calls(&self, families: &mut Families<'_>) -> fmt::Result {
        let outcomes = |route: Route| {
            Outcome::ALL.map(|outcome| {
                ([("result", outcome.label()), ("route", route.label())], self.calls.calls(route, outcome))
            })
        };
        // A result that never happened has no series, except success: its rate must begin at zero.
        let seen = |(labels, number): &([(&str, &str); 2], u64)| *number > 0 || labels[0].1 == Outcome::Success.label();
        let calls = Route::ALL.into_iter().flat_map(outcomes).filter(seen);
        families.counter("calls", "Requests to Astra, by route and by class of the status", calls)?;
        let durations = Route::ALL.map(|route| ([("route", route.label())], self.calls.durations(route)));
        families.histogram(
            "call_duration_seconds",
            "Time from a request to Astra until the end of its answer",
            durations,
        )?;
        let waits = [([], self.calls.waits())];
        families.histogram("queue_wait_seconds", "Time that a request to Astra waited for a permit", waits)
    }

    fn encode_orgs(&self, families: &mut Families<'_>) -> fmt::Result {
        let states = self.orgs.iter().map(|org| ([("org", org.org.as_str()), ("state", org.state)], Some(1_u64)));
        families.gauge(
            "org_state",
            "State of the organization, as in status. Only the present state has a series",
            states,
        )?;
        self.org_gauge(families, "org_last_success_timestamp_seconds", "When a call to Astra last succeeded", |org| {
            org.last_success
        })?;
        self.org_counter(families, "org_calls", "Requests to Astra", |load| load.sent)?;
        self.org_counter(families, "org_call_failures", "Requests to Astra that failed or were not sent", |load| {
            load.failed
        })?;
        self.org_counter(families, "org_rate_limited", "Requests that Astra answered with 429", |load| {
            load.rate_limited
        })?;
        self.org_gauge(families, "org_calls_in_flight", "Requests that Astra has not answered", |org| {
            Some(org.load.in_flight)
        })?;
        self.org_gauge(families, "org_calls_queued", "Requests to Astra that wait for a permit", |org| {
            Some(org.load.queued)
        })?;
        self.org_gauge(families, "org_tokens", "Live tokens, without tokens of other mounts", |org| org.tokens)?;
        self.org_gauge(families, "org_wal_entries", "Entries of the write-ahead log", |org| Some(org.wal_entries))?;
        let oldest = |org: &OrgSample| Some(org.oldest_wal.unwrap_or(0));
        self.org_gauge(
            families,
            "org_wal_oldest_entry_seconds",
            "Age of the oldest entry of the write-ahead log",
            oldest,
        )?;
        let created = |org: &OrgSample| org.root_created;
        self.org_gauge(
            families,
            "org_root_token_created_timestamp_seconds",
            "When Astra made the root token",
            created,
        )?;
        let expires = |org: &OrgSample| org.root_expires;
        self.org_gauge(families, "org_root_token_expiry_timestamp_seconds", "When the root token expires", expires)?;
        let rotates = |org: &OrgSample| org.next_root_rotation;
        self.org_gauge(
            families,
            "org_root_token_next_rotation_timestamp_seconds",
            "When the engine rotates the root token. In the past if the rotation fails",
            rotates,
        )
    }

    fn encode_roles(&self, families: &mut Families<'_>) -> fmt::Result {
        for (event, name, help) in [
            (Event::Mint, "mints", "Tokens that were minted"),
            (Event::Read, "reads", "Reads of stored tokens"),
            (Event::Renewal, "renewals", "Renewals of leases"),
            (Event::Revocation, "revocations", "Revocations of leases and deletions of tokens"),
        ] {
            let samples = self.roles.iter().map(|sample| {
                ([("org", sample.org.as_str()), ("role", sample.role.as_str())], sample.counts[event as usize])
            });
            families.counter(name, help, samples)?;
        }
        let limits = |number: fn(&LimitSample) -> u64| {
            self.limits
                .iter()
                .map(move |role| ([("org", role.org.as_str()), ("role", role.role.as_str())], Some(number(role))))
        };
        families.gauge("role_tokens", "Live tokens of a role with max_tokens", limits(|role| role.live))?;
        families.gauge("role_max_tokens", "The max_tokens of a role", limits(|role| role.max))
    }

    fn org_gauge<V: Value>(
        &self,
        families: &mut Families<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&OrgSample) -> Option<V>,
    ) -> fmt::Result {
        families.gauge(name, help, self.orgs.iter().map(|org| ([("org", org.org.as_str())], value(org))))
    }

    fn org_counter(
        &self,
        families: &mut Families<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Load) -> u64,
    ) -> fmt::Result {
        families.counter(name, help, self.orgs.iter().map(|org| ([("org", org.org.as_str())], value(&org.load))))
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.encode_mount(&mut families)?;
        self.encode_calls(&mut families)?;
        self.encode_orgs(&mut families)?;
        self.encode_roles(&mut families)
    }
}

/// The value of a gauge. All numbers here are whole.
trait Value: Copy {
    fn encode(self, metric: MetricEncoder<'_>) -> fmt::Result;
}

impl Value for i64 {
    fn encode(self, mut metric: MetricEncoder<'_>) -> fmt::Result {
        metric.encode_gauge(&self)
    }
}

impl Value for u64 {
    fn encode(self, mut metric: MetricEncoder<'_>) -> fmt::Result {
        metric.encode_gauge(&self)
    }
}

/// Writes one family of series after the other. The labels of a series are in the order of their names.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn begin<'a>(&'a mut self, name: &'a str, help: &str, of: MetricType) -> Result<MetricEncoder<'a>, fmt::Error> {
        self.0.encode_descriptor(name, &format!("{help}."), None, of)
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&'static str, &String); 2]) -> fmt::Result {
        self.begin(name, help, MetricType::Info)?.encode_info(&labels.map(|(name, value)| (name, value.as_str())))
    }

    /// Writes gauges. A gauge without a value has no series.
    fn gauge<'s, V: Value, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'s str); N], Option<V>)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Gauge)?;
        for (labels, value) in samples {
            if let Some(value) = value {
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn counter<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'s str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
        Ok(())
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([(&'static str, &'static str); N], Distribution)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Histogram)?;
        for (labels, Distribution { sum, buckets }) in samples {
            let count = buckets.iter().map(|(_, number)| number).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
