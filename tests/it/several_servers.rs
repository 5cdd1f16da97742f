//! Several servers, named in the configuration file: which of them a model is asked of, and what is
//! said when none is left.

use serde_json::{Value, json};

use crate::support::{GEMMA, LLAMA, Machine, QWEN, Run, Running, TOKEN, free_port, run, until};

const FILE: &str = ".config/lmswarm/config.json";
const OPENCODE: &str = ".config/opencode/opencode.json";

/// Servers with these names and entries, in the configuration of the first one's machine. They are
/// loaded over REST: the machine's `lms` finds the first alone.
fn configure(home: &Machine, servers: &[(&str, Value)], more: &str) {
    // A text, since the order counts.
    let entries: Vec<String> = servers.iter().map(|(name, entry)| format!("\"{name}\": {entry}")).collect();
    home.write(FILE, &format!("{{ \"loader\": \"rest\", {more} \"servers\": {{ {} }} }}", entries.join(",\n")));
}

fn entry(machine: &Machine) -> Value {
    json!({ "baseURL": machine.base_url() })
}

/// Two servers, `one` and `two`.
fn two() -> (Machine, Machine) {
    let machines = (Machine::new(), Machine::new());
    configure(&machines.0, &[("one", entry(&machines.0)), ("two", entry(&machines.1))], "");
    machines
}

fn command(machine: &Machine, args: &[&str]) -> std::process::Command {
    let mut command = machine.command(&[&["ensure", "--json"], args].concat());
    command.env_remove("LMSWARM_BASE_URL");
    command
}

fn ensure(machine: &Machine, args: &[&str]) -> Run {
    run(&mut command(machine, args))
}

/// The server that the only model was asked of.
fn server(run: &Run) -> String {
    run.model()["server"].as_str().expect("a name").to_owned()
}

fn take_away(machine: &Machine, key: &str) {
    let path = machine.path(".lmstudio/.simulator/models.json");
    let models: Value = serde_json::from_slice(&std::fs::read(path).expect("a catalogue")).expect("JSON");
    let kept: Vec<&Value> = models.as_array().expect("a list").iter().filter(|it| it["modelKey"] != key).collect();
    assert!(kept.len() < models.as_array().expect("a list").len());
    machine.write(".lmstudio/.simulator/models.json", &json!(kept).to_string());
}

#[test]
fn a_plain_key_is_asked_of_the_server_where_it_is_addressable() {
    let (one, two) = two();
    two.preload(LLAMA);
    let run = ensure(&one, &[LLAMA]).expect(0);
    let model = run.model();
    assert_eq!((&model["server"], &model["baseURL"]), (&json!("two"), &json!(two.base_url())));
    assert_eq!((&model["action"], run.stderr.as_str()), (&json!("none"), ""));
    for machine in [&one, &two] {
        assert_eq!(machine.requests().len(), 2, "one round each");
        assert_eq!(machine.loads(LLAMA), 0);
    }
    assert!(!one.path(".cache").exists(), "a warm call writes nothing");
}

#[test]
fn a_key_that_is_nowhere_addressable_is_loaded_on_the_first_server_that_has_it() {
    let (one, two) = two();
    assert_eq!(server(&ensure(&one, &[LLAMA]).expect(0)), "one");
    take_away(&one, GEMMA);
    assert_eq!(server(&ensure(&one, &[GEMMA]).expect(0)), "two");
    assert_eq!((one.resident(), two.resident()), (vec![LLAMA.to_owned()], vec![GEMMA.to_owned()]));
}

#[test]
fn many_callers_at_once_load_on_one_server() {
    let (one, two) = two();
    one.configure(json!({ "holdLoads": true }));
    let callers: Vec<Running> = (0..20).map(|_| Running::start(&mut command(&one, &[LLAMA]))).collect();
    one.release();
    for caller in callers {
        assert_eq!(server(&caller.end().expect(0)), "one");
    }
    assert_eq!((one.loads(LLAMA), two.loads(LLAMA)), (1, 0));
}

#[test]
fn a_server_that_is_down_refuses_the_token_or_failed_a_moment_ago_is_passed_over() {
    let down = json!({ "baseURL": format!("http://127.0.0.1:{}", free_port()), "apiTokenEnv": "ONE" });
    let (locked, failing) = (Machine::with(json!({ "token": TOKEN })), Machine::new());
    // Without `lms`, which would tell of a server that wants a token.
    let mut last = Machine::bare();
    last.start_app(&["--rest-port", "0"]);
    let locked_entry = json!({ "baseURL": locked.base_url(), "apiTokenEnv": "TWO" });
    let servers = [("down", down), ("locked", locked_entry), ("failing", entry(&failing)), ("last", entry(&last))];
    configure(&last, &servers, "");
    failing.faults(json!([{ "on": "load", "kind": "refuse" }]));
    let call = || run(command(&last, &[LLAMA]).env("TWO", "wrong"));
    let first = call().expect(5);
    assert_eq!(server(&first), "failing");
    assert_eq!(server(&call().expect(0)), "last");
    assert_eq!((failing.events("load-refused").len(), last.loads(LLAMA)), (1, 1));
    // The token of one server goes to no other.
    let with_token = run(command(&last, &["--server", "locked", LLAMA]).env("TWO", TOKEN)).expect(0);
    assert_eq!(server(&with_token), "locked");
    for (variable, code) in [("ONE", 7), ("LM_API_TOKEN", 7)] {
        let run = run(command(&last, &["--server", "locked", LLAMA]).env(variable, TOKEN)).expect(code);
        assert_eq!(run.model()["category"], "unauthorized");
    }
}

