//! Making room for a load, when the user asked for it: idle instances, least recently used
//! first, each looked at again just before it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Lead, ModelTask};
use crate::backend::LoadTarget;
use crate::pure::config::EvictionPolicy;
use crate::pure::eviction::{Demand, Plan, Rules};
use crate::pure::model::ModelKey;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::text::{bytes, duration, listed, printable};
use crate::sys::machine;

/// What has been unloaded for one load.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    count: usize,
    /// What would have to go, and stays because it was ensured a moment ago.
    pub(super) spared: Vec<String>,
}

/// What making room came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The load is expected to fit; if it does not, unloading more may help.
    Expected,
    /// Unloading more would not help.
    Hopeless,
    /// Another client has brought the model up meanwhile, or does so now.
    NotNeeded,
}

impl ModelTask<'_> {
    /// Frees memory until the load is expected to fit, or nothing more may be unloaded.
    pub(super) async fn make_room(
        &self,
        target: &LoadTarget,
        lead: &Lead,
        done: &mut Evictions,
    ) -> Result<Room, Failure> {
        let Some(policy) = &self.gate.call.config.eviction else { return Ok(Room::Expected) };
        loop {
            let estimate = self.gate.backend.estimate(self.request, target).await?;
            let resident = match self.gate.backend.activity().await? {
                Ok(resident) => resident,
                Err(why) => {
                    // The server's guardrail still stands between this load and a full memory.
                    self.warn(format!("cannot tell what could make room: {why}"));
                    return Ok(Room::Expected);
                }
            };
            // Estimates and lists take their time, and nothing is unloaded for a load that
            // is not needed any more.
            if resident.iter().any(|it| it.identifier == self.request.key.as_str()) {
                return Ok(Room::NotNeeded);
            }
            let demand = Demand { estimate, size_bytes: target.size_bytes, machine_bytes: machine::memory_bytes() };
            let room = policy.max_victims.saturating_sub(done.count);
            let rules = Rules { policy, needed: &self.needed(), ensured: &self.ensured() };
            match rules.plan(demand, &resident, room) {
                Plan::Load => return Ok(Room::Expected),
                Plan::Evict(victim) => {
                    tracing::info!(?demand, victim, "the load is not expected to fit");
                    if !self.evict_one(policy, lead, done).await? {
                        return Ok(Room::Hopeless);
                    }
                }
                Plan::Spared { identifiers, is_over_budget } => {
                    if is_over_budget {
                        return Err(self.does_not_fit(&identifiers, None));
                    }
                    tracing::info!(
                        ?demand,
                        ?identifiers,
                        "the load is not expected to fit; the server has the last word"
                    );
                    done.spared = identifiers;
                    return Ok(Room::Expected);
                }
                // A budget is the user's own word; the estimator's may be wrong.
                Plan::Hopeless(needs, budget) if policy.budget > 0 => {
                    let (key, needs, budget) = (&self.request.key, bytes(needs), bytes(budget));
                    let reason = format!(
                        "`{key}` needs {needs}, which does not fit into ramBudgetMB ({budget}) beside what must stay"
                    );
                    return Err(Failure::new(Category::LoadRefused, reason)
                        .hinted("unload something, raise --ram-budget-mb, or shorten evictProtect"));
                }
                Plan::Hopeless(needs, budget) => {
                    tracing::info!(needs, budget, "no eviction would make it fit; the server has the last word");
                    return Ok(Room::Hopeless);
                }
            }
        }
    }

    /// Unloads one more instance; `false` when none may go.
    pub(super) async fn evict_one(
        &self,
        policy: &EvictionPolicy,
        lead: &Lead,
        done: &mut Evictions,
    ) -> Result<bool, Failure> {
        if done.count >= policy.max_victims {
            return Ok(false);
        }
        // Asked anew for each victim: what was idle a moment ago may be busy by now.
        let Ok(resident) = self.gate.backend.activity().await? else { return Ok(false) };
        let rules = Rules { policy, needed: &self.needed(), ensured: &self.ensured() };
        let Some(victim) = rules.next_victim(&resident) else {
            done.spared = rules.spared(&resident);
            return Ok(false);
        };
        let name = printable(&victim.identifier);
        let activity = self.gate.call.progress.begin(&format!("unloading `{name}` to make room"), None);
        self.unload(&victim.identifier, lead).await?;
        drop(activity);
        self.warn(format!("`{name}` was unloaded to make room"));
        done.count += 1;
        done.spared.clear();
        Ok(true)
    }

    /// The failure of a load that only what was `spared` left no room for. `refusal` is how the
    /// server put it, if it was asked.
    pub(super) fn does_not_fit(&self, spared: &[String], refusal: Option<Failure>) -> Failure {
        let conflict = self.conflict(spared);
        let failure = match refusal {
            Some(refusal) => refusal.and(&conflict),
            None => Failure::new(Category::LoadRefused, conflict),
        };
        failure.hinted(
            "ask for less context (--context-length), use models that fit together, or shorten --evict-grace-ms",
        )
    }

    /// Why what was `spared` and this model are not both resident, or should not be.
    pub(super) fn conflict(&self, spared: &[String]) -> String {
        let key = &self.request.key;
        let policy = self.gate.call.config.eviction.as_ref();
        let grace = duration(policy.map_or(Duration::ZERO, |policy| policy.grace));
        let names = listed(spared.iter().map(String::as_str), "and");
        let were = if spared.len() == 1 { "was" } else { "were" };
        format!(
            "`{key}` and {names} do not fit together, and {names} {were} ensured less than evictGraceMs ({grace}) ago"
        )
    }

    /// The models of this very call, which must not make room for each other.
    fn needed(&self) -> Vec<ModelKey> {
        self.gate.call.requests.iter().map(|request| request.key.clone()).collect()
    }

    /// How long ago this call or others ensured their models.
    fn ensured(&self) -> BTreeMap<String, Duration> {
        self.gate.store().map(|store| store.history().ensured()).unwrap_or_default()
    }
}
