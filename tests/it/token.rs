//! The API token: in one header, to hosts that the user chose, and nowhere else.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::needs::have;
use crate::support::{LLAMA, Machine, Run, TOKEN, free_port, run};

/// Part of every token here, so that a piece of one is found, too.
const PIECE: &str = "AbCdEf";

const GLOBAL: &str = ".config/opencode/opencode.json";

/// Whatever is readable below a folder, names included.
fn text_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().map_while(Result::ok) {
        let path = entry.path();
        text.extend([&path.to_string_lossy(), "\n"]);
        if path.is_dir() {
            text.push_str(&text_below(&path));
        } else {
            text.push_str(&String::from_utf8_lossy(&fs::read(&path).expect("a file")));
        }
    }
    text
}

/// Runs it as loud as it gets, and asserts that the token is in nothing that it left.
fn loud(machine: &Machine, token: &str, args: &[&str]) -> Run {
    let log = machine.path("log");
    let _ = fs::remove_file(&log);
    let args = [&["ensure", "--json", "-vv", "--log-file", log.to_str().expect("UTF-8")], args].concat();
    let run = run(machine.command(&args).env("LM_API_TOKEN", token));
    let argv = format!("{:?}", machine.record());
    let log = fs::read_to_string(log).expect("a log");
    let state = text_below(&machine.path(".cache/lmswarm"));
    for (place, text) in
        [("stdout", &run.stdout), ("stderr", &run.stderr), ("log", &log), ("state", &state), ("argv", &argv)]
    {
        assert!(!text.contains(PIECE), "{place}: {text}");
    }
    assert!(run.stderr.contains("DEBUG") && log.contains("DEBUG"), "{run:?} {log}");
    run
}

#[test]
fn a_load_that_works_leaves_it_nowhere() {
    for loader in ["lms", "rest"] {
        let machine = Machine::with(json!({ "token": TOKEN }));
        let run = loud(&machine, TOKEN, &[LLAMA, "--loader", loader]).expect(0);
        assert_eq!(run.model()["action"], "loaded");
        assert!(text_below(&machine.path(".cache/lmswarm")).contains(LLAMA), "the state was looked at");
        assert!(machine.events("request").iter().any(|it| it["authorization"] == true));
    }
}

#[test]
fn a_server_that_repeats_it_is_not_quoted_with_it() {
    let odd = "k/AbCdEf\"\\AbCdEf";
    let mut cases = Vec::new();
    for (token, text) in [
        (TOKEN, json!(format!("the token Bearer {TOKEN} may not do that")).to_string()),
        (odd, json!(format!("the token {odd} may not do that")).to_string()),
        (odd, json!(format!("the token {odd} may not do that")).to_string().replace('/', "\\/")),
    ] {
        let error: Value = json!({ "error": { "message": "MESSAGE" } });
        let body = error.to_string().replace("\"MESSAGE\"", &text);
        // Cut off in the middle of it, nothing is left of it either.
        let long = format!("{}{body}", " x".repeat(24));
        for (on, status, body, code) in [
            ("POST /api/v1/models/load", 400, &body, 5),
            ("GET /api/v1/models", 400, &body, 0),
            ("rest", 500, &body, 75),
            ("rest", 500, &long, 75),
            ("rest", 400, &long, 75),
        ] {
            cases.push((token, on, status, body.clone(), code));
        }
    }
    // Most of the time is spent waiting.
    std::thread::scope(|scope| {
        for (token, on, status, body, code) in cases {
            scope.spawn(move || {
                let machine = Machine::new();
                machine.faults(json!([{ "on": on, "kind": "status", "status": status, "body": body }]));
                let run = loud(&machine, token, &[LLAMA, "--loader", "rest"]);
                if status == 400 && on == "rest" {
                    run.expect(3).says("is not LM Studio");
                } else if code == 5 {
                    run.expect(5).says("the token ").says("may not do that");
                } else {
                    run.expect(code);
                }
            });
        }
    });
}

