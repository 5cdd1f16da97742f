//! The state directory, and text that would drive a terminal.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine, Run, run};

/// What a stranger might put into any text: a title, a cleared screen, C1 controls, a reversed
/// line, and a line that reads as one of ours.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{8}\u{9b}31m\u{202e}boom\u{2066}\r\nlmswarm: fake\u{7f}";
/// The same without what no key may have.
const EVIL_KEY: &str = "acme/\u{202e}boom\u{2066}\u{200b}";

/// Whether nothing of it drives a terminal, and no line pretends to be another's.
#[track_caller]
fn is_tame(text: &str) {
    let is_wild = |it: char| (it.is_control() && it != '\n') || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(it);
    assert!(!text.chars().any(is_wild), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("lmswarm: fake")), "{text}");
}

#[track_caller]
fn tame(run: Run) -> Run {
    is_tame(&run.stderr);
    is_tame(&run.stdout);
    run
}

#[test]
fn words_of_a_child_are_shown_escaped() {
    let machine = Machine::new();
    machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": format!("Error: {EVIL}") }]));
    let log = machine.path("log");
    let args = [LLAMA, "-vv", "--log-file", log.to_str().unwrap()];
    let run = tame(machine.ensure(&args).expect(5).says("boom").says("\\u{9b}").says("\\u{202e}"));
    assert!(run.json()["models"][0]["reason"].as_str().unwrap().contains("boom"));
    is_tame(&std::fs::read_to_string(&log).unwrap());
    // Also as an earlier call left them.
    tame(machine.ensure(&[LLAMA]).expect(5).says("found out").says("boom"));
}

#[test]
fn words_of_a_server_are_shown_escaped() {
    let error = json!({ "error": { "message": EVIL } }).to_string();
    for (on, status, body, code) in [
        ("POST /api/v1/models/load", 400, error.as_str(), 5),
        ("POST /api/v1/models/load", 500, EVIL, 5),
        ("rest", 500, error.as_str(), 75),
        ("rest", 400, EVIL, 3),
    ] {
        let machine = Machine::new();
        machine.faults(json!([{ "on": on, "kind": "status", "status": status, "body": body }]));
        let log = machine.path("log");
        let args = [LLAMA, "--loader", "rest", "-vv", "--log-file", log.to_str().unwrap()];
        tame(machine.ensure(&args).expect(code).says("boo")).json();
        is_tame(&std::fs::read_to_string(&log).unwrap());
    }
}

#[test]
fn names_from_a_server_are_shown_escaped() {
    let machine = Machine::new();
    let copy = format!("{LLAMA}:2");
    let other = format!("x{EVIL}");
    machine.control("load", json!({ "key": GEMMA, "identifier": other }));
    machine.control("load", json!({ "key": LLAMA, "identifier": copy }));
    // A name that a load came to, and names to choose from.
    machine.faults(json!([{ "on": "load", "kind": "other-id", "identifier": other.replace('x', "y") }]));
    tame(machine.ensure(&[GEMMA, "--loader", "rest", "-vv"]).expect(5).says("boom"));
    tame(machine.ensure(&[GEMMA, "--loader", "lms", "-vv", "--fresh"]).expect(5));
    // A key that looks like the one that was typed.
    machine.write(".lmstudio/.simulator/faults.json", "[]");
    let list = json!({ "models": [{ "key": format!("{EVIL_KEY}x"), "loaded_instances": [] }] });
    machine.faults(json!([{ "on": "GET /api/v1/models", "kind": "status", "status": 200, "body": list }]));
    let run = tame(machine.ensure(&["acme/boomx", "-vv"]).expect(4).says("did you mean"));
    assert_eq!(run.model()["suggestions"], json!([format!("{EVIL_KEY}x")]), "programs get the name as it is");
    let run = tame(machine.run(&["completions", "--models"]).expect(0));
    assert!(!run.stdout.contains("boom"));
}

