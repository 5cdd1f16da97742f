//! YAML as opencode reads it: the syntax as `granit-parser` tells it, made into values by the rules
//! of js-yaml 3. What is read has bounds: the parser's own for nesting; an alias is no copy, and
//! merged keys are counted.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use crate::pure::opencode::yaml_types::{Entries, Entry, Malformed, Node, Scalar, check_tag, scalar};

/// Most keys that are merged, and most bytes that keys made of lists have. A few bytes may ask for
/// any number of them.
const MOST_COPIED: usize = 1_000_000;

/// How deep values may lie in each other by way of aliases; the parser bounds what is written so.
const DEEPEST: usize = 512;

/// Reads a text that must hold one document, or none. A document that is no mapping has no entries.
/// What is read is taken off `bytes_left`, and more than that is not read; then none are left.
///
/// # Errors
/// When js-yaml refuses it too, or a bound is exceeded.
pub fn read(text: &str, bytes_left: &mut usize) -> Result<Entries, Malformed> {
    let mut text = Cow::Borrowed(text);
    loop {
        *bytes_left = bytes_left.saturating_sub(text.len());
        if *bytes_left == 0 {
            return Err(Malformed);
        }
        let mended = match compose(&text) {
            Ok(entries) => return entries,
            Err(error) => mended(&text, &error).ok_or(Malformed)?,
        };
        text = Cow::Owned(mended);
    }
}

/// One reading: `Err` is what the parser says, and what is wrong to js-yaml alone is inside.
fn compose(text: &str) -> Result<Result<Entries, Malformed>, ScanError> {
    let mut composer = Composer::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event?;
        if composer.take(event, span.start.line()).is_err() {
            return Ok(Err(Malformed));
        }
    }
    Ok(Ok(match composer.root {
        Some(Node::Map(entries)) => Rc::unwrap_or_clone(entries),
        _ => Entries::new(),
    }))
}

/// The text with the blanks that the parser misses and js-yaml does not: before lines of a quoted
/// text that are not indented, and before a comment right behind a value.
fn mended(text: &str, error: &ScanError) -> Option<String> {
    let (before, rest) = text.split_at_checked(error.marker().byte_offset()?)?;
    match error.kind() {
        // At the end no blanks help: the quote is never closed.
        ErrorKind::InvalidQuotedScalarIndent if !rest.trim().is_empty() => {
            let mut mended = before.to_owned();
            let mut is_inside = true;
            for line in rest.split_inclusive('\n') {
                // More than most indents. Where it is not enough, it is done again.
                mended.push_str(if is_inside { INDENT } else { "" });
                mended.push_str(line);
                // Without a quote it goes on.
                is_inside &= !line.contains(['"', '\'']);
            }
            Some(mended)
        }
        ErrorKind::CommentNotSeparated if before.ends_with(['"', '\'', ']', '}']) => Some(format!("{before} {rest}")),
        _ => None,
    }
}

const INDENT: &str = "                                ";

/// The whole name of a tag: `!!str` is `tag:yaml.org,2002:str`.
fn full_name(tag: &Tag) -> String {
    format!("{}{}", tag.handle(), tag.suffix())
}

/// Makes values of events.
#[derive(Default)]
struct Composer {
    /// What is begun and not ended, outermost first.
    open: Vec<Open>,
    /// What aliases stand for, and how deep that is.
    anchors: HashMap<usize, (Node, usize)>,
    root: Option<Node>,
    has_document: bool,
    copied: usize,
}

/// A list or a mapping that is not ended.
struct Open {
    anchor: usize,
    /// How deep the values are that it has so far.
    depth: usize,
    tag: Option<String>,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        entries: Entries,
        /// The keys that were merged: those that stand there themselves win.
        merged: BTreeSet<Rc<str>>,
        /// The key whose value comes next, and its line.
        key: Option<(Key, usize)>,
    },
}

enum Key {
    /// `<<`: the entries of the value are those of this mapping.
    Merge,
    Name(Rc<str>),
}

