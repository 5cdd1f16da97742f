//! Our reading of opencode's configuration beside that of the real program, layout by layout.
//! It needs opencode, whose path `LMSWARM_TEST_OPENCODE` holds; `.ci/run` installs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that one start of opencode may take: it is a large program, and there are many.
const CAP: Duration = Duration::from_secs(240);

/// One user's files, and where opencode is started among them. `HOME` in a text or a variable
/// stands for the scratch folder.
#[derive(Default)]
struct Layout {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    variables: &'static [(&'static str, &'static str)],
    /// Where `git init` is run.
    git: &'static [&'static str],
    /// Linked work trees: of which repository, and where.
    trees: &'static [(&'static str, &'static str)],
    working: &'static str,
}

const GLOBAL: &str = ".config/opencode/opencode.json";

const A: &str = r#"{"model":"lmstudio/a"}"#;

const B: &str = r#"{"model":"lmstudio/b"}"#;

const C: &str = r#"{"model":"lmstudio/c"}"#;

const S: &str = r#"{"small_model":"lmstudio/s","provider":{"lmstudio":{"models":{"s":{}}}}}"#;

macro_rules! layout {
    ($name:literal, [$(($path:expr, $text:expr)),* $(,)?] $(, $field:ident: $value:expr)* $(,)?) => {
        Layout { name: $name, files: &[$(($path, $text)),*], $($field: $value,)* ..Layout::NONE }
    };
}

impl Layout {
    const NONE: Self = Self { name: "", files: &[], variables: &[], git: &[], trees: &[], working: "work/in" };
}

