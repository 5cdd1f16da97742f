//! A server that requires an API token: the right one, a wrong one, none.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, TOKEN, run, stranger};

#[test]
fn a_right_token_is_all_it_takes() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let model = run(machine.command(&["ensure", "--json", LLAMA]).env("LM_API_TOKEN", TOKEN)).expect(0).model();
    assert_eq!((&model["action"], &model["source"]), (&json!("loaded"), &json!("rest-v1")));
    let mine =
        run(machine.command(&["ensure", "--json", LLAMA, "--api-token-env", "MINE"]).env("MINE", TOKEN)).expect(0);
    assert_eq!(mine.model()["source"], "rest-v1");
}

#[test]
fn a_wrong_token_is_refused_and_nobody_else_is_asked() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.preload(LLAMA);
    let wrong = run(machine.command(&["ensure", "--json", LLAMA]).env("LM_API_TOKEN", "sk-lm-wrong")).expect(7);
    let wrong = wrong.says("refuses the API token in the variable LM_API_TOKEN");
    assert!(!format!("{wrong:?}").contains("sk-lm-wrong"));
    assert_eq!(wrong.model()["category"], "unauthorized");
    assert_eq!(machine.lms_calls().len(), 0);
}

#[test]
fn a_missing_token_is_an_error_where_nothing_else_can_tell() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.ensure(&[LLAMA]).expect(7).says("requires an API token, and the variable LM_API_TOKEN holds none");
}

#[test]
fn a_model_that_lms_alone_could_tell_comes_with_a_warning_that_clients_need_a_token() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    machine.preload(LLAMA).preload(GEMMA);
    machine.control("used", json!({ "identifier": LLAMA, "lastUsedTime": 1 }));
    // The second call finds the word of `lms` kept.
    for source in ["lms-ps", "cache"] {
        let run = machine.ensure(&[LLAMA, GEMMA]).expect(0);
        assert_eq!(run.stderr.matches("a client without a token will be refused").count(), 1, "{run:?}");
        let models = run.json()["models"].clone();
        assert_eq!((&models[0]["source"], models[1]["warnings"].as_array().unwrap().len()), (&json!(source), 1));
    }
    let run = run(machine.command(&["ensure", "--json", LLAMA]).env("LM_API_TOKEN", TOKEN)).expect(0);
    assert_eq!(run.model()["warnings"], json!([]));
}

#[test]
fn a_refusal_in_other_words_than_lm_studios_is_about_the_token_too() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let jenkins = stranger(b"HTTP/1.0 401 No\r\nServer: Jenkins\r\nContent-Length: 2\r\n\r\nno");
    let nginx = stranger(b"HTTP/1.0 403 Forbidden\r\nServer: nginx\r\nContent-Length: 2\r\n\r\nno");
    for (port, status) in [(jenkins, "status 401, Jenkins"), (nginx, "status 403, nginx")] {
        let url = format!("http://127.0.0.1:{port}");
        let none = machine.ensure(&[LLAMA, "--base-url", &url]).expect(7).says(status);
        let none = none.says("refuses requests without an API token (the variable LM_API_TOKEN holds none)");
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url", &url]);
        let wrong = run(command.env("LM_API_TOKEN", TOKEN)).expect(7).says(status);
        let wrong = wrong.says("refuses requests with the API token in the variable LM_API_TOKEN");
        for run in [none, wrong] {
            assert_eq!(run.model()["category"], "unauthorized");
            assert!(!run.stderr.contains("stop the program"), "{run:?}");
        }
    }
    assert_eq!(machine.lms_calls().len(), 0);
}