#[test]
fn no_failure_shows_it() {
    let machine = Machine::with(json!({ "token": "another" }));
    loud(&machine, TOKEN, &[LLAMA]).expect(7).says("refuses the API token in the variable LM_API_TOKEN");
    for kind in ["garbage", "truncated", "html", "empty", "null", "reset", "unexpected", "wrapper"] {
        let machine = Machine::with(json!({ "token": TOKEN }));
        machine.faults(json!([{ "on": "rest", "kind": kind }]));
        loud(&machine, TOKEN, &[LLAMA]);
    }
    std::thread::scope(|scope| {
        for (fault, loader) in [
            (json!({ "on": "load", "kind": "crash" }), "lms"),
            (json!({ "on": "load", "kind": "crash" }), "rest"),
            (json!({ "on": "load", "kind": "other-id", "identifier": "odd" }), "lms"),
            (json!({ "on": "load", "kind": "other-id", "identifier": "odd" }), "rest"),
            (json!({ "on": "load", "kind": "hang" }), "lms"),
            (json!({ "on": "load", "kind": "hang" }), "rest"),
            (json!({ "on": "lms load", "kind": "fail" }), "lms"),
        ] {
            scope.spawn(move || {
                let machine = Machine::with(json!({ "token": TOKEN }));
                machine.faults(json!([fault]));
                let run = loud(&machine, TOKEN, &[LLAMA, "--loader", loader, "--load-timeout-ms", "700"]);
                assert_ne!(run.code, 0, "{fault} {run:?}");
            });
        }
    });
    let machine = Machine::bare();
    loud(&machine, TOKEN, &[LLAMA]).expect(3);
    loud(&machine, TOKEN, &[LLAMA, "--base-url", "http://nowhere.invalid:1/v1"]).expect(3);
    let run = run(machine.command(&["ensure", LLAMA]).env("LM_API_TOKEN", format!("{TOKEN} {TOKEN}"))).expect(78);
    assert!(run.says("cannot be an API token").stderr.matches(PIECE).count() == 0);
}

#[test]
fn one_that_was_put_in_the_wrong_place_is_not_shown() {
    let machine = Machine::bare();
    let secret_url = "http://me:AbCdEf@127.0.0.1:1/v1";
    for (variable, value) in [
        ("LMSWARM_API_TOKEN_ENV", TOKEN),
        ("LMSWARM_BASE_URL", secret_url),
        ("LMSWARM_BASE_URL", "http://127.0.0.1:1/v1?key=AbCdEf"),
        ("LMSWARM_PARALLEL", TOKEN),
    ] {
        let run = run(machine.command(&["ensure", "--json", LLAMA]).env(variable, value)).expect(78);
        assert!(!run.stderr.contains(PIECE) && !run.stdout.contains(PIECE), "{run:?}");
    }
    for config in [json!({ "apiTokenEnv": TOKEN }), json!({ "baseURL": secret_url }), json!({ "apiToken": TOKEN })] {
        machine.write(".config/lmswarm/config.json", &config.to_string());
        let run = machine.ensure(&[LLAMA]);
        assert!(!run.stderr.contains(PIECE) && !run.stdout.contains(PIECE), "{run:?}");
    }
}

