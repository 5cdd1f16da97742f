//! A clock that the processes of one boot share and that nobody sets: a laptop that slept or a
//! corrected time makes no limit end early or late.

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
    super::state::now_ms()
}
