//! Which of several servers a model is asked of. What each server is like for it is found out
//! elsewhere.

use crate::pure::fnv::fnv1a;
use crate::pure::outcome::failure::{Category, Failure};

/// What one server is like for one model; the first is the best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The model is addressable there.
    Ready,
    /// It is downloaded there, or is loading.
    Loadable,
    /// It is not there, and the user lets it be downloaded.
    Downloadable,
    /// It cannot be had there, for this reason.
    PassedOver(Failure),
}

impl Standing {
    fn rank(&self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Loadable => 1,
            Self::Downloadable => 2,
            Self::PassedOver(_) => 3,
        }
    }
}

/// Chooses one of the servers, which are in the order of the file, each with its name: the place
/// of the best, of several as good the first, or with `spread` the one that has most weight for
/// this text. So a text keeps its server, texts share all servers, and a server that goes away
/// moves only its own.
///
/// # Errors
/// No server is left: the place of the one that decides, and the failure, which tells of each.
pub(crate) fn choose(
    key: &str,
    servers: &[(&str, &Standing)],
    spread: Option<&str>,
) -> Result<usize, (usize, Failure)> {
    let best = servers.iter().map(|(_, standing)| standing.rank()).min();
    let equals = || (0..servers.len()).filter(|place| Some(servers[*place].1.rank()) == best);
    let chosen = match spread {
        Some(text) => equals().max_by_key(|place| (weight(text, servers[*place].0), usize::MAX - place)),
        None => equals().next(),
    };
    match chosen {
        Some(place) if !matches!(servers[place].1, Standing::PassedOver(_)) => Ok(place),
        _ => Err(none_left(key, servers)),
    }
}

/// How much a server weighs for a text: as good as random, and always the same.
fn weight(text: &str, server: &str) -> u64 {
    // The checksum alone tells apart, but does not scatter: texts differ at their end.
    let mut bits = fnv1a(&format!("{text}\n{server}"));
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ (bits >> 33)).wrapping_mul(factor);
    }
    bits ^ (bits >> 33)
}

/// A server that merely lacks the model says less than one that could not be asked: that one may
/// have it.
fn none_left(key: &str, servers: &[(&str, &Standing)]) -> (usize, Failure) {
    let failures: Vec<(usize, &str, &Failure)> = servers
        .iter()
        .enumerate()
        .filter_map(|(place, (name, standing))| match standing {
            Standing::PassedOver(failure) => Some((place, *name, failure)),
            _ => None,
        })
        .collect();
    // The end of the whole call is not the fault of a server.
    if let Some((place, _, failure)) = failures.iter().find(|(_, _, it)| is_end_of_call(it)) {
        return (*place, (*failure).clone());
    }
    let decides = failures.iter().find(|(_, _, it)| it.category != Category::NotDownloaded).or(failures.first());
    let Some((place, _, failure)) = decides else {
        return (0, Failure::new(Category::UnknownState, format!("there is no server to ask for `{key}`")));
    };
    let reasons: Vec<String> =
        failures.iter().map(|(_, name, failure)| format!("{name}: {}", failure.reason)).collect();
    let mut suggestions: Vec<String> = Vec::new();
    for near in failures.iter().flat_map(|(_, _, failure)| &failure.suggestions) {
        if !suggestions.contains(near) {
            suggestions.push(near.clone());
        }
    }
    let reason = format!("no server can serve `{key}`: {}", reasons.join("; "));
    (*place, Failure { reason, suggestions, ..(*failure).clone() })
}

fn is_end_of_call(failure: &Failure) -> bool {
    matches!(failure.category, Category::Interrupted | Category::Deadline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn passed(category: Category, reason: &str) -> Standing {
        Standing::PassedOver(Failure::new(category, reason))
    }

    fn chosen(standings: &[Standing], spread: Option<&str>) -> Result<usize, (usize, Failure)> {
        let names = ["a", "b", "c", "d"];
        let servers: Vec<(&str, &Standing)> = names.into_iter().zip(standings).collect();
        choose("m", &servers, spread)
    }

    #[test]
    fn the_first_of_the_best_is_taken() {
        let down = || passed(Category::ServerUnreachable, "down");
        let lacks = || passed(Category::NotDownloaded, "lacks");
        for (standings, wanted) in [
            (vec![Standing::Loadable, Standing::Ready, Standing::Ready], 1),
            (vec![down(), Standing::Loadable, Standing::Loadable], 1),
            (vec![lacks(), Standing::Downloadable, Standing::Loadable], 2),
            (vec![lacks(), down(), Standing::Downloadable], 2),
            (vec![passed(Category::LoadFailed, "x"), Standing::Loadable], 1),
        ] {
            assert_eq!(chosen(&standings, None), Ok(wanted), "{standings:?}");
        }
    }

    #[test]
    fn without_any_the_first_that_may_have_it_decides_and_each_is_named() {
        let lacks = |near: &str| {
            let failure = Failure::new(Category::NotDownloaded, "not there");
            Standing::PassedOver(Failure { suggestions: vec![near.to_owned()], ..failure })
        };
        let (place, failure) = chosen(&[lacks("x"), lacks("y"), lacks("x")], None).unwrap_err();
        assert_eq!((place, failure.category), (0, Category::NotDownloaded));
        assert_eq!(failure.reason, "no server can serve `m`: a: not there; b: not there; c: not there");
        assert_eq!(failure.suggestions, ["x", "y"]);
        let refused = passed(Category::Unauthorized, "no token");
        let down = passed(Category::ServerUnreachable, "down");
        let (place, failure) = chosen(&[lacks("x"), refused, down], Some("s")).unwrap_err();
        assert_eq!((place, failure.category), (1, Category::Unauthorized));
        assert_eq!(failure.reason, "no server can serve `m`: a: not there; b: no token; c: down");
        let stopped = passed(Category::Interrupted, "stopped by SIGINT");
        let (_, failure) = chosen(&[lacks("x"), stopped], None).unwrap_err();
        assert_eq!(failure.reason, "stopped by SIGINT");
    }

    #[test]
    fn a_text_spreads_over_all_that_are_as_good() {
        let mut count: BTreeMap<usize, usize> = BTreeMap::new();
        for session in 0..3000 {
            let session = format!("ses_{session:04}");
            *count.entry(chosen(&[const { Standing::Ready }; 3], Some(&session)).unwrap()).or_default() += 1;
        }
        assert!(count.values().all(|it| (900..1100).contains(it)), "{count:?}");
        let better = [Standing::Loadable, Standing::Ready, Standing::Loadable];
        assert!((0..50).all(|session| chosen(&better, Some(&session.to_string())) == Ok(1)));
    }

    #[test]
    fn the_choice_for_a_text_is_the_same_in_every_version() {
        let places: Vec<usize> = ["ses_1", "ses_2", "ses_3", "ses_4", "ses_5", "ses_6"]
            .iter()
            .map(|it| chosen(&[const { Standing::Ready }; 4], Some(it)).unwrap())
            .collect();
        assert_eq!(places, [1, 3, 2, 2, 3, 3]);
    }

    proptest! {
        #[test]
        fn a_server_that_goes_away_moves_only_its_own(text in ".{0,12}", gone in 0..4_usize) {
            let mut standings = vec![Standing::Ready; 4];
            let before = chosen(&standings, Some(&text)).unwrap();
            standings[gone] = passed(Category::ServerUnreachable, "down");
            let after = chosen(&standings, Some(&text)).unwrap();
            let is_right = if before == gone { after != gone } else { after == before };
            prop_assert!(is_right, "from {} to {}", before, after);
        }
    }
}
