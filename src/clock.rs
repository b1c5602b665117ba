//! The time of day, for work that is planned for days and months. Tests can move it.

use jiff::Timestamp;

/// Returns the current time in whole seconds, as it is stored and shown.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    #[cfg(test)]
    let now = test::moved(now);
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
pub(crate) mod test {
    use std::cell::Cell;
    use std::sync::LazyLock;

    use jiff::{SignedDuration, Timestamp};

    /// When the process started. The clock of tests starts at a fixed time, because work depends on the time of day.
    static START: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

    /// 2027-01-16T12:00:00Z.
    const NOON: Timestamp = Timestamp::constant(1_800_100_800, 0);

    thread_local! {
        /// A test and its tasks run in one thread.
        static OFFSET: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
    }

    pub(super) fn moved(now: Timestamp) -> Timestamp {
        let elapsed = now.duration_since(*START).max(SignedDuration::ZERO);
        NOON.checked_add(elapsed + OFFSET.get()).expect("a time")
    }

    /// Moves the clock of this test, also back.
    pub(crate) fn move_by(duration: SignedDuration) {
        OFFSET.set(OFFSET.get() + duration);
    }
}
