//! Making room: whether a load fits, and which instance goes next if it does not.

use std::collections::BTreeMap;
use std::time::Duration;

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
    /// It is not expected to fit beside these, which only the grace keeps from making room, so
    /// nothing goes. `is_over_budget`: the user's own budget stands against it.
    Spared { identifiers: Vec<String>, is_over_budget: bool },
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

/// Which instances may make room for a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// What the user allows.
    pub policy: &'a EvictionPolicy,
    /// The models of the call itself: they never make room for each other.
    pub needed: &'a [ModelKey],
    /// How long ago other calls ensured a model, by key, as far as they wrote it down.
    pub ensured: &'a BTreeMap<String, Duration>,
}

static NOTHING_ENSURED: BTreeMap<String, Duration> = BTreeMap::new();

impl Rules<'_> {
    /// Plans the next step before a load of `demand` beside what is `resident`, with so many more
    /// that may be unloaded for it.
    ///
    /// A budget that is set always counts. Without one the estimator's word counts, and
    /// without an estimate nine tenths of the memory do. What nobody can tell is tried.
    pub(crate) fn plan(&self, demand: Demand, resident: &[Instance], room: usize) -> Plan {
        let policy = self.policy;
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
        let step = |rules: &Self| match (needs, budget) {
            (Some(needs), Some(budget)) if exceeds(used(&rules.left(resident, room))) => Plan::Hopeless(needs, budget),
            _ if room == 0 => Plan::Load,
            _ => rules.next_victim(resident).map_or(Plan::Load, |it| Plan::Evict(it.identifier.clone())),
        };
        let step_with_grace = step(self);
        let without_grace = Self { ensured: &NOTHING_ENSURED, ..*self };
        match step_with_grace {
            Plan::Load | Plan::Hopeless(..) if matches!(step(&without_grace), Plan::Evict(_)) => Plan::Spared {
                identifiers: self.spared(resident),
                is_over_budget: policy.budget > 0 && matches!(step_with_grace, Plan::Hopeless(..)),
            },
            step => step,
        }
    }

    /// The instance to unload next: idle, on this machine, not protected, not ensured a moment ago,
    /// least recently used; one that was never used goes first. An instance that nobody can call
    /// idle stays.
    pub(crate) fn next_victim<'i>(&self, resident: &'i [Instance]) -> Option<&'i Instance> {
        self.candidates(resident).filter(|it| !self.has_grace(it)).min_by_key(|it| it.last_used.unwrap_or(0))
    }

    /// The identifiers of those that only the grace keeps from being unloaded.
    pub(crate) fn spared(&self, resident: &[Instance]) -> Vec<String> {
        self.candidates(resident).filter(|it| self.has_grace(it)).map(|it| it.identifier.clone()).collect()
    }

    /// What is left when all have gone that may, up to so many.
    fn left(&self, resident: &[Instance], room: usize) -> Vec<Instance> {
        let mut left = resident.to_vec();
        for _ in 0..room {
            let Some(victim) = self.next_victim(&left).map(|it| it.identifier.clone()) else { break };
            left.retain(|it| it.identifier != victim);
        }
        left
    }

    fn candidates<'i>(&self, resident: &'i [Instance]) -> impl Iterator<Item = &'i Instance> {
        let is_named = |it: &Instance, name: &str| it.identifier == name || it.model_key.as_deref() == Some(name);
        resident
            .iter()
            .filter(|it| it.busy == Some(false) && it.device.is_none())
            // A name that it cannot be unloaded by would only stop the search.
            .filter(|it| ModelKey::parse(&it.identifier).is_ok() && !is_ambiguous(resident, &it.identifier))
            .filter(move |it| !self.policy.protect.iter().any(|name| is_named(it, name)))
            .filter(move |it| !self.needed.iter().any(|key| is_named(it, key.as_str())))
    }

    fn has_grace(&self, instance: &Instance) -> bool {
        self.ensured.get(&instance.identifier).is_some_and(|age| *age < self.policy.grace)
    }
}

