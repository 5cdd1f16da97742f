//! The address of the server as opencode's configuration gives it, and whom it may make us
//! trust.

use serde_json::{Value, json};

use crate::support::{LLAMA, Machine, Run, TOKEN, run};

const GLOBAL: &str = ".config/opencode/opencode.json";

fn provider(url: &str) -> String {
    json!({ "provider": { "lmstudio": { "options": { "baseURL": url } } } }).to_string()
}

/// `ensure` in the project `work/inner`, without an address of its own.
fn in_project(machine: &Machine, variables: &[(&str, &str)]) -> Run {
    let folder = machine.path("work/inner");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    command.env_remove("LMSWARM_BASE_URL").envs(variables.iter().copied()).current_dir(folder);
    run(&mut command)
}

/// What `git init` leaves, as far as anybody looks.
fn repository(machine: &Machine, place: &str) {
    machine.write(&format!("{place}/.git/HEAD"), "ref: refs/heads/main\n");
    for folder in ["objects", "refs"] {
        std::fs::create_dir_all(machine.path(&format!("{place}/.git/{folder}"))).expect("a folder");
    }
}

fn base_url(run: &Run) -> String {
    run.model()["baseURL"].as_str().expect("a URL").to_owned()
}

#[test]
fn opencodes_provider_says_where_the_server_is() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    machine.write(GLOBAL, &provider(&machine.base_url()));
    machine.write(".lmstudio/.internal/http-server-config.json", "{\"port\": 1}");
    assert_eq!(base_url(&in_project(&machine, &[]).expect(0)), machine.base_url());
    machine.write(GLOBAL, &format!("// mine\n{}", provider("http://127.0.0.1:{env:P}${Q}/v1")));
    let port = machine.rest_port.to_string();
    let (first, rest) = port.split_at(2);
    assert_eq!(base_url(&in_project(&machine, &[("P", first), ("Q", rest)]).expect(0)), machine.base_url());
}

#[test]
fn every_source_has_its_rank() {
    let machine = Machine::new();
    let url = |number: u16| format!("http://127.0.0.1:{number}");
    let dir = machine.path("dir").display().to_string();
    let named = machine.path("named.json").display().to_string();
    // Nothing listens on ports this low, so each run says which address it took.
    let ladder = [
        (".config/opencode/config.json", 11),
        (GLOBAL, 12),
        (".config/opencode/opencode.jsonc", 13),
        ("named.json", 14),
        ("work/opencode.json", 15),
        ("work/inner/opencode.json", 16),
        ("work/inner/opencode.jsonc", 17),
        ("work/inner/.opencode/opencode.json", 18),
        ("work/.opencode/opencode.json", 19),
        (".opencode/opencode.json", 20),
        ("dir/opencode.json", 21),
    ];
    machine.write("bin/git", "");
    repository(&machine, "work");
    for (place, number) in ladder {
        machine.write(place, &provider(&url(number)));
        let mut variables = vec![("OPENCODE_CONFIG_DIR", dir.as_str())];
        if number >= 14 {
            variables.push(("OPENCODE_CONFIG", named.as_str()));
        }
        let run = in_project(&machine, &variables).expect(3);
        assert_eq!(base_url(&run), format!("{}/v1", url(number)), "{place}");
    }
    let content = provider(&url(22));
    let run = in_project(&machine, &[("OPENCODE_CONFIG_CONTENT", &content), ("OPENCODE_CONFIG_DIR", &dir)]).expect(3);
    assert_eq!(base_url(&run), format!("{}/v1", url(22)));
    // Above the repository nothing of the project counts.
    for place in ["work/opencode.json", "work/inner/opencode.json", "work/inner/opencode.jsonc"] {
        std::fs::remove_file(machine.path(place)).unwrap();
    }
    for place in ["work/inner/.opencode", "work/.opencode", ".opencode"] {
        std::fs::remove_dir_all(machine.path(place)).unwrap();
    }
    machine.write("opencode.json", &provider(&url(30)));
    assert_eq!(base_url(&in_project(&machine, &[]).expect(3)), format!("{}/v1", url(13)));
    std::fs::remove_dir_all(machine.path("work/.git")).unwrap();
    assert_eq!(base_url(&in_project(&machine, &[]).expect(3)), format!("{}/v1", url(30)));
    let run = in_project(&machine, &[("OPENCODE_DISABLE_PROJECT_CONFIG", "1")]).expect(3);
    assert_eq!(base_url(&run), format!("{}/v1", url(13)));
}

