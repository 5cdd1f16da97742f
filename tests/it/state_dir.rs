//! The state directory: whom it must belong to, what may stand in it, and calls without one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::escaping::tame;
use crate::needs::have;
use crate::planted::{Victim, folder, plant};
use crate::support::{LLAMA, Machine, Run, run};

fn ensure(machine: &Machine, state: &Path) -> Run {
    tame(machine.ensure(&[LLAMA, "--state-dir", state.to_str().expect("UTF-8")]))
}

#[test]
fn a_folder_that_others_could_write_to_is_refused_by_whoever_needs_it() {
    let machine = Machine::new();
    let state = machine.path("state");
    folder(&state, 0o700);
    for mode in [0o777, 0o770, 0o707, 0o1777] {
        fs::set_permissions(&state, fs::Permissions::from_mode(mode)).unwrap();
        let run = ensure(&machine, &state).expect(78);
        let report = run.says(&format!("is writable by others (mode {:o})", mode & 0o777)).says("chmod go-w").json();
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
    // Nobody else can give a folder away.
    let Some(()) = have("root", rustix::process::geteuid().is_root().then_some(())) else { return };
    let machine = Machine::new();
    let state = machine.path("state");
    folder(&state, 0o755);
    chown(&state, Some(65534), Some(65534)).unwrap();
    let run = ensure(&machine, &state).expect(78).says("belongs to user 65534, and this call runs as root");
    run.says("run it as that user, without `sudo`, or give root a folder of its own with --state-dir").json();
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
            ensure(&machine, &state).expect(78).says(&format!("the lock file {}", state.display())).says(why).json();
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
        let script = format!("PATH=/bin:/usr/bin {plant} {name}.$$.tmp && exec \"$0\" ensure \"$1\" --state-dir state");
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
    command.args(["-c", &unshare, "sh", env!("CARGO_BIN_EXE_lmswarm"), LLAMA, machine.path("bin").to_str().unwrap()]);
    command.env_clear().envs(machine.environment()).env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin");
    let run = run(command.current_dir(machine.home()));
    let has_run = run.code == 0 || run.code == 78 || machine.record().iter().any(|it| it["event"] == "request");
    let Some(()) = have("mount", has_run.then_some(())) else { return };
    let run = run.expect(0).says("the state directory cannot be written").says("will not be remembered");
    assert_eq!(run.model()["action"], "loaded");
    let listing = fs::read_to_string(machine.path("listing")).unwrap();
    assert!(listing.contains("fill") && !listing.contains(".tmp") && !listing.contains(".json"), "{listing}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_state_directory_that_cannot_be_made_is_a_warning() {
    let machine = Machine::new();
    // Nobody can make a folder there, not even root, just as in a home that is read-only.
    let mut command = machine.command(&["ensure", "--json", LLAMA]);
    run(command.env("XDG_CACHE_HOME", "/proc/nowhere")).expect(0).says("going on without lock and memory").json();
    let model = machine.ensure(&["google/gemma-3-12b", "--state-dir", "/proc/lmswarm"]).expect(0);
    model.says("the state directory /proc/lmswarm cannot be used").json();
    assert_eq!(machine.loads(LLAMA), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_state_file_that_cannot_be_written_is_a_warning() {
    let machine = Machine::new();
    // A folder stands where the file belongs, which stops root, too.
    let state = machine.path("state");
    std::fs::create_dir(&state).unwrap();
    let slug = format!("http-localhost-{}", machine.rest_port);
    std::fs::create_dir(state.join(format!("{slug}.json"))).unwrap();
    let run = machine.ensure(&[LLAMA, "--state-dir", state.to_str().unwrap()]).expect(0);
    run.says("the state directory cannot be written").json();
}
