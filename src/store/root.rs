//! What a config stores about its root token, apart from the token itself: where it comes from, when it expires, and when
//! it is replaced.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::json;
use crate::names::{ClientId, OrgId};

/// How many root tokens that operators wrote a config remembers. Each of them is the work of a person, so there are few.
const GIVEN_KEPT: usize = 100;

/// A rotation comes up to a tenth of the period earlier, and at most this much, so that many orgs do not rotate at once.
const MOST_JITTER: Duration = Duration::from_secs(3600);

/// A stored time that is later than now by more than this comes from a clock that was wrong.
const SLACK: SignedDuration = SignedDuration::from_secs(3600);

/// The member `root` of a config.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    /// Client id of the root token that the engine made in its last rotation. An operator may have written another root
    /// token since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<ClientId>,
    /// Client ids of the root tokens that operators wrote and that rotations replaced, the latest one last. A tool that
    /// writes its config again and again still has such a root token after any number of rotations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) given: Vec<ClientId>,
    /// When Astra generated the root token; `None` if this is not known.
    #[serde(with = "json::time", skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<Timestamp>,
    /// When the root token expires in Astra; `None` if it does not expire, or if this is not known.
    #[serde(with = "json::time", skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Timestamp>,
    /// When a rotation last replaced the root token.
    #[serde(with = "json::time", skip_serializing_if = "Option::is_none")]
    pub(crate) rotated_at: Option<Timestamp>,
    /// How often the engine rotates the root token on its own; zero for never.
    #[serde(with = "json::nanoseconds", skip_serializing_if = "Duration::is_zero")]
    pub(crate) rotation_period: Duration,
    /// When the period was first written.
    #[serde(with = "json::time", skip_serializing_if = "Option::is_none")]
    counted_from: Option<Timestamp>,
    /// When the engine stopped rotating on its own: Astra may have made a root token that nothing identifies, and each
    /// further rotation could leave another one.
    #[serde(with = "json::time", skip_serializing_if = "Option::is_none")]
    pub(crate) stopped_at: Option<Timestamp>,
}

impl Root {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Remembers a root token that an operator wrote and that a rotation replaces.
    pub(super) fn remember_given(&mut self, root: &ClientId) {
        self.given.retain(|given| given != root);
        self.given.push(root.clone());
        let surplus = self.given.len().saturating_sub(GIVEN_KEPT);
        self.given.drain(..surplus);
    }

    /// Sets how often the engine rotates the root token.
    pub(crate) fn set_rotation_period(&mut self, period: Duration, now: Timestamp) {
        self.rotation_period = period;
        self.counted_from = if period.is_zero() { None } else { self.counted_from.or(Some(now)) };
    }

    /// Notes a rotation.
    pub(crate) fn note_rotation(&mut self, now: Timestamp) {
        self.rotated_at = Some(now);
        self.stopped_at = None;
    }

    /// Sets when Astra generated the root token and when the root token expires. Returns whether this changes anything.
    pub(crate) fn set_dates(&mut self, created_at: Option<Timestamp>, expires_at: Option<Timestamp>) -> bool {
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).ok();
        let dates = (created_at.and_then(whole), expires_at.and_then(whole));
        let is_changed = dates != (self.created_at, self.expires_at);
        (self.created_at, self.expires_at) = dates;
        is_changed
    }

    /// Forgets the dates of a former root token.
    pub(super) fn forget_dates(&mut self) {
        (self.created_at, self.expires_at) = (None, None);
    }

    /// Sets back stored times that lie in the future, because the clock has jumped back since. The next rotation would
    /// otherwise wait for these times. Returns whether anything was changed.
    pub(crate) fn correct_times(&mut self, now: Timestamp) -> bool {
        let latest = now.checked_add(SLACK).unwrap_or(now);
        let mut is_changed = false;
        for time in [&mut self.rotated_at, &mut self.counted_from].into_iter().flatten() {
            if *time > latest {
                *time = now;
                is_changed = true;
            }
        }
        is_changed
    }

    /// Returns the whole life of the root token, if the root token expires.
    pub(crate) fn life(&self) -> Option<SignedDuration> {
        let start = self.created_at.or(self.rotated_at).or(self.counted_from)?;
        Some(self.expires_at?.duration_since(start)).filter(SignedDuration::is_positive)
    }

    /// Returns when the engine rotates the root token of this org on its own, if it does.
    pub(crate) fn next_rotation(&self, org: &OrgId) -> Option<Timestamp> {
        if self.rotation_period.is_zero() || self.stopped_at.is_some() {
            return None;
        }
        let start = self.rotated_at.or(self.counted_from)?;
        let early = jitter(org, start, (self.rotation_period / 10).min(MOST_JITTER));
        let period = SignedDuration::try_from(self.rotation_period.saturating_sub(early)).ok()?;
        let by_period = start.checked_add(period).unwrap_or(Timestamp::MAX);
        let by_expiry = self.expires_at.map(|expiry| {
            let tenth = self.life().map_or(SignedDuration::ZERO, |life| SignedDuration::from_secs(life.as_secs() / 10));
            expiry.checked_sub(tenth).unwrap_or(expiry)
        });
        Some(by_expiry.map_or(by_period, |by_expiry| by_period.min(by_expiry)))
    }
}

