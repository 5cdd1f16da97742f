//! What a warm call costs, and that it leaves nothing behind.

use serde_json::json;

use crate::support::{GEMMA, LLAMA, Machine};

#[test]
fn a_warm_model_takes_two_requests_and_nothing_else() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let warm = machine.run(&["ensure", "--json", LLAMA]).expect(0);
    assert_eq!(warm.model()["action"], "none");
    assert_eq!(warm.stderr, "", "a warm call says nothing");
    let mut requests = machine.requests();
    requests.sort();
    assert_eq!(requests, ["GET /api/v0/models", "GET /api/v1/models"]);
    assert_eq!(machine.lms_calls().len(), 0);
    assert!(!machine.path(".cache").exists(), "a warm call writes nothing");
}

#[cfg(unix)]
#[test]
fn a_warm_call_needs_no_state_directory_even_where_no_list_tells() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::with(json!({ "v0": false }));
    machine.preload(LLAMA);
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
    assert!(!machine.path(".cache").exists(), "a warm call writes nothing");
    let state = machine.path(".cache/lmswarm");
    std::fs::create_dir_all(&state).unwrap();
    machine.ensure(&[LLAMA]).expect(0).json();
    assert_eq!(state.read_dir().unwrap().count(), 0, "a warm call writes nothing");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(machine.ensure(&[LLAMA]).expect(0).model()["action"], "none");
    machine.ensure(&[GEMMA]).expect(78).says("is writable by others");
}
