//! The clock of the campaign: that of the simulator's record, which nobody sets.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since some moment before the round, the same for every process of this boot.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let whole = u64::try_from(now.tv_sec).unwrap_or_default() * 1000;
    whole + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}
