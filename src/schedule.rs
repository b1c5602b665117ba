//! Which root tokens the tick has looked after, and which failed. Nothing of this is stored: after a restart, the engine
//! repeats at most some reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::names::OrgId;

const DAY: i64 = 86400;

/// By how many seconds the work of an org moves from one day to the next. A server that is down at the same time of each
/// day does not miss the same orgs each day.
const DAILY_SHIFT: i64 = 39_119;

/// The most orgs that wait for a read outside of their second of the day. Others wait for their second.
const MOST_UNREAD: usize = 1000;

/// The pause after the first failed rotation of an org. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause after a failed rotation.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Without a cache, each look at the orgs reads all configs. Then the tick looks at them this often.
const PAUSE_WITHOUT_CACHE: Duration = Duration::from_secs(600);

/// The work for the root tokens of a mount.
#[derive(Default)]
pub(crate) struct Schedule {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The daily work is done for the seconds before this time.
    done_until: Option<Timestamp>,
    /// The orgs whose dates are read again from this time on.
    unread: BTreeMap<OrgId, Instant>,
    /// The orgs whose rotation failed: how often, and the end of the pause.
    failed: BTreeMap<OrgId, (u32, Instant)>,
    /// The orgs whose rotation has not finished.
    rotating: BTreeSet<OrgId>,
    /// When the tick last looked at the orgs.
    looked: Option<Instant>,
}

impl Schedule {
    /// Whether the tick looks at the orgs now.
    pub(crate) fn may_look(&self, is_cached: bool) -> bool {
        let mut state = self.lock();
        if !is_cached && state.looked.is_some_and(|time| time.elapsed() < PAUSE_WITHOUT_CACHE) {
            return false;
        }
        state.looked = Some(Instant::now());
        true
    }

    /// Returns which orgs are due, as ranges of the seconds of the day that [`Store`](super::store::Store) gives to them. In
    /// each day, each org is due once.
    pub(crate) fn seconds_due(&self, now: Timestamp) -> Vec<Range<u32>> {
        let now = now.as_second();
        let done = self.lock().done_until.map_or(now, Timestamp::as_second);
        // The clock can have jumped.
        let mut time = done.clamp(now - DAY, now);
        let mut ranges = Vec::new();
        while time < now {
            let day = time.div_euclid(DAY);
            let end = now.min((day + 1) * DAY);
            let first = (time - day * DAILY_SHIFT).rem_euclid(DAY);
            let last = first + (end - time);
            let range = |start: i64, end: i64| start as u32..end as u32;
            ranges.push(range(first, last.min(DAY)));
            if last > DAY {
                ranges.push(range(0, last - DAY));
            }
            time = end;
        }
        ranges
    }

    /// Notes that the daily work is done for the seconds before `now`.
    pub(crate) fn note_done(&self, now: Timestamp) {
        self.lock().done_until = Some(now);
    }

    /// Lets a tick read the dates of the root token of an org after this time.
    pub(crate) fn read_after(&self, org: &OrgId, time: Duration) {
        let mut state = self.lock();
        if state.unread.len() < MOST_UNREAD || state.unread.contains_key(org) {
            state.unread.insert(org.clone(), Instant::now() + time);
        }
    }

    /// Takes the orgs whose dates must be read now.
    pub(crate) fn take_unread(&self) -> Vec<OrgId> {
        let (now, mut due) = (Instant::now(), Vec::new());
        self.lock().unread.retain(|org, time| {
            if *time <= now {
                due.push(org.clone());
            }
            *time > now
        });
        due
    }

    /// Begins a rotation, unless one of this org runs already or failed a moment ago. Returns whether it begins.
    pub(crate) fn begin(&self, org: &OrgId) -> bool {
        let mut state = self.lock();
        let pauses = state.failed.get(org).is_some_and(|(_, until)| Instant::now() < *until);
        !pauses && state.rotating.insert(org.clone())
    }

    /// Ends a rotation. After a failure, returns the pause before the next one.
    pub(crate) fn end(&self, org: &OrgId, is_failure: bool) -> Duration {
        let mut state = self.lock();
        state.rotating.remove(org);
        if !is_failure {
            state.failed.remove(org);
            return Duration::ZERO;
        }
        let count = state.failed.get(org).map_or(0, |(count, _)| *count);
        let pause = FIRST_PAUSE.saturating_mul(1 << count.min(16)).min(LONGEST_PAUSE);
        state.failed.insert(org.clone(), (count + 1, Instant::now() + pause));
        pause
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_057_600 + second).expect("a time")
    }

    /// Returns how often each second of the day is due in the ticks at these times.
    fn due(schedule: &Schedule, ticks: impl Iterator<Item = i64>) -> Vec<u32> {
        let mut due = vec![0; DAY as usize];
        for time in ticks {
            for second in schedule.seconds_due(at(time)).into_iter().flatten() {
                due[second as usize] += 1;
            }
            schedule.note_done(at(time));
        }
        due
    }

    #[test]
    fn each_org_is_due_once_in_each_day() {
        let schedule = Schedule::default();
        assert!(schedule.seconds_due(at(0)).is_empty(), "a new process begins now");
        for day in 0..3 {
            // 00:00:00, and then each minute.
            schedule.note_done(at(day * DAY));
            let due = due(&schedule, (1..=24 * 60).map(|minute| day * DAY + minute * 60));
            assert!(due.iter().all(|count| *count == 1), "day {day}");
        }
        // Each day at the same time, other orgs are due.
        let minute = |day: i64| {
            schedule.note_done(at(day * DAY));
            schedule.seconds_due(at(day * DAY + 60))
        };
        assert_ne!(minute(5), minute(6));
        schedule.note_done(at(0));
        assert!(due(&schedule, [9 * DAY].into_iter()).iter().all(|count| *count == 1), "after nine days without ticks");
        // The clock jumped back.
        assert_eq!(due(&schedule, [60].into_iter()).iter().sum::<u32>(), 0);
        assert_eq!(due(&schedule, [120].into_iter()).iter().sum::<u32>(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_rotation_pauses_longer_each_time() {
        let (schedule, org) = (Schedule::default(), OrgId::stored("org"));
        assert!(schedule.begin(&org) && !schedule.begin(&org));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = schedule.end(&org, true);
            assert!(!schedule.begin(&org));
            tokio::time::advance(pause).await;
            assert!(schedule.begin(&org));
            pauses.push(pause.as_secs() / 60);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.end(&org, false);
        assert!(schedule.begin(&org));
        assert_eq!(schedule.end(&org, true), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_orgs_that_wait_for_a_read_are_bounded() {
        let schedule = Schedule::default();
        let org = |n: usize| OrgId::stored(format!("org-{n}"));
        for n in 0..MOST_UNREAD + 10 {
            schedule.read_after(&org(n), Duration::ZERO);
        }
        schedule.read_after(&org(0), Duration::from_secs(3600));
        assert_eq!(schedule.take_unread().len(), MOST_UNREAD - 1);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(schedule.take_unread(), [org(0)]);
        assert!(schedule.take_unread().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_cache_the_tick_rarely_looks_at_the_orgs() {
        let schedule = Schedule::default();
        assert!(schedule.may_look(false) && !schedule.may_look(false) && schedule.may_look(true));
        tokio::time::advance(PAUSE_WITHOUT_CACHE).await;
        assert!(schedule.may_look(false));
    }
}