/// The size on disk of what is loaded on this machine.
fn used(resident: &[Instance]) -> u64 {
    resident.iter().filter(|it| it.device.is_none()).fold(0, |sum, it| sum.saturating_add(it.size_bytes.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::residency::Readiness;
    use crate::pure::residency::tests::instance;
    use proptest::prelude::*;

    fn resident(name: &str, busy: Option<bool>, last_used: Option<u64>, size: u64) -> Instance {
        let (model_key, size_bytes) = (Some(name.to_owned()), Some(size));
        Instance { model_key, busy, last_used, size_bytes, ..instance(name, Readiness::Unreported) }
    }

    fn policy(budget: u64) -> EvictionPolicy {
        let grace = Duration::from_secs(60);
        EvictionPolicy { budget, headroom: 4, protect: vec!["kept".to_owned()], max_victims: 8, grace }
    }

    fn ages(seconds: &[(&str, u64)]) -> BTreeMap<String, Duration> {
        seconds.iter().map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds))).collect()
    }

    fn plan(demand: Demand, resident: &[Instance], budget: u64, ensured: &[(&str, u64)], room: usize) -> Plan {
        Rules { policy: &policy(budget), needed: &[], ensured: &ages(ensured) }.plan(demand, resident, room)
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
        let rules = Rules { policy: &policy(0), needed: &needed, ensured: &NOTHING_ENSURED };
        let order: Vec<&str> = (4..=all.len())
            .rev()
            .filter_map(|end| rules.next_victim(&all[..end]))
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
            assert_eq!(plan(demand, &resident, budget, &[], 8), wanted, "{demand:?} {budget}");
        }
    }

    #[test]
    fn nothing_is_unloaded_in_vain() {
        let all = [resident("a", Some(false), None, 50), resident("b", Some(true), None, 50)];
        let demand = |size| Demand { estimate: None, size_bytes: Some(size), machine_bytes: None };
        assert_eq!(plan(demand(20), &all, 100, &[], 8), Plan::Evict("a".to_owned()));
        assert_eq!(plan(demand(60), &all, 100, &[], 8), Plan::Hopeless(64, 100));
        assert_eq!(plan(demand(20), &all, 100, &[], 0), Plan::Hopeless(24, 100));
    }

    #[test]
    fn what_was_just_ensured_stays_and_is_named_where_it_alone_stands_in_the_way() {
        let all = [resident("new", Some(false), None, 40), resident("old", Some(false), Some(9), 20)];
        let spared = |is_over_budget| Plan::Spared { identifiers: vec!["new".to_owned()], is_over_budget };
        let refused =
            Demand { estimate: Some(Estimate { total_bytes: 10, fits: false }), size_bytes: None, machine_bytes: None };
        let needs = |size: u64| Demand { estimate: None, size_bytes: Some(size - 4), machine_bytes: None };
        for (demand, all, budget, age, wanted) in [
            // Another one goes in its place, if that helps.
            (needs(50), &all[..], 100, 59, Plan::Evict("old".to_owned())),
            (needs(70), &all, 100, 59, spared(true)),
            (needs(70), &all, 100, 60, Plan::Evict("new".to_owned())),
            // It is not blamed for what would not fit without it.
            (needs(110), &all, 100, 59, Plan::Hopeless(110, 100)),
            (needs(30), &all, 100, 59, Plan::Load),
            // The estimator speaks against it, and nobody knows how much would have to go.
            (refused, &all, 0, 59, Plan::Evict("old".to_owned())),
            (refused, &all[..1], 0, 59, spared(false)),
            (refused, &all[..1], 100, 59, spared(false)),
            (refused, &all[..1], 0, 60, Plan::Evict("new".to_owned())),
        ] {
            assert_eq!(
                plan(demand, all, budget, &[("new", age)], 8),
                wanted,
                "{demand:?} {} {budget} {age}",
                all.len()
            );
        }
        assert_eq!(plan(refused, &all[..1], 0, &[("new", 0)], 0), Plan::Load, "no more may be unloaded in any case");
    }

    proptest! {
        #[test]
        fn a_busy_protected_or_just_ensured_instance_is_never_a_victim(
            all in proptest::collection::vec(("(kept|wanted|a|b)", proptest::option::of(any::<bool>()), any::<Option<u64>>()), 0..8),
            age in 0..120_u64
        ) {
            let all: Vec<Instance> = all.iter().map(|(name, busy, used)| resident(name, *busy, *used, 1)).collect();
            let needed = [ModelKey::parse("wanted").unwrap()];
            let rules = Rules { policy: &policy(0), needed: &needed, ensured: &ages(&[("a", age)]) };
            let without_grace = Rules { ensured: &NOTHING_ENSURED, ..rules };
            let victim = rules.next_victim(&all);
            if let Some(victim) = victim {
                prop_assert_eq!(victim.busy, Some(false));
                prop_assert!(victim.identifier != "kept" && victim.identifier != "wanted");
                prop_assert!(victim.identifier != "a" || age >= 60);
            }
            // The grace takes nothing else away, and what it takes away is told.
            let told = rules.spared(&all);
            prop_assert_eq!(victim.is_some() || !told.is_empty(), without_grace.next_victim(&all).is_some());
            prop_assert!(told.iter().all(|name| name == "a" && age < 60));
        }
    }
}
