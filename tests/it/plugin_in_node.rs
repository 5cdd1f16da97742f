//! The opencode plugin alone, driven in the place of opencode by node, and by the runtime that is
//! inside of the real opencode.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::needs;
use crate::support::{LLAMA, Machine, Run, TOKEN, run, until};

/// Part of every token here, so that a piece of one is found, too.
const PIECE: &str = "AbCdEf";

/// What a driver begins with: the plugin, what it shows, and a provider at an address.
const PRELUDE: &str = r#"
    import plugin from "./plugin.mjs"
    const shown = []
    const show = (it) => { shown.push(it.body.message) }
    const client = { tui: { showToast: show }, app: { log: show } }
    const start = (options) => plugin.server({ client, directory: process.cwd() }, options)
    const provider = (baseURL, apiKey) => ({ id: "lmstudio", options: { baseURL, apiKey }, models: {} })
    const ask = async (hooks, key = "asked", url = "http://127.0.0.1:9/v1", apiKey) => {
        try {
            await hooks["chat.params"]({ model: { api: { id: key } }, provider: provider(url, apiKey) })
            return "sent"
        } catch (error) {
            return error.message
        }
    }
    const tell = (it) => console.log(JSON.stringify(it))
"#;

/// What can run the plugin here: node, and opencode as the Bun that it is.
fn runtimes() -> Vec<(PathBuf, Option<&'static str>)> {
    let node = needs::program("node").map(|path| (path, None));
    let bun = needs::opencode().map(|path| (path, Some("BUN_BE_BUN")));
    node.into_iter().chain(bun).collect()
}

/// A machine with the plugin and a driver of it in its home, and how to start that driver.
fn stage(driver: &str) -> Vec<(Machine, Command)> {
    let stage = |(program, variable): (PathBuf, Option<&str>)| {
        let machine = Machine::bare();
        machine.write("plugin.mjs", include_str!("../../src/opencode-plugin/lmswarm.js"));
        machine.write("driver.mjs", &format!("{PRELUDE}{driver}"));
        let mut command = Command::new(program);
        command.arg(machine.path("driver.mjs")).current_dir(machine.home());
        command.env("HOME", machine.home()).env("PATH", path_with(&machine));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.envs(variable.map(|name| (name, "1")));
        (machine, command)
    };
    runtimes().into_iter().map(stage).collect()
}

/// What would change the outcome if whoever runs the tests had set it.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|it| ["LMSWARM_", "OPENCODE_", "XDG_", "LM_API_"].iter().any(|start| it.starts_with(start)))
}

/// The machine's own programs before those of whoever runs the tests.
fn path_with(machine: &Machine) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(machine.path("bin")).chain(std::env::split_paths(&path))).expect("a PATH")
}

