//! Making room: whether a load fits, and which instance goes next if it does not.

use crate::pure::config::EvictionPolicy;
use crate::pure::model::ModelKey;
use crate::pure::residency::{Instance, is_ambiguous};

/// What to do before a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It is expected to fit, or nobody can tell: try.
    Load,
    /// It is not expected to fit; this instance goes first.
    Evict(String),
    /// It would not fit if all went that may go, so nothing goes. Holds what the load needs
    /// and what may be used in all, in bytes.
    Hopeless(u64, u64),
}

/// What a server expects a load to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Memory the model would take, in bytes.
    pub total_bytes: u64,
    /// Whether the server would let it load.
    pub fits: bool,
}

/// What is known about a load beforehand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// LM Studio's own estimate.
    pub estimate: Option<Estimate>,
    /// The model's size on disk.
    pub size_bytes: Option<u64>,
    /// The machine's memory, in bytes.
    pub machine_bytes: Option<u64>,
}

/// Plans the next step before a load of `demand` beside what is `resident`.
///
/// A budget that is set always counts. Without one the estimator's word counts, and
/// without an estimate nine tenths of the memory do. What nobody can tell is tried.
pub(crate) fn plan(
    demand: Demand,
    resident: &[Instance],
    policy: &EvictionPolicy,
    needed: &[ModelKey],
    room: usize,
) -> Plan {
    let budget = match (policy.budget, demand.machine_bytes) {
        (0, machine) => machine.map(|bytes| bytes / 10 * 9),
        (set, _) => Some(set),
    };
    let needs = demand
        .estimate
        .map(|estimate| estimate.total_bytes)
        .or_else(|| demand.size_bytes.map(|bytes| bytes.saturating_add(policy.headroom)));
    let exceeds =
        |used: u64| matches!((needs, budget), (Some(needs), Some(budget)) if used.saturating_add(needs) > budget);
    let fits = match demand.estimate {
        Some(estimate) if policy.budget == 0 => estimate.fits,
        Some(estimate) => estimate.fits && !exceeds(used(resident)),
        None => !exceeds(used(resident)),
    };
    if fits {
        return Plan::Load;
    }
    let mut left = resident.to_vec();
    for _ in 0..room {
        let Some(victim) = next_victim(&left, policy, needed).map(|it| it.identifier.clone()) else { break };
        left.retain(|it| it.identifier != victim);
    }
    match (needs, budget) {
        (Some(needs), Some(budget)) if exceeds(used(&left)) => Plan::Hopeless(needs, budget),
        _ if room == 0 => Plan::Load,
        _ => next_victim(resident, policy, needed).map_or(Plan::Load, |it| Plan::Evict(it.identifier.clone())),
    }
}

/// The size on disk of what is loaded on this machine.
fn used(resident: &[Instance]) -> u64 {
    resident.iter().filter(|it| it.device.is_none()).fold(0, |sum, it| sum.saturating_add(it.size_bytes.unwrap_or(0)))
}