#[test]
fn what_was_typed_is_shown_escaped() {
    let machine = Machine::bare();
    for args in [&["ensure", EVIL][..], &["ensure", "--key", EVIL], &["run", EVIL, "--", "/bin/sh"]] {
        tame(machine.run(args)).expect(2).says("boom");
    }
    for args in [
        &["ensure", EVIL_KEY][..],
        &["ensure", &format!("-{EVIL_KEY}")],
        &["ensure", "--ttl-seconds", EVIL],
        &["ensure", "--base-url", EVIL],
        &["ensure", &format!("--{EVIL}")],
        &[EVIL],
        &["hook", EVIL],
        &["run", LLAMA, "--", EVIL],
        &["run", LLAMA, "--", &format!("/{EVIL}")],
        &["ensure", LLAMA, "--config", EVIL],
        &["ensure", LLAMA, "--lms-path", EVIL],
        &["ensure", LLAMA, "--state-dir", EVIL],
        &["ensure", &format!("agent:{EVIL}")],
    ] {
        // Some of these words are taken for folders to make.
        let run = tame(run(machine.command(args).current_dir(machine.home())));
        assert_ne!(run.code, 0, "{args:?}");
    }
    for name in ["LMSWARM_PARALLEL", "LMSWARM_PROVIDERS", "LMSWARM_CONFIG", "LMSWARM_BASE_URL", "LMSWARM_FAIL_MODE"] {
        tame(run(machine.command(&["ensure", "--json", LLAMA]).env(name, EVIL).current_dir(machine.home())));
    }
    tame(run(machine.command(&["ensure", LLAMA]).env(format!("LMSWARM_{EVIL}"), "x")).says("means nothing"));
}

#[test]
fn configurations_are_shown_escaped() {
    let machine = Machine::bare();
    let own = |config: &str| machine.write(".config/lmswarm/config.json", config);
    for config in [
        json!({ EVIL: 1 }),
        json!({ "ttlSeconds": EVIL }),
        json!({ "baseURL": EVIL }),
        json!({ "perModel": { EVIL: { "ttlSeconds": 1 } } }),
        json!({ "perModel": { EVIL_KEY: { EVIL: 1 } } }),
        json!({ "providers": [EVIL] }),
        json!({ "evictProtect": [EVIL] }),
    ] {
        own(&config.to_string());
        tame(machine.ensure(&[LLAMA, "-vv"]));
    }
    for text in [EVIL.to_owned(), format!("{{{EVIL}"), format!("{{\"a\": {EVIL}}}")] {
        own(&text);
        tame(machine.ensure(&[LLAMA]).expect(78));
    }
    own("{}");
    let folder = format!("work {}", EVIL.replace('/', "|"));
    for config in [
        json!({ "model": format!("lmstudio/{EVIL}") }),
        json!({ "model": format!("lmstudio/{EVIL_KEY}"), "small_model": format!("{EVIL}/x") }),
        json!({ "model": format!("lmstudio/{LLAMA}"), "agent": { EVIL: { "model": format!("lmstudio/{EVIL_KEY}") } } }),
        json!({ "model": EVIL }),
        json!({ "model": 1, EVIL: 1 }),
        json!({ "agent": { EVIL: 1 } }),
        json!({ "disabled_providers": ["lmstudio"], "model": format!("lmstudio/{EVIL}") }),
        json!({ "provider": { "lmstudio": { "options": { "baseURL": EVIL } } } }),
        json!({ "provider": { "lmstudio": { "options": { "baseURL": "http://127.0.0.1:1", "apiKey": EVIL } } } }),
        json!({ "model": "lmstudio/x", "provider": { "lmstudio": { "models": { "x": { "id": EVIL } } } } }),
        json!({ "model": format!("{{file:{}}}", "nowhere\u{202e}") }),
        json!({ "command": { EVIL: { "model": format!("lmstudio/{EVIL_KEY}") } } }),
    ] {
        machine.write(&format!("{folder}/opencode.json"), &config.to_string());
        for args in [
            &["ensure", "--json", "-vv"][..],
            &["ensure", "all", "--json", "-vv"],
            &["ensure", "x", "--json"],
            &["config", "roles"],
            &["config", "roles", "--json"],
        ] {
            let mut command = machine.command(args);
            command.env_remove("LMSWARM_BASE_URL").current_dir(machine.path(&folder));
            tame(run(&mut command));
        }
    }
}

