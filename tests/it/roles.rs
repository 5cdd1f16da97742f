//! Roles: what opencode's configuration makes of `main`, `small` and the others, on which
//! server, and with whose key.

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine, QWEN, Run, TOKEN, run};

const GLOBAL: &str = ".config/opencode/opencode.json";

/// A provider whose models are the simulator's.
fn provider(url: &str) -> Value {
    json!({ "options": { "baseURL": url }, "models": { LLAMA: {}, GEMMA: {}, "coder": { "id": QWEN } } })
}

fn configure(machine: &Machine, extra: Value) {
    let mut config = json!({ "provider": { "lmstudio": provider(&machine.base_url()) } });
    let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) else { panic!("objects") };
    config.extend(extra.clone());
    machine.write(GLOBAL, &json!(config).to_string());
}

fn command(machine: &Machine, args: &[&str]) -> std::process::Command {
    let folder = machine.path("work");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = machine.command(args);
    command.env_remove("LMSWARM_BASE_URL").current_dir(folder);
    command
}

fn ensure(machine: &Machine, args: &[&str]) -> Run {
    run(&mut command(machine, &[&["ensure", "--json"], args].concat()))
}

/// `requested=key` of each entry.
fn entries(run: &Run) -> Vec<String> {
    let report = run.json();
    let models = report["models"].as_array().expect("a list");
    let text = |it: &Value, member: &str| it[member].as_str().expect("a text").to_owned();
    models.iter().map(|it| format!("{}={}", text(it, "requested"), text(it, "key"))).collect()
}

#[test]
fn a_role_is_the_model_that_opencode_will_ask_for() {
    let machine = Machine::new();
    configure(
        &machine,
        json!({
            "model": "lmstudio/coder#high",
            "small_model": format!("lmstudio/{LLAMA}"),
            "agent": { "review": { "model": format!("lmstudio/{GEMMA}") } },
        }),
    );
    let (main, small) = (format!("main={QWEN}"), format!("small={LLAMA}"));
    assert_eq!(entries(&ensure(&machine, &[]).expect(0)), [main.clone(), small.clone()]);
    assert_eq!(machine.resident(), [LLAMA, QWEN]);
    assert_eq!(entries(&ensure(&machine, &["main/small"]).expect(0)), [main.clone(), small.clone()]);
    assert_eq!(entries(&ensure(&machine, &["small", "main"]).expect(0)), [small.clone(), main.clone()]);
    let review = format!("agent:review={GEMMA}");
    assert_eq!(entries(&ensure(&machine, &["agent:review"]).expect(0)), std::slice::from_ref(&review));
    assert_eq!(entries(&ensure(&machine, &["all"]).expect(0)), [main.clone(), small, review]);
    assert_eq!(entries(&ensure(&machine, &["main", QWEN]).expect(0)), [main]);
    assert_eq!(machine.events("load-begin").len(), 3);
}

#[test]
fn a_key_that_looks_like_a_role_is_one_with_key() {
    let machine = Machine::new();
    for words in [&["--key", "main"][..], &["--key", "lmstudio/main", "--key", "main"]] {
        let run = ensure(&machine, words).expect(4);
        let report = run.json();
        let asked: Vec<&str> =
            report["models"].as_array().unwrap().iter().map(|it| it["key"].as_str().unwrap()).collect();
        let keys: Vec<&str> = words.iter().filter(|it| **it != "--key").copied().collect();
        assert_eq!(asked, keys);
    }
}

#[test]
fn an_agent_in_markdown_counts() {
    let machine = Machine::new();
    configure(&machine, json!({ "model": format!("lmstudio/{LLAMA}") }));
    machine.write(".config/opencode/agent/build.md", &format!("---\nmodel: lmstudio/{GEMMA}\n---\nBuild.\n"));
    machine.write("work/.opencode/agents/deep/x.md", "---\ndescription: x\nmodel: \"lmstudio/coder\"\n---\n");
    assert_eq!(
        entries(&ensure(&machine, &["main", "agent:deep/x"]).expect(0)),
        [format!("main={GEMMA}"), format!("agent:deep/x={QWEN}")]
    );
    machine.write("work/.opencode/agents/deep/x.md", "---\ndescription: x\nmodel:\n---\n");
    ensure(&machine, &["main"]).expect(78).says("x.md:3: model: must be a text, and is null").json();
}

