//! What a name in a request means: profiles, selectors, ids, aliases and peers, in llama-swap's order.

use crate::config::{Selector, Strategy, Version};
use crate::engine::{App, Engine};
use crate::process::State;

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meant {
    /// A model here, by its id.
    Model(String),
    /// A model of this peer, by its name there.
    Peer(String, String),
    /// A name that the active profile switches off.
    SwitchedOff,
    Unknown,
}

impl Engine {
    /// The id that this id or alias stands for.
    pub fn real_id(&self, name: &str) -> Option<&str> {
        let (id, _) =
            self.config.models.iter().find(|(id, _)| *id == name).or_else(|| {
                self.config.models.iter().find(|(_, model)| model.other_names().any(|other| other == name))
            })?;
        Some(id)
    }

    /// What `name` means; paths know no selectors.
    pub fn meant(&self, app: &App, name: &str, with_selectors: bool) -> Meant {
        let version = Version::of(&self.version);
        let mut name = name.to_owned();
        if version.since(241) {
            let active = app.active_profile();
            let profile = active.and_then(|active| self.config.profiles.get(&active));
            if let Some(target) = profile.and_then(|profile| profile.pins.get(&name)) {
                if target.is_empty() {
                    return Meant::SwitchedOff;
                }
                name.clone_from(target);
            }
            if let Some(selector) = self.config.selectors.get(&name).filter(|_| with_selectors) {
                name = self.chosen(selector);
            }
        }
        if let Some(id) = self.real_id(&name) {
            return Meant::Model(id.to_owned());
        }
        let peers = self.config.peers.iter().filter(|_| version.since(179));
        for (id, peer) in peers.clone() {
            let full = name.strip_prefix(id.as_str()).and_then(|rest| rest.strip_prefix('/'));
            if let Some(model) = full.filter(|model| version.since(242) && peer.models.iter().any(|it| it == model)) {
                return Meant::Peer(id.clone(), model.to_owned());
            }
        }
        let mut having = peers.filter(|(_, peer)| peer.models.contains(&name));
        match (having.next(), having.next()) {
            (Some((id, _)), None) => Meant::Peer(id.clone(), name),
            _ => Meant::Unknown,
        }
    }

    /// The target that answers now.
    fn chosen(&self, selector: &Selector) -> String {
        let in_state = |state| {
            let has =
                move |target: &&String| self.real_id(target).is_some_and(|id| self.processes[id].state() == state);
            selector.targets.iter().filter(has)
        };
        let work = |target: &&String| self.real_id(target).map_or(0, |id| self.processes[id].in_flight());
        let found = match selector.strategy {
            Strategy::Pin => None,
            Strategy::Warm => in_state(State::Ready).next().or_else(|| in_state(State::Starting).next()),
            Strategy::Spillover => in_state(State::Ready).min_by_key(work),
        };
        found.or(selector.targets.first()).cloned().unwrap_or_default()
    }

    /// The name and the rest in what follows `/upstream/`.
    pub fn in_path<'a>(&self, app: &App, path: &'a str) -> Option<(&'a str, &'a str)> {
        let version = Version::of(&self.version);
        let ends = path.match_indices('/').map(|(place, _)| place).chain([path.len()]);
        let mut known: Vec<usize> = ends
            .filter(|end| !matches!(self.meant(app, &path[..*end], false), Meant::Unknown | Meant::SwitchedOff))
            .collect();
        if !version.since(178) {
            let first = path.find('/').unwrap_or(path.len());
            known.retain(|end| *end == first);
        }
        let end = if version.since(228) { known.last() } else { known.first() };
        end.map(|end| path.split_at(*end))
    }
}
