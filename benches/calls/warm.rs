//! Warm calls, with lists of several lengths, with and without a token.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine};
use crate::table::Table;

const TOKEN: &str = "sk-lm-AbCdEf12:AbCdEfGhIjKlMnOpQrSt";

/// Runs and prints the table.
pub(crate) fn measure(rounds: usize) {
    let [few, usual, many] = [5, 30, 300].map(|count| machine(count, json!({})));
    let locked = machine(30, json!({ "token": TOKEN }));
    let mut table = Table::default();
    let nothing = table.baseline("/bin/true", Command::new("/bin/true"));
    let ps = table.baseline("lms ps --json", lms(&usual, &["ps", "--json"]));

    let curl = table.add("curl: 30 models", curl(&usual, None), [nothing, None, ps]);
    table.add("ensure KEY: 30 models", usual.command(&["ensure", LLAMA]), [nothing, curl, ps]);
    table.add("ensure KEY KEY: 30 models", usual.command(&["ensure", LLAMA, GEMMA]), [nothing, curl, ps]);
    table.add("ensure KEY --json: 30 models", usual.command(&["ensure", LLAMA, "--json"]), [nothing, curl, ps]);
    for (machine, count) in [(&few, 5), (&many, 300)] {
        let curl = table.add(&format!("curl: {count} models"), self::curl(machine, None), [nothing, None, ps]);
        table.add(&format!("ensure KEY: {count} models"), machine.command(&["ensure", LLAMA]), [nothing, curl, ps]);
    }
    let curl = table.add("curl: with a token", self::curl(&locked, Some(TOKEN)), [nothing, None, ps]);
    let mut with_token = locked.command(&["ensure", LLAMA]);
    with_token.env("LM_API_TOKEN", TOKEN);
    table.add("ensure KEY: with a token", with_token, [nothing, curl, ps]);
    let cached = locked.command(&["ensure", LLAMA]);
    table.add("ensure KEY: by `lms ps`, cached", cached, [nothing, curl, ps]);
    let uncached = locked.command(&["ensure", LLAMA, "--verify-cache-ms", "0"]);
    table.add("ensure KEY: by `lms ps`, not cached", uncached, [nothing, curl, ps]);

    table.run(rounds);
    table.print(&format!("warm, {rounds} rounds"));
    println!("(`lms` here is the simulator's, which takes milliseconds; the real one takes about 300 ms.)");
}

/// A machine with that many downloaded models, two of them loaded.
pub(crate) fn machine(count: usize, config: Value) -> Machine {
    let mut models: Vec<Value> =
        serde_json::from_str(include_str!("../../tests/fixtures/lmstudio/ls.json")).expect("the fixture is JSON");
    let model = models[0].clone();
    models.retain(|it| it["modelKey"] == LLAMA || it["modelKey"] == GEMMA);
    models.extend((models.len()..count).map(|number| {
        let mut model = model.clone();
        model["modelKey"] = format!("acme/model-{number}-instruct-30b").into();
        model
    }));
    let machine = Machine::with(config);
    machine.write(".lmstudio/.simulator/models.json", &Value::from(models).to_string());
    machine.preload(LLAMA).preload(GEMMA);
    machine
}

fn curl(machine: &Machine, token: Option<&str>) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", &format!("http://127.0.0.1:{}/api/v1/models", machine.rest_port)]);
    if let Some(token) = token {
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    curl
}

/// `lms` as a user of that machine would call it.
pub(crate) fn lms(machine: &Machine, args: &[&str]) -> Command {
    let mut lms = Command::new(machine.path("bin/lms"));
    lms.args(args).env_clear().envs(machine.environment());
    lms
}
