//! A long list in JSON that is read as its text comes in, one element after the other. Nothing
//! is kept of it here, and only what is asked for is decoded: of a list of models one is wanted.
//!
//! The text must be JSON down to its last bracket. Only bytes that are no UTF-8 are let pass.

#![expect(clippy::inline_always, reason = "a build for size inlines too little of what is done for each character")]

use serde::Deserialize;

/// Most bytes of a list: one of 50,000 models has about 30 MiB.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// The same in words.
pub(crate) const LARGEST: &str = "64 MiB";
/// Most bytes of one element, and of what stands around the list.
const MOST_AT_ONCE: usize = 1024 * 1024;
/// How much is added at a time to what is begun: most elements are smaller.
const MORE: usize = 1024;
/// Deepest nesting of a value.
const DEEPEST: u32 = 100;

/// The list that is the member `name` of an object.
#[derive(Debug)]
pub(crate) struct JsonList {
    name: &'static str,
    next: Next,
    /// Whether the list has been there.
    is_read: bool,
    bytes: usize,
    /// The beginning of what is not complete yet.
    rest: Vec<u8>,
}

/// What must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Object,
    FirstMember,
    Member,
    FirstElement,
    Element,
    AfterElement,
    AfterMember,
    End,
    /// It is not JSON, or the list holds what it must not.
    Nothing,
    /// There is too much of it.
    NothingMore,
}

/// What became of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was read to the end of the object around it.
    Whole,
    /// There was none, or not all of it.
    Broken,
    /// It was not read to its end.
    TooLarge,
}

impl JsonList {
    /// Expects the list under this name.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, next: Next::Object, is_read: false, bytes: 0, rest: Vec::new() }
    }

    /// Takes the next piece of the text. `element` reads one element; an element of which not all
    /// is there yet is read again from its beginning.
    pub(crate) fn feed(&mut self, piece: &[u8], element: &mut impl FnMut(&mut Cursor<'_>) -> Result<(), Stop>) {
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > MOST_BYTES {
            self.give_up(Stop::TooLarge);
        }
        let mut piece = piece;
        // What is begun is completed by a little of the piece; the rest of it is not copied.
        while !self.rest.is_empty() && !piece.is_empty() {
            let mut text = std::mem::take(&mut self.rest);
            let begun = text.len();
            let more = &piece[..piece.len().min(MORE)];
            text.extend_from_slice(more);
            let used = self.advance(&text, element);
            if used > begun {
                piece = &piece[used - begun..];
            } else {
                text.drain(..used);
                self.rest = text;
                piece = &piece[more.len()..];
            }
        }
        let used = self.advance(piece, element);
        self.rest.extend_from_slice(&piece[used..]);
        if self.rest.len() > MOST_AT_ONCE {
            self.give_up(Stop::TooLarge);
        }
    }

    /// Whether no further piece can change what it came to.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.next, Next::Nothing | Next::NothingMore)
    }

    /// What it came to, once there is no further piece.
    pub(crate) fn end(&self) -> End {
        match self.next {
            Next::End if self.is_read && self.rest.is_empty() => End::Whole,
            Next::NothingMore => End::TooLarge,
            _ => End::Broken,
        }
    }

    fn give_up(&mut self, why: Stop) {
        self.next = if why == Stop::TooLarge { Next::NothingMore } else { Next::Nothing };
        self.rest = Vec::new();
    }

    /// Reads what is complete; returns how much that was.
    fn advance(&mut self, text: &[u8], element: &mut impl FnMut(&mut Cursor<'_>) -> Result<(), Stop>) -> usize {
        let mut cursor = Cursor { text, at: 0 };
        let mut done = 0;
        while !self.is_given_up() {
            match self.step(&mut cursor, element) {
                Ok(()) => done = cursor.at,
                // Blanks behind the end are nothing to wait for.
                Err(Stop::Incomplete) if self.next == Next::End => return text.len(),
                Err(Stop::Incomplete) => return done,
                Err(why) => self.give_up(why),
            }
        }
        text.len()
    }

    fn step(
        &mut self,
        cursor: &mut Cursor<'_>,
        element: &mut impl FnMut(&mut Cursor<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let next = match (self.next, cursor.peek()) {
            (Next::End, found) => return found.and(Err(Stop::Malformed)),
            (_, Err(stop)) => return Err(stop),
            (Next::Object, Ok(b'\xef')) => {
                cursor.at = literal_end(cursor.text, cursor.at, b"\xef\xbb\xbf")?;
                Next::Object
            }
            (Next::Object, Ok(_)) => {
                cursor.take(b'{')?;
                Next::FirstMember
            }
            (Next::FirstMember | Next::AfterMember, Ok(b'}')) => {
                cursor.at += 1;
                Next::End
            }
            (Next::AfterMember, Ok(_)) => {
                cursor.take(b',')?;
                Next::Member
            }
            (Next::FirstMember | Next::Member, Ok(_)) => {
                let name = cursor.name()?;
                if name != self.name.as_bytes() {
                    cursor.value()?;
                    Next::AfterMember
                } else if self.is_read {
                    return Err(Stop::Malformed);
                } else {
                    cursor.take(b'[')?;
                    Next::FirstElement
                }
            }
            (Next::FirstElement | Next::AfterElement, Ok(b']')) => {
                cursor.at += 1;
                self.is_read = true;
                Next::AfterMember
            }
            (Next::AfterElement, Ok(_)) => {
                cursor.take(b',')?;
                Next::Element
            }
            (Next::FirstElement | Next::Element, Ok(_)) => {
                element(cursor)?;
                Next::AfterElement
            }
            (Next::Nothing | Next::NothingMore, Ok(_)) => return Err(Stop::Malformed),
        };
        self.next = next;
        Ok(())
    }
}

/// Why reading does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The text ends here; there may be more of it.
    Incomplete,
    /// It is not what it must be.
    Malformed,
    /// There is more than is read.
    TooLarge,
}

