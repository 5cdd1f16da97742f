//! Making room for a load, when the user asked for it: idle instances, least recently used
//! first, each looked at again just before it goes.

use super::load::Target;
use super::{Lead, Want, Work};
use crate::pure::config::EvictionPolicy;
use crate::pure::eviction::{Demand, Fit, next_victim, predict};
use crate::pure::failure::{Category, Failure};
use crate::pure::load::estimate_args;
use crate::pure::model::ModelKey;
use crate::pure::text::bytes;
use crate::sys::lms::{Lms, Problem};
use crate::sys::machine;

/// What has been unloaded for one load.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    /// How many instances.
    pub(super) count: usize,
}

impl Work<'_> {
    /// Frees memory until the load is expected to fit, or nothing more may be unloaded.
    pub(super) async fn make_room(
        &self,
        want: &Want,
        target: &Target,
        lead: &Lead,
        done: &mut Evictions,
    ) -> Result<(), Failure> {
        let (Some(policy), Ok(lms)) = (&self.config.eviction, &self.lms) else { return Ok(()) };
        loop {
            let args = estimate_args(&want.key, &want.options.within(target.max_context), target.placement);
            let estimate = lms.estimate(args).await.map_err(|stop| self.interrupted(stop))?;
            let resident = match lms.ps().await {
                Ok(resident) => resident,
                Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
                Err(Problem::Failed(why)) => {
                    // LM Studio's guardrail still stands between this load and a full memory.
                    self.warn(format!("cannot tell what could make room: {why}"));
                    return Ok(());
                }
            };
            let machine_bytes = if estimate.is_none() { machine::memory_bytes() } else { None };
            let demand = Demand { estimate, size_bytes: target.size_bytes, machine_bytes };
            let Fit::TooLarge(budget) = predict(demand, &resident, policy) else { return Ok(()) };
            tracing::info!(?demand, ?budget, "the load is not expected to fit");
            if self.evict_one(lms, policy, lead, done).await? {
                continue;
            }
            return match budget {
                // A budget is the user's own word; the estimator's may be wrong.
                Some((needs, budget)) if policy.budget > 0 => Err(Failure::new(
                    Category::LoadRefused,
                    format!(
                        "`{}` needs {}, which does not fit into ramBudgetMB ({}) beside what is in use",
                        want.key,
                        bytes(needs),
                        bytes(budget)
                    ),
                )
                .hinted("unload something, raise --ram-budget-mb, or shorten evictProtect")),
                _ => Ok(()),
            };
        }
    }

    /// Unloads one more instance; `false` when none may go.
    pub(super) async fn evict_one(
        &self,
        lms: &Lms,
        policy: &EvictionPolicy,
        lead: &Lead,
        done: &mut Evictions,
    ) -> Result<bool, Failure> {
        if done.count >= policy.max_victims {
            return Ok(false);
        }
        let needed: Vec<ModelKey> = self.call.wants.iter().map(|want| want.key.clone()).collect();
        // Asked anew for each victim: what was idle a moment ago may be busy by now.
        let resident = match lms.ps().await {
            Ok(resident) => resident,
            Err(Problem::Stopped(stop)) => return Err(self.interrupted(stop)),
            Err(Problem::Failed(_)) => return Ok(false),
        };
        let Some(victim) = next_victim(&resident, policy, &needed) else { return Ok(false) };
        let activity = self.call.progress.begin(&format!("unloading `{}` to make room", victim.identifier), None);
        self.unload(lms, &victim.identifier, lead).await?;
        drop(activity);
        self.warn(format!("`{}` was unloaded to make room", victim.identifier));
        done.count += 1;
        Ok(true)
    }
}
