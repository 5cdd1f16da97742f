//! How long a failure is replayed instead of tried again: as long as it took to find out, to
//! callers that were waiting when it was found, and only while the world looks as it did.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::model::ModelKey;
use super::residency::Snapshot;

/// A failure that was quick to find out is replayed this long, so that callers that come together
/// share it.
const LEAST: Duration = Duration::from_secs(2);

/// What a failure to load depends on besides the options, as far as it was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct World {
    /// The instances of other models.
    instances: Option<u64>,
    /// The list of downloaded models.
    downloaded: Option<u64>,
    /// The life of the server: another one after a restart.
    server: Option<u64>,
}

impl World {
    /// What a snapshot shows. The instances of `key` itself come and go with its loads and are
    /// left out. `server` tells one life of the server from the next, where that is known.
    pub fn of(snapshot: &Snapshot, key: &ModelKey, server: Option<u64>) -> Self {
        let mut others: Vec<&str> = snapshot
            .instances
            .iter()
            .map(|it| it.identifier.as_str())
            .filter(|name| *name != key.as_str() && !key.is_copy(name))
            .collect();
        others.sort_unstable();
        let downloaded = snapshot.downloaded.as_ref().map(|models| {
            let mut keys: Vec<&str> = models.iter().map(|it| it.key.as_str()).collect();
            keys.sort_unstable();
            digest(&keys)
        });
        Self { instances: Some(digest(&others)), downloaded, server }
    }

    /// Whether what is known of both differs.
    pub fn differs(&self, other: &Self) -> bool {
        let differ = |one: Option<u64>, two: Option<u64>| matches!((one, two), (Some(one), Some(two)) if one != two);
        differ(self.instances, other.instances)
            || differ(self.downloaded, other.downloaded)
            || differ(self.server, other.server)
    }
}

fn digest(names: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    names.hash(&mut hasher);
    hasher.finish()
}

/// When a failure was found, and by whom it is asked for. Times are milliseconds of a clock that
/// is never set.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// When it was found.
    pub found_ms: u64,
    /// When the caller began that asks now.
    pub began_ms: u64,
    /// Now.
    pub now_ms: u64,
}

/// The age of a failure that is to be replayed; `None` if it is to be tried again.
///
/// `took` is how long it took to find out, `None` if only waiting callers may be told; `most` is
/// `retryCooldownMs`. What lies in the future (it is of another boot) is never replayed.
pub fn replayed_age(moments: Moments, took: Option<Duration>, most: Duration, is_fresh: bool) -> Option<Duration> {
    let Moments { found_ms, began_ms, now_ms } = moments;
    let age = Duration::from_millis(now_ms.checked_sub(found_ms)?);
    let was_waiting = began_ms <= found_ms;
    let lasts = took.map_or(Duration::ZERO, |took| took.max(LEAST)).min(most);
    let is_replayed = !most.is_zero() && (was_waiting || (!is_fresh && age < lasts));
    is_replayed.then_some(age)
}

#[cfg(test)]
mod tests {
    use super::super::residency::Readiness;
    use super::super::residency::tests::{instance, snapshot};
    use super::*;

    #[test]
    fn a_failure_is_replayed_as_long_as_it_took_and_to_those_who_waited() {
        let minute = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        for (began, now, took, most, is_fresh, replayed) in [
            // Quick to find out: for two seconds.
            (101_000, 101_999, Some(second), minute, false, true),
            (101_000, 102_000, Some(second), minute, false, false),
            // As long as it took, but no longer than configured.
            (101_000, 129_000, Some(second * 30), minute, false, true),
            (101_000, 130_000, Some(second * 30), minute, false, false),
            (101_000, 160_001, Some(second * 900), minute, false, false),
            (101_000, 101_500, Some(second * 30), second, false, false),
            // Callers that were waiting when it was found.
            (99_000, 190_000, Some(second), minute, false, true),
            (99_000, 190_000, Some(second), minute, true, true),
            (99_000, 100_000, None, minute, false, true),
            (101_000, 101_001, None, minute, false, false),
            // `--fresh`, no cooldown at all, and another boot.
            (101_000, 101_001, Some(second), minute, true, false),
            (99_000, 100_001, Some(second), Duration::ZERO, false, false),
            (99_000, 99_500, Some(second), minute, false, false),
        ] {
            let moments = Moments { found_ms: 100_000, began_ms: began, now_ms: now };
            let found = replayed_age(moments, took, most, is_fresh).is_some();
            assert_eq!(found, replayed, "{began} {now} {took:?} {most:?} {is_fresh}");
        }
    }

    fn world(instances: &[&str], downloaded: Option<&[&str]>, server: Option<u64>) -> World {
        let instances = instances.iter().map(|name| instance(name, Readiness::Ready)).collect();
        let snapshot = snapshot(instances, downloaded);
        World::of(&snapshot, &ModelKey::parse("a").unwrap(), server)
    }

    #[test]
    fn another_instance_another_download_or_another_life_is_another_world() {
        let before = world(&["b", "c"], Some(&["a", "b"]), Some(1));
        for (after, differs) in [
            (world(&["c", "b"], Some(&["b", "a"]), Some(1)), false),
            (world(&["a", "a:2", "b", "c"], Some(&["a", "b"]), Some(1)), false),
            (world(&["b", "c"], None, None), false),
            (World::default(), false),
            (world(&["b"], Some(&["a", "b"]), Some(1)), true),
            (world(&["b", "c", "d"], None, None), true),
            (world(&["b", "c"], Some(&["a"]), Some(1)), true),
            (world(&["b", "c"], Some(&["a", "b"]), Some(2)), true),
        ] {
            assert_eq!(before.differs(&after), differs, "{after:?}");
        }
    }
}
