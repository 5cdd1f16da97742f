//! Many callers at once: what they may ask for, and what they came to.

use serde_json::Value;

use crate::support::{Machine, Running, until};

/// What many callers at once are given: the machine is busy with themselves.
pub const PATIENT: [&str; 2] = ["--probe-timeout-ms", "60000"];

/// What a leader that nobody disturbs asks for: a look before and one after it leads, and one
/// after the load. A look is two requests.
pub const LEADERS_REQUESTS: usize = 6;

/// The most requests of waiters: a look before and one after the wait, and one each 5 s of it.
pub fn most_requests<'a>(waiters: impl IntoIterator<Item = &'a Value>) -> usize {
    let seconds = |waiter: &Value| waiter["elapsedMs"].as_u64().expect("a number") / 1000;
    waiters.into_iter().map(|waiter| 4 + 2 * usize::try_from(seconds(waiter) / 5).expect("not that long")).sum()
}

pub fn all_models(callers: Vec<Running>, code: i32) -> Vec<Value> {
    callers.into_iter().map(|it| it.end().expect(code).model()).collect()
}

/// Waits until so many callers have looked once.
pub fn all_have_looked(machine: &Machine, callers: usize) {
    until("everybody's first look", || machine.requests().len() >= 2 * callers);
}
