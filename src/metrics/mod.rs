//! Counts what the engine does, for the paths `status` and `metrics`. A count is a look-up and an atomic addition.
//!
//! The number of series is bounded: [`ORGS`] orgs and [`ROLES`] roles have series of their own. The others share the label
//! [`OTHER`]. An org keeps its series until its config is deleted, so that a counter never goes back.
//!
//! Architecture invariant: no label holds a client id, the name of a token or a secret.

mod kind;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use self::text::{CONTENT_TYPE, LimitSample, OrgSample, RoleSample, Scrape};
use super::error::Error;
use super::names::{OrgId, RoleName};

/// The label of the orgs, or roles, without series of their own. If an org or a role has this name, it has none of its own.
pub(crate) const OTHER: &str = "(other)";

/// At most this many orgs have series of their own.
pub(crate) const ORGS: usize = 1_000;

/// At most this many roles have series of their own, of all orgs together.
pub(crate) const ROLES: usize = 5_000;

/// What the engine counts for each role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A token was minted.
    Mint,
    /// A caller read a stored token.
    Read,
    /// A lease was renewed.
    Renewal,
    /// A token was revoked or deleted.
    Revocation,
}

impl Event {
    pub(crate) const ALL: [Self; 4] = [Self::Mint, Self::Read, Self::Renewal, Self::Revocation];
}

/// The numbers of one role.
#[derive(Default)]
pub(crate) struct Counts([AtomicU64; Event::ALL.len()]);

impl Counts {
    pub(crate) fn get(&self, event: Event) -> u64 {
        self.0[event as usize].load(Relaxed)
    }

    fn add(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Relaxed);
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|count| count.load(Relaxed) == 0)
    }
}

/// The roles of one org.
#[derive(Default)]
struct Roles {
    own: RwLock<HashMap<RoleName, Arc<Counts>>>,
    others: Counts,
}

/// The numbers of a mount.
#[derive(Default)]
pub(crate) struct Metrics {
    orgs: RwLock<HashMap<OrgId, Arc<Roles>>>,
    others: Counts,
    /// The roles with series of their own.
    roles: AtomicUsize,
    /// Failed requests, by the reason.
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// Counts an event of a role.
    pub(crate) fn count(&self, event: Event, org: &OrgId, role: &RoleName) {
        match self.org(org) {
            Some(roles) => self.role(&roles, role, |counts| counts.add(event)),
            None => self.others.add(event),
        }
    }

    /// Counts a failed request.
    pub(crate) fn failed(&self, error: &Error) {
        if let Some(kind) = kind::of(error) {
            *self.failures().entry(kind).or_default() += 1;
        }
    }

