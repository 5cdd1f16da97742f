//! The time of day, for what people read, and a clock that the processes of one boot share and
//! that is never set: with it, a laptop that slept or a corrected time makes no limit end early or
//! late.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time now, in Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|time| u64::try_from(time.as_millis()).ok()).unwrap_or(0)
}

/// How long ago that was; `None` if it lies in the future (the clock was set back), which
/// must not keep anything alive for ever.
pub fn age(at_ms: u64) -> Option<Duration> {
    now_ms().checked_sub(at_ms).map(Duration::from_millis)
}

/// How long ago that was by [`monotonic_ms`]; `None` if it lies in the future (it is of another
/// boot), which must not keep anything alive for ever.
pub fn monotonic_age(at_ms: u64) -> Option<Duration> {
    monotonic_ms().checked_sub(at_ms).map(Duration::from_millis)
}

/// Milliseconds since some moment before this process began, the same for every process.
#[cfg(unix)]
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or(0) * 1000;
    whole + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Windows has such a clock, too, but none that safe code of this program reaches.
#[cfg(not(unix))]
pub fn monotonic_ms() -> u64 {
    now_ms()
}
