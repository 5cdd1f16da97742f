//! Every kind of fault that the simulator knows, and one of them by chance.

use fastrand::Rng;
use serde_json::{Value, json};

use super::draw::{one_in, pick};

/// Every kind of fault, with whom it may strike.
pub const FAULTS: [(&str, &[&str]); 27] = [
    ("bom", &["rest", V1, V0, "lms", "lms ps", "lms ls"]),
    ("crash", &["load"]),
    ("empty", &["rest", V1, V0, GREETING, "lms", "lms load", "lms ps", "lms ls", "lms unload", "lms server start"]),
    ("fail", &["lms", "lms load", "lms ps", "lms ls", "lms unload", ESTIMATE, "lms server start", "lms daemon up"]),
    ("flood", &["lms", "lms load", "lms ps", "lms unload", "lms server start"]),
    ("garbage", &["rest", V1, V0, GREETING, "lms", "lms ps", "lms ls", ESTIMATE]),
    ("ghost", &["load", "lms unload", "lms server start"]),
    ("grandchild", &["lms", "lms load", "lms ps", "lms server start"]),
    ("hang", &["rest", V1, V0, GREETING, LOAD, "load", "lms load", "lms server start", "lms ps", "lms unload"]),
    ("html", &["rest", V1, V0, GREETING, "lms ps", "lms ls"]),
    ("huge", &["rest", V1, V0]),
    ("ignore-sigint", &["lms load"]),
    ("less-context", &["load"]),
    ("notice", &["lms", "lms ps", "lms ls"]),
    ("null", &["rest", V1, V0, LOAD]),
    ("other-id", &["load"]),
    ("port-taken", &["lms server start"]),
    ("race", &["lms ps", "lms ls", "lms unload", "lms load"]),
    ("refuse", &["load"]),
    ("reset", &["rest", V1, V0, LOAD]),
    ("slow", &["rest", V1, V0, "load", "lms", "lms load", "lms ps", "lms unload", "lms server start"]),
    ("status", &["rest", V1, V0, GREETING, LOAD]),
    ("truncated", &["rest", V1, V0, "lms ps", "lms ls"]),
    ("unexpected", &["rest", V1, V0, LOAD]),
    ("utf16", &["rest", V1, V0, "lms ps", "lms ls"]),
    ("vanish", &["load"]),
    ("wrapper", &["rest", V1, V0, "lms ps", "lms ls"]),
];
pub const V1: &str = "GET /api/v1/models";
pub const V0: &str = "GET /api/v0/models";
const GREETING: &str = "GET /lmstudio-greeting";
pub const LOAD: &str = "POST /api/v1/models/load";
const ESTIMATE: &str = "lms load --estimate-only";

pub fn fault(rng: &mut Rng, all_timed: bool) -> Value {
    let (kind, on) = loop {
        let (kind, targets) = pick(rng, &FAULTS);
        let on = pick(rng, targets);
        let hangs_long = kind == "hang" && matches!(on, "lms ps" | "lms unload");
        if !hangs_long || all_timed {
            break (kind, on);
        }
    };
    let mut fault = json!({ "on": on, "kind": kind });
    if !one_in(rng, 4) {
        fault["times"] = rng.u64(1..4).into();
    }
    let ms = rng.u64(100..700);
    match kind {
        "slow" | "grandchild" => fault["ms"] = ms.into(),
        "flood" | "huge" => fault["bytes"] = (1 << 20).into(),
        "status" => fault["status"] = pick(rng, &[401, 404, 500, 503]).into(),
        "less-context" => fault["contextLength"] = 2048.into(),
        "other-id" => fault["identifier"] = "odd".into(),
        _ => {}
    }
    fault
}
