//! The plugin for opencode as a text: what is installed, and who wrote a text found there.

use crate::pure::fnv::fnv1a;

/// The plugin itself.
const BODY: &str = include_str!("../../opencode-plugin/lmswarm.js");

/// How the first line of an installed copy begins; the version follows, then the checksum.
const MARK: &str = "// Written by lmswarm ";

/// The name of the file.
pub const FILE: &str = "lmswarm.js";

/// Who wrote a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// It is what this version writes.
    Current,
    /// Another version of lmswarm wrote it, and it is unchanged since.
    Other(&'a str),
    /// lmswarm wrote it, and it was edited since.
    Changed,
    /// Not lmswarm.
    Stranger,
}

/// What is installed: the plugin below a line with our name and version. The checksum tells
/// later whether the user has edited it.
pub fn text() -> String {
    let sum = fnv1a(BODY);
    format!("{MARK}{} [{sum:016x}]; `lmswarm hook opencode` brings it up to date.\n{BODY}", env!("CARGO_PKG_VERSION"))
}

/// Tells who wrote `found`.
pub fn owner(found: &str) -> Owner<'_> {
    if found == text() {
        return Owner::Current;
    }
    let marked = found.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
    let Some((mark, body)) = marked else { return Owner::Stranger };
    let Some((version, rest)) = mark.split_once(" [") else { return Owner::Stranger };
    match rest.split_once(']') {
        Some((sum, _)) if sum == format!("{:016x}", fnv1a(body)) => Owner::Other(version),
        _ => Owner::Changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_its_mark_and_its_fnv1a() {
        let text = text();
        assert_eq!(owner(&text), Owner::Current);
        let older = format!("{MARK}0.0.9 [{:016x}]; and so on\nold\n", fnv1a("old\n"));
        assert_eq!(owner(&older), Owner::Other("0.0.9"));
        assert_eq!(owner(&older.replace("old\n", "mine\n")), Owner::Changed);
        assert_eq!(owner(&text.replace("eager", "lazy")), Owner::Changed);
        assert_eq!(owner("export default {}\n"), Owner::Stranger);
        assert_eq!(owner(""), Owner::Stranger);
    }
}