/// `lmswarm` in a folder of the machine, with the address from opencode's configuration.
fn in_folder(machine: &Machine, folder: &str, args: &[&str]) -> Command {
    let folder = machine.path(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let mut command = machine.command(args);
    command.env_remove("LMSWARM_BASE_URL").current_dir(folder);
    command
}

fn provider(url: &str) -> Value {
    json!({ "provider": { "lmstudio": { "options": { "baseURL": url } } } })
}

#[cfg(target_os = "linux")]
mod argv {
    use super::{Command, GLOBAL, LLAMA, Machine, PIECE, TOKEN, fs, in_folder, json};
    use crate::support::{Running, until};

    /// The process and all below it.
    fn family(root: u32) -> Vec<u32> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").map_while(Result::ok) {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            // Behind the name, which may hold anything: the state, then the parent.
            let parent = stat.rsplit(')').next().and_then(|it| it.split_whitespace().nth(1)?.parse::<u32>().ok());
            parents.extend(parent.map(|parent| (pid, parent)));
        }
        let mut family = vec![root];
        let mut seen = 0;
        while seen < family.len() {
            let parent = family[seen];
            family.extend(parents.iter().filter(|(_, it)| *it == parent).map(|(pid, _)| *pid));
            seen += 1;
        }
        family
    }

    fn read(pid: u32, file: &str) -> String {
        String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
    }

    /// While a load holds: the command lines of all, and the environment of `lms`.
    fn look(machine: &Machine, command: &mut Command, has_lms: bool) {
        let running = Running::start(command);
        until("a load that holds", || machine.state()["loads"][0]["held"] == true);
        let lines: Vec<(u32, String)> =
            family(running.pid()).into_iter().map(|pid| (pid, read(pid, "cmdline"))).collect();
        assert!(!lines.iter().any(|(_, line)| line.contains(PIECE)), "{lines:?}");
        assert!(lines[0].1.contains("lmswarm"), "{lines:?}");
        let lms: Vec<u32> = lines.iter().filter(|(_, line)| line.contains("load\0")).map(|(pid, _)| *pid).collect();
        assert_eq!(lms.len(), usize::from(has_lms), "{lines:?}");
        for pid in lms {
            let environment = read(pid, "environ");
            assert!(environment.contains("HOME=") && !environment.contains(PIECE), "{environment}");
        }
        machine.control("release", json!({}));
        running.end().expect(0);
        machine.control("evict", json!({ "identifier": LLAMA }));
    }

    #[test]
    fn it_is_in_no_command_line_and_lms_does_not_get_it() {
        let machine = Machine::with(json!({ "token": TOKEN, "holdLoads": true }));
        let lms = ["ensure", LLAMA, "--loader", "lms"];
        let rest = ["ensure", LLAMA, "--loader", "rest"];
        for args in [lms, rest] {
            let has_lms = args == lms;
            look(&machine, machine.command(&args).env("LM_API_TOKEN", TOKEN), has_lms);
            let other = [&args[..], &["--api-token-env", "MY_TOKEN"]].concat();
            look(&machine, machine.command(&other).env("MY_TOKEN", TOKEN), has_lms);
            let config = json!({ "provider": { "lmstudio": {
                "options": { "baseURL": machine.base_url(), "apiKey": TOKEN } } } });
            machine.write(GLOBAL, &config.to_string());
            look(&machine, &mut in_folder(&machine, "work", &args), has_lms);
            machine.write(GLOBAL, &super::provider(&machine.base_url()).to_string());
            let stored = json!({ "lmstudio": { "type": "api", "key": TOKEN } });
            machine.write(".local/share/opencode/auth.json", &stored.to_string());
            look(&machine, &mut in_folder(&machine, "work", &args), has_lms);
            fs::remove_file(machine.path(".local/share/opencode/auth.json")).unwrap();
        }
        // One that the server does not want leaves the work to `lms`, which does without.
        let machine = Machine::with(json!({ "holdLoads": true }));
        look(&machine, machine.command(&["ensure", LLAMA]).env("LM_API_TOKEN", TOKEN), true);
    }

    #[test]
    fn run_keeps_warm_without_showing_it() {
        let machine = Machine::with(json!({ "token": TOKEN, "holdLoads": true }));
        machine.preload(LLAMA);
        let args = ["run", "--keep-warm=1s", "--loader=lms", LLAMA, "--", "/bin/sleep", "300"];
        let running = Running::start(machine.command(&args).env("LM_API_TOKEN", TOKEN));
        until("the command runs", || {
            family(running.pid()).iter().any(|pid| read(*pid, "cmdline").starts_with("/bin/sleep\0"))
        });
        machine.control("evict", json!({ "identifier": LLAMA }));
        until("a load that holds", || machine.state()["loads"][0]["held"] == true);
        let lines: Vec<String> = family(running.pid()).into_iter().map(|pid| read(pid, "cmdline")).collect();
        assert!(lines.iter().any(|it| it.contains("load\0")) && lines.iter().any(|it| it.starts_with("/bin/sleep\0")));
        assert!(!lines.iter().any(|it| it.contains(PIECE)), "{lines:?}");
        machine.release();
        running.signal(rustix::process::Signal::TERM);
        running.end().expect(143);
    }
}