const LAYOUTS: &[Layout] = &[
    layout!("nothing at all", []),
    layout!("global json", [(GLOBAL, A)]),
    layout!("global config.json under json", [(".config/opencode/config.json", A), (GLOBAL, S)]),
    layout!("global jsonc over json", [(GLOBAL, A), (".config/opencode/opencode.jsonc", B)]),
    layout!("xdg set", [(GLOBAL, A), ("xdg/opencode/opencode.json", B)], variables: &[("XDG_CONFIG_HOME", "HOME/xdg")]),
    layout!("xdg empty", [(GLOBAL, A)], variables: &[("XDG_CONFIG_HOME", "")]),
    layout!("project over global", [(GLOBAL, A), (GLOBAL_C, S), ("work/in/opencode.json", B)]),
    layout!("no git: the search goes up", [("opencode.json", A), ("work/opencode.json", S)]),
    layout!("git: the search ends at the top", [("opencode.json", A), ("work/opencode.json", S)], git: &["work"]),
    layout!("git in the working directory", [("work/opencode.json", A), ("work/in/opencode.json", S)], git: &["work/in"]),
    layout!(
        "a folder .git that is no repository",
        [("opencode.json", A), ("work/.git/x", ""), ("work/opencode.json", S)]
    ),
    layout!(
        "linked work tree inside the checkout",
        [("work/opencode.json", A), ("work/in/tree/opencode.json", S)],
        git: &["work"], trees: &[("work", "work/in/tree")], working: "work/in/tree",
    ),
    layout!(
        "linked work tree outside",
        [("work/opencode.json", A), ("opencode.json", B), ("other/sub/opencode.json", S)],
        git: &["work"], trees: &[("work", "other")], working: "other/sub",
    ),
    layout!("no git on PATH", [("opencode.json", A), ("work/opencode.json", S)], git: &["work"], variables: &[("PATH", "HOME/empty")]),
    layout!(
        "nearer wins, jsonc over json",
        [("work/opencode.jsonc", A), ("work/in/opencode.json", B), ("work/in/opencode.jsonc", C)]
    ),
    layout!("outer jsonc under inner json", [("work/opencode.jsonc", A), ("work/in/opencode.json", B)]),
    layout!("outer .opencode over inner", [("work/.opencode/opencode.json", A), ("work/in/.opencode/opencode.json", B)], git: &["work"]),
    layout!(".opencode over the project's files", [("work/.opencode/opencode.jsonc", A), ("work/in/opencode.json", B)]),
    layout!("~/.opencode over the project", [(".opencode/opencode.json", A), ("work/.opencode/opencode.json", B)], git: &["work"]),
    layout!("~/.opencode without git", [(".opencode/opencode.json", A), ("work/.opencode/opencode.json", B)]),
    layout!(
        "OPENCODE_CONFIG between global and project",
        [(GLOBAL, A), ("named.json", r#"{"model":"lmstudio/b","small_model":"lmstudio/n"}"#), ("work/opencode.json", C)],
        variables: &[("OPENCODE_CONFIG", "HOME/named.json")],
    ),
    layout!("OPENCODE_CONFIG that is not there", [(GLOBAL, A)], variables: &[("OPENCODE_CONFIG", "HOME/nowhere.json")]),
    layout!(
        "OPENCODE_CONFIG_DIR over everything but content",
        [(GLOBAL, A), (".opencode/opencode.json", B), ("dir/opencode.json", C), ("dir/opencode.jsonc", S)],
        variables: &[("OPENCODE_CONFIG_DIR", "HOME/dir")],
    ),
    layout!(
        "OPENCODE_CONFIG_CONTENT over the rest",
        [(GLOBAL, A), ("dir/opencode.json", C), ("work/in/small.txt", " lmstudio/t \n")],
        variables: &[
            ("OPENCODE_CONFIG_DIR", "HOME/dir"),
            ("OPENCODE_CONFIG_CONTENT", r#"{"model":"lmstudio/x","small_model":"{file:small.txt}"} // c"#),
        ],
    ),
    layout!(
        "OPENCODE_DISABLE_PROJECT_CONFIG",
        [(GLOBAL, A), ("work/in/opencode.json", B), ("work/.opencode/opencode.json", C), ("work/.opencode/agent/x.md", AGENT)],
        variables: &[("OPENCODE_DISABLE_PROJECT_CONFIG", "1")],
    ),
    layout!("comments, trailing commas, a BOM", [(GLOBAL, "\u{feff}// c\n{ /* d */ \"model\": \"lmstudio/a\",\n}\n")]),
    layout!("variables in text, unquoted and in keys", [(GLOBAL, r#"{"{env:KEY}": {env:VALUE}, "small_model": "x{env:NONE}/y"}"#)], variables: &[("KEY", "model"), ("VALUE", "\"lmstudio/v\"")]),
    layout!(
        "a file in text",
        [
            (GLOBAL, r#"{"model":"{file:name}","small_model":"{file:~/small}"}"#),
            (".config/opencode/name", "lmstudio/f\n"),
            ("small", "lmstudio/g\"h")
        ]
    ),
    layout!("a file named by a variable", [(GLOBAL, r#"{"model":"{file:{env:NAME}}"}"#), (".config/opencode/name", "lmstudio/f")], variables: &[("NAME", "name")]),
    layout!("a missing file in a comment", [(GLOBAL, "{\n // {file:nowhere}\n \"model\": \"lmstudio/a\" }")]),
    layout!("a missing file", [(GLOBAL, r#"{"model":"{file:nowhere}"}"#)]),
    layout!("model with a variant", [(GLOBAL, r#"{"model":"lmstudio/a/b#high","small_model":"lmstudio/s#low"}"#)]),
    layout!("model as an object", [(GLOBAL, r#"{"model":{"providerID":"lmstudio","model":"a/b","variant":"x"}}"#)]),
    layout!("small_model as an object", [(GLOBAL, r#"{"small_model":{"providerID":"lmstudio","model":"a"}}"#)]),
    layout!("an object that is no model", [(GLOBAL, r#"{"model":{"providerID":"lm/studio","model":"a"}}"#)]),
    layout!("null", [(GLOBAL, r#"{"model":null}"#)]),
    layout!("a broken global file", [(GLOBAL, "{"), ("work/opencode.json", A)]),
    layout!("a broken project file", [(GLOBAL, A), ("work/opencode.json", r#"{"model": }"#)]),
    layout!("empty files", [(GLOBAL, ""), ("work/opencode.json", "")]),
    layout!("a file of blanks", [(GLOBAL, " \n")]),
    layout!("a list", [(GLOBAL, "[]")]),
    layout!("a key that stands there twice", [(GLOBAL, r#"{"model":"lmstudio/a","model":"lmstudio/b"}"#)]),
    layout!("a wrong type deep inside", [(GLOBAL, r#"{"provider":{"lmstudio":{"models":{"a":{"id":5}}}}}"#)]),
    layout!("unknown keys", [(GLOBAL, r#"{"model":"lmstudio/a","whatever":null,"provider":{"lmstudio":{"odd":1}}}"#)]),
    layout!(
        "objects merge, lists replace",
        [
            (
                GLOBAL,
                r#"{"model":"lmstudio/a","disabled_providers":["lmstudio"],"provider":{"lmstudio":{"options":{"baseURL":"http://127.0.0.1:11/v1"},"models":{"a":{"name":"x"}}}}}"#
            ),
            (
                "work/opencode.json",
                r#"{"disabled_providers":["openai"],"provider":{"lmstudio":{"options":{"apiKey":"k"},"models":{"a":{"id":"wire/a"},"b":{}}}}}"#
            ),
        ],
    ),
    layout!(
        "a provider that is disabled",
        [(GLOBAL, A), ("work/opencode.json", r#"{"enabled_providers":["openai"]}"#)]
    ),
    layout!(
        "addresses: the model's, the provider's",
        [(
            GLOBAL,
            r#"{"model":"lmstudio/a","small_model":"lmstudio/s","provider":{"lmstudio":{"api":"http://127.0.0.1:12/v1","options":{"baseURL":""},"models":{"a":{"provider":{"api":"http://127.0.0.1:13/v1"}},"s":{}}}}}"#
        )],
    ),
    layout!(
        "agents in files and in Markdown",
        [
            (GLOBAL, r#"{"model":"lmstudio/a","agent":{"build":{"model":"lmstudio/g"},"x":{"model":"lmstudio/x#y"}}}"#),
            (".config/opencode/agent/x.md", AGENT),
            (".config/opencode/agents/deep/er.md", AGENT),
            ("work/opencode.json", r#"{"agent":{"x":{"model":"lmstudio/never"}}}"#),
            ("work/.opencode/agent/build.md", "---\r\ndescription: 'd: e'\r\nmodel: 'lmstudio/build' # c\r\n---\r\n"),
            ("work/.opencode/opencode.json", r#"{"agent":{"plan":{"model":"lmstudio/p","disable":true}}}"#),
        ],
    ),
    layout!(
        "an agent that names itself",
        [(GLOBAL, A), ("work/.opencode/agent/x.md", "---\nname: other\nmodel: \"lmstudio/o\"\n---\n")]
    ),
    layout!("an agent without a head", [(GLOBAL, A), ("work/.opencode/agent/x.md", "model: lmstudio/x\n")]),
    layout!("an agent whose model is empty", [(GLOBAL, A), ("work/.opencode/agent/x.md", "---\nmodel:\n---\n")]),
    layout!("an agent whose model is a number", [(GLOBAL, A), ("work/.opencode/agent/x.md", "---\nmodel: 5\n---\n")]),
    layout!(
        "a command whose model is a list",
        [(GLOBAL, A), ("work/.opencode/command/x.md", "---\nmodel: [a]\n---\n")]
    ),
    layout!(
        "agents whose heads are broken",
        [
            (GLOBAL, A),
            (".config/opencode/agent/x.md", AGENT),
            ("work/.opencode/agent/x.md", "---\nmodel: lmstudio/never\ntools: [a\n---\n"),
            ("work/.opencode/agent/y.md", "---\r\nmodel: lmstudio/never\r\ntools: [a\r\n---\r\n"),
            ("work/.opencode/agent/z.md", "---\ndescription: Use when: a\nmodel: lmstudio/z\n---\n"),
            ("work/.opencode/agent/bom.md", "\u{feff}---\ndescription: Use when: b\nmodel: lmstudio/b\n---\n"),
            ("work/.opencode/agent/build.md", "---\nmodel: *none\ndescription: [\n---\n"),
        ],
    ),
    layout!(
        "agents with names of other types",
        [
            (GLOBAL, A),
            ("work/.opencode/agent/a.md", "---\nname: 5\nmodel: lmstudio/a\n---\n"),
            ("work/.opencode/agent/b.md", "---\nname: null\nmodel: lmstudio/b\n---\n"),
            ("work/.opencode/agent/c.md", "---\nname: 0x10\nmodel: lmstudio/c\n---\n"),
            ("work/.opencode/agent/d.md", "---\nname: 1.50\nmodel: lmstudio/d\n---\n"),
            ("work/.opencode/agent/e.md", "---\nname: true\nmodel: lmstudio/e\nprompt: 5\n---\n"),
            ("work/.opencode/command/f.md", "---\nname: {a: b}\nmodel: lmstudio/f\nmode: 5\ntemplate: 5\n---\n"),
        ],
    ),
    layout!(
        "an empty id",
        [(GLOBAL, r#"{"model":"lmstudio/a","provider":{"lmstudio":{"models":{"a":{"id":""},"b":{"id":"c"}}}}}"#)],
    ),
    layout!(
        "a mode in Markdown and in a file",
        [
            (
                GLOBAL,
                r#"{"model":"lmstudio/a","mode":{"build":{"model":"lmstudio/m"}},"agent":{"build":{"model":"lmstudio/n"}}}"#
            ),
            ("work/.opencode/mode/x.md", AGENT),
            ("work/.opencode/modes/y.md", "---\nmodel: 5\n---\n")
        ]
    ),
    layout!(
        "agents in the newer spelling",
        [(
            GLOBAL,
            r#"{"agents":{"x":{"model":"lmstudio/x#high"},"y":{"model":{"providerID":"lmstudio","model":"y"}},"z":{"model":5}},"agent":{"x":{"model":"lmstudio/older"}}}"#
        )]
    ),
    layout!(
        "a title agent",
        [(GLOBAL, r#"{"model":"lmstudio/a","small_model":"lmstudio/s","agent":{"title":{"model":"lmstudio/t"}}}"#)]
    ),
    layout!("OPENCODE_CONFIG_DIR with agents", [(GLOBAL, A), ("dir/agent/x.md", AGENT), (".opencode/agent/x.md", "---\nmodel: lmstudio/under\n---\n")], variables: &[("OPENCODE_CONFIG_DIR", "HOME/dir")]),
];

const GLOBAL_C: &str = ".config/opencode/opencode.jsonc";

const AGENT: &str = "---\ndescription: an agent\nmodel: lmstudio/md\n---\nDo it.\n";

/// What opencode does not start with. Were it to refuse another one, there would be nothing to
/// compare.
const REFUSED: [&str; 12] = [
    "a missing file",
    "small_model as an object",
    "an object that is no model",
    "null",
    "a broken global file",
    "a broken project file",
    "a file of blanks",
    "a list",
    "a wrong type deep inside",
    "an agent whose model is empty",
    "an agent whose model is a number",
    "a command whose model is a list",
];

/// The heads of Markdown files, and the model that opencode reads there. They are those of modes:
/// one with a wrong type is passed over, where an agent would stop opencode.
const HEADS: &[(&str, Option<&str>)] = &[
    // Quotes and escapes.
    ("model: lmstudio/a", Some("lmstudio/a")),
    ("model: \"lmstudio/a\"", Some("lmstudio/a")),
    ("model: 'lmstudio/it''s'", Some("lmstudio/it's")),
    ("model: '''lmstudio/a'''", Some("'lmstudio/a'")),
    ("model: \"lmstudio/\\u0061\\x62\\\"\"", Some("lmstudio/ab\"")),
    ("model: \"lmstudio/\\ud83d\\ude00\"", Some("lmstudio/\u{1f600}")),
    ("model: \"lmstudio/\\/a\"", Some("lmstudio//a")),
    ("model: \"lmstudio/\\q\"", None),
    ("model: \"lmstudio/a", None),
    ("model: \"lmstudio/a\" b", None),
    ("model: \"lmstudio/a\"#c", Some("lmstudio/a")),
    ("model: \"lmstudio/\\\n  a\"", Some("lmstudio/a")),
    ("model: \"lmstudio/a\n  b\"", Some("lmstudio/a b")),
    ("model: 'lmstudio/a\nb'", Some("lmstudio/a b")),
    ("\"model\": lmstudio/a", Some("lmstudio/a")),
    ("\"mo\\x64el\": lmstudio/a", Some("lmstudio/a")),
    // Plain texts.
    ("model: lmstudio/a # c", Some("lmstudio/a")),
    ("model: lmstudio/a#c", Some("lmstudio/a#c")),
    ("model: lmstudio/a\n  b", Some("lmstudio/a b")),
    ("model: lmstudio/a\n b", Some("lmstudio/a b")),
    ("model:\n  lmstudio/a", Some("lmstudio/a")),
    ("model:\nlmstudio/a", None),
    ("model:\tlmstudio/a\t", Some("lmstudio/a")),
    ("model : lmstudio/a", Some("lmstudio/a")),
    ("model:lmstudio/a", None),
    ("model: lmstudio/qwen:7b", Some("lmstudio/qwen:7b")),
    ("model: lmstudio/it's", Some("lmstudio/it's")),
    ("model: lmstudio/[a]{b},c", Some("lmstudio/[a]{b},c")),
    ("model: @lmstudio/a", None),
    ("model: %lmstudio/a", None),
    ("model: lmstudio/ünï", Some("lmstudio/ünï")),
    ("# c\n\nmodel: lmstudio/a\n   \nmode: all # c", Some("lmstudio/a")),
    // Blocks.
    ("model: >-\n  lmstudio/a\n  b", Some("lmstudio/a b")),
    ("model: >-\n  lmstudio/a\n  # b", Some("lmstudio/a # b")),
    ("model: |-\n  lmstudio/a", Some("lmstudio/a")),
    ("model: |2-\n  lmstudio/a", Some("lmstudio/a")),
    ("model: |-# c\n  lmstudio/a", None),
    ("model: |-\nlmstudio/a", None),
    ("description: |\n  model: lmstudio/no\nmodel: lmstudio/a", Some("lmstudio/a")),
    // Flow, indentation, explicit keys.
    ("{model: lmstudio/a, mode: all}", Some("lmstudio/a")),
    ("{\"model\":\"lmstudio/a\"}", Some("lmstudio/a")),
    ("{\nmodel: lmstudio/a\n}", Some("lmstudio/a")),
    ("{model: lmstudio/a", None),
    ("  model: lmstudio/a\n  mode: all", Some("lmstudio/a")),
    ("model: lmstudio/a\n mode: all", None),
    ("  model: lmstudio/a\nmode: all", None),
    ("? model\n: lmstudio/a", Some("lmstudio/a")),
    ("- model: lmstudio/a", None),
    ("lmstudio/a", None),
    ("options:\n  model: no\n  list:\n  - a: b\nmodel: lmstudio/a", Some("lmstudio/a")),
    ("options: {a: [b, {c: d}]}\nmodel: lmstudio/a", Some("lmstudio/a")),
    // Anchors, merged keys, tags.
    ("options: {a: &a lmstudio/a}\nmodel: *a", Some("lmstudio/a")),
    ("model: &a lmstudio/a\ndescription: *a", Some("lmstudio/a")),
    ("model: *none", None),
    ("options: &b {model: lmstudio/a}\n<<: *b", Some("lmstudio/a")),
    ("options: &b {model: lmstudio/a}\n<<: [*b, {model: lmstudio/b}]", Some("lmstudio/a")),
    ("<<: {model: lmstudio/a}\nmodel: lmstudio/b", Some("lmstudio/b")),
    ("<<: lmstudio/a\nmodel: lmstudio/b", None),
    ("model: !!str lmstudio/a", Some("lmstudio/a")),
    ("model: ! lmstudio/a", Some("lmstudio/a")),
    ("model: !own lmstudio/a", None),
    ("description: !!str 2001-01-01\nmodel: lmstudio/a", Some("lmstudio/a")),
    // Types, and what is refused for one.
    ("model: lmstudio/a\ndescription: 2001-01-01", None),
    ("model: lmstudio/a\ndescription: 1:30", None),
    ("model: lmstudio/a\ndescription: 1_000", None),
    ("model: lmstudio/a\ndescription: 08", Some("lmstudio/a")),
    ("model: lmstudio/a\ndescription: 017", None),
    ("model: lmstudio/a\ndescription: 1e3", None),
    ("model: lmstudio/a\ndescription: yes", Some("lmstudio/a")),
    ("model: lmstudio/a\ndescription: True", None),
    ("model: lmstudio/a\ndescription:", None),
    ("model: lmstudio/a\nhidden: \"true\"", None),
    ("model: lmstudio/a\nhidden: off", None),
    ("model: lmstudio/a\ndisable: TRUE", None),
    ("model: lmstudio/a\ndisable: !!bool 'false'", Some("lmstudio/a")),
    ("model: 5", None),
    ("model: [lmstudio/a]", None),
    // What is broken, and what is forgiven.
    ("model: lmstudio/a\nmodel: lmstudio/b", None),
    ("model: lmstudio/a\n\"mode\": all\nmode: all", None),
    ("model: lmstudio/a\nx", None),
    ("model: lmstudio/a\n- x", None),
    ("model: lmstudio/a\n...\n# c", Some("lmstudio/a")),
    ("model: lmstudio/a\n...\nmode: all", None),
    ("description: Use when: a\nmodel: lmstudio/a", Some("lmstudio/a")),
    ("description: Use when: a\n  b: c\nmodel: lmstudio/a", Some("lmstudio/a")),
    ("description: Use when: a\n b\nmodel: lmstudio/a", None),
    ("description: Use: <a>\"b\"\\nc: d</a>\nmodel: lmstudio/a", Some("lmstudio/a")),
    ("description: Use: a\nown-key: b: c\nmodel: lmstudio/a", None),
    ("description: \"Use\": a\nmodel: lmstudio/a", None),
    ("description: [a\nmodel: lmstudio/a", None),
    ("description: * a\nmodel: lmstudio/a", None),
    ("description: - a\nmodel: lmstudio/a", None),
    ("model: lmstudio/a: b", Some("lmstudio/a: b")),
];

/// All heads in one folder: the lines of their files end as those of `line_end` do.
fn write_heads(home: &Path, line_end: &str) {
    for (index, (head, _)) in HEADS.iter().enumerate() {
        let path = home.join(format!("work/.opencode/mode/h{index}.md"));
        fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
        // Each has a body of its own: opencode reads the same text only once.
        let text = format!("---\n{head}\n---\nBody {index}.\n").replace('\n', line_end);
        fs::write(&path, text).expect("a file");
        spare_install(home, &path);
    }
}

/// Compares the models that were found for the heads, by the names of their modes.
fn assert_models(found: impl Fn(&str) -> Option<String>, who: &str) {
    let differences: Vec<String> = (HEADS.iter().enumerate())
        .map(|(index, (head, wanted))| (head, wanted.map(str::to_owned), found(&format!("h{index}"))))
        .filter(|(_, wanted, found)| wanted != found)
        .map(|(head, wanted, found)| format!("{head:?}: {wanted:?} is wanted, {who} reads {found:?}"))
        .collect();
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), HEADS.len(), differences.join("\n"));
}

fn with_heads(line_end: &str, check: impl FnOnce(&Layout, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = folder.path().canonicalize().expect("a real path");
    let layout = Layout { name: "heads", ..Layout::NONE };
    fs::create_dir_all(home.join(layout.working)).expect("a folder");
    write_heads(&home, line_end);
    check(&layout, &home);
}

#[test]
fn the_head_of_a_markdown_file_is_read_as_yaml() {
    for line_end in ["\n", "\r\n"] {
        with_heads(line_end, |layout, home| {
            let ours = start(Path::new(env!("CARGO_BIN_EXE_lmswarm")), &["config", "roles", "--json"], layout, home);
            let report: Value = serde_json::from_str(&ours.stdout).unwrap_or_else(|error| panic!("{error}: {ours:?}"));
            let roles = report["roles"].as_array().unwrap_or_else(|| panic!("no list: {ours:?}"));
            let of = |name: &str| roles.iter().find(|it| it["role"] == format!("agent:{name}"));
            assert_models(|name| of(name)?["model"].as_str().map(str::to_owned), "lmswarm");
        });
    }
}

#[test]
fn the_real_opencode_reads_a_head_as_we_expect() {
    let Some(opencode) = crate::needs::opencode() else { return };
    for line_end in ["\n", "\r\n"] {
        with_heads(line_end, |layout, home| {
            let theirs = start(&opencode, &["debug", "config"], layout, home);
            let config: Value =
                serde_json::from_str(&theirs.stdout).unwrap_or_else(|error| panic!("{error}: {theirs:?}"));
            let found = |name: &str| {
                let mode = config["agent"].get(name).filter(|mode| mode["disable"] != true)?;
                mode["model"].as_str().map(str::to_owned)
            };
            assert_models(found, "opencode");
        });
    }
}

#[test]
fn our_resolution_is_that_of_the_real_opencode() {
    let Some(opencode) = crate::needs::opencode() else { return };
    let rest = Mutex::new(LAYOUTS.iter());
    let differences = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(4) {
            scope.spawn(|| {
                while let Some(layout) = { rest.lock().expect("no panic").next() } {
                    if let Err(difference) = compare(layout, &opencode) {
                        differences.lock().expect("no panic").push(format!("{}: {difference}", layout.name));
                    }
                }
            });
        }
    });
    let differences = differences.into_inner().expect("no panic");
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), LAYOUTS.len(), differences.join("\n"));
}

fn compare(layout: &Layout, opencode: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = folder.path().canonicalize().expect("a real path");
    for place in ["work", "empty", "dir", ".config/opencode"] {
        fs::create_dir_all(home.join(place)).expect("a folder");
    }
    for repository in layout.git {
        git(&home.join(repository), &["init", "-q"]);
    }
    for (repository, tree) in layout.trees {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        git(&home.join(repository), &[&identity[..], &["commit", "-q", "--allow-empty", "-m", "x"]].concat());
        let tree = home.join(tree).display().to_string();
        git(&home.join(repository), &["worktree", "add", "-q", "-f", "--detach", &tree]);
    }
    fs::create_dir_all(home.join(layout.working)).expect("a folder");
    for (place, text) in layout.files {
        let path = home.join(place);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        spare_install(&home, &path);
    }
    let ours = start(Path::new(env!("CARGO_BIN_EXE_lmswarm")), &["config", "roles", "--json"], layout, &home);
    let theirs = start(opencode, &["debug", "config"], layout, &home);
    if (theirs.code != 0) != REFUSED.contains(&layout.name) {
        return Err(format!("opencode ends otherwise than expected: {theirs:?}"));
    }
    if theirs.code != 0 {
        return if ours.code == 78 {
            Ok(())
        } else {
            Err(format!("opencode refuses it: {theirs:?}\nwe do not: {ours:?}"))
        };
    }
    let Ok(theirs) = serde_json::from_str::<Value>(&theirs.stdout) else { return Err(format!("no JSON: {theirs:?}")) };
    let Ok(ours) = serde_json::from_str::<Value>(&ours.stdout) else { return Err(format!("no JSON: {ours:?}")) };
    let (wanted, found) = (expected(&theirs), seen(&ours));
    if wanted == found {
        Ok(())
    } else {
        Err(format!("opencode: {wanted:#?}\nwe: {found:#?}\nin {theirs:#}\n{ours:#}"))
    }
}

/// opencode installs a package into each of its folders, and waits for it, unless it is there.
fn spare_install(home: &Path, path: &Path) {
    let parts = path.ancestors().take_while(|it| *it != home);
    for folder in parts.filter(|it| it.ends_with(".opencode") || it.ends_with("opencode") || it.ends_with("dir")) {
        if folder.is_dir() {
            fs::create_dir_all(folder.join("node_modules")).expect("a folder");
            let lock = r#"{"packages":{"":{"dependencies":{"@opencode-ai/plugin":"*"}}}}"#;
            fs::write(folder.join("package-lock.json"), lock).expect("a file");
        }
    }
}

fn git(folder: &Path, args: &[&str]) {
    fs::create_dir_all(folder).expect("a folder");
    let status = Command::new("git").args(args).current_dir(folder).status().expect("git is installed");
    assert!(status.success(), "git {args:?}");
}

#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    #[expect(dead_code, reason = "shown where a comparison fails")]
    stderr: String,
}

fn start(program: &Path, args: &[&str], layout: &Layout, home: &Path) -> Ended {
    let file = |name: &str| home.join(name);
    let create = |name: &str| fs::File::create(file(name)).expect("a file");
    let mut command = Command::new(program);
    command.args(args).env_clear().env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_LSP_DOWNLOAD"] {
        command.env(name, "1");
    }
    let shown = home.display().to_string();
    command.envs(layout.variables.iter().map(|(name, value)| (name, value.replace("HOME", &shown))));
    // Files, not pipes: nobody has to read while it runs.
    command
        .stdin(Stdio::null())
        .stdout(create("stdout"))
        .stderr(create("stderr"))
        .current_dir(home.join(layout.working));
    let mut child = command.spawn().expect("it starts");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a state") {
            break status;
        }
        if started.elapsed() > CAP {
            let _ = child.kill();
            panic!("{} hangs in {:?}", program.display(), layout.name);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
    Ended { code: status.code().unwrap_or(-1), stdout: text("stdout"), stderr: text("stderr") }
}

/// Role, model, name over the wire, address: as opencode's merged configuration gives them.
/// Written without a look at our own code: it works on the merged object.
fn expected(config: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let model_of = |role: &str, model: Option<String>| -> Option<String> {
        let model = model?;
        let (provider, key) = model.split_once('/')?;
        let is_in = |list: &Value| list.as_array().is_some_and(|it| it.iter().any(|it| it == provider));
        if is_in(&config["disabled_providers"])
            || (config["enabled_providers"].is_array() && !is_in(&config["enabled_providers"]))
        {
            return None;
        }
        let provider_config = &config["provider"][provider];
        if provider != "lmstudio" {
            return Some(format!("{role} {model}"));
        }
        let entry = &provider_config["models"][key];
        let wire = text(&entry["id"]).filter(|id| !id.is_empty()).unwrap_or_else(|| key.to_owned());
        let urls = [&provider_config["options"]["baseURL"], &entry["provider"]["api"], &provider_config["api"]];
        let url = urls.into_iter().filter_map(text).find(|it| !it.is_empty());
        let url = url.unwrap_or_else(|| "http://127.0.0.1:1234/v1".to_owned());
        Some(format!("{role} {model} {wire} {url}"))
    };
    let agents = config["agent"].as_object().cloned().unwrap_or_default();
    let own = |name: &str| agents.get(name).and_then(|agent| text(&agent["model"]));
    let main = own("build").or_else(|| text(&config["model"]));
    let small = own("title").or_else(|| {
        let small = text(&config["small_model"])?;
        let (provider, key) = small.split_once('/')?;
        let is_listed = config["provider"][provider]["models"][key].is_object() || provider != "lmstudio";
        is_listed.then_some(small)
    });
    let mut lines: Vec<String> =
        [model_of("main", main.clone()), model_of("small", small.or(main))].into_iter().flatten().collect();
    for (name, agent) in &agents {
        if agent["disable"] != true {
            lines.extend(model_of(&format!("agent:{name}"), text(&agent["model"])));
        }
    }
    for (name, command) in config["command"].as_object().into_iter().flatten() {
        lines.extend(model_of(&format!("command:{name}"), text(&command["model"])));
    }
    lines.sort();
    lines
}

/// The same from `lmswarm config roles --json`.
fn seen(report: &Value) -> Vec<String> {
    let roles = report["roles"].as_array().cloned().unwrap_or_default();
    let line = |role: &Value| {
        let parts = [&role["role"], &role["model"], &role["key"], &role["baseURL"]];
        role["model"].as_str()?;
        Some(parts.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
    };
    let mut lines: Vec<String> = roles.iter().filter_map(line).collect();
    lines.sort();
    lines
}
