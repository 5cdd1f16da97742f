//! The opencode plugin alone, driven by node in the place of opencode.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::{Machine, TOKEN, run};

/// Part of every token here, so that a piece of one is found, too.
const PIECE: &str = "AbCdEf";

/// The machine's own programs before those of whoever runs the tests.
fn path_with(machine: &Machine) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(machine.path("bin")).chain(std::env::split_paths(&path))).expect("a PATH")
}

/// Runs the plugin as opencode would, with a `lmswarm` that says how it was called.
#[test]
fn the_plugin_gives_it_by_the_environment_and_to_no_strange_host_before_a_request() {
    if Command::new("node").arg("--version").output().is_err() {
        return eprintln!("passed over: node is not installed");
    }
    let machine = Machine::bare();
    machine.write("plugin.mjs", include_str!("../../src/opencode-plugin/lmswarm.js"));
    let report = json!({ "schema": 1, "ok": false, "proceed": true, "error": null, "models": [{
        "addressable": false, "reason": "no", "suggestions": ["x\u{1b}]0;owned\u{7}\u{202e}y"] }] });
    machine.write("report", &report.to_string());
    let script = "#!/bin/sh\necho \"$LM_API_TOKEN|$*\" >>\"$HOME/calls\"\n/bin/cat \"$HOME/report\"\n";
    machine.write("bin/lmswarm", script);
    fs::set_permissions(machine.path("bin/lmswarm"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let driver = r#"
        import plugin from "./plugin.mjs"
        const shown = []
        const client = { tui: { showToast: (it) => shown.push(it.body.message) }, app: { log: (it) => shown.push(it.body.message) } }
        const hooks = await plugin.server({ client }, {})
        const provider = (baseURL) => ({ id: "lmstudio", options: { baseURL, apiKey: process.env.KEY }, models: {} })
        for (const url of process.env.URLS.split(" "))
            await hooks.config({ model: "lmstudio/eager", provider: { lmstudio: provider(url) } })
        await hooks["chat.params"]({ model: { api: { id: "asked" } }, provider: provider("http://llm.example:1/v1") })
        console.log(JSON.stringify(shown))
    "#;
    machine.write("driver.mjs", driver);
    let local = ["http://127.0.0.1:1/v1", "http://localhost:2/v1", "https://a.localhost/v1", "http://[::1]:3"];
    let strange = [
        "http://llm.example:1/v1",
        "http://127.0.0.1.example/v1",
        "http://localhost@llm.example/v1",
        "http://llm.example/localhost",
        "http://llm.example?localhost",
        "http://localhost.example",
        "http://evillocalhost/v1",
    ];
    let mut node = Command::new("node");
    node.arg("driver.mjs").current_dir(machine.home()).env("HOME", machine.home()).env("PATH", path_with(&machine));
    let run = run(node.env("KEY", TOKEN).env("URLS", [&local[..], &strange].concat().join(" "))).expect(0);
    let calls = fs::read_to_string(machine.path("calls")).unwrap();
    for call in calls.lines() {
        let (token, argv) = call.split_once('|').expect("two parts");
        assert!(token == TOKEN && !argv.contains(PIECE) && argv.contains("--base-url"), "{call}");
    }
    let eager = |url: &str| calls.lines().any(|it| it.contains("--key=eager") && it.ends_with(&format!(" {url}")));
    assert!(local.iter().all(|url| eager(url)) && !strange.iter().any(|url| eager(url)), "{calls}");
    assert_eq!(calls.matches("--key=asked").count(), 1, "{calls}");
    let shown: Vec<String> = serde_json::from_str(&run.stdout).expect("a list");
    assert!(shown.iter().any(|it| it.contains("did you mean x\\u{1b}]0;owned\\u{7}\\u{202e}y?")), "{shown:?}");
}