    /// Gives series to these orgs, as long as there are any left. Drops the series of all other orgs.
    pub(crate) fn keep_only<'a>(&self, orgs: impl Iterator<Item = &'a OrgId>, is_org: impl Fn(&OrgId) -> bool) {
        let mut own = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
        own.retain(|org, roles| {
            let stays = is_org(org);
            if !stays {
                self.roles.fetch_sub(roles.own.read().unwrap_or_else(PoisonError::into_inner).len(), Relaxed);
            }
            stays
        });
        for org in orgs {
            if own.len() >= ORGS {
                return;
            }
            if !own.contains_key(org) && org.as_str() != OTHER {
                own.insert(org.clone(), Arc::default());
            }
        }
    }

    /// Returns the orgs that have series of their own, sorted.
    pub(crate) fn orgs(&self) -> Vec<OrgId> {
        let mut orgs: Vec<OrgId> = self.orgs.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        orgs.sort();
        orgs
    }

    /// Returns the numbers of all roles, as pairs of labels.
    pub(crate) fn role_samples(&self) -> Vec<RoleSample> {
        let mut samples = Vec::new();
        let orgs = self.orgs.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (org, roles) in orgs {
            let own = roles.own.read().unwrap_or_else(PoisonError::into_inner);
            samples.extend(own.iter().map(|(role, counts)| RoleSample::new(org.as_str(), role.as_str(), counts)));
            if !roles.others.is_zero() {
                samples.push(RoleSample::new(org.as_str(), OTHER, &roles.others));
            }
        }
        if !self.others.is_zero() {
            samples.push(RoleSample::new(OTHER, OTHER, &self.others));
        }
        samples.sort_by(|one, other| (&one.org, &one.role).cmp(&(&other.org, &other.role)));
        samples
    }

    /// Returns the numbers of failed requests.
    pub(crate) fn failures_by_kind(&self) -> Vec<(&'static str, u64)> {
        self.failures().iter().map(|(kind, number)| (*kind, *number)).collect()
    }

    /// Returns the roles of an org; `None` if the org has no series of its own.
    fn org(&self, org: &OrgId) -> Option<Arc<Roles>> {
        if let Some(roles) = self.orgs.read().unwrap_or_else(PoisonError::into_inner).get(org) {
            return Some(roles.clone());
        }
        let mut own = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= ORGS && !own.contains_key(org) || org.as_str() == OTHER {
            return None;
        }
        Some(own.entry(org.clone()).or_default().clone())
    }

    fn role(&self, roles: &Roles, role: &RoleName, add: impl Fn(&Counts)) {
        if let Some(counts) = roles.own.read().unwrap_or_else(PoisonError::into_inner).get(role) {
            return add(counts);
        }
        let mut own = roles.own.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = own.get(role) {
            return add(counts);
        }
        let reserve = |roles| (roles < ROLES).then_some(roles + 1);
        if role.as_str() == OTHER || self.roles.fetch_update(Relaxed, Relaxed, reserve).is_err() {
            return add(&roles.others);
        }
        add(own.entry(role.clone()).or_default());
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<&'static str, u64>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(metrics: &Metrics) -> Vec<(String, String, u64)> {
        let mints = |sample: RoleSample| (sample.org, sample.role, sample.counts[Event::Mint as usize]);
        metrics.role_samples().into_iter().map(mints).collect()
    }

    fn mint(metrics: &Metrics, org: &str, role: &str) {
        metrics.count(Event::Mint, &OrgId::stored(org), &RoleName::stored(role));
    }

    #[test]
    fn orgs_and_roles_beyond_the_bounds_share_a_series() {
        let metrics = Metrics::default();
        for n in 0..ORGS + 50 {
            mint(&metrics, &format!("org-{n:05}"), "reader");
        }
        for n in 0..ROLES {
            mint(&metrics, "org-00007", &format!("role-{n:05}"));
        }
        let found = samples(&metrics);
        let shared: Vec<_> = found.iter().filter(|(org, role, _)| org == OTHER || role == OTHER).cloned().collect();
        let other = |org: &str, count: usize| (org.to_owned(), OTHER.to_owned(), count as u64);
        assert_eq!(shared, [other(OTHER, 50), other("org-00007", ORGS)]);
        assert_eq!(found.iter().map(|(.., count)| count).sum::<u64>() as usize, ORGS + 50 + ROLES);
        assert_eq!(found.len(), ROLES + 2);
    }

    #[test]
    fn names_that_look_like_the_shared_label_make_no_second_series() {
        let metrics = Metrics::default();
        for (org, role) in [(OTHER, "reader"), ("org", OTHER), (OTHER, OTHER), ("org", "")] {
            mint(&metrics, org, role);
        }
        let series = [(OTHER, OTHER, 2), ("org", "", 1), ("org", OTHER, 1)];
        let series = series.map(|(org, role, count)| (org.to_owned(), role.to_owned(), count));
        assert_eq!(samples(&metrics), series);
    }

    #[test]
    fn an_org_without_a_config_loses_its_series_and_makes_room() {
        let metrics = Metrics::default();
        let orgs: Vec<OrgId> = (0..ORGS + 1).map(|n| OrgId::stored(format!("org-{n:05}"))).collect();
        metrics.keep_only(orgs.iter(), |_| true);
        assert_eq!(metrics.orgs(), orgs[..ORGS]);
        mint(&metrics, "org-00000", "reader");
        mint(&metrics, "org-01000", "reader");
        metrics.keep_only(orgs[1..].iter(), |org| *org != orgs[0]);
        assert_eq!(metrics.orgs(), orgs[1..]);
        mint(&metrics, "org-01000", "reader");
        let series = [(OTHER, OTHER, 1), ("org-01000", "reader", 1)];
        assert_eq!(samples(&metrics), series.map(|(org, role, count)| (org.to_owned(), role.to_owned(), count)));
        assert_eq!(metrics.roles.load(Relaxed), 1);
    }
}