#[test]
fn titles_go_to_the_main_model_where_the_small_one_is_none() {
    let machine = Machine::new();
    for small in [json!({}), json!({ "small_model": "lmstudio/nobody" })] {
        let mut config = json!({ "model": format!("lmstudio/{LLAMA}") });
        config.as_object_mut().unwrap().extend(small.as_object().unwrap().clone());
        configure(&machine, config);
        assert_eq!(entries(&ensure(&machine, &["small"]).expect(0)), [format!("small={LLAMA}")]);
        assert_eq!(entries(&ensure(&machine, &[]).expect(0)), [format!("main={LLAMA}")]);
    }
}

#[test]
fn a_role_elsewhere_is_nothing_to_warm() {
    let machine = Machine::new();
    configure(&machine, json!({ "model": "anthropic/claude-sonnet-5", "small_model": format!("lmstudio/{LLAMA}") }));
    let wanted = "main is anthropic/claude-sonnet-5: not an LM Studio model, nothing to warm";
    assert_eq!(entries(&ensure(&machine, &[]).expect(0).says(wanted)), [format!("small={LLAMA}")]);
    let report = ensure(&machine, &["main"]).expect(0).says(wanted).json();
    assert_eq!((&report["ok"], &report["proceed"], &report["models"]), (&json!(true), &json!(true), &json!([])));
    assert_eq!(run(&mut command(&machine, &["ensure", "-q", "main"])).expect(0).stderr, "");
    machine.write(GLOBAL, r#"{ "model": "anthropic/claude-sonnet-5" }"#);
    ensure(&machine, &["all"]).expect(0).says("pins no model on `lmstudio`: nothing to warm").json();
}

/// opencode starts with it, and sends an empty name.
#[test]
fn an_empty_id_is_a_warning() {
    let machine = Machine::new();
    let models = json!({ LLAMA: { "id": "" } });
    let provider = json!({ "options": { "baseURL": machine.base_url() }, "models": models });
    configure(&machine, json!({ "model": format!("lmstudio/{LLAMA}"), "provider": { "lmstudio": provider } }));
    let ensured = ensure(&machine, &["main"]).expect(0).says("warning: main is lmstudio/").says("its `id` is empty (");
    assert_eq!(entries(&ensured), [format!("main={LLAMA}")]);
    assert_eq!(machine.resident(), [LLAMA]);
    let roles = run(&mut command(&machine, &["config", "roles"])).expect(0).stdout;
    assert!(roles.contains(&format!("key: {LLAMA} (from ")) && roles.contains("note: its `id` is empty"), "{roles}");
}

#[test]
fn a_model_that_is_not_gated_and_should_be_is_a_warning() {
    let machine = Machine::new();
    let models = json!({ GEMMA: {} });
    let local = json!({ "npm": "x", "options": { "baseURL": machine.base_url() }, "models": models });
    machine.write(
        GLOBAL,
        &json!({ "model": format!("lm-studio/{GEMMA}"), "provider": { "lm-studio": local } }).to_string(),
    );
    let run = ensure(&machine, &["main"]).expect(0);
    let url = machine.base_url();
    let wanted =
        format!("warning: main is lm-studio/{GEMMA} ({}:1): `lm-studio` is at {url}", machine.path(GLOBAL).display());
    run.says(&wanted).says("`--providers lmstudio,lm-studio` gates it").json();
    assert_eq!(entries(&ensure(&machine, &["main", "--providers", "lmstudio,lm-studio"]).expect(0)).len(), 1);
    let gated = provider(&machine.base_url());
    machine.write(GLOBAL, &json!({ "model": QWEN, "provider": { "lmstudio": gated } }).to_string());
    let run = ensure(&machine, &["main"]).expect(0);
    let wanted = format!("warning: main is {QWEN} ({}:1), which opencode takes for", machine.path(GLOBAL).display());
    run.says(&wanted).says(&format!("write `lmstudio/{QWEN}`")).json();
    // Where there is something to warm, nothing more is asked.
    let asked = machine.requests().len();
    machine.preload(LLAMA);
    machine.write(
        GLOBAL,
        &json!({ "model": QWEN, "small_model": format!("lmstudio/{LLAMA}"), "provider": { "lmstudio": gated } })
            .to_string(),
    );
    ensure(&machine, &[]).expect(0).says("nothing to warm").json();
    assert_eq!(machine.requests().len(), asked + 2);
    // Others that are on this machine are no LM Studio.
    let ollama = json!({ "npm": "x", "options": { "baseURL": "http://127.0.0.1:11434/v1" }, "models": models });
    machine.write(GLOBAL, &json!({ "model": format!("ollama/{GEMMA}"), "provider": { "ollama": ollama } }).to_string());
    assert!(!ensure(&machine, &["main"]).expect(0).stderr.contains("warning"));
}

#[test]
fn a_role_that_is_not_set_or_would_be_refused_is_exit_78_with_its_place() {
    let machine = Machine::new();
    ensure(&machine, &["main"]).expect(78).says("opencode's configuration sets no `model`").json();
    ensure(&machine, &["agent:nobody"]).expect(78).says("has no agent `nobody`").json();
    ensure(&machine, &["agent:plan"]).expect(78).says("gives the agent `plan` no model of its own").json();
    for (text, wanted) in [
        ("{\n \"model\": null }", "opencode.json:2: model: must be a text, and is null"),
        ("{\n \"model\": \"lmstudio\" }", "opencode.json:2: `model` is `lmstudio`, which is no PROVIDER/MODEL"),
        ("{\n \"model\": \"lmstudio/-x\" }", "opencode.json:2: a model name cannot start with `-`"),
        ("{\n\n \"model\": \"lmstudio/x\", ", "opencode.json:3:"),
        ("{\n \"small_model\": { \"providerID\": \"a\", \"model\": \"b\" } }", "opencode.json:2: small_model: must be"),
        (
            "{ \"model\": \"lmstudio/x\",\n \"disabled_providers\": [\"lmstudio\"] }",
            "which `disabled_providers` takes away",
        ),
    ] {
        machine.write(GLOBAL, text);
        ensure(&machine, &["main"]).expect(78).says(wanted).json();
    }
    assert_eq!(machine.requests().len(), 0);
}

#[test]
fn models_of_one_call_may_be_on_different_servers() {
    let (here, there) = (Machine::new(), Machine::new());
    there.preload(GEMMA);
    let second = json!({ "npm": "@ai-sdk/openai-compatible", "api": there.base_url(), "models": { GEMMA: {} } });
    here.write(
        GLOBAL,
        &json!({
            "model": format!("lab/{GEMMA}"),
            "small_model": format!("lmstudio/{LLAMA}"),
            "provider": { "lmstudio": provider(&here.base_url()), "lab": second },
        })
        .to_string(),
    );
    let run = ensure(&here, &["main", "small", "--providers", "lmstudio,lab"]).expect(0);
    assert_eq!(entries(&run), [format!("main={GEMMA}"), format!("small={LLAMA}")]);
    let report = run.json();
    assert_eq!(report["models"][0]["baseURL"], there.base_url());
    assert_eq!(report["models"][1]["baseURL"], here.base_url());
    // An address that the user gives is that of all models.
    let run =
        ensure(&here, &["main", "small", "--providers", "lmstudio,lab", "--base-url", &here.base_url()]).expect(0);
    let report = run.json();
    assert!(report["models"].as_array().unwrap().iter().all(|it| it["baseURL"] == here.base_url()), "{report}");
    assert_eq!(there.events("load-begin").iter().filter(|it| it["by"] != "gui").count(), 0);
    assert_eq!(
        ensure(&here, &[&format!("lab/{GEMMA}"), "--providers", "lmstudio,lab"]).expect(0).model()["baseURL"],
        there.base_url()
    );
}

#[test]
fn the_key_that_opencode_sends_is_the_token() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let model = json!({ "model": format!("lmstudio/{LLAMA}") });
    let with_key = |key: &str| {
        let mut lmstudio = provider(&machine.base_url());
        lmstudio["options"]["apiKey"] = json!(key);
        machine.write(GLOBAL, &json!({ "model": model["model"], "provider": { "lmstudio": lmstudio } }).to_string());
    };
    let main = |variables: &[(&str, &str)]| {
        run(command(&machine, &["ensure", "--json", "main", "--loader", "rest"]).envs(variables.iter().copied()))
    };
    with_key("{env:MY_KEY}");
    main(&[("MY_KEY", TOKEN)]).expect(0).json();
    // An empty key is an answer: the other places are not tried.
    assert_ne!(main(&[("LMSTUDIO_API_KEY", TOKEN)]).json()["models"][0]["source"], "rest-v1");
    let refused = main(&[("MY_KEY", "wrong")]).expect(7).says("refuses the API token in ");
    assert!(refused.stderr.contains("opencode.json:1") && !refused.stderr.contains("wrong"), "{refused:?}");
    main(&[("MY_KEY", "wrong"), ("LM_API_TOKEN", TOKEN)]).expect(0).json();
    configure(&machine, model.clone());
    main(&[("LMSTUDIO_API_KEY", TOKEN)]).expect(0).json();
    let auth = json!({ "lmstudio": { "type": "api", "key": TOKEN } }).to_string();
    main(&[("OPENCODE_AUTH_CONTENT", &auth)]).expect(0).json();
    machine.write(".local/share/opencode/auth.json", &auth);
    main(&[("LMSTUDIO_API_KEY", "wrong")]).expect(0).json();
}