/// A terminal, as `lmswarm` sees one, and what was written to it by the end.
#[cfg(target_os = "linux")]
fn on_a_terminal(machine: &Machine, args: &[&str], meanwhile: impl FnOnce()) -> (i32, String) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal of ours");
    let name = ptsname(&terminal, Vec::new()).expect("its name").into_string().expect("UTF-8");
    let line = std::fs::File::options().read(true).write(true).open(name).expect("the other end");
    let mut command = machine.command(args);
    let mut child = command
        .env("TERM", "xterm")
        .stdout(line.try_clone().expect("a handle"))
        .stderr(line)
        .spawn()
        .expect("it starts");
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        // The end of a terminal that nobody holds any more reads as an error.
        let _ = std::fs::File::from(terminal).read_to_end(&mut seen);
        String::from_utf8(seen).expect("UTF-8")
    });
    meanwhile();
    let code = child.wait().expect("it ends").code().expect("a code");
    (code, reader.join().expect("no panic"))
}

#[cfg(target_os = "linux")]
#[test]
fn a_terminal_gets_no_escapes_but_our_own() {
    let key = format!("{EVIL_KEY}x");
    let machine = Machine::with(json!({ "holdLoads": true, "catalogue": [{ "modelKey": key }] }));
    let leader = machine.start(&[&key, "--download"]);
    machine.wait_for_event("load-begin");
    let (code, seen) = on_a_terminal(&machine, &["ensure", &key, "-vv"], || machine.release());
    assert_eq!((code, tame(leader.end()).code), (0, 0), "{seen}");
    assert!(seen.contains("busy with") && seen.contains("\\u{202e}boom"), "{seen:?}");
    machine.faults(json!([{ "on": "lms load", "kind": "fail", "stderr": format!("Error: {EVIL}") }]));
    let (code, failed) = on_a_terminal(&machine, &["ensure", LLAMA, "-vv"], || {});
    assert!(code == 5 && failed.contains("boom"), "{failed:?}");
    let (code, usage) = on_a_terminal(&machine, &["ensure", "--ttl-seconds", EVIL], || {});
    assert!(code == 2 && usage.contains("boom"), "{usage:?}");
    for text in [seen, failed, usage] {
        for wild in [
            "\u{1b}]",
            "\u{1b}[2J\\",
            "\u{1b}[2Jb",
            "\u{7}",
            "\u{8}",
            "\u{9b}",
            "\u{202e}",
            "\u{2066}",
            "\u{7f}",
            "\nlmswarm: fake",
        ] {
            assert!(!text.contains(wild), "{wild:?} in {text:?}");
        }
    }
}

#[cfg(unix)]
mod state {
    use std::fs;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::json;

    use super::tame;
    use crate::support::{LLAMA, Machine, Run, run};

    fn folder(path: &Path, mode: u32) {
        fs::DirBuilder::new().mode(0o700).create(path).expect("a folder");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    }

    fn ensure(machine: &Machine, state: &Path) -> Run {
        tame(machine.ensure(&[LLAMA, "--state-dir", state.to_str().expect("UTF-8")]))
    }

    /// Something of the user's that must stay as it is.
    struct Victim {
        path: PathBuf,
        before: (u32, i64, i64, Vec<u8>),
    }

    impl Victim {
        fn new(machine: &Machine) -> Self {
            let path = machine.path("victim");
            fs::write(&path, "{\"precious\": true}").expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
            let before = Self::look(&path);
            Self { path, before }
        }

        fn look(path: &Path) -> (u32, i64, i64, Vec<u8>) {
            let found = fs::metadata(path).expect("it is there");
            (found.mode(), found.mtime(), found.mtime_nsec(), fs::read(path).expect("it can be read"))
        }

        #[track_caller]
        fn is_untouched(&self) {
            assert_eq!(Self::look(&self.path), self.before);
        }
    }

    /// Puts something in the place of a file that lmswarm would make.
    fn plant(kind: &str, place: &Path, victim: &Victim) {
        match kind {
            "symlink" => symlink(&victim.path, place).expect("a symlink"),
            "dangling" => symlink(victim.path.with_file_name("dangling"), place).expect("a symlink"),
            "hard link" => fs::hard_link(&victim.path, place).expect("a hard link"),
            "folder" => folder(place, 0o700),
            _ => assert!(Command::new("mkfifo").arg(place).status().expect("mkfifo").success()),
        }
    }