/// A place in a text.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Reads an object; `member` sees each name, as it is written, and each value.
    ///
    /// # Errors
    /// When there is none, or not all of it.
    #[inline]
    pub(crate) fn object(&mut self, mut member: impl FnMut(&'a [u8], Value<'a>)) -> Result<(), Stop> {
        let text = self.text;
        let mut at = taken(text, self.at, b'{')?;
        let (char, first) = next(text, at)?;
        if char == b'}' {
            self.at = first + 1;
            return Ok(());
        }
        loop {
            let (name, colon) = name(text, at)?;
            let (char, start) = next(text, colon)?;
            let end = value_end(text, start, char, 0)?;
            member(name, Value(text.get(start..end).unwrap_or_default()));
            let (char, end) = next(text, end)?;
            at = end + 1;
            match char {
                b',' => {}
                b'}' => {
                    self.at = at;
                    return Ok(());
                }
                _ => return Err(Stop::Malformed),
            }
        }
    }

    /// The first character that is no blank; it is not taken.
    fn peek(&mut self) -> Result<u8, Stop> {
        let (char, at) = next(self.text, self.at)?;
        self.at = at;
        Ok(char)
    }

    /// Takes this character, behind blanks.
    fn take(&mut self, wanted: u8) -> Result<(), Stop> {
        self.at = taken(self.text, self.at, wanted)?;
        Ok(())
    }

    /// Takes the name of a member, and the colon.
    fn name(&mut self) -> Result<&'a [u8], Stop> {
        let (name, at) = name(self.text, self.at)?;
        self.at = at;
        Ok(name)
    }

    /// Takes a value.
    fn value(&mut self) -> Result<(), Stop> {
        let (char, at) = next(self.text, self.at)?;
        self.at = value_end(self.text, at, char, 0)?;
        Ok(())
    }
}

// What follows takes a place in the text, and returns the one behind what it has read. A warm
// call spends most of its own instructions here.

/// The first character that is no blank, and its place. LM Studio writes no blanks.
#[inline(always)]
fn next(text: &[u8], at: usize) -> Result<(u8, usize), Stop> {
    match text.get(at) {
        Some(char @ b'!'..) => Ok((*char, at)),
        _ => behind_blanks(text, at),
    }
}

#[inline(never)]
fn behind_blanks(text: &[u8], start: usize) -> Result<(u8, usize), Stop> {
    let is_blank = |char: &&u8| matches!(char, b' ' | b'\n' | b'\r' | b'\t');
    let at = start + text.iter().skip(start).take_while(is_blank).count();
    text.get(at).map(|char| (*char, at)).ok_or(Stop::Incomplete)
}

#[inline(always)]
fn taken(text: &[u8], at: usize, wanted: u8) -> Result<usize, Stop> {
    let (char, at) = next(text, at)?;
    if char == wanted { Ok(at + 1) } else { Err(Stop::Malformed) }
}