#[test]
fn plain_keys_with_an_address_read_no_file_of_opencode() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write(GLOBAL, "broken");
    ensure(&machine, &[LLAMA, "--base-url", &machine.base_url()]).expect(0).json();
    ensure(&machine, &["--key", LLAMA, "--base-url", &machine.base_url()]).expect(0).json();
    ensure(&machine, &["main", "--base-url", &machine.base_url()]).expect(78).says("opencode.json:1:1").json();
}

#[test]
fn config_roles_shows_what_was_resolved_and_where_it_stands() {
    let machine = Machine::bare();
    let show = |args: &[&str]| run(&mut command(&machine, &[&["config", "roles"], args].concat()));
    let global = machine.path(GLOBAL).display().to_string();
    machine.write(
        GLOBAL,
        "{\n\"model\": \"lmstudio/coder\",\n\"small_model\": \"openai/gpt\",\n\"provider\": { \"lmstudio\": {\n\"options\": {\n\"baseURL\": \"http://127.0.0.1:9/v1\", \"apiKey\": \"secret\" },\n\"models\": { \"coder\": {\n\"id\": \"qwen\" } } } } }",
    );
    let shown = show(&[]).expect(0).stdout;
    assert_eq!(
        shown,
        format!(
            "main: lmstudio/coder\n  from: {global}:2\n  key: qwen (from {global}:8)\n  server: http://127.0.0.1:9/v1 (from {global}:6)\n  token from: {global}:6\nsmall: openai/gpt\n  from: {global}:3\n  not an LM Studio model, nothing to warm\n"
        )
    );
    let report: Value = serde_json::from_str(&show(&["--json"]).expect(0).stdout).unwrap();
    assert_eq!(report["schema"], 1);
    assert_eq!(report["roles"][0]["key"], "qwen");
    assert_eq!(report["roles"][0]["baseURLFrom"], format!("{global}:6"));
    assert_eq!(report["roles"][1]["gated"], false);
    assert!(!report.to_string().contains("secret"));
    machine.write(GLOBAL, "{}");
    let unset = show(&[]).expect(0).stdout;
    let jsonc = machine.path(".config/opencode/opencode.jsonc").display().to_string();
    let wanted = format!("main, small: opencode's configuration sets no `model`\n  read: {global}\n  not there: ");
    assert!(unset.starts_with(&wanted) && unset.contains(&format!("  not there: {jsonc}\n")), "{unset}");
    let report: Value = serde_json::from_str(&show(&["--json"]).expect(0).stdout).unwrap();
    assert_eq!(report["files"], json!([global]));
    assert!(report["absentFiles"].as_array().unwrap().contains(&json!(jsonc)), "{report}");
    machine.write(GLOBAL, "{");
    show(&["--json"]).expect(78).says("opencode.json:1:").json();
}