impl Composer {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Malformed> {
        match event {
            Event::DocumentStart(..) if self.has_document => return Err(Malformed),
            Event::DocumentStart(..) => self.has_document = true,
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(&text, style == ScalarStyle::Plain, tag.as_deref().map(full_name).as_deref())?;
                let node = if let Scalar::Node(node) = &scalar { node.clone() } else { Node::Text("<<".into()) };
                self.remember(anchor, &node, 0);
                if matches!(scalar, Scalar::Merge) && self.wants_key() {
                    self.set_key(Key::Merge, line);
                } else {
                    self.add(node, 0, line)?;
                }
            }
            Event::Alias(anchor) => {
                let (node, depth) = self.anchors.get(&anchor).cloned().ok_or(Malformed)?;
                self.add(node, depth, line)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.begin(anchor, tag.as_deref(), Inside::List(Vec::new()));
            }
            Event::MappingStart(_, anchor, tag) => {
                let inside = Inside::Map { entries: Entries::new(), merged: BTreeSet::new(), key: None };
                self.begin(anchor, tag.as_deref(), inside);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { anchor, depth, tag, inside } = self.open.pop().ok_or(Malformed)?;
                let node = match inside {
                    Inside::List(items) => Node::List(Rc::new(items)),
                    Inside::Map { entries, .. } => Node::Map(Rc::new(entries)),
                };
                check_tag(tag.as_deref(), &node)?;
                self.remember(anchor, &node, depth + 1);
                self.add(node, depth + 1, line)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, anchor: usize, tag: Option<&Tag>, inside: Inside) {
        // Until it ends, for an alias inside of it.
        self.remember(anchor, &Node::Object, 0);
        self.open.push(Open { anchor, depth: 0, tag: tag.map(full_name), inside });
    }

    fn remember(&mut self, anchor: usize, node: &Node, depth: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), depth));
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { inside: Inside::Map { key: None, .. }, .. }))
    }

    fn set_key(&mut self, name: Key, line: usize) {
        if let Some(Open { inside: Inside::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((name, line));
        }
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, node: Node, depth: usize, line: usize) -> Result<(), Malformed> {
        if depth > DEEPEST {
            return Err(Malformed);
        }
        if let Some(open) = self.open.last_mut() {
            open.depth = open.depth.max(depth);
        }
        if self.wants_key() {
            let name = self.name(&node)?;
            self.set_key(Key::Name(name), line);
            return Ok(());
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => self.root = Some(node),
            Some(Inside::List(items)) => items.push(node),
            Some(Inside::Map { entries, merged, key }) => match key.take() {
                Some((Key::Merge, _)) => self.copied += merge(entries, merged, &node, MOST_COPIED - self.copied)?,
                Some((Key::Name(name), line)) => {
                    if entries.contains_key(&name) && !merged.remove(&name) {
                        return Err(Malformed);
                    }
                    entries.insert(name, Entry { value: node, line });
                }
                None => {}
            },
        }
        Ok(())
    }

    /// What JavaScript calls an entry whose key is this value.
    fn name(&mut self, node: &Node) -> Result<Rc<str>, Malformed> {
        let Node::List(items) = node else { return Ok(word(node)) };
        let mut name = String::new();
        for (index, item) in items.iter().enumerate() {
            match item {
                Node::List(_) => return Err(Malformed),
                Node::Null => {}
                item => name.push_str(&word(item)),
            }
            if index + 1 < items.len() {
                name.push(',');
            }
            if self.copied + name.len() > MOST_COPIED {
                return Err(Malformed);
            }
        }
        self.copied += name.len();
        Ok(name.into())
    }
}

