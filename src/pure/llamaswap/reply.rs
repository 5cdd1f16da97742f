//! Reads what a request that loads a model came to: llama-swap's own words, or the answer of the
//! model's server. The status and the form of its errors changed with its versions (v218, v225,
//! v250); the words did not, so they count.

use serde_json::Value as Json;

use crate::pure::base_url::escaped;
use crate::pure::http::{Answer, Reply, describe};
use crate::pure::text::{excerpt, excerpt_of_end, without_secrets};

/// What a request that loads a model came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadReply {
    /// The model's own server has answered, whatever it said.
    Answered,
    /// The model is ready, but its server does not answer (yet).
    Silent,
    /// llama-swap knows no such name.
    NotConfigured,
    /// The path is one that loads nothing (`upstream.ignorePaths`).
    Ignored,
    /// A key is wanted, or another one.
    Unauthorized,
    /// There are too many requests for this model already.
    TooMany,
    /// The start failed; says why, without the command line.
    Failed(String),
    /// The model was not healthy within `healthCheckTimeout`; holds llama-swap's words.
    NotHealthy(String),
    /// The start was broken off by an unload or a change of the configuration.
    BrokenOff(String),
    /// Something in front of llama-swap has cut the request off; the load may go on.
    Cut(String),
    /// The connection to llama-swap broke.
    Lost(String),
    /// No answer in time.
    TimedOut,
}

/// Reads the answer to a request that is passed on to a model.
pub fn read_load_reply(reply: &Reply) -> LoadReply {
    let answer = match reply {
        Reply::Answer(answer) => answer,
        Reply::TimedOut => return LoadReply::TimedOut,
        Reply::Refused => return LoadReply::Lost("nothing listens there any more".to_owned()),
        Reply::Broken(why) => return LoadReply::Lost(why.clone()),
        Reply::Unreachable(error) => return LoadReply::Lost(error.to_string()),
        Reply::NotHttp(said) => return LoadReply::Lost(format!("no HTTP, but \"{said}\"")),
    };
    let words = words(answer);
    let says = |text: &str| words.contains(text);
    match answer.status {
        502 | 503 if answer.body.is_empty() => return LoadReply::Silent,
        401 if is_own_refusal(answer) => return LoadReply::Unauthorized,
        429 => return LoadReply::TooMany,
        409 if says("upstream.ignorePaths") => return LoadReply::Ignored,
        400 | 404 | 500 if NOT_CONFIGURED.iter().any(|text| says(text)) => return LoadReply::NotConfigured,
        _ => {}
    }
    if matches!(answer.status, 500 | 502 | 503) {
        if says("failed to start command") || says("start() failed for command") {
            // The command line holds keys; only what the system said about the program is told.
            let why = words.rsplit_once("': ").map_or("", |(_, why)| why);
            let why = why.trim_end_matches(['"', '}', '\n']);
            return LoadReply::Failed(format!("its command cannot be started ({})", excerpt(why, 200)));
        }
        if says("exited prematurely") {
            return LoadReply::Failed("its command ended before it was ready".to_owned());
        }
        if says("health check timed out") {
            return LoadReply::NotHealthy(excerpt(words.trim_end_matches(['"', '}', '\n']), 200));
        }
        if BROKEN_OFF.iter().any(|text| says(text)) {
            let why = words.rsplit_once(": ").map_or(words.as_str(), |(_, why)| why);
            return LoadReply::BrokenOff(excerpt(why.trim_end_matches(['"', '}', '\n']), 100));
        }
        if is_own(answer) {
            return LoadReply::Failed(excerpt(&masked(&words), 200));
        }
    }
    let is_cut = matches!(answer.status, 408 | 502 | 504 | 520..=529);
    if is_cut { LoadReply::Cut(describe(answer)) } else { LoadReply::Answered }
}

/// What is said of a name that is not configured: below `/upstream/` and in a body, before v178,
/// v210, v218 and since.
const NOT_CONFIGURED: [&str; 6] = [
    "model not found",
    "no router for requested model",
    "could not find suitable inference handler",
    "could not find real modelID",
    "model id required in path",
    "no model id could be identified",
];

/// What is said of a start that somebody has broken off.
const BROKEN_OFF: [&str; 6] = [
    "model unloaded",
    "is shutting down",
    "interrupted due to shutdown",
    "process is not ready",
    "Process can not ProxyRequest",
    "wound up in state",
];