/// The name of a member, and the place behind the colon.
#[inline(always)]
fn name(text: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let start = taken(text, at, b'"')?;
    let end = string_end(text, start)?;
    let colon = taken(text, end, b':')?;
    Ok((text.get(start..end - 1).unwrap_or_default(), colon))
}

/// `start` is behind the first quote.
#[inline(always)]
fn string_end(text: &[u8], start: usize) -> Result<usize, Stop> {
    let mut at = start;
    loop {
        at = find_special(text, at);
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape_end(text, at + 1)?,
            Some(_) => return Err(Stop::Malformed),
            None => return Err(Stop::Incomplete),
        }
    }
}

fn escape_end(text: &[u8], at: usize) -> Result<usize, Stop> {
    match text.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => (at + 1..at + 5).try_fold(at + 1, |_, at| match text.get(at) {
            Some(digit) if digit.is_ascii_hexdigit() => Ok(at + 1),
            Some(_) => Err(Stop::Malformed),
            None => Err(Stop::Incomplete),
        }),
        Some(_) => Err(Stop::Malformed),
        None => Err(Stop::Incomplete),
    }
}

/// `char` is the first of the value, and stands at `at`.
#[inline(always)]
fn value_end(text: &[u8], at: usize, char: u8, depth: u32) -> Result<usize, Stop> {
    if char == b'"' { string_end(text, at + 1) } else { other_end(text, at, char, depth) }
}

fn other_end(text: &[u8], at: usize, char: u8, depth: u32) -> Result<usize, Stop> {
    match char {
        b'-' | b'0'..=b'9' => number_end(text, at),
        b't' => literal_end(text, at, b"true"),
        b'f' => literal_end(text, at, b"false"),
        b'n' => literal_end(text, at, b"null"),
        b'[' if depth < DEEPEST => {
            let (mut char, mut at) = next(text, at + 1)?;
            if char == b']' {
                return Ok(at + 1);
            }
            loop {
                let end = value_end(text, at, char, depth + 1)?;
                match next(text, end)? {
                    (b',', comma) => (char, at) = next(text, comma + 1)?,
                    (b']', end) => return Ok(end + 1),
                    _ => return Err(Stop::Malformed),
                }
            }
        }
        b'{' if depth < DEEPEST => {
            let mut at = at + 1;
            if let (b'}', end) = next(text, at)? {
                return Ok(end + 1);
            }
            loop {
                let (_, colon) = name(text, at)?;
                let (char, start) = next(text, colon)?;
                let end = value_end(text, start, char, depth + 1)?;
                match next(text, end)? {
                    (b',', comma) => at = comma + 1,
                    (b'}', end) => return Ok(end + 1),
                    _ => return Err(Stop::Malformed),
                }
            }
        }
        _ => Err(Stop::Malformed),
    }
}

fn literal_end(text: &[u8], at: usize, wanted: &[u8]) -> Result<usize, Stop> {
    for (offset, char) in wanted.iter().enumerate() {
        match text.get(at + offset) {
            Some(found) if found == char => {}
            Some(_) => return Err(Stop::Malformed),
            None => return Err(Stop::Incomplete),
        }
    }
    Ok(at + wanted.len())
}