#[test]
fn a_mute_server_costs_its_probe_timeout_and_keeps_no_model_from_another() {
    let (one, two) = two();
    one.faults(json!([{ "on": "rest", "kind": "hang" }]));
    two.preload(LLAMA);
    let run = ensure(&one, &["--probe-timeout-ms", "700", LLAMA]).expect(0);
    assert_eq!(server(&run), "two");
    assert_eq!(one.requests().len(), 2, "it is asked once");
}

#[test]
fn a_failure_tells_of_every_server_and_is_that_of_the_first_that_may_have_the_model() {
    let (one, two) = two();
    let run = ensure(&one, &["qwen/qwen3-coder-3b"]).expect(4);
    let run = run.says("one: `qwen/qwen3-coder-3b` is not downloaded; two: `qwen/qwen3-coder-3b` is not downloaded");
    let model = run.model();
    assert_eq!((&model["server"], &model["suggestions"]), (&json!("one"), &json!([QWEN])));
    two.crash();
    let run = ensure(&one, &["qwen/qwen3-coder-3b"]).expect(3).says("one: `qwen/qwen3-coder-3b` is not downloaded");
    let run = run.says(&format!("two: nothing listens at {}", two.base_url()));
    let run = run.says("`lmswarm ensure qwen/qwen3-coder-3b --server two` starts it");
    let model = run.model();
    assert_eq!((&model["server"], &model["baseURL"]), (&json!("two"), &json!(two.base_url())));
    assert_eq!((&model["category"], &model["backend"]), (&json!("server-unreachable"), &Value::Null));
    assert_eq!(one.lms_calls().len(), 0, "nothing is started");
}

#[test]
fn a_model_that_no_server_has_is_downloaded_where_that_is_allowed() {
    let (one, two) =
        (Machine::new(), Machine::with(json!({ "catalogue": [{ "modelKey": "acme/new" }], "downloadMs": 50 })));
    configure(&one, &[("one", entry(&one)), ("two", json!({ "baseURL": two.base_url(), "autoDownload": true }))], "");
    assert_eq!(server(&ensure(&one, &["acme/new"]).expect(0)), "two");
    assert_eq!(two.resident(), ["acme/new"]);
}

#[test]
fn servers_are_picked_by_flag_and_by_variable() {
    let (one, two) = two();
    two.preload(LLAMA);
    assert_eq!(server(&ensure(&one, &["--server", "one", LLAMA]).expect(0)), "one");
    assert_eq!(two.requests().len(), 0, "it is not asked");
    let picked = run(command(&one, &[GEMMA]).env("LMSWARM_SERVER", "two"));
    assert_eq!(server(&picked.expect(0)), "two");
    let both = ensure(&one, &["--server", "two", "--server", "one", QWEN]).expect(0);
    assert_eq!(server(&both), "one", "the order is that of the file");
    ensure(&one, &["--server", "tow", LLAMA])
        .expect(2)
        .says("--server: `tow` is none of the `servers`; did you mean `two`?");
    let wrong = run(command(&one, &[LLAMA]).env("LMSWARM_SERVER", "one,three"));
    wrong
        .expect(78)
        .says("the variable LMSWARM_SERVER: `three` is none of the `servers`: there is `one` and `two`")
        .json();
    ensure(&one, &["--server", "one", "--base-url", &two.base_url(), LLAMA]).expect(2).says("each says which server");
    one.write(FILE, "{}");
    ensure(&one, &["--server", "one", LLAMA]).expect(2).says("the config file has no `servers`");
}

#[test]
fn an_address_means_that_server_alone_with_the_options_of_its_entry() {
    let (one, two) = (Machine::new(), Machine::new());
    let second = json!({ "baseURL": two.base_url(), "contextLength": 5000 });
    configure(&one, &[("one", entry(&one)), ("two", second)], "");
    let run = ensure(&one, &["--base-url", &two.base_url(), LLAMA]).expect(0);
    assert_eq!(server(&run), "two");
    assert_eq!(two.events("load-begin")[0]["contextLength"], 5000);
    assert_eq!(one.requests().len(), 0);
    let stranger = Machine::new();
    let run = ensure(&one, &["--base-url", &stranger.base_url(), LLAMA]).expect(0);
    assert_eq!(run.model()["server"], Value::Null);
}