/// The instance to unload next: idle, on this machine, not protected, least recently used;
/// one that was never used goes first. An instance that nobody can call idle stays.
pub(crate) fn next_victim<'a>(
    resident: &'a [Instance],
    policy: &EvictionPolicy,
    needed: &[ModelKey],
) -> Option<&'a Instance> {
    let is_named = |it: &Instance, name: &str| it.identifier == name || it.model_key.as_deref() == Some(name);
    resident
        .iter()
        .filter(|it| it.busy == Some(false) && it.device.is_none())
        // A name that it cannot be unloaded by would only stop the search.
        .filter(|it| ModelKey::parse(&it.identifier).is_ok() && !is_ambiguous(resident, &it.identifier))
        .filter(|it| !policy.protect.iter().any(|name| is_named(it, name)))
        .filter(|it| !needed.iter().any(|key| is_named(it, key.as_str())))
        .min_by_key(|it| it.last_used.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::residency::Readiness;
    use proptest::prelude::*;

    fn resident(name: &str, busy: Option<bool>, last_used: Option<u64>, size: u64) -> Instance {
        Instance {
            identifier: name.to_owned(),
            model_key: Some(name.to_owned()),
            readiness: Readiness::Unreported,
            context_length: None,
            max_context_length: None,
            parallel: None,
            device: None,
            busy,
            last_used,
            size_bytes: Some(size),
        }
    }

    fn policy(budget: u64) -> EvictionPolicy {
        EvictionPolicy { budget, headroom: 4, protect: vec!["kept".to_owned()], max_victims: 8 }
    }

    #[test]
    fn the_least_recently_used_idle_instance_goes_first() {
        let all = [
            resident("busy", Some(true), Some(1), 1),
            resident("untold", None, Some(1), 1),
            resident("kept", Some(false), Some(1), 1),
            resident("wanted", Some(false), Some(1), 1),
            resident("late", Some(false), Some(9), 1),
            resident("early", Some(false), Some(5), 1),
            resident("never", Some(false), None, 1),
        ];
        let needed = [ModelKey::parse("wanted").unwrap()];
        let order: Vec<&str> = (4..=all.len())
            .rev()
            .filter_map(|end| next_victim(&all[..end], &policy(0), &needed))
            .map(|it| it.identifier.as_str())
            .collect();
        assert_eq!(order, ["never", "early", "late"]);
    }

    #[test]
    fn a_budget_counts_before_the_estimator_and_the_machine() {
        let said = |fits| Some(Estimate { total_bytes: 10, fits });
        let resident = [resident("a", Some(false), None, 50)];
        let evict = Plan::Evict("a".to_owned());
        for (estimate, size, machine, budget, wanted) in [
            (said(true), Some(8), Some(1), 0, Plan::Load),
            (said(false), Some(8), None, 0, evict.clone()),
            (said(false), Some(8), Some(10), 0, Plan::Hopeless(10, 9)),
            (said(true), Some(8), None, 60, Plan::Load),
            (said(true), Some(8), None, 59, evict.clone()),
            (said(true), Some(8), None, 9, Plan::Hopeless(10, 9)),
            (said(false), Some(8), None, 60, evict.clone()),
            (None, Some(8), Some(100), 0, Plan::Load),
            (None, Some(40), Some(100), 0, evict.clone()),
            (None, Some(6), None, 60, Plan::Load),
            (None, Some(7), None, 60, evict.clone()),
            (None, None, Some(1), 0, Plan::Load),
        ] {
            let demand = Demand { estimate, size_bytes: size, machine_bytes: machine };
            assert_eq!(plan(demand, &resident, &policy(budget), &[], 8), wanted, "{demand:?} {budget}");
        }
    }

    #[test]
    fn nothing_is_unloaded_in_vain() {
        let all = [resident("a", Some(false), None, 50), resident("b", Some(true), None, 50)];
        let demand = |size| Demand { estimate: None, size_bytes: Some(size), machine_bytes: None };
        assert_eq!(plan(demand(20), &all, &policy(100), &[], 8), Plan::Evict("a".to_owned()));
        assert_eq!(plan(demand(60), &all, &policy(100), &[], 8), Plan::Hopeless(64, 100));
        assert_eq!(plan(demand(20), &all, &policy(100), &[], 0), Plan::Hopeless(24, 100));
    }

    proptest! {
        #[test]
        fn a_busy_or_protected_instance_is_never_a_victim(
            all in proptest::collection::vec(("(kept|wanted|a|b)", proptest::option::of(any::<bool>()), any::<Option<u64>>()), 0..8)
        ) {
            let all: Vec<Instance> = all.iter().map(|(name, busy, used)| resident(name, *busy, *used, 1)).collect();
            if let Some(victim) = next_victim(&all, &policy(0), &[ModelKey::parse("wanted").unwrap()]) {
                prop_assert_eq!(victim.busy, Some(false));
                prop_assert!(victim.identifier != "kept" && victim.identifier != "wanted");
            }
        }
    }
}