/// Puts the entries of `node` into a mapping that may go on to have its own, and tells how many
/// were looked at.
fn merge(entries: &mut Entries, merged: &mut BTreeSet<Rc<str>>, node: &Node, most: usize) -> Result<usize, Malformed> {
    let sources = match node {
        Node::List(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut looked_at = 0;
    for source in sources {
        let none = Entries::new();
        let from = match source {
            Node::Map(from) => from,
            // A list in the list is merged by its indices, which concern nobody.
            Node::List(_) | Node::Object => &none,
            _ => return Err(Malformed),
        };
        looked_at += from.len() + 1;
        if looked_at > most {
            return Err(Malformed);
        }
        for (name, entry) in from {
            if !entries.contains_key(name) {
                entries.insert(name.clone(), entry.clone());
                merged.insert(name.clone());
            }
        }
    }
    Ok(looked_at)
}

/// A value as JavaScript's `String` writes it, as far as that is short.
fn word(node: &Node) -> Rc<str> {
    match node {
        Node::Null => "null".into(),
        Node::Bool(value) => value.to_string().into(),
        Node::Number(number) => number.to_string().into(),
        Node::Text(text) => text.clone(),
        Node::Object | Node::List(_) | Node::Map(_) => "[object Object]".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(text: &str) -> Result<Entries, Malformed> {
        read(text, &mut 1_000_000)
    }

    /// The value of `a`.
    fn value(text: &str) -> Node {
        let found = entries(&format!("a: {text}")).map(|entries| entries.get("a").map(|it| it.value.clone()));
        found.ok().flatten().unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn a_merged_key_is_one_that_stands_there_unless_it_does() {
        let model = |text: &str| match entries(text) {
            Ok(entries) => entries.get("model").map(|it| word(&it.value)).as_deref().unwrap_or("-").to_owned(),
            Err(Malformed) => "malformed".to_owned(),
        };
        for (text, wanted) in [
            ("b: &b {model: x}\n<<: *b", "x"),
            ("b: &b {model: x}\n<<: *b\nmodel: y", "y"),
            ("model: y\nb: &b {model: x}\n<<: *b", "y"),
            ("b: &b {model: x}\nc: &c {model: y}\n<<: [*c, *b]", "y"),
            ("b: &b {<<: {model: x}}\n<<: *b", "x"),
            ("!!merge k: {model: x}", "malformed"),
            ("<<: {model: x}\n<<: {model: y}", "x"),
            ("\"<<\": {model: x}", "-"),
            ("<<: x", "malformed"),
            ("<<: [x]", "malformed"),
            ("<<:", "malformed"),
            ("model: x\nmodel: y", "malformed"),
            ("<<: {model: x}\nmodel: y\nmodel: z", "malformed"),
            ("1: a\n1.0: b", "malformed"),
            ("? [a, ~, b]\n: c\n\"a,,b\": d", "malformed"),
            ("? [[a]]\n: c", "malformed"),
            ("? {a: b}\n: c\nmodel: x", "x"),
            ("model: *a\nb: &a x", "malformed"),
            ("a: &a [*a]\nmodel: x", "x"),
            ("model: x\n...\n# c", "x"),
            ("model: x\n...\nmodel: y", "malformed"),
            ("[model, x]", "-"),
            ("", "-"),
        ] {
            assert_eq!(model(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_line_of_a_quoted_text_may_stand_anywhere() {
        assert_eq!(value("\"x\ny'\n\nz\""), Node::Text("x y'\nz".into()));
        assert_eq!(value(&format!("\"{}\"", "x\n".repeat(20_000))), Node::Text("x ".repeat(20_000).into()));
        assert!(entries(&format!("a: {{}}\nb:\n{0}c: 'x\ny'\n{0}d: z", " ".repeat(100))).is_ok());
        assert_eq!(entries("a:\n  b: 'x\ny'\nc: d").map(|it| it.len()), Ok(2));
        assert_eq!(value("\"x\"# c"), Node::Text("x".into()));
        assert_eq!(entries("a: x\n y: z"), Err(Malformed));
        for text in ["a: \"x", "a: \"x\n", "a: 'x\r\n", "a: 'x\n\n \n", "a: \"x\ny\n"] {
            let mut left = 1000;
            assert_eq!((read(text, &mut left), left > 0), (Err(Malformed), true), "{text:?}");
        }
    }

    #[test]
    fn what_would_take_long_is_not_read() {
        let mut left = 1_000_000;
        let text = format!("a: \"{}\"", "x'\n".repeat(10_000));
        assert_eq!(read(&text, &mut left), Err(Malformed));
        assert_eq!(left, 0);
        let repeated = |count, of: &dyn Fn(usize) -> String| (1..count).map(of).collect::<Vec<_>>().concat();
        let map = repeated(2000, &|key| format!("k{key}: 1, "));
        let merges = repeated(2000, &|key| format!("m{key}: {{<<: *b}}\n"));
        assert_eq!(entries(&format!("b: &b {{{map}}}\n{merges}")), Err(Malformed));
        let keys = (0..100).map(|_| "? [*b, *b]\n: x\n").collect::<String>();
        assert_eq!(entries(&format!("b: &b {}\n{keys}", "x".repeat(10_000))), Err(Malformed));
        for text in ["[", "{a: ", "- ", "? "] {
            assert_eq!(entries(&text.repeat(100_000)), Err(Malformed), "{text}");
        }
        let chain = repeated(100_000, &|it| format!("- &a{it} [*a{}]\n", it - 1));
        assert_eq!(entries(&format!("- &a0 x\n{chain}")), Err(Malformed));
        // Each of these is ten of the one before.
        let laughs = repeated(60, &|it| format!("a{it}: &a{it} [{}]\n", vec![format!("*a{}", it - 1); 10].join(", ")));
        assert_eq!(entries(&format!("a0: &a0 x\n{laughs}")).map(|it| it.len()), Ok(60));
    }

    proptest! {
        #[test]
        fn json_is_yaml(texts in proptest::collection::btree_map("[ -~äß€\u{1f600}\n\t]{1,20}", "[ -~äß€\u{1f600}\n\t]{0,20}", 0..5)) {
            let read = entries(&serde_json::to_string(&texts).unwrap()).unwrap();
            let wanted = |value: &str| Entry { value: Node::Text(value.into()), line: 1 };
            prop_assert_eq!(read, texts.iter().map(|(key, value)| (Rc::from(&**key), wanted(value))).collect::<Entries>());
        }
    }
}