/// llama-swap's own 401. A proxy in front of it has other words.
pub fn is_own_refusal(answer: &Answer) -> bool {
    answer.status == 401 && words(answer).contains("unauthorized: invalid or missing API key")
}

/// Whether llama-swap has signed it, as it does with its own errors since v218.
fn is_own(answer: &Answer) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    body.starts_with("llama-swap: ") || (body.starts_with('{') && body.contains("\"src\":\"llama-swap\""))
}

/// What an error says, whatever its form. That of v218 to v224 is not JSON if it has a quote in it.
fn words(answer: &Answer) -> String {
    let body = String::from_utf8_lossy(&answer.body);
    let message = serde_json::from_str::<Json>(&body).ok().and_then(|it| match &it["error"] {
        Json::String(text) => Some(text.clone()),
        error => error["message"].as_str().map(str::to_owned),
    });
    message.unwrap_or_else(|| body.into_owned())
}

/// The oldest release that is supported, of January 2026.
pub const OLDEST: u32 = 186;

/// The release, as `GET /api/version` tells it; 0 for one that has no such path (before v173). A
/// build of somebody's own may not tell.
pub fn release(reply: &Reply) -> Option<u32> {
    let Reply::Answer(answer) = reply else { return None };
    if answer.status == 404 {
        return Some(0);
    }
    let version = serde_json::from_slice::<Json>(&answer.body).ok()?;
    let text = version["version"].as_str()?.strip_prefix('v')?;
    text.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
}

/// Why a start failed, as the model's own output tells it; the newest that looks like a reason.
pub fn reason_in_log(log: &str) -> Option<String> {
    const SIGNS: [&str; 9] =
        ["error", "fail", "unable", "cannot", "could not", "out of memory", "no such file", "not found", "terminate"];
    let lines: Vec<&str> = log.lines().rev().map(str::trim).filter(|line| !line.is_empty()).take(40).collect();
    let is_reason = |line: &&&str| {
        let line = line.to_lowercase();
        SIGNS.iter().any(|sign| line.contains(sign))
    };
    lines.iter().find(is_reason).or(lines.first()).map(|line| excerpt_of_end(&masked(line), 200))
}

/// The text without what may be a secret: values of options and variables that are called so, and
/// what looks like a token.
pub fn masked(text: &str) -> String {
    const SECRET: [&str; 5] = ["key", "token", "secret", "password", "authorization"];
    let mut hides_next = false;
    let words = text.split_inclusive(char::is_whitespace).map(|piece| {
        let word = piece.trim_end();
        let blank = &piece[word.len()..];
        let lower = word.to_lowercase();
        let is_scheme = matches!(lower.trim_matches(['"', '\'']), "bearer" | "basic");
        let hidden = std::mem::take(&mut hides_next);
        let name_end = word.find(['=', ':']).unwrap_or(word.len());
        let is_name = SECRET.iter().any(|it| lower[..name_end.min(lower.len())].contains(it));
        if is_scheme {
            hides_next = true;
            return piece.to_owned();
        }
        if hidden {
            return format!("…{blank}");
        }
        if lower.trim_matches(['"', '\'']).starts_with("hf_") {
            return format!("hf_…{blank}");
        }
        if is_name && name_end + 1 < word.len() {
            return format!("{}…{blank}", &word[..=name_end]);
        }
        let is_option = word.starts_with('-') || name_end < word.len();
        hides_next = is_name && is_option;
        piece.to_owned()
    });
    without_secrets(&words.collect::<String>())
}

