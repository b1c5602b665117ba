//! The time of day, for work that is planned for days and months. Tests can move it.

use jiff::Timestamp;

/// Returns the current time in whole seconds, as it is stored and shown.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now().as_second();
    #[cfg(test)]
    let now = now + test::OFFSET.get();
    Timestamp::from_second(now).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
pub(crate) mod test {
    use std::cell::Cell;

    thread_local! {
        /// A test and its tasks run in one thread.
        pub(super) static OFFSET: Cell<i64> = const { Cell::new(0) };
    }

    /// Moves the clock of this test, also back.
    pub(crate) fn move_by(duration: jiff::SignedDuration) {
        OFFSET.set(OFFSET.get() + duration.as_secs());
    }
}
