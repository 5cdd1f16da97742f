//! `lmswarm hook opencode`: what it writes, and what it leaves alone.

use std::fs;

use serde_json::json;

use crate::support::{Machine, Run, run};

const GLOBAL: &str = ".config/opencode/plugin/lmswarm.js";

fn hook(machine: &Machine, args: &[&str], variables: &[(&str, &str)]) -> Run {
    let folder = machine.path("work/inner");
    fs::create_dir_all(&folder).expect("a folder");
    let mut command = machine.command(&[&["hook", "opencode"], args].concat());
    run(command.envs(variables.iter().copied()).current_dir(folder))
}

#[test]
fn the_plugin_is_installed_once_where_opencode_looks() {
    let machine = Machine::bare();
    let _ = hook(&machine, &[], &[]).expect(0).says(GLOBAL).says("is installed");
    let printed = hook(&machine, &["--print"], &[]).expect(0).stdout;
    assert_eq!(fs::read_to_string(machine.path(GLOBAL)).unwrap(), printed);
    assert!(printed.ends_with(include_str!("../../src/opencode-plugin/lmswarm.js")));
    let before = fs::metadata(machine.path(GLOBAL)).unwrap().modified().unwrap();
    let _ = hook(&machine, &[], &[]).expect(0).says("is there already");
    assert_eq!(fs::metadata(machine.path(GLOBAL)).unwrap().modified().unwrap(), before);
    let names: Vec<_> = fs::read_dir(machine.path(".config/opencode/plugin")).unwrap().map(Result::unwrap).collect();
    assert_eq!(names.len(), 1, "no temporary file stays");
    let xdg = machine.path("xdg").display().to_string();
    let _ = hook(&machine, &[], &[("XDG_CONFIG_HOME", &xdg)]).expect(0).says("xdg/opencode/plugin/lmswarm.js");
}

#[test]
fn a_project_has_its_own_copy_at_its_root() {
    let machine = Machine::bare();
    let _ = hook(&machine, &["--project"], &[]).expect(0).says("work/inner/.opencode/plugin/lmswarm.js");
    for folder in ["objects", "refs"] {
        fs::create_dir_all(machine.path("work/.git").join(folder)).unwrap();
    }
    machine.write("work/.git/HEAD", "ref: refs/heads/main\n");
    machine.write("bin/git", "");
    let _ = hook(&machine, &["--project"], &[]).expect(0).says("work/.opencode/plugin/lmswarm.js");
}

#[test]
fn an_older_copy_is_updated_where_it_is() {
    let machine = Machine::bare();
    let old = "// Written by lmswarm 0.0.1 [19239db4754a52b4]; x\nold\n";
    machine.write(".config/opencode/plugins/lmswarm.js", old);
    let _ = hook(&machine, &[], &[]).expect(0).says("it was of version 0.0.1");
    assert!(!machine.path(GLOBAL).exists(), "there are never two");
    let printed = hook(&machine, &["--print"], &[]).expect(0).stdout;
    assert_eq!(fs::read_to_string(machine.path(".config/opencode/plugins/lmswarm.js")).unwrap(), printed);
}

#[test]
fn an_installation_says_what_it_comes_to() {
    let mut machine = Machine::with_server_off();
    let config = |machine: &Machine, small: &str| {
        let options = json!({ "baseURL": machine.base_url() });
        let provider = json!({ "lmstudio": { "options": options, "models": { "a": {} } } });
        let config = json!({ "model": "lmstudio/a", "small_model": small, "provider": provider });
        machine.write(".config/opencode/opencode.json", &config.to_string());
    };
    config(&machine, "openai/gpt");
    let roles = "lmswarm: main is lmstudio/a, small is openai/gpt, which is not gated; the server ";
    let _ = hook(&machine, &[], &[]).expect(0).says(&format!("{roles}{} is off, and will be", machine.base_url()));
    assert_eq!(machine.lms_calls().len(), 0, "looking starts nothing");
    machine = Machine::new();
    config(&machine, "lmstudio/a");
    let _ = hook(&machine, &[], &[]).expect(0).says("small is lmstudio/a; the server ").says(" is up");
    let _ = hook(&machine, &[], &[]).expect(0).says("is there already").says(" is up");
    let other = hook(&machine, &[], &[("LMSWARM_PROVIDERS", "mine")]).expect(0);
    let _ = other.says("warning: main is lmstudio/a, which is not gated, small is lmstudio/a").says("--providers");
    machine.write(".config/opencode/opencode.json", "{");
    let _ = hook(&machine, &[], &[]).expect(0).says("warning: ").says("opencode.json:1:");
}