fn number_end(text: &[u8], at: usize) -> Result<usize, Stop> {
    let at = if text.get(at) == Some(&b'-') { at + 1 } else { at };
    // Behind a zero there is no digit.
    let mut at = if text.get(at) == Some(&b'0') { at + 1 } else { digits_end(text, at)? };
    if text.get(at) == Some(&b'.') {
        at = digits_end(text, at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let is_signed = matches!(text.get(at + 1), Some(b'+' | b'-'));
        at = digits_end(text, if is_signed { at + 2 } else { at + 1 })?;
    }
    // Without what follows it is not known that it ends.
    if at < text.len() { Ok(at) } else { Err(Stop::Incomplete) }
}

/// At least one digit.
fn digits_end(text: &[u8], start: usize) -> Result<usize, Stop> {
    let mut at = start;
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    match text.get(at) {
        None => Err(Stop::Incomplete),
        Some(_) if at == start => Err(Stop::Malformed),
        Some(_) => Ok(at),
    }
}

/// The place of the next quote, backslash or control character, or of the end; eight bytes at a
/// time.
#[inline(always)]
fn find_special(text: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES * 0x80;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        // A byte that is smaller than what is subtracted gets its high bit set. Borrowing may set
        // it above that byte, too, but the first is right.
        let quotes = (word ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let escapes = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        let controls = word.wrapping_sub(ONES * u64::from(b' '));
        let found = (quotes | escapes | controls) & !word & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while text.get(at).is_some_and(|char| !matches!(char, b'"' | b'\\' | ..b' ')) {
        at += 1;
    }
    at
}

/// A value as it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// Decodes it. Bytes that are no UTF-8 spoil the text they stand in, not the whole list.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn decode<T: for<'de> Deserialize<'de>>(self) -> Result<T, Stop> {
        let text = String::from_utf8_lossy(self.0);
        serde_json::from_str(&text).map_err(|_| Stop::Malformed)
    }

    /// The text that it is.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn text(self) -> Result<String, Stop> {
        match self.plain() {
            Some(plain) => Ok(plain.to_owned()),
            None => self.decode(),
        }
    }

    /// The number that it is, if it is one that is whole and not negative.
    pub(crate) fn number(self) -> Option<u64> {
        let digit = |number: u64, char: &u8| {
            let digit = char.is_ascii_digit().then(|| u64::from(char - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        };
        self.0.iter().try_fold(0, digit)
    }

    /// Reads the object that it is; `member` sees each name, as it is written, and each value.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn object(self, member: impl FnMut(&'a [u8], Value<'a>)) -> Result<(), Stop> {
        Cursor { text: self.0, at: 0 }.object(member)
    }

    /// Whether it is a list with nothing in it.
    pub(crate) fn is_empty_list(self) -> bool {
        let inside = self.0.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
        inside.is_some_and(|inside| inside.trim_ascii().is_empty())
    }

    /// Whether it is this text, written without escapes.
    pub(crate) fn is_plainly(self, text: &str) -> bool {
        let inside = self.0.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        inside == Some(text.as_bytes())
    }

    /// Whether it is any text.
    pub(crate) fn is_text(self) -> bool {
        self.0.starts_with(b"\"")
    }

    /// The text, where it is written without escapes.
    fn plain(self) -> Option<&'a str> {
        let inside = self.0.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        if find_special(inside, 0) < inside.len() { None } else { str::from_utf8(inside).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The `a` of each element of the list `l`, read in pieces of this size.
    fn read(text: &[u8], size: usize) -> (End, Vec<u64>) {
        let mut list = JsonList::new("l");
        let mut found = Vec::new();
        for piece in text.chunks(size) {
            list.feed(piece, &mut |cursor| {
                let mut number = None;
                cursor.object(|name, value| {
                    if name == b"a" {
                        number = value.number();
                    }
                })?;
                found.push(number.ok_or(Stop::Malformed)?);
                Ok(())
            });
        }
        (list.end(), found)
    }

    #[test]
    fn a_list_is_read_wherever_it_is_cut_into_pieces() {
        let text = br#" { "x": [{"l": [1]}, "]\"}", -1.5e3, null, {}] , "l" : [ {"a":1,"b":"\\"}, {"b":[[]],"a" : 2 } ], "y":true } "#;
        for size in 1..=text.len() {
            assert_eq!(read(text, size), (End::Whole, vec![1, 2]), "{size}");
        }
        assert_eq!(read(b"\xef\xbb\xbf{\"l\":[]}", 1), (End::Whole, vec![]));
    }

    #[test]
    fn what_is_no_list_of_objects_is_none() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            "{\"l\":{}}",
            "{\"l\":[1]}",
            "{\"l\":[[]]}",
            "{\"l\":[{}]}",
            "{\"l\":[]",
            "{\"l\":[],}",
            "{\"l\":[{\"a\":1},]}",
            "{\"l\":[{\"a\":1,}]}",
            "{\"l\":[{\"a\" 1}]}",
            "{\"l\":[{\"a\":1}{\"a\":1}]}",
            "{\"l\":[]}x",
            "{\"l\":[],\"l\":[]}",
            "{\"l\":[{\"a\":1,\"b\":tru}]}",
            "{\"l\":[{\"a\":1,\"b\":[}]}",
            "{\"l\":[{\"a\":1,\"b\":{1}}]}",
            "{\"x\":{\"l\":[]}}",
            "[{\"l\":[]}]",
            "{\"l\":[{\"a\":1}]}}",
            "{\"l\":[],\"x\":01}",
            "{\"l\":[],\"x\":1.}",
            "{\"l\":[],\"x\":-}",
            "{\"l\":[],\"x\":1e+}",
            "{\"l\":[],\"x\":\"a\nb\"}",
            "{\"l\":[],\"x\":\"0123456789\t\"}",
            "{\"l\":[],\"x\":\"\\x\"}",
            "{\"l\":[],\"x\":\"\\u12g4\"}",
        ] {
            for size in [1, 3, 1000] {
                assert_eq!(read(text.as_bytes(), size).0, End::Broken, "{text}");
            }
        }
    }

    #[test]
    fn a_list_without_end_is_too_large() {
        let mut list = JsonList::new("l");
        list.feed(b"{\"l\":[", &mut |_| Ok(()));
        let element = format!("{{\"a\":\"{}\"}},", "x".repeat(1000));
        let piece = element.repeat(1000);
        let mut count = 0;
        while !list.is_given_up() {
            list.feed(piece.as_bytes(), &mut |cursor| cursor.object(|_, _| count += 1));
            assert!(list.rest.len() < element.len());
        }
        assert_eq!(list.end(), End::TooLarge);
        assert!(count * element.len() > MOST_BYTES - 2 * piece.len());
        for open in ["{\"l\":[{\"a\":\"", "{\"x\":\"", "{\"l\":[{\"a\":[["] {
            let mut list = JsonList::new("l");
            list.feed(open.as_bytes(), &mut |cursor| cursor.object(|_, _| {}));
            for _ in 0..3 {
                list.feed("xxxxxxxx".repeat(1 << 16).as_bytes(), &mut |cursor| cursor.object(|_, _| {}));
            }
            assert_ne!(list.end(), End::Whole);
            assert!(list.is_given_up());
        }
        assert_eq!(read(format!("{{\"x\":{}", "[".repeat(100_000)).as_bytes(), 1 << 20).0, End::Broken);
    }

    #[test]
    fn a_value_is_decoded_when_it_is_asked_for() {
        let value = |text: &'static str| Value(text.as_bytes());
        assert_eq!(value(r#""a b""#).text().as_deref(), Ok("a b"));
        assert_eq!(value(r#""a\u0062\"""#).text().as_deref(), Ok("ab\""));
        for bad in ["1", "\"\\x\"", "\"a\nb\"", "null"] {
            assert_eq!(value(bad).text(), Err(Stop::Malformed), "{bad}");
        }
        assert_eq!(Value(b"\"a\xff\"").text().as_deref(), Ok("a\u{fffd}"));
        for (text, number) in
            [("5", Some(5)), ("5.0", None), ("-5", None), ("\"5\"", None), ("18446744073709551616", None)]
        {
            assert_eq!(value(text).number(), number, "{text}");
        }
        assert!(value("[ ]").is_empty_list() && !value("[1]").is_empty_list() && !value("{}").is_empty_list());
    }

    proptest! {
        #[test]
        fn the_first_special_character_is_found_among_any_bytes(text in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\x1f \x21\"#[\\]\x80\xa2\xdc".as_slice())], 0..40)) {
            let first = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' ')).unwrap_or(text.len());
            prop_assert_eq!(find_special(&text, 0), first);
        }

        /// What is taken for JSON is JSON to serde, too, and has the same to say.
        #[test]
        fn what_is_whole_is_json(
            text in r#"[ \t]{0,1}\{("(l|x)": ?(\[(\{("a":[0-9]{1,3}|"b":("(\\[u"n]|[\n0é]|[0-9a-f]{4}){0,4}"|-?[01]{0,2}(\.[0-9]?)?(e[+-]?1?)?|null|\[\]|\{"c":\[1\]\}))?(,"a":7)?\}[,\]]?){0,3}\]?|true)[,}]?){0,3}\}?[ x]{0,1}"#,
            size in 1..40_usize,
        ) {
            let (end, found) = read(text.as_bytes(), size);
            let json = serde_json::from_str::<serde_json::Value>(&text);
            if end == End::Whole {
                let json = json.expect("it is JSON");
                let wanted: Vec<u64> = json["l"].as_array().unwrap().iter().map(|it| it["a"].as_u64().unwrap()).collect();
                prop_assert_eq!(found, wanted);
            } else if let Ok(json) = json {
                let is_list = json["l"].as_array().is_some_and(|list| list.iter().all(|it| it["a"].is_u64()));
                prop_assert!(!is_list || text.matches("\"l\"").count() > 1, "{}", text);
            }
        }
    }
}