    #[test]
    fn a_folder_that_others_could_write_to_is_refused_by_whoever_needs_it() {
        let machine = Machine::new();
        let state = machine.path("state");
        folder(&state, 0o700);
        for mode in [0o777, 0o770, 0o707, 0o1777] {
            fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
            let run = ensure(&machine, &state).expect(78);
            let report =
                run.says(&format!("is writable by others (mode {:o})", mode & 0o777)).says("chmod go-w").json();
            assert_eq!(report["proceed"], false);
        }
        let args = ["run", "--state-dir", state.to_str().unwrap(), LLAMA, "--", "/bin/sh", "-c", "echo ran"];
        assert_eq!(machine.run(&args).expect(78).stdout, "");
        let link = machine.path("link");
        symlink(machine.path("bin"), &link).unwrap();
        ensure(&machine, &link).expect(78).says("is a symlink").json();
        symlink(machine.path("nowhere"), machine.path("dangling")).unwrap();
        ensure(&machine, &machine.path("dangling")).expect(78).says("is a symlink").json();
        assert!(!machine.path("nowhere").exists());
        assert_eq!((machine.loads(LLAMA), fs::read_dir(&state).unwrap().count()), (0, 0));
        // A warm call needs none.
        machine.preload(LLAMA);
        ensure(&machine, &state).expect(0).json();
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("passed over: only root can give a folder away");
        }
        let machine = Machine::new();
        let state = machine.path("state");
        folder(&state, 0o755);
        chown(&state, Some(65534), Some(65534)).unwrap();
        ensure(&machine, &state).expect(78).says("belongs to user 65534, not to 0").json();
        assert_eq!(machine.loads(LLAMA), 0);
    }

    #[test]
    fn folders_are_made_for_this_user_alone_and_a_link_above_them_is_followed() {
        let machine = Machine::new();
        folder(&machine.path("elsewhere"), 0o755);
        symlink(machine.path("elsewhere"), machine.path("link")).unwrap();
        let mut command = Command::new("/bin/sh");
        let script = "umask 0; exec \"$0\" ensure \"$1\" --state-dir link/a/b/state --log-file log";
        command.args(["-c", script, env!("CARGO_BIN_EXE_lmswarm"), LLAMA]);
        run(command.env_clear().envs(machine.environment()).current_dir(machine.home())).expect(0);
        for place in ["a", "a/b", "a/b/state"] {
            let found = fs::metadata(machine.path("elsewhere").join(place)).unwrap();
            assert_eq!(found.mode() & 0o777, 0o700, "{place}");
        }
        let files = fs::read_dir(machine.path("elsewhere/a/b/state")).unwrap().map(|it| it.unwrap().path());
        let files: Vec<PathBuf> = files.chain([machine.path("log")]).collect();
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "{file:?}");
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_folder_is_a_warning() {
        let machine = Machine::new();
        let victim = Victim::new(&machine);
        ensure(&machine, &victim.path).expect(0).says("going on without lock and memory").json();
        victim.is_untouched();
        assert_eq!(machine.loads(LLAMA), 1);
    }

    #[test]
    fn a_lock_file_that_is_no_file_is_refused() {
        let machine = Machine::new();
        for name in [format!("http-localhost-{}.lock", machine.rest_port), "server-start.lock".to_owned()] {
            for kind in ["symlink", "dangling", "pipe", "folder"] {
                let victim = Victim::new(&machine);
                let state = machine.path(&format!("{name} {kind}"));
                folder(&state, 0o700);
                plant(kind, &state.join(&name), &victim);
                let why = if matches!(kind, "symlink" | "dangling") { "is a symlink" } else { "is no regular file" };
                ensure(&machine, &state)
                    .expect(78)
                    .says(&format!("the lock file {}", state.display()))
                    .says(why)
                    .json();
                victim.is_untouched();
                assert!(!machine.path("dangling").exists());
            }
        }
        assert_eq!(machine.loads(LLAMA), 0);
    }

    #[test]
    fn a_state_file_that_is_no_file_is_neither_read_nor_followed() {
        for kind in ["symlink", "dangling", "pipe", "folder", "hard link"] {
            for name in ["lock", "json", "verdicts.json"] {
                if name == "lock" && kind != "hard link" {
                    continue;
                }
                // Without the token `lms ps` must tell, whose verdicts are kept.
                let machine = Machine::with(json!({ "token": "x" }));
                let victim = Victim::new(&machine);
                let state = machine.path("state");
                folder(&state, 0o700);
                plant(kind, &state.join(format!("http-localhost-{}.{name}", machine.rest_port)), &victim);
                for _ in 0..2 {
                    ensure(&machine, &state).expect(0);
                }
                victim.is_untouched();
                assert!(!machine.path("dangling").exists(), "{kind} {name}");
                assert_eq!(machine.loads(LLAMA), 1);
            }
        }
    }

    #[test]
    fn a_temporary_file_that_is_there_already_is_not_followed() {
        for kind in ["ln -s", "ln", "mkdir", "mkfifo"] {
            let machine = Machine::new();
            let victim = Victim::new(&machine);
            folder(&machine.path("state"), 0o700);
            let name = format!("state/http-localhost-{}", machine.rest_port);
            let plant = if kind.starts_with("ln") { format!("{kind} \"$PWD/victim\"") } else { kind.to_owned() };
            // The process id stays when the shell becomes lmswarm.
            let script =
                format!("PATH=/bin:/usr/bin {plant} {name}.$$.tmp && exec \"$0\" ensure \"$1\" --state-dir state");
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script, env!("CARGO_BIN_EXE_lmswarm"), LLAMA]);
            let run = run(command.env_clear().envs(machine.environment()).current_dir(machine.home())).expect(0);
            victim.is_untouched();
            let facts = fs::read_to_string(machine.path(&format!("{name}.json"))).unwrap_or_default();
            // Only a folder cannot be taken away.
            assert_eq!(facts.contains(LLAMA), kind != "mkdir", "{kind}");
            assert_eq!(run.stderr.contains("will not be remembered"), kind == "mkdir", "{}", run.stderr);
        }
    }

    #[test]
    fn a_log_file_is_not_followed_and_does_not_hang() {
        for kind in ["symlink", "dangling", "pipe", "folder"] {
            let machine = Machine::new();
            let victim = Victim::new(&machine);
            let log = machine.path("log");
            plant(kind, &log, &victim);
            let run = tame(machine.ensure(&[LLAMA, "--log-file", log.to_str().unwrap()])).expect(0);
            assert_eq!(run.stderr.matches("cannot write the log file").count(), 1, "{kind} {}", run.stderr);
            victim.is_untouched();
            assert!(!machine.path("dangling").exists());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_a_warning() {
        let machine = Machine::new();
        folder(&machine.path("state"), 0o700);
        // A file system of its own, that is gone with the last of these processes. What a
        // single page holds is the file that fills it.
        let script = "mount -t tmpfs -o size=4k,mode=700 tmpfs state || exit 99
            head -c 4096 /dev/zero >state/fill && ! echo x >state/more || exit 98
            PATH=\"$2\" \"$0\" ensure --json \"$1\" --state-dir state; code=$?
            ls state >listing; exit $code";
        let mut command = Command::new("/bin/sh");
        let unshare = format!("exec unshare -rm /bin/sh -c '{script}' \"$@\"");
        command.args([
            "-c",
            &unshare,
            "sh",
            env!("CARGO_BIN_EXE_lmswarm"),
            LLAMA,
            machine.path("bin").to_str().unwrap(),
        ]);
        command.env_clear().envs(machine.environment()).env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin");
        let run = run(command.current_dir(machine.home()));
        if run.code != 0 && run.code != 78 && machine.record().iter().all(|it| it["event"] != "request") {
            return eprintln!("passed over: nothing can be mounted here: {}", run.stderr);
        }
        let run = run.expect(0).says("the state directory cannot be written").says("will not be remembered");
        assert_eq!(run.model()["action"], "loaded");
        let listing = fs::read_to_string(machine.path("listing")).unwrap();
        assert!(listing.contains("fill") && !listing.contains(".tmp") && !listing.contains(".json"), "{listing}");
    }
}
