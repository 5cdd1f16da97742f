//! The programs that can serve the models: their names, and how each is recognised.

use serde::Serialize;
use serde_json::Value as Json;

use crate::pure::http::Reply;
use crate::pure::lmstudio::rest::is_greeting;

/// A program that serves models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum BackendKind {
    /// LM Studio, which a server is taken for until it turns out to be another program.
    #[default]
    #[serde(rename = "lmstudio")]
    LmStudio,
    /// llama-swap.
    #[serde(rename = "llama-swap")]
    LlamaSwap,
    /// llama.cpp's `llama-server`, as a router or with a single model.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl BackendKind {
    /// All of them, in the order in which an unknown server is asked.
    pub const ALL: [Self; 3] = [Self::LmStudio, Self::LlamaSwap, Self::LlamaCpp];

    /// The word for it in the configuration, in `--json` and on disk.
    pub fn word(self) -> &'static str {
        match self {
            Self::LmStudio => "lmstudio",
            Self::LlamaSwap => "llama-swap",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmStudio => "LM Studio",
            Self::LlamaSwap | Self::LlamaCpp => self.word(),
        }
    }

    /// The one that names itself in an answer, as [`describe`] puts that: llama-server alone does, in
    /// its `Server` header. A reverse proxy may drop it.
    ///
    /// [`describe`]: crate::pure::http::describe
    pub fn named_in(answer: &str) -> Option<Self> {
        let (head, _) = answer.split_once(": \"")?;
        head.split(", ").any(|part| part == "llama.cpp").then_some(Self::LlamaCpp)
    }

    /// The one of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.word() == word)
    }
}

/// Answers by which a program is recognised. Each path is free of effects on each of them.
#[derive(Debug)]
pub struct Identification {
    /// `GET /lmstudio-greeting`.
    pub greeting: Reply,
    /// `GET /running`: llama-swap's alone.
    pub running: Reply,
    /// `GET /models`.
    pub models: Reply,
    /// `GET /props`: llama.cpp's.
    pub props: Reply,
}

impl Identification {
    /// The program that gives these answers, if it is one of those that are known.
    pub fn kind(&self) -> Option<BackendKind> {
        let Self { greeting, running, models, props } = self;
        let all = [greeting, running, models, props];
        if matches!(greeting, Reply::Answer(it) if is_greeting(&it.body)) {
            return Some(BackendKind::LmStudio);
        }
        let is_swap = json(running).is_some_and(|it| it["running"].is_array()) || all.iter().any(|it| is_swaps_own(it));
        if is_swap {
            return Some(BackendKind::LlamaSwap);
        }
        // A reverse proxy may drop the header that llama-server puts on every answer.
        let has_header = all.iter().any(|it| matches!(it, Reply::Answer(it) if it.signature.starts_with("llama.cpp")));
        let is_list = json(models).is_some_and(|it| {
            it["data"].as_array().is_some_and(|data| data.iter().any(|model| model["owned_by"] == "llamacpp"))
        });
        let is_router = json(props).is_some_and(|it| it["role"] == "router" && it["build_info"].is_string());
        (has_header || is_list || is_router).then_some(BackendKind::LlamaCpp)
    }
}

/// An error of llama-swap itself: its form and status changed with its versions, these words did
/// not.
fn is_swaps_own(reply: &Reply) -> bool {
    let Reply::Answer(answer) = reply else { return false };
    let body = String::from_utf8_lossy(&answer.body);
    json(reply).is_some_and(|it| it["src"] == "llama-swap")
        || (answer.status == 401 && body.contains("unauthorized: invalid or missing API key"))
}

fn json(reply: &Reply) -> Option<Json> {
    match reply {
        Reply::Answer(answer) => serde_json::from_slice(&answer.body).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, signature: &str, body: &str) -> Reply {
        Reply::Answer(crate::pure::http::Answer {
            status,
            signature: signature.to_owned(),
            body: body.as_bytes().to_vec(),
        })
    }

    #[test]
    fn llama_server_names_itself() {
        for (answer, wanted) in [
            ("status 404, llama.cpp, application/json: \"{}\"", Some(BackendKind::LlamaCpp)),
            ("it answers with status 503, llama.cpp: \"{}\"", Some(BackendKind::LlamaCpp)),
            ("status 404, nginx, text/html: \"a, llama.cpp, b\"", None),
            ("it does not answer in time", None),
        ] {
            assert_eq!(BackendKind::named_in(answer), wanted, "{answer}");
        }
    }

    #[test]
    fn each_program_is_recognised_by_what_it_alone_answers() {
        let not_found = || reply(404, "application/json", r#"{"error":{"code":404,"message":"File Not Found"}}"#);
        let page = || reply(404, "nginx, text/html", "<html>");
        let swap = r#"{"src":"llama-swap","error":{"message":"unauthorized: invalid or missing API key"}}"#;
        let list = r#"{"data":[{"id":"a","owned_by":"llamacpp","status":{"value":"unloaded"}}],"object":"list"}"#;
        let unexpected = r#"{"error":"Unexpected endpoint or method. (GET /running)"}"#;
        for (replies, wanted) in [
            ([page(), page(), page(), page()], None),
            ([reply(200, "", r#"{"lmstudio":true}"#), page(), page(), page()], Some(BackendKind::LmStudio)),
            ([not_found(), reply(200, "", r#"{"running":[]}"#), page(), page()], Some(BackendKind::LlamaSwap)),
            ([page(), reply(401, "", swap), page(), page()], Some(BackendKind::LlamaSwap)),
            (
                [page(), reply(401, "", "unauthorized: invalid or missing API key"), page(), page()],
                Some(BackendKind::LlamaSwap),
            ),
            ([not_found(), not_found(), reply(200, "", list), not_found()], Some(BackendKind::LlamaCpp)),
            (
                [not_found(), not_found(), reply(401, "llama.cpp, application/json", "{}"), not_found()],
                Some(BackendKind::LlamaCpp),
            ),
            (
                [not_found(), not_found(), page(), reply(200, "", r#"{"role":"router","build_info":"b1"}"#)],
                Some(BackendKind::LlamaCpp),
            ),
            ([reply(200, "", unexpected), reply(200, "", unexpected), page(), page()], None),
            ([Reply::TimedOut, Reply::Refused, Reply::TimedOut, Reply::TimedOut], None),
        ] {
            let [greeting, running, models, props] = replies;
            let answers = Identification { greeting, running, models, props };
            assert_eq!(answers.kind(), wanted, "{answers:?}");
        }
    }
}