/// Puts a `lmswarm` in place that does this.
fn fake(machine: &Machine, script: &str) {
    machine.write("bin/lmswarm", &format!("#!/bin/sh\necho $$ >>\"$HOME/pids\"\n{script}\n"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(machine.path("bin/lmswarm"), mode).expect("a file");
}

/// A `lmswarm` that says how it was called, and gives this report.
fn fake_with_report(machine: &Machine, report: &Value) {
    machine.write("report", &report.to_string());
    fake(machine, "echo \"$LM_API_TOKEN|$*\" >>\"$HOME/calls\"\ncat \"$HOME/report\"");
}

fn ready() -> Value {
    json!({ "schema": 1, "ok": true, "proceed": true, "error": null, "models": [{ "addressable": true }] })
}

/// What the driver told at its end.
#[track_caller]
fn told(command: &mut Command) -> Value {
    let run: Run = run(command).expect(0);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

fn is_alive(pid: &str) -> bool {
    let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::test_kill_process(pid).is_ok()
}

#[test]
fn before_a_request_a_key_goes_to_this_machine_alone_and_never_into_an_argument() {
    let driver = r#"
        const hooks = await start({})
        for (const url of process.env.URLS.split(" "))
            await hooks.config({ model: "lmstudio/eager", provider: { lmstudio: provider(url, process.env.KEY) } })
        await ask(hooks, "asked", "http://llm.example:1/v1", process.env.KEY)
        tell("done")
    "#;
    let local = [
        "http://127.0.0.1:1/v1",
        "http://localhost:2/v1",
        "https://a.localhost/v1",
        "http://[::1]:3",
        "HTTP://LocalHost:4/v1",
        "http://127.1:5/v1",
    ];
    let elsewhere = [
        "http://llm.example:1/v1",
        "http://127.0.0.1.example/v1",
        "http://localhost@llm.example/v1",
        "http://llm.example/localhost",
        "http://llm.example?localhost",
        "http://localhost.example",
        "http://evillocalhost/v1",
        // To a URL parser a backslash is a slash.
        r"http://llm.example:1234\.localhost/v1",
        r"http://llm.example\@127.0.0.1/v1",
        "llm.example:1234",
    ];
    // opencode fills these in when it sends a request.
    let variable =
        ["http://127.0.0.1:6/${OTHER_SECRET}/v1", "http://llm.example/${OTHER_SECRET}/v1", "${OTHER_SECRET}"];
    for (machine, mut command) in stage(driver) {
        fake_with_report(&machine, &ready());
        command.env("KEY", TOKEN).env("OTHER_SECRET", "hush-hush").env_remove("LM_API_TOKEN");
        assert_eq!(told(command.env("URLS", [&local[..], &elsewhere, &variable].concat().join(" "))), "done");
        // The warm-up is not waited for.
        let calls = || fs::read_to_string(machine.path("calls")).unwrap_or_default();
        until("all calls", || calls().lines().count() == local.len() + elsewhere.len() + 1);
        let calls = calls();
        assert!(!calls.contains("hush"), "{calls}");
        for call in calls.lines() {
            let (token, argv) = call.split_once('|').expect("two parts");
            let names_address = argv.contains("--base-url");
            assert!(!argv.contains(PIECE) && (token == TOKEN) == names_address, "{call}");
            // Where a project may have chosen the address, `lmswarm` finds out who did.
            assert!(names_address || argv.ends_with(" main --providers=lmstudio"), "{call}");
        }
        let eager = |url: &str| calls.lines().any(|it| it.contains("--key=eager") && it.ends_with(&format!("={url}")));
        assert!(local.iter().all(|url| eager(url)) && !elsewhere.iter().any(|url| eager(url)), "{calls}");
        assert_eq!(calls.matches("--key=asked").count(), 1, "{calls}");
    }
}

#[test]
fn what_a_project_puts_into_an_address_is_not_sent_before_a_request() {
    // As opencode hands it over: `{env:OTHER_SECRET}` is replaced already.
    let driver = r#"
        const hooks = await start({})
        const model = `lmstudio/${process.env.MODEL}`
        await hooks.config({ model, provider: { lmstudio: provider(process.env.REPLACED) } })
        tell("done")
    "#;
    for (machine, mut command) in stage(driver) {
        let written = |secret: &str| format!("http://llm.example:1234/{secret}/v1");
        let config = json!({
            "model": format!("lmstudio/{LLAMA}"),
            "provider": { "lmstudio": { "options": { "baseURL": written("{env:OTHER_SECRET}") } } },
        });
        machine.write("work/opencode.json", &config.to_string());
        // A name that a proxy alone can resolve makes a request visible.
        let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", proxy.local_addr().unwrap());
        let (program, said) = (env!("CARGO_BIN_EXE_lmswarm"), machine.path("said").display().to_string());
        fake(&machine, &format!("{program} \"$@\" >\"{said}.new\"; mv \"{said}.new\" \"{said}\""));
        command.current_dir(machine.path("work")).env("http_proxy", url).env("OTHER_SECRET", "hush-hush");
        command.env("MODEL", LLAMA).env("REPLACED", written("hush-hush"));
        assert_eq!(told(&mut command), "done");
        until("lmswarm has decided", || machine.path("said").exists());
        let said = fs::read_to_string(machine.path("said")).unwrap();
        assert!(said.contains("only this project names") && !said.contains("hush"), "{said}");
        proxy.set_nonblocking(true).unwrap();
        assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nothing was sent");
    }
}

#[test]
fn a_lmswarm_that_cannot_be_started_is_an_error_and_no_crash() {
    let driver = r#"
        import { openSync, writeSync } from "node:fs"
        const hooks = await start({})
        const url = "http://127.0.0.1:9/v1"
        // Loaded while there is room.
        const first = await ask(hooks)
        try { for (;;) openSync("/dev/null") } catch {}
        await hooks.config({ model: "lmstudio/eager", provider: { lmstudio: provider(url) } })
        writeSync(1, JSON.stringify([first, await ask(hooks)]))
    "#;
    for (machine, command) in stage(driver) {
        fake_with_report(&machine, &ready());
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
        limited.current_dir(machine.home());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let told = told(&mut limited);
        assert_eq!(told[0], "sent");
        let failed = told[1].as_str().unwrap();
        assert!(
            failed.starts_with("`lmswarm` cannot be run (")
                && failed.contains("EMFILE")
                && failed.contains("close something"),
            "{failed}"
        );
    }
}

#[test]
fn a_lmswarm_that_floods_is_ended() {
    let driver = "tell(await ask(await start({})))";
    for flood in ["yes", "yes >&2"] {
        for (machine, mut command) in stage(driver) {
            fake(&machine, &format!("exec {flood}"));
            let told = told(&mut command);
            assert!(told.as_str().unwrap().contains("said more than 8 MiB"), "{told}");
            let pid = fs::read_to_string(machine.path("pids")).unwrap();
            until("it is gone", || !is_alive(&pid));
        }
    }
}

#[test]
fn a_lmswarm_that_says_nothing_for_too_long_is_ended() {
    let driver = "tell(await ask(await start({ silenceTimeoutMs: 300 })))";
    for (machine, mut command) in stage(driver) {
        fake(&machine, "echo 'lmswarm: loading `asked`' >&2\nexec sleep 60");
        let told = told(&mut command);
        let told = told.as_str().unwrap();
        assert!(told.contains("said nothing for 0.3 s (") && told.contains("loading `asked`"), "{told}");
        let pid = fs::read_to_string(machine.path("pids")).unwrap();
        until("it is gone", || !is_alive(&pid));
    }
}

#[test]
fn what_lmswarm_leaves_behind_holds_no_request() {
    let driver = "tell(await ask(await start({})))";
    for (machine, mut command) in stage(driver) {
        machine.write("report", &ready().to_string());
        // As long as the test goes on, and not longer.
        fake(&machine, "while [ -e \"$HOME/report\" ]; do sleep 0.1; done &\ncat \"$HOME/report\"");
        assert_eq!(told(&mut command), "sent");
    }
}

#[test]
fn a_report_that_is_none_is_told_by_its_kind() {
    let driver = "tell(await ask(await start({})))";
    for (report, code, wanted) in [
        (r#"{"schema":1,"ok":true,"proceed":true,"error":null}"#, 0, "gave a report without `models`"),
        (r#"{"schema":1,"ok":false,"proceed":false,"error":null,"models":[null]}"#, 1, "no reason given"),
        (r#"{"schema":2,"ok":true,"proceed":true,"models":[]}"#, 0, "is too old for this plugin, or the plugin for it"),
        ("null", 1, "ended without a report (exit code 1)"),
        ("", 3, "ended without a report (exit code 3)"),
        ("error: unexpected argument '--json'", 2, "is too old for this plugin"),
    ] {
        for (machine, mut command) in stage(driver) {
            machine.write("report", report);
            fake(&machine, &format!("cat \"$HOME/report\"; exit {code}"));
            let told = told(&mut command);
            assert!(told.as_str().unwrap().contains(wanted), "{report}: {told}");
        }
    }
}

#[test]
fn a_failure_that_is_repeated_says_so_and_how_to_try_again() {
    let driver = r#"tell(await ask(await start({}), "it's"))"#;
    let failed = |replayed: bool, age: Option<u64>, key: &str| {
        let reason = "cannot tell what http://x/v1 (from --base-url) has loaded: no";
        let model = json!({ "addressable": false, "key": key, "replayed": replayed, "ageMs": age, "reason": reason, "hint": "buy some" });
        json!({ "schema": 1, "ok": false, "proceed": false, "error": null, "models": [model] })
    };
    let plain = "lmswarm: cannot tell what http://x/v1 has loaded: no\nhint: buy some";
    let again = "\nfound out 12 s ago, not tried since; to try now:\n  lmswarm ensure";
    for (report, wanted) in [
        (failed(false, None, "a/b@q4"), plain.to_owned()),
        // This request waited for it.
        (failed(true, Some(20), "a/b@q4"), plain.to_owned()),
        (failed(true, Some(12_345), "a/b@q4"), format!("{plain}{again} a/b@q4 --fresh")),
        (failed(true, Some(12_345), "it's"), format!("{plain}{again} 'it'\\''s' --fresh")),
    ] {
        for (machine, mut command) in stage(driver) {
            fake_with_report(&machine, &report);
            assert_eq!(told(&mut command), wanted);
        }
    }
}

#[test]
fn what_could_drive_a_terminal_is_shown_escaped() {
    let driver = "await ask(await start({}))\ntell(shown)";
    for (machine, mut command) in stage(driver) {
        let failed = json!({ "addressable": false, "reason": "no", "suggestions": ["x\u{1b}]0;owned\u{7}\u{202e}y"] });
        let report = json!({ "schema": 1, "ok": false, "proceed": true, "error": null, "models": [failed] });
        fake_with_report(&machine, &report);
        let shown = told(&mut command);
        let shown = shown[0].as_str().unwrap();
        assert!(shown.contains("did you mean x\\u{1b}]0;owned\\u{7}\\u{202e}y?"), "{shown}");
    }
}

/// A `lmswarm` that says when it begins and ends, and whether a second one began meanwhile: for
/// which it gives half a second.
const WATCHFUL: &str = r#"
case "$*" in
*--key=main*)
    echo begin main >>"$HOME/calls"
    for i in 1 2 3 4 5; do grep -q small "$HOME/calls" && echo overtaken >>"$HOME/calls"; sleep 0.1; done
    echo end main >>"$HOME/calls" ;;
*) echo begin small >>"$HOME/calls" ;;
esac
cat "$HOME/report"
"#;

#[test]
fn an_empty_id_gates_the_model_that_is_meant() {
    let driver = r#"
        const hooks = await start({})
        const model = { id: "meant", api: { id: "" } }
        await hooks["chat.params"]({ model, provider: provider("http://127.0.0.1:9/v1") })
        tell("done")
    "#;
    for (machine, mut command) in stage(driver) {
        machine.write("report", &ready().to_string());
        fake(&machine, "echo \"$*\" >>\"$HOME/calls\"\ncat \"$HOME/report\"\n");
        assert_eq!(told(&mut command), "done");
        let calls = fs::read_to_string(machine.path("calls")).expect("it was asked");
        assert!(calls.contains("--key=meant "), "{calls}");
    }
}

#[test]
fn the_model_of_the_turn_comes_before_that_of_its_title() {
    // opencode asks for the title first, and for the turn seconds later.
    let title = r#"
        const hooks = await start({})
        const gated = provider("http://127.0.0.1:9/v1")
        gated.models = { main: { api: { id: "main" } } }
        const message = { model: { providerID: "lmstudio", modelID: "main" } }
        await hooks["chat.params"]({ agent: "title", model: { api: { id: "small" } }, provider: gated, message })
        tell("done")
    "#;
    let eager = r#"
        const hooks = await start({})
        const lmstudio = provider("http://127.0.0.1:9/v1")
        await hooks.config({ model: "lmstudio/main", small_model: "lmstudio/small", provider: { lmstudio } })
        tell("done")
    "#;
    for driver in [title, eager] {
        for (machine, mut command) in stage(driver) {
            machine.write("report", &ready().to_string());
            fake(&machine, WATCHFUL);
            assert_eq!(told(&mut command), "done");
            let calls = || fs::read_to_string(machine.path("calls")).unwrap_or_default();
            until("both", || calls().contains("small"));
            assert_eq!(calls(), "begin main\nend main\nbegin small\n");
        }
    }
}

#[test]
fn what_no_person_waits_for_is_asked_for_in_the_background() {
    let driver = r#"
        import { existsSync, readFileSync, writeFileSync } from "node:fs"
        const hooks = await start({})
        const url = "http://127.0.0.1:9/v1"
        const begun = async (count) => {
            const calls = () => existsSync("calls") ? readFileSync("calls", "utf8").split("\n").length - 1 : 0
            while (calls() < count) await new Promise((resolve) => setTimeout(resolve, 5))
        }
        await hooks.config({ model: "lmstudio/main", small_model: "lmstudio/small", provider: { lmstudio: provider(url) } })
        await begun(2)
        // The title shares what was started for it; a person does not wait behind that.
        const message = { model: { providerID: "lmstudio", modelID: "main" } }
        const gated = provider(url)
        const title = hooks["chat.params"]({ agent: "title", model: { api: { id: "small" } }, provider: gated, message })
        const turn = ask(hooks, "small")
        await begun(3)
        writeFileSync("go", "")
        await title
        tell([await turn, readFileSync("calls", "utf8")])
    "#;
    for (machine, mut command) in stage(driver) {
        machine.write("report", &ready().to_string());
        // The small model's calls go on until they are told to end.
        let wait = "while [ ! -e \"$HOME/go\" ] && [ -e \"$HOME/report\" ]; do sleep 0.02; done";
        let script = format!(
            "echo \"$*\" >>\"$HOME/calls\"\ncase \"$*\" in *--key=small*) {wait} ;; esac\ncat \"$HOME/report\""
        );
        fake(&machine, &script);
        let told = told(&mut command);
        assert_eq!(told[0], "sent");
        let calls: Vec<(bool, bool)> = told[1]
            .as_str()
            .unwrap()
            .lines()
            .map(|it| (it.contains("--key=small"), it.contains("--background")))
            .collect();
        assert_eq!(calls, [(false, false), (true, true), (true, false)], "{told}");
    }
}

#[test]
fn whoever_names_another_model_warms_none_also_where_the_plugin_is_not_told() {
    // opencode's window runs plugins in a worker, whose arguments are its own.
    let driver = r#"
        import { Worker, isMainThread } from "node:worker_threads"
        if (isMainThread) {
            new Worker(new URL(import.meta.url))
        } else {
            const hooks = await start({})
            await hooks.config({ model: "lmstudio/eager", provider: { lmstudio: provider("http://127.0.0.1:9/v1") } })
            tell(await ask(hooks))
        }
    "#;
    for (args, wanted) in [(&[][..], 2), (&["-m", "lmstudio/asked"], 1), (&["--model=lmstudio/asked"], 1)] {
        for (machine, mut command) in stage(driver) {
            fake_with_report(&machine, &ready());
            assert_eq!(told(command.args(args)), "sent");
            let calls = || fs::read_to_string(machine.path("calls")).unwrap_or_default();
            until("all calls", || calls().lines().count() >= wanted);
            assert_eq!(calls().matches("--key=eager").count(), wanted - 1, "{}", calls());
        }
    }
}

#[test]
fn a_wait_ends_with_one_message() {
    let driver = r#"process.on("beforeExit", () => tell(shown)); await ask(await start({}))"#;
    for (machine, mut command) in stage(driver) {
        machine.write("report", &ready().to_string());
        // A wait is told from its second second on.
        fake(&machine, "echo 'lmswarm: loading `asked`' >&2\nsleep 1.2\ncat \"$HOME/report\"");
        assert_eq!(told(&mut command), json!(["loading `asked`", "`asked` is ready"]));
    }
}

/// A `lmswarm` that names two servers, and says how it was called.
fn fake_with_servers(machine: &Machine, report: &Value) {
    let server = |name: &str, provider: &str| {
        json!({ "name": name, "baseURL": format!("http://{name}.example:2/v1"), "providers": [provider],
            "apiTokenEnv": format!("TOKEN_OF_{}", name.to_uppercase()) })
    };
    machine.write(
        "roles",
        &json!({ "schema": 1, "servers": [server("one", "big"), server("two", "little")] }).to_string(),
    );
    machine.write("report", &report.to_string());
    let script = "echo \"$LM_API_TOKEN|$*\" >>\"$HOME/calls\"\ncase $1 in config) cat \"$HOME/roles\" ;; *) cat \"$HOME/report\" ;; esac";
    fake(machine, script);
}

#[test]
fn a_provider_that_a_server_names_is_gated_and_no_other() {
    let driver = r#"
        import { readFileSync } from "node:fs"
        const hooks = await start({})
        for (const id of ["little", "anthropic", "lmstudio"])
            await hooks["chat.params"]({ model: { api: { id } }, provider: { ...provider("http://127.0.0.1:9/v1"), id } })
        tell(readFileSync("calls", "utf8").trim().split("\n"))
    "#;
    for (machine, mut command) in stage(driver) {
        fake_with_servers(&machine, &ready());
        let told = told(&mut command);
        let calls: Vec<&str> = told.as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        assert_eq!(calls.len(), 3, "{calls:?}");
        assert_eq!(calls[0], "|config roles --json --quiet");
        assert!(calls[1].contains("--key=little --api-token-env=LM_API_TOKEN --base-url=http://127.0.0.1:9/v1"));
        assert!(calls[2].contains("--key=lmstudio"));
    }
}

/// Sends one request of the provider `pool` and tells what left the plugin.
const SPREAD: &str = r#"
    import { readFileSync } from "node:fs"
    const hooks = await start({ spread: ["pool"] })
    const sent = []
    const fetch = async (input, init) => { sent.push([`${input}`, Object.fromEntries(new Headers(init.headers))]) }
    const pool = { options: { baseURL: "http://own.example:1/v1", apiKey: "own-key", fetch } }
    await hooks.config({ model: "pool/main", provider: { pool } })
    const input = { sessionID: "ses_1", agent: "build", model: { id: "m", providerID: "pool", api: { id: "wire" } } }
    await hooks["chat.params"]({ ...input, provider: { id: "pool", ...pool } })
    const output = { headers: {} }
    await hooks["chat.headers"](input, output)
    const headers = { authorization: "Bearer own-key", "content-type": "application/json", ...output.headers }
    await pool.options.fetch("http://own.example:1/v1/chat/completions", { method: "POST", headers })
    tell([sent, readFileSync("calls", "utf8")])
"#;

#[test]
fn a_spread_request_goes_to_the_chosen_server_with_the_token_of_that_alone() {
    let chosen = json!({ "addressable": true, "server": "two", "baseURL": "http://two.example:2/v1" });
    let report = json!({ "schema": 1, "ok": true, "proceed": true, "error": null, "models": [chosen] });
    for token in [Some("token-of-two"), None] {
        for (machine, mut command) in stage(SPREAD) {
            fake_with_servers(&machine, &report);
            command.envs(token.map(|it| ("TOKEN_OF_TWO", it))).env("TOKEN_OF_ONE", "token-of-one");
            let told = told(&mut command);
            let mut headers = json!({ "content-type": "application/json" });
            if let Some(token) = token {
                headers["authorization"] = format!("Bearer {token}").into();
            }
            assert_eq!(told[0], json!([["http://two.example:2/v1/chat/completions", headers]]));
            let calls = told[1].as_str().unwrap();
            assert!(calls.contains("--key=wire --spread=ses_1") && !calls.contains("--base-url"), "{calls}");
            assert_eq!(calls.lines().count(), 2, "nothing is warmed before its session is known: {calls}");
        }
    }
}

#[test]
fn a_spread_request_without_a_choice_goes_where_opencode_sends_it() {
    let unknown =
        json!({ "addressable": false, "server": "two", "baseURL": "http://two.example:2/v1", "reason": "no" });
    let report = json!({ "schema": 1, "ok": false, "proceed": true, "error": null, "models": [unknown] });
    for (machine, mut command) in stage(SPREAD) {
        fake_with_servers(&machine, &report);
        let told = told(command.env("TOKEN_OF_TWO", "token-of-two"));
        let headers = json!({ "authorization": "Bearer own-key", "content-type": "application/json" });
        assert_eq!(told[0], json!([["http://own.example:1/v1/chat/completions", headers]]));
    }
}

#[test]
fn a_provider_with_the_fetch_of_another_plugin_is_gated_where_opencode_sends_it() {
    let driver = SPREAD.replacen("const input =", "pool.options.fetch = fetch\nconst input =", 1);
    for (machine, mut command) in stage(&driver) {
        let chosen = json!({ "addressable": true, "server": "two", "baseURL": "http://two.example:2/v1" });
        fake_with_servers(
            &machine,
            &json!({ "schema": 1, "ok": true, "proceed": true, "error": null, "models": [chosen] }),
        );
        let told = told(&mut command);
        let headers = json!({ "authorization": "Bearer own-key", "content-type": "application/json" });
        assert_eq!(told[0], json!([["http://own.example:1/v1/chat/completions", headers]]));
        let calls = told[1].as_str().unwrap();
        assert!(calls.starts_with("own-key|") && calls.contains("--base-url=http://own.example:1/v1"), "{calls}");
    }
}