/// A name in a path: slashes may stay. `None` where no path can hold it.
pub fn in_path(name: &str) -> Option<String> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    Some(name.split('/').map(escaped).collect::<Vec<_>>().join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Reply {
        Reply::Answer(Answer { status, signature: String::new(), body: body.as_bytes().to_vec() })
    }

    #[test]
    fn its_own_words_are_told_from_those_of_the_models_server_in_every_version() {
        let no_command = "does-not-exist: executable file not found in $PATH";
        for (status, body, wanted) in [
            (200, r#"{"status": "ok"}"#, LoadReply::Answered),
            (404, r#"{"error": {"code": 404, "message": "File Not Found"}}"#, LoadReply::Answered),
            (503, r#"{"error":{"code":503,"message":"Loading model"}}"#, LoadReply::Answered),
            (502, "", LoadReply::Silent),
            (
                404,
                r#"{"src":"llama-swap","error":{"message":"model not found","code":"not_found"}}"#,
                LoadReply::NotConfigured,
            ),
            (404, "model not found", LoadReply::NotConfigured),
            (400, r#"{"error":"model id required in path"}"#, LoadReply::NotConfigured),
            (500, "error swapping process group: could not find real modelID for nope", LoadReply::NotConfigured),
            (
                401,
                r#"{"error":"unauthorized: invalid or missing API key","src":"llama-swap"}"#,
                LoadReply::Unauthorized,
            ),
            (429, "Too many requests\n", LoadReply::TooMany),
            (429, r#"{"error":"Too many requests"}"#, LoadReply::TooMany),
            (
                409,
                r#"{"src":"llama-swap","error":{"message":"model main is not loaded; path matches upstream.ignorePaths"}}"#,
                LoadReply::Ignored,
            ),
            (
                500,
                r#"{"src":"llama-swap", "error": "unspecific error: failed to start command 'x --api-key sk-1': exec: "does-not-exist": executable file not found in $PATH"}"#,
                LoadReply::Failed(format!(
                    "its command cannot be started (exec: \"{})",
                    no_command.replace("exist:", "exist\":")
                )),
            ),
            (
                502,
                "unable to start process: start() failed for command 'x --port 1': exec: \"does-not-exist\": executable file not found in $PATH\n",
                LoadReply::Failed(format!(
                    "its command cannot be started (exec: \"{})",
                    no_command.replace("exist:", "exist\":")
                )),
            ),
            (
                502,
                "unable to start process: upstream command exited prematurely but successfully\n",
                LoadReply::Failed("its command ended before it was ready".to_owned()),
            ),
            (
                500,
                r#"{"error":"unspecific error: health check timed out after 15s","src":"llama-swap"}"#,
                LoadReply::NotHealthy("unspecific error: health check timed out after 15s".to_owned()),
            ),
            (
                500,
                r#"{"src":"llama-swap","error":{"message":"unspecific error: matrix: model unloaded"}}"#,
                LoadReply::BrokenOff("model unloaded".to_owned()),
            ),
            (
                500,
                r#"{"src":"llama-swap", "error": "unspecific error: group is shutting down"}"#,
                LoadReply::BrokenOff("group is shutting down".to_owned()),
            ),
            (504, "<html>nginx</html>", LoadReply::Cut("status 504: \"<html>nginx</html>\"".to_owned())),
        ] {
            assert_eq!(read_load_reply(&answer(status, body)), wanted, "{status} {body}");
        }
    }

    #[test]
    fn the_newest_reason_in_a_log_is_told_without_secrets() {
        for (log, wanted) in [
            ("", None),
            ("fake boom starting\nerror: failed to load model\n\n", Some("error: failed to load model")),
            ("loading\nstill loading\n", Some("still loading")),
            (
                "error: old\nrun --api-key sk-12345678 --hf-token hf_abc failed\n",
                Some("run --api-key … --hf-token … failed"),
            ),
            ("cannot get https://me:pw@host/x\n", Some("cannot get https://…@host/x")),
            ("failed with API_KEY=abc token: def\n", Some("failed with API_KEY=… token: …")),
            ("failed: Authorization: Bearer abcdef\n", Some("failed: Authorization: Bearer …")),
        ] {
            assert_eq!(reason_in_log(log).as_deref(), wanted, "{log}");
        }
    }

    #[test]
    fn a_release_is_read_where_it_is_told() {
        for (status, body, wanted) in [
            (200, r#"{"build_date":"unknown","commit":"636b53e7","version":"v217"}"#, Some(217)),
            (200, r#"{"version":"v250-5-g0bdb3720"}"#, Some(250)),
            (200, r#"{"version":"0"}"#, None),
            (404, "", Some(0)),
            (401, "{}", None),
        ] {
            assert_eq!(release(&answer(status, body)), wanted, "{body}");
        }
    }

    #[test]
    fn a_name_is_escaped_as_a_path_and_a_query_need_it() {
        for (name, path, query) in [
            ("main", Some("main"), "main"),
            ("org/with slash:q?", Some("org/with%20slash%3Aq%3F"), "org%2Fwith%20slash%3Aq%3F"),
            ("a/../b", None, "a%2F..%2Fb"),
            ("ä", Some("%C3%A4"), "%C3%A4"),
        ] {
            assert_eq!((in_path(name).as_deref(), escaped(name).as_str()), (path, query));
        }
    }
}