/// Returns a part of `most` in whole seconds. The same start gives the same part, so the next rotation can be shown.
fn jitter(org: &OrgId, start: Timestamp, most: Duration) -> Duration {
    let number = number_of(&format!("{org} {}", start.as_second()));
    Duration::from_secs(number % (most.as_secs() + 1))
}

/// Returns the second of the day at which the engine asks for the dates of the root token of this org. The seconds of
/// many orgs are spread over the day.
pub(crate) fn second_of_day(org: &OrgId) -> u32 {
    u32::try_from(number_of(org.as_str()) % 86400).unwrap_or(0)
}

fn number_of(text: &str) -> u64 {
    Sha256::digest(text).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    fn org() -> OrgId {
        OrgId::stored("org")
    }

    /// A root token that an operator wrote, with a period that was first written at 0.
    fn root(period: i64, created: Option<i64>, expires: Option<i64>) -> Root {
        let mut root = Root { created_at: created.map(at), expires_at: expires.map(at), ..Root::default() };
        root.set_rotation_period(Duration::from_secs(period.unsigned_abs()), at(0));
        root
    }

    fn next(root: &Root) -> i64 {
        root.next_rotation(&org()).expect("is planned").duration_since(at(0)).as_secs()
    }

    #[test]
    fn a_rotation_comes_up_to_a_tenth_of_the_period_earlier() {
        for (period, most) in [(HOUR, HOUR / 10), (10 * HOUR, HOUR), (300 * DAY, HOUR)] {
            let mut early = Vec::new();
            for start in 0..200 {
                let mut root = root(period, None, None);
                root.note_rotation(at(start * 7));
                early.push(period - (next(&root) - start * 7));
                assert_eq!(next(&root), next(&root));
            }
            assert!(early.iter().all(|early| (0..=most).contains(early)), "{early:?}");
            assert!(early.iter().any(|early| *early < most / 5) && early.iter().any(|early| *early > most * 4 / 5));
        }
        assert_eq!(root(0, Some(0), Some(DAY)).next_rotation(&org()), None);
    }

    #[test]
    fn a_root_token_that_expires_is_rotated_before_a_tenth_of_its_life_is_left() {
        assert_eq!(next(&root(300 * DAY, Some(-10 * DAY), Some(90 * DAY))), 80 * DAY);
        assert_eq!(next(&root(300 * DAY, Some(-90 * DAY), Some(DAY))), DAY - 91 * DAY / 10);
        // Astra did not say when it generated the root token.
        assert_eq!(next(&root(300 * DAY, None, Some(10 * DAY))), 9 * DAY);
        // The period comes first, and a root token that has expired is due.
        assert!(next(&root(10 * HOUR, Some(0), Some(90 * DAY))) <= 10 * HOUR);
        assert!(next(&root(DAY, Some(-DAY), Some(-HOUR))) < 0);
        assert!(next(&root(DAY, Some(DAY), Some(-HOUR))) < 0, "an expiry before the creation");
    }

    #[test]
    fn the_period_is_counted_from_the_last_rotation_or_its_first_write() {
        let mut root = root(10 * DAY, None, None);
        root.set_rotation_period(Duration::from_secs(20 * 86400), at(5 * DAY));
        assert!((20 * DAY - HOUR..=20 * DAY).contains(&next(&root)));
        root.note_rotation(at(7 * DAY));
        assert!((27 * DAY - HOUR..=27 * DAY).contains(&next(&root)));
        // Turned off and on again.
        root.rotated_at = None;
        root.set_rotation_period(Duration::ZERO, at(8 * DAY));
        assert_eq!(root.next_rotation(&org()), None);
        root.set_rotation_period(Duration::from_secs(86400), at(9 * DAY));
        assert!((10 * DAY - HOUR..=10 * DAY).contains(&next(&root)));
    }

    #[test]
    fn times_of_a_clock_that_was_ahead_are_corrected() {
        let mut root = root(DAY, None, None);
        root.note_rotation(at(3000 * DAY));
        assert!(!root.correct_times(at(3000 * DAY)) && !root.correct_times(at(3000 * DAY - HOUR)));
        assert!(root.correct_times(at(DAY)));
        assert_eq!(root.rotated_at, Some(at(DAY)));
        assert!(!root.correct_times(at(DAY)));
        assert!((2 * DAY - HOUR..=2 * DAY).contains(&next(&root)));
    }

    #[test]
    fn the_root_tokens_of_many_orgs_are_spread_over_the_day() {
        let mut hours = [0; 24];
        for n in 0..2400 {
            hours[second_of_day(&OrgId::stored(format!("org-{n}"))) as usize / 3600] += 1;
        }
        assert!(hours.iter().all(|orgs| (50..=150).contains(orgs)), "{hours:?}");
    }
}
