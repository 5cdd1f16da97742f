//! The plugin for opencode as a text: what is installed, and whose a text found there is.

/// The plugin itself.
const BODY: &str = include_str!("../../opencode-plugin/lmswarm.js");

/// How the first line of an installed copy begins; the version follows, then the checksum.
const MARK: &str = "// Written by lmswarm ";

/// The name of the file.
pub const FILE: &str = "lmswarm.js";

/// Whose a file is.
#[derive(Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// It is what this version writes.
    Current,
    /// Another version of lmswarm wrote it, and nobody changed it since.
    Other(&'a str),
    /// lmswarm wrote it, and somebody changed it since.
    Changed,
    /// Somebody else's.
    Stranger,
}

/// What is installed: the plugin below a line that tells who wrote it. The checksum tells
/// later whether somebody made it their own.
pub fn text() -> String {
    let sum = checksum(BODY);
    format!("{MARK}{} [{sum:016x}]; `lmswarm hook opencode` brings it up to date.\n{BODY}", env!("CARGO_PKG_VERSION"))
}

/// Tells whose `found` is.
pub fn owner(found: &str) -> Owner<'_> {
    if found == text() {
        return Owner::Current;
    }
    let marked = found.strip_prefix(MARK).and_then(|rest| rest.split_once('\n'));
    let Some((mark, body)) = marked else { return Owner::Stranger };
    let Some((version, rest)) = mark.split_once(" [") else { return Owner::Stranger };
    match rest.split_once(']') {
        Some((sum, _)) if sum == format!("{:016x}", checksum(body)) => Owner::Other(version),
        _ => Owner::Changed,
    }
}

/// FNV-1a: it must tell a change from none, for years and in every version; not more.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_known_by_its_mark_and_its_checksum() {
        let text = text();
        assert_eq!(owner(&text), Owner::Current);
        let older = format!("{MARK}0.0.9 [{:016x}]; and so on\nold\n", checksum("old\n"));
        assert_eq!(owner(&older), Owner::Other("0.0.9"));
        assert_eq!(owner(&older.replace("old\n", "mine\n")), Owner::Changed);
        assert_eq!(owner(&text.replace("eager", "lazy")), Owner::Changed);
        assert_eq!(owner("export default {}\n"), Owner::Stranger);
        assert_eq!(owner(""), Owner::Stranger);
    }
}
