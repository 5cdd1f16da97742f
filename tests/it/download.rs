//! Downloads, by `lms get` and over REST.

use serde_json::json;

use crate::support::Machine;

#[test]
fn a_model_that_is_missing_is_downloaded_when_asked_for() {
    let catalogue = json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 50 });
    let machine = Machine::with(catalogue);
    machine.ensure(&["acme/new-model"]).expect(4).says("--download");
    let model =
        machine.ensure(&["acme/new-model", "--download"]).expect(0).says("downloading `acme/new-model`").model();
    assert_eq!(model["action"], "loaded");
    assert_eq!(machine.lms_calls()[0], "get acme/new-model -y");
    let run = machine.ensure(&["acme/missing", "--download"]).expect(4).says("does not exist");
    assert_eq!(run.model()["category"], "download-failed");
}

#[test]
fn a_name_that_lms_would_search_for_is_not_downloaded() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/gemma" }] }));
    machine.ensure(&["gemma", "--download"]).expect(4).says("publisher/model");
    assert_eq!(machine.events("download").len(), 0);
}

#[test]
fn a_model_is_downloaded_over_rest_where_there_is_no_lms() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 50 }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    machine.ensure(&["acme/new-model", "--download"]).expect(0).says("`acme/new-model` is downloaded");
}

#[test]
fn a_download_over_rest_ends_when_the_server_does() {
    let machine = Machine::with(json!({ "catalogue": [{ "modelKey": "acme/new-model" }], "downloadMs": 60_000 }));
    std::fs::remove_file(machine.path("bin/lms")).unwrap();
    let caller = machine.start(&["acme/new-model", "--download"]);
    machine.wait_for_event("download");
    machine.crash();
    assert_eq!(caller.end().expect(4).says("the server stopped answering").model()["category"], "download-failed");
}