#[test]
fn the_plugin_is_removed_where_it_is_unless_it_was_changed() {
    let machine = Machine::bare();
    let _ = hook(&machine, &["--remove"], &[]).expect(0).says("there is no plugin of lmswarm in ");
    let _ = hook(&machine, &[], &[]).expect(0);
    machine.write(".config/opencode/plugins/lmswarm.js", "// Written by lmswarm 0.0.1 [19239db4754a52b4]; x\nold\n");
    let _ = hook(&machine, &["--remove"], &[]).expect(0).says(GLOBAL).says("plugins/lmswarm.js is removed");
    assert!(!machine.path(GLOBAL).exists() && !machine.path(".config/opencode/plugins/lmswarm.js").exists());
    let _ = hook(&machine, &["--project"], &[]).expect(0);
    let _ = hook(&machine, &["--project", "--remove"], &[])
        .expect(0)
        .says("work/inner/.opencode/plugin/lmswarm.js is removed");
    let changed = hook(&machine, &["--print"], &[]).expect(0).stdout.replace("eager", "lazy");
    for (text, wanted) in [("export default {}\n", "was not written by lmswarm"), (&changed, "was changed since")] {
        machine.write(GLOBAL, text);
        let _ = hook(&machine, &["--remove"], &[]).expect(78).says(wanted).says("remove it yourself: `rm ");
        assert_eq!(fs::read_to_string(machine.path(GLOBAL)).unwrap(), text);
    }
}

#[test]
fn a_file_of_somebody_else_is_left_alone() {
    let machine = Machine::bare();
    let changed = hook(&machine, &["--print"], &[]).expect(0).stdout.replace("eager", "lazy");
    for (text, wanted) in [
        ("export default {}\n", "was not written by lmswarm"),
        ("", "was not written by lmswarm"),
        (&changed, "was changed since lmswarm wrote it"),
    ] {
        machine.write(GLOBAL, text);
        let _ = hook(&machine, &[], &[]).expect(78).says(wanted).says("--print");
        assert_eq!(fs::read_to_string(machine.path(GLOBAL)).unwrap(), text);
    }
}

/// The name of the new file holds the process's number, which a shell knows in advance: it is
/// the one that becomes lmswarm.
#[cfg(unix)]
#[test]
fn the_plugin_is_not_written_through_a_link_that_was_planted_beside_it() {
    use crate::planted::Victim;
    use std::process::Command;
    let machine = Machine::bare();
    let victim = Victim::new(&machine);
    let folder = machine.path("work/.opencode/plugin");
    fs::create_dir_all(&folder).unwrap();
    let script = "ln -s \"$HOME/victim\" \".opencode/plugin/lmswarm.$$.tmp\"; exec \"$0\" hook opencode --project";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_lmswarm")]).env_clear().envs(machine.environment());
    let path = format!("{}:/bin:/usr/bin", machine.path("bin").display());
    let _ = run(command.env("PATH", path).current_dir(machine.path("work"))).expect(0).says("is installed");
    victim.is_untouched();
    assert!(folder.join("lmswarm.js").symlink_metadata().unwrap().is_file());
}

#[cfg(unix)]
#[test]
fn a_link_of_a_project_is_not_followed_out_of_it() {
    use std::os::unix::fs::symlink;
    let machine = Machine::bare();
    let _ = hook(&machine, &[], &[]).expect(0);
    let installed = fs::read_to_string(machine.path(GLOBAL)).unwrap();
    fs::create_dir(machine.path("victim")).unwrap();
    let project = machine.path("work/inner");
    for (link, target) in [
        (".opencode", "victim"),
        (".opencode", ".config/opencode"),
        (".opencode", "nowhere"),
        (".opencode/plugin", "victim"),
        (".opencode/plugins", ".config/opencode/plugin"),
        (".opencode/plugin/lmswarm.js", GLOBAL),
        (".opencode/plugins/lmswarm.js", "nowhere"),
    ] {
        let link = project.join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(machine.path(target), &link).unwrap();
        for args in [&["--project"][..], &["--project", "--remove"]] {
            let why = if target == "nowhere" { " cannot be followed: " } else { ", outside of the project " };
            let run = hook(&machine, args, &[]).expect(78).says(&link.display().to_string()).says(why);
            let _ = run.says("`lmswarm hook opencode`");
        }
        assert_eq!(fs::read_dir(machine.path("victim")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(machine.path(GLOBAL)).unwrap(), installed);
        fs::remove_file(&link).unwrap();
        let _ = fs::remove_dir_all(project.join(".opencode"));
    }
    // One that stays in the project is followed.
    fs::create_dir(project.join("config")).unwrap();
    symlink("config", project.join(".opencode")).unwrap();
    let _ = hook(&machine, &["--project"], &[]).expect(0).says("is installed");
    assert_eq!(fs::read_to_string(project.join("config/plugin/lmswarm.js")).unwrap(), installed);
}

#[cfg(unix)]
#[test]
fn a_plugin_that_is_a_link_of_the_users_stays_one() {
    let machine = Machine::bare();
    machine.write("dotfiles/lmswarm.js", "// Written by lmswarm 0.0.1 [19239db4754a52b4]; x\nold\n");
    let place = machine.path(".config/opencode/plugin/lmswarm.js");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(machine.path("dotfiles/lmswarm.js"), &place).unwrap();
    let _ = run(&mut machine.command(&["hook", "opencode"])).expect(0).says("it was of version 0.0.1");
    assert!(place.is_symlink());
    assert!(fs::read_to_string(machine.path("dotfiles/lmswarm.js")).unwrap().contains("chat.params"));
}