/// A listener that answers everything the same way and keeps what it heard, in lower case.
struct Ear {
    port: u16,
    heard: Arc<Mutex<String>>,
}

impl Ear {
    fn at(address: IpAddr, answer: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let heard = Arc::new(Mutex::new(String::new()));
        let (shared, answer) = (heard.clone(), answer.to_owned());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 4096];
                let count = stream.read(&mut head).unwrap_or(0);
                shared.lock().expect("no panic").push_str(&String::from_utf8_lossy(&head[..count]).to_lowercase());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { port, heard }
    }

    /// One that refuses everything.
    fn deaf(address: IpAddr) -> Self {
        Self::at(address, "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    }

    fn heard(&self) -> String {
        std::mem::take(&mut *self.heard.lock().expect("no panic"))
    }
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address of this machine that is no loopback one, if it has any. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    let ear = TcpListener::bind((address, 0)).ok()?;
    (!address.is_loopback() && TcpStream::connect(ear.local_addr().ok()?).is_ok()).then_some(address)
}

#[test]
fn a_host_that_only_a_project_names_does_not_get_it() {
    let Some(address) = have("network", own_address()) else { return };
    let machine = Machine::bare();
    // What `lms` is given for such a host.
    machine.write("bin/lms", "#!/bin/sh\n/usr/bin/env >>\"$HOME/environment\"\nexit 1\n");
    #[cfg(unix)]
    fs::set_permissions(machine.path("bin/lms"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ear = Ear::deaf(address);
    let url = format!("http://{address}:{}/v1", ear.port);
    let stored = json!({ "lmstudio": { "type": "api", "key": TOKEN } });
    machine.write(".local/share/opencode/auth.json", &stored.to_string());
    let keyed = |url: &str| json!({ "provider": { "lmstudio": { "env": ["LM_API_TOKEN"], "options": { "baseURL": url, "apiKey": TOKEN } } } });
    let call = || {
        for args in [&["ensure", LLAMA][..], &["ensure", "main"], &["config", "roles"], &["completions", "--models"]] {
            let mut command = in_folder(&machine, "work", args);
            let run = run(command.env("LM_API_TOKEN", TOKEN).env("LMSTUDIO_API_KEY", TOKEN));
            assert!(!run.stderr.contains(PIECE) && !run.stdout.contains(PIECE), "{run:?}");
        }
        ear.heard()
    };
    let with_model = |mut config: Value| {
        config["model"] = json!(format!("lmstudio/{LLAMA}"));
        config.to_string()
    };
    for place in ["work/opencode.json", "work/.opencode/opencode.jsonc"] {
        for config in [provider(&url), keyed(&url)] {
            machine.write(place, &with_model(config));
            let heard = call();
            assert!(heard.contains("get /api/v1/models") && !heard.contains("authorization"), "{place}: {heard}");
        }
        fs::remove_file(machine.path(place)).unwrap();
    }
    // The user asks for TLS on that host; a project must not take it away.
    machine.write("work/opencode.json", &with_model(provider(&url)));
    machine.write(GLOBAL, &provider(&url.replace("http:", "https:")).to_string());
    let heard = call();
    assert!(heard.contains("get /api/v1/models") && !heard.contains("authorization"), "{heard}");
    // Nor into the address or the name of a model.
    fs::remove_file(machine.path(GLOBAL)).unwrap();
    for config in [
        provider(&format!("{url}/{{env:LM_API_TOKEN}}")),
        provider(&format!("{url}/${{LM_API_TOKEN}}")),
        provider(&format!("{url}/{{file:../.local/share/opencode/auth.json}}")),
    ] {
        machine.write("work/opencode.json", &with_model(config));
        assert_eq!(call(), "");
    }
    // The same once the user names that host.
    machine.write("work/opencode.json", &with_model(provider(&url)));
    machine.write(GLOBAL, &provider(&url).to_string());
    assert!(call().contains(&format!("authorization: bearer {}", TOKEN.to_lowercase())));
    // And no `lms` ever saw it, whoever names the host.
    let environment = fs::read_to_string(machine.path("environment")).unwrap_or_default();
    assert!(!environment.contains("LM_API_TOKEN"), "{environment}");
}

#[test]
fn a_project_does_not_get_it_into_the_name_of_a_model() {
    let machine = Machine::with(json!({ "token": TOKEN, "catalogue": [{ "modelKey": format!("acme/{TOKEN}") }] }));
    machine.write(GLOBAL, &provider(&machine.base_url()).to_string());
    machine.write("secret", TOKEN);
    let log = machine.path("log");
    for reference in ["{env:LM_API_TOKEN}", "{file:../secret}"] {
        for config in [
            json!({ "model": format!("lmstudio/acme/{reference}"), "small_model": format!("{reference}/x") }),
            json!({ "model": reference, "agent": { "x": { "model": format!("lmstudio/{reference}") } } }),
            json!({ "model": "lmstudio/x", "provider": { "lmstudio": { "models": { "x": { "id": reference } } } } }),
            json!({ "model": "lmstudio/x", format!("small{{env:NONE}}_model"): format!("lmstudio/{reference}") }),
        ] {
            machine.write("work/opencode.json", &config.to_string());
            for args in [&["ensure", "--json", "--download"][..], &["ensure", "all"], &["config", "roles"]] {
                let logged = [args, &["-vv", "--log-file", log.to_str().expect("UTF-8")]].concat();
                let run = run(in_folder(&machine, "work", &logged).env("LM_API_TOKEN", TOKEN));
                assert!(!run.stderr.contains(PIECE) && !run.stdout.contains(PIECE), "{run:?}");
            }
        }
    }
    assert!(!fs::read_to_string(log).expect("a log").contains(PIECE));
    assert!(!format!("{:?}", machine.record()).contains(PIECE));
    assert_eq!(machine.events("download").len(), 0);
}

#[test]
fn it_does_not_follow_a_redirect() {
    for status in [301, 302, 303, 307, 308] {
        let machine = Machine::bare();
        let elsewhere = Ear::deaf(LOOPBACK);
        let answer = format!(
            "HTTP/1.1 {status} Elsewhere\r\nLocation: http://127.0.0.1:{}/api/v1/models\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            elsewhere.port
        );
        let ear = Ear::at(LOOPBACK, &answer);
        let url = format!("http://127.0.0.1:{}/v1", ear.port);
        let run = loud(&machine, TOKEN, &[LLAMA, "--base-url", &url]);
        assert_ne!(run.code, 0);
        assert!(ear.heard().contains("authorization: bearer"));
        assert_eq!(elsewhere.heard(), "", "{status}");
    }
}

#[test]
fn no_proxy_is_asked_for_this_machine() {
    let machine = Machine::with(json!({ "token": TOKEN }));
    let proxy = Ear::deaf(LOOPBACK);
    let url = format!("http://127.0.0.1:{}", proxy.port);
    for base in [machine.base_url(), machine.base_url().replace("127.0.0.1", "localhost")] {
        let mut command = machine.command(&["ensure", LLAMA, "--base-url", &base]);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &url);
        }
        run(command.env("LM_API_TOKEN", TOKEN)).expect(0);
    }
    assert_eq!(proxy.heard(), "");
}

#[test]
fn it_goes_to_no_other_port_than_the_one_that_was_named() {
    // LM Studio's own last port is asked for a greeting, to tell where the server is; without it.
    let machine = Machine::with_server_off();
    let ear = Ear::deaf(LOOPBACK);
    machine.write(".lmstudio/.internal/http-server-config.json", &json!({ "port": ear.port }).to_string());
    loud(&machine, TOKEN, &[LLAMA, "--base-url", &format!("http://127.0.0.1:{}/v1", free_port())]);
    let heard = ear.heard();
    assert!(heard.contains("get /lmstudio-greeting") && !heard.contains("authorization"), "{heard}");
}

#[test]
fn what_cannot_be_a_token_is_said_so_and_not_shown() {
    let machine = Machine::new();
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    let run = run(command.env("LM_API_TOKEN", "secret\nX-Evil: 1")).expect(78).says("LM_API_TOKEN");
    assert!(!format!("{run:?}").contains("secret"));
}
