//! Models of one call that llama-swap does not keep together are a conflict, said and not fought.

use serde_json::{Value, json};

use crate::llama_swap::LlamaSwap;

fn models(run: &crate::support::Run) -> (Value, Value) {
    let report = run.json();
    (report["models"][0].clone(), report["models"][1].clone())
}

#[test]
fn two_models_of_one_swap_group_are_a_conflict_and_the_first_one_stays() {
    for version in ["v250", "v217"] {
        let swap = LlamaSwap::with(json!({ "models": { "coder": {}, "quick": {} } }), json!({ "version": version }));
        let machine = swap.machine();
        let run = machine.ensure(&["coder", "quick"]).expect(6);
        let (coder, quick) = models(&run);
        assert_eq!((&coder["addressable"], &quick["category"]), (&json!(true), &json!("conflict")));
        assert_eq!(run.json()["proceed"], true, "a client's request is answered after a swap");
        assert!(quick["hint"].as_str().expect("a hint").contains("`swap: false`"), "{quick}");
        assert_eq!(swap.running(), ["coder"], "{version}");
        let loads = swap.load_requests().len();
        assert!(swap.loads("coder") <= 2 && swap.loads("quick") <= 2, "{version}: {loads}");
        // It is known now, and nothing is swapped for it.
        machine.ensure(&["coder", "quick"]).expect(6);
        assert_eq!(swap.load_requests().len(), loads, "{version}");
        // Alone it is loaded as asked.
        machine.ensure(&["quick"]).expect(0);
        assert_eq!(swap.running(), ["quick"]);
    }
}

#[test]
fn models_that_may_run_together_are_both_loaded_once() {
    for version in ["v250", "v217"] {
        let together = [
            json!({ "groups": { "pair": { "swap": false, "members": ["coder", "quick"] } } }),
            json!({ "matrix": { "sets": [["coder", "quick"]] } }),
        ];
        for mut config in together {
            config["models"] = json!({ "coder": {}, "quick": {} });
            let swap = LlamaSwap::with(config, json!({ "version": version }));
            let machine = swap.machine();
            let run = machine.ensure(&["coder", "quick"]).expect(0);
            assert_eq!(models(&run).0["action"], "loaded");
            assert_eq!((swap.loads("coder"), swap.loads("quick")), (1, 1));
            let before = swap.load_requests().len();
            machine.ensure(&["coder", "quick"]).expect(0);
            assert_eq!(swap.load_requests().len(), before, "what is warm is not touched");
        }
    }
}

#[test]
fn an_exclusive_group_shows_itself_after_the_load_and_not_later() {
    let groups = json!({ "side": { "swap": true, "exclusive": false, "members": ["side"] } });
    let swap = LlamaSwap::new(json!({ "models": { "coder": {}, "side": {} }, "groups": groups }));
    // `side` puts out nothing, but any request for `coder` puts out `side`.
    let run = swap.machine().ensure(&["side", "coder"]).expect(6);
    let (side, coder) = models(&run);
    assert_eq!((&side["addressable"], &coder["category"]), (&json!(true), &json!("conflict")), "{run:?}");
}
