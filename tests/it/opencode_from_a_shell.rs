//! The real opencode without the plugin: behind the shell hook and behind `run`.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::desk::{CAP, Desk, place};
use crate::support::{GEMMA, LLAMA, Run, Running};

/// The same opencode without the plugin, started from a shell.
fn shell(desk: &Desk, line: &str) -> Run {
    let _ = std::fs::remove_file(desk.machine.path(".config/opencode/plugin/lmswarm.js"));
    let place = desk.machine.path("bin/opencode");
    if !place.exists() {
        std::os::unix::fs::symlink(&desk.opencode, place).expect("a link to opencode");
    }
    let mut command = Command::new("/bin/bash");
    let like = desk.command(&[]);
    command.args(["--norc", "-c", line]).current_dir(desk.machine.path("work")).env_clear().stdin(Stdio::null());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Running::start(&mut command).end_within(CAP)
}

/// The function of the shell hook, then one turn.
const HOOKED: &str = r#"eval "$(lmswarm hook bash)"; opencode run --title t hello"#;

#[test]
fn behind_the_shell_hook_opencode_starts_when_its_models_are_loaded() {
    let Some(desk) = Desk::new(LLAMA, GEMMA) else { return };
    let run = shell(&desk, HOOKED).expect(0);
    assert_eq!(run.stdout.trim(), "ok");
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA), desk.machine.loads(GEMMA)), (1, 1, 1));
    let record = desk.machine.record();
    assert!(place(&record, "load-ready", "key", GEMMA) < place(&record, "chat", "model", LLAMA));
    let calls = desk.machine.lms_calls().len();
    let _ = shell(&desk, HOOKED).expect(0);
    assert_eq!(desk.machine.lms_calls().len(), calls, "warm, nothing is done");
}

#[test]
fn behind_the_shell_hook_a_stray_copy_is_replaced() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.control("load", json!({ "key": LLAMA, "identifier": format!("{LLAMA}:2") }));
    let _ = shell(&desk, HOOKED).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.resident()), (1, vec![LLAMA.to_owned()]));
}

#[test]
fn behind_the_shell_hook_a_refused_load_keeps_opencode_from_starting() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    desk.machine.faults(json!([{ "on": "load", "kind": "refuse" }]));
    let _ = shell(&desk, HOOKED).expect(5).says("insufficient system resources");
    assert_eq!(desk.machine.events("chat").len(), 0);
}

#[test]
fn behind_the_shell_hook_a_missing_lmswarm_keeps_opencode_from_starting() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let line = r#"eval "$(lmswarm hook bash)"; rm ../bin/lmswarm; hash -r; opencode run --title t hello"#;
    let _ = shell(&desk, line).expect(127).says("lmswarm");
    assert_eq!(desk.machine.events("chat").len(), 0);
}

#[test]
fn behind_the_shell_hook_parallel_cold_starts_make_one_load() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    // Each has its own history: two that create the same one at once fail in opencode itself.
    let line = r#"eval "$(lmswarm hook bash)"
        for i in 1 2 3; do XDG_DATA_HOME=$HOME/data$i opencode run --title t hello & all+=($!); done
        for one in "${all[@]}"; do wait "$one" || exit; done"#;
    let _ = shell(&desk, line).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (3, 1));
}

#[test]
fn keep_warm_heals_an_eviction_without_the_plugin() {
    let Some(desk) = Desk::new(LLAMA, LLAMA) else { return };
    let line = format!(
        "lmswarm run --keep-warm 1s {LLAMA} -- /bin/bash -c '
            opencode run --title t hello && lms unload {LLAMA} &&
            until [ \"$(grep -c load-ready ../.lmstudio/.simulator/record.jsonl)\" -ge 2 ]; do sleep 0.1; done &&
            opencode run -c again'"
    );
    let _ = shell(&desk, &line).expect(0);
    assert_eq!((desk.chats(LLAMA), desk.machine.loads(LLAMA)), (2, 2));
}