#[test]
fn a_configuration_that_opencode_would_refuse_is_exit_78() {
    let machine = Machine::new();
    machine.write(GLOBAL, "{\n \"provider\": [}");
    in_project(&machine, &[]).expect(78).says("opencode.json:2:").json();
    machine.write(GLOBAL, &provider("{file:nowhere}"));
    in_project(&machine, &[]).expect(78).says("`{file:nowhere}` cannot be read").json();
    machine.write(GLOBAL, &provider("localhost:1"));
    in_project(&machine, &[]).expect(78).says("baseURL: `localhost:1` has no `http://` in front").json();
    machine.preload(LLAMA);
    machine.ensure(&[LLAMA]).expect(0).json();
}

#[test]
fn a_projects_files_never_say_where_the_token_goes() {
    let machine = Machine::new();
    let token = ("LM_API_TOKEN", TOKEN);
    // A name that only a proxy can resolve makes the request visible without leaving this machine.
    let (proxy, heard) = listening_proxy();
    let variables = [token, ("http_proxy", proxy.as_str())];
    let elsewhere = provider("http://llm.example:1234/v1");
    machine.write("work/inner/opencode.json", &elsewhere);
    let _ = in_project(&machine, &variables);
    assert!(!heard().contains("authorization"), "only the project names that host");
    machine.write(GLOBAL, &elsewhere);
    let _ = in_project(&machine, &variables);
    assert!(heard().contains("authorization: bearer"), "the user names it, too");
    machine.write("work/inner/opencode.json", &provider(&machine.base_url()));
    machine.configure(json!({ "token": TOKEN }));
    assert_eq!(in_project(&machine, &[token]).expect(0).model()["source"], "rest-v1");
}

/// A proxy that refuses everything and tells what it heard since it was asked last.
fn listening_proxy() -> (String, impl Fn() -> String) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let shared = heard.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap_or(0);
            shared.lock().expect("no panic").push_str(&String::from_utf8_lossy(&head[..count]).to_lowercase());
            let _ = stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (url, move || std::mem::take(&mut *heard.lock().expect("no panic")))
}

#[cfg(unix)]
#[test]
fn a_project_cannot_put_the_environment_into_an_address() {
    let machine = Machine::new();
    let folder = machine.path("work");
    std::fs::create_dir(&folder).unwrap();
    let call_with = |provider: Value| {
        machine.write("work/opencode.json", &json!({ "provider": { "lmstudio": provider } }).to_string());
        let mut command = machine.command(&["ensure", "--json", &format!("lmstudio/{LLAMA}")]);
        command.env_remove("LMSWARM_BASE_URL").env("LM_API_TOKEN", "hush-hush").env("OTHER_SECRET", "hush-hush");
        run(command.current_dir(&folder))
    };
    let call = |url: &str| call_with(json!({ "options": { "baseURL": url } }));
    machine.write(".secret", "hush-hush");
    for reference in
        ["{env:LM_API_TOKEN}", "${LM_API_TOKEN}", "{env:OTHER_SECRET}", "${OTHER_SECRET}", "{file:~/.secret}"]
    {
        let url = format!("http://llm.invalid/{reference}/v1");
        for provider in [
            json!({ "options": { "baseURL": url } }),
            json!({ "api": url }),
            json!({ "models": { LLAMA: { "provider": { "api": url } } } }),
        ] {
            let failed = call_with(provider).expect(78).says("only this project names");
            assert!(!format!("{failed:?}").contains("hush"), "{failed:?}");
        }
        // Where it makes no address at all, it is not shown either.
        let failed = call(reference).expect(78);
        assert!(!format!("{failed:?}").contains("hush"), "{failed:?}");
    }
    let failed = call("http://llm.invalid:1234/v1").expect(3);
    assert!(!format!("{failed:?}").contains("hush"), "{failed:?}");
    call("{file:/dev/zero}").expect(78).says("no regular file").json();
    std::fs::remove_file(machine.path("work/opencode.json")).unwrap();
    let fifo = machine.path("work/opencode.json");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    run(command.env_remove("LMSWARM_BASE_URL").current_dir(&folder)).expect(78).says("no regular file").json();
}