#[test]
fn a_provider_leads_to_the_server_that_names_it() {
    let (one, two, three) = (Machine::new(), Machine::new(), Machine::new());
    let with = |machine: &Machine, provider: &str| json!({ "baseURL": machine.base_url(), "providers": [provider] });
    configure(&one, &[("one", with(&one, "big")), ("two", with(&two, "little"))], "");
    let opencode = json!({
        "model": format!("big/{GEMMA}"),
        "small_model": format!("little/{LLAMA}"),
        "provider": {
            "big": { "models": { GEMMA: {} } },
            "little": { "models": { LLAMA: {} } },
            "lmstudio": { "options": { "baseURL": three.base_url() } },
        },
    });
    one.write(OPENCODE, &opencode.to_string());
    let report = ensure(&one, &[]).expect(0).json();
    let servers = [0, 1].map(|place| report["models"][place]["server"].clone());
    assert_eq!(servers, ["one", "two"]);
    assert_eq!((one.resident(), two.resident()), (vec![GEMMA.to_owned()], vec![LLAMA.to_owned()]));
    // Both are warm now: a round each, whichever is named first.
    let before = [&one, &two].map(|it| it.requests().len());
    ensure(&one, &["small", "main"]).expect(0).json();
    assert_eq!([&one, &two].map(|it| it.requests().len()), before.map(|it| it + 2));
    assert_eq!(server(&ensure(&one, &[&format!("little/{LLAMA}")]).expect(0)), "two");
    let ungrouped = ensure(&one, &[&format!("lmstudio/{LLAMA}")]).expect(0);
    assert_eq!(ungrouped.model()["baseURL"], three.base_url(), "as without servers");
    assert_eq!(server(&ensure(&one, &["--server", "one", "small"]).expect(0)), "one");
    let mut roles = one.command(&["config", "roles"]);
    let shown = run(roles.env_remove("LMSWARM_BASE_URL")).expect(0).stdout;
    assert!(
        shown.contains(&format!("server: two at {} (from {}", two.base_url(), one.path(FILE).display())),
        "{shown}"
    );
}

#[test]
fn a_text_keeps_its_server_and_texts_share_those_that_suit_alike() {
    let (one, two) = two();
    let of = |session: &str| server(&ensure(&one, &["--spread", session, LLAMA]).expect(0));
    one.preload(LLAMA);
    assert_eq!([of("a"), of("b"), of("c"), of("d")], ["one"; 4], "only one is warm");
    two.preload(LLAMA);
    let sessions = ["a", "b", "c", "d", "e", "f"];
    let homes = sessions.map(of);
    assert!(homes.contains(&"one".to_owned()) && homes.contains(&"two".to_owned()), "{homes:?}");
    assert_eq!(sessions.map(of), homes);
    two.crash();
    until("the end of the second server", || std::net::TcpStream::connect(("127.0.0.1", two.rest_port)).is_err());
    assert_eq!(sessions.map(of), ["one"; 6]);
}

#[test]
fn what_one_server_refused_is_not_told_of_another() {
    let (one, two) = two();
    one.faults(json!([{ "on": "load", "kind": "refuse" }]));
    ensure(&one, &["--server", "one", LLAMA]).expect(5).json();
    ensure(&one, &["--server", "two", LLAMA]).expect(0).json();
    assert_eq!(ensure(&one, &["--server", "one", LLAMA]).expect(5).model()["replayed"], true);
    assert_eq!((one.events("load-refused").len(), two.loads(LLAMA)), (1, 1));
}

#[test]
fn a_call_that_loads_on_one_server_keeps_no_call_for_another_waiting() {
    let (one, two) = two();
    one.configure(json!({ "holdLoads": true }));
    let held = Running::start(&mut command(&one, &["--server", "one", LLAMA]));
    one.wait_until_held();
    ensure(&one, &["--server", "two", LLAMA]).expect(0).json();
    assert_eq!(two.loads(LLAMA), 1);
    one.release();
    held.end().expect(0).json();
}

#[test]
fn a_server_that_is_named_alone_is_started() {
    let (off, other) = (Machine::with_server_off(), Machine::new());
    configure(&off, &[("off", entry(&off)), ("other", entry(&other))], "");
    assert_eq!(server(&ensure(&off, &[LLAMA]).expect(0)), "other");
    assert_eq!(off.lms_calls().len(), 0, "another server has the model");
    assert_eq!(server(&ensure(&off, &["--server", "off", LLAMA]).expect(0)), "off");
    assert!(off.lms_calls()[0].starts_with("server start"), "{:?}", off.lms_calls());
}

#[test]
fn a_mistake_in_an_entry_is_78_and_an_unknown_key_in_it_a_warning() {
    let (one, two) = two();
    configure(&one, &[("one", entry(&one)), ("two", entry(&one))], "");
    ensure(&one, &[LLAMA]).expect(78).says("servers.two.baseURL: `").says("is that of the server `one`, too").json();
    one.preload(LLAMA);
    configure(&one, &[("one", entry(&one)), ("two", json!({ "baseURL": two.base_url(), "paralel": 2 }))], "");
    ensure(&one, &[LLAMA]).expect(0).says("unknown key `paralel` is ignored; did you mean `parallel`?").json();
}
