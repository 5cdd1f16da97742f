//! The first look at one of several servers: what the server is like for each model that it may be
//! asked for. Which server is taken is decided in `pure::choice`. It takes no lock, and starts,
//! loads and unloads nothing.

use tokio::time::timeout;

use super::evaluate::Step;
use super::{Call, Gate, ModelTask, Refusal, first_look};
use crate::backend::{Observation, is_settled};
use crate::pure::backend::BackendKind;
use crate::pure::choice::Standing;
use crate::pure::decision::Change;
use crate::pure::load::ModelRequest;
use crate::pure::outcome::failure::{Category, Failure};
use crate::pure::outcome::report::Action;
use crate::pure::residency::{Reading, Snapshot, find_downloaded};
use crate::pure::text::{duration, shell_word};

/// What a look at one server showed.
#[derive(Debug)]
pub(crate) struct Probe {
    /// What the server is like for each request of the call, in their order.
    pub standings: Vec<Standing>,
    /// The snapshot of the first round, if that was all that had to be asked: the gate can go on
    /// from there.
    pub first: Option<Snapshot>,
    /// The program there, as far as it is known.
    pub backend: Option<BackendKind>,
}

/// Looks at a server, within `probeTimeoutMs` in all: one that is down or mute must not keep a call
/// that others can serve.
///
/// # Errors
/// As [`super::ensure`].
pub(crate) async fn probe(call: &Call<'_>) -> Result<Probe, Refusal> {
    let context = call.context();
    let limit = call.config.probe_timeout;
    let look = async {
        let (gate, reading) = first_look(Gate::new(call, &context)).await?;
        let is_settled = matches!(&reading, Ok(Reading::Seen(snapshot)) if is_settled(snapshot, call.requests));
        let observation = gate.first_observation(reading).await?;
        let probe = gate.judge(&observation).await;
        Ok(match observation {
            Ok(Observation::Seen(snapshot)) if is_settled => Probe { first: Some(snapshot), ..probe },
            _ => probe,
        })
    };
    timeout(limit, look).await.unwrap_or_else(|_| {
        let mute = context.unknown(&format!("no answer within {}", duration(limit)));
        let standings = call.requests.iter().map(|_| Standing::PassedOver(mute.clone())).collect();
        Ok(Probe { standings, first: None, backend: call.config.backend.or(call.found.get()) })
    })
}

impl Gate<'_> {
    async fn judge(&self, observation: &Result<Observation, Failure>) -> Probe {
        let mut standings = Vec::with_capacity(self.call.requests.len());
        for request in self.call.requests {
            standings.push(match observation {
                Ok(observation) => self.standing(request, observation).await,
                Err(failure) => Standing::PassedOver(failure.clone()),
            });
        }
        let failure = standings.iter().find_map(|standing| match standing {
            Standing::PassedOver(failure) => Some(failure),
            _ => None,
        });
        let backend = match failure {
            Some(failure) => self.told_backend(&Err(failure.clone())),
            None => Some(self.backend.kind()),
        };
        Probe { standings, first: None, backend }
    }

    async fn standing(&self, request: &ModelRequest, observation: &Observation) -> Standing {
        match ModelTask::new(self, request).evaluate(observation, Action::None) {
            Ok(Step::Ready(_)) => Standing::Ready,
            Ok(Step::Change(snapshot, Change::Load)) => match self.backend.downloaded(&snapshot).await {
                Ok(models) if find_downloaded(&models, &request.key).is_some() => Standing::Loadable,
                Ok(_) if self.call.config.auto_download => Standing::Downloadable,
                Ok(models) => Standing::PassedOver(self.backend.not_downloaded(request, &models)),
                Err(failure) => Standing::PassedOver(failure),
            },
            Ok(Step::Wait(_) | Step::Change(..)) => Standing::Loadable,
            Ok(Step::StartServer) => Standing::PassedOver(self.not_started(request)),
            Err(failure) => Standing::PassedOver(failure),
        }
    }

    /// A server that is off is started for a call that can go nowhere else.
    fn not_started(&self, request: &ModelRequest) -> Failure {
        let reason = format!("nothing listens at {}", self.context.base());
        let failure = Failure::new(Category::ServerUnreachable, reason).cheap();
        match self.call.server_name {
            Some(name) => {
                let key = shell_word(request.key.as_str());
                failure.hinted(format!("`lmswarm ensure {key} --server {name}` starts it"))
            }
            None => failure,
        }
    }
}
