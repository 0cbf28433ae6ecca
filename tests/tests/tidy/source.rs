//! Rust source without what is not code: comments and the contents of literals become spaces, so
//! that lines and columns stay.

/// Blanks comments, and the contents of strings and characters.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = match rest[0] {
            b'/' if rest.starts_with(b"//") => at + until(rest, b'\n'),
            b'/' if rest.starts_with(b"/*") => at + block_comment(rest),
            b'"' => at + string(rest),
            b'\'' => at + character(rest),
            b'r' | b'b' | b'c' if !within_word(bytes, at) => at + prefixed(rest),
            _ => at + 1,
        };
        if end > at + 1 {
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole characters are blanked")
}

fn within_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn until(rest: &[u8], stop: u8) -> usize {
    rest.iter()
        .position(|byte| *byte == stop)
        .unwrap_or(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal; a lifetime is one byte of code.
fn character(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => 3 + until(rest.get(3..).unwrap_or_default(), b'\'') + 1,
        Some(_) => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .or_else(|error| std::str::from_utf8(&rest[1..1 + error.valid_up_to()]))
                .ok()
                .and_then(|text| text.chars().next())
                .map_or(1, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                1
            }
        }
        None => 1,
    }
}

/// Literals that begin with r, b, br, c or cr; a word is one byte of code.
fn prefixed(rest: &[u8]) -> usize {
    let letters = rest
        .iter()
        .take(2)
        .take_while(|byte| b"rbc".contains(byte))
        .count();
    let raw = rest[..letters].contains(&b'r');
    let hashes = rest[letters..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    match rest.get(letters + hashes) {
        Some(b'"') if raw => {
            let mut close = vec![b'"'];
            close.resize(1 + hashes, b'#');
            let body = letters + hashes + 1;
            let length = rest[body..]
                .windows(close.len())
                .position(|window| window == close);
            length.map_or(rest.len(), |length| body + length + close.len())
        }
        Some(b'"') if hashes == 0 => letters + string(&rest[letters..]),
        Some(b'\'') if rest[0] == b'b' && letters == 1 && hashes == 0 => 1 + character(&rest[1..]),
        _ => 1,
    }
}

/// The part before the unit tests of a file.
pub fn before_tests(source: &str) -> &str {
    let mut at = 0;
    for line in source.split_inclusive('\n') {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            // A module of tests in a file of its own is one line, with code after it.
            let after = source[at + line.len()..].lines().next().unwrap_or_default();
            if !after.trim_end().ends_with(';') {
                return &source[..at];
            }
        }
        at += line.len();
    }
    source
}

/// Every identifier or keyword with its line, from 1.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .map(move |word| (line + 1, word))
    })
}

/// The parts of an identifier, in lower case: `onNextView` and `on_next_view` are on, next, view.
pub fn parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut lower_before = false;
    for letter in word.chars() {
        if letter == '_' || (letter.is_uppercase() && lower_before) {
            parts.push(String::new());
        }
        if letter != '_' {
            parts
                .last_mut()
                .expect("never empty")
                .extend(letter.to_lowercase());
        }
        lower_before = letter.is_lowercase() || letter.is_ascii_digit();
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = "a // b\n/* c /* d */ e */ f \"g \\\" h\" 'i' '\\'' 'j: loop {} r#\"k \" l\"# b\"m\" b'n' o r#\"\"#";
    let code = code_only(source);
    assert_eq!(code.len(), source.len());
    let found: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(found, ["a", "f", "j", "loop", "o"]);
    assert_eq!(words(&code).last(), Some((2, "o")));
}

#[test]
fn characters_of_any_width_are_literals() {
    let code = code_only("let a = ('é', '\\u{1f600}', '\u{1f600}', '\"'); fn b<'c>(d: &'c str) {}");
    let found: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(found, ["let", "a", "fn", "b", "c", "d", "c", "str"]);
}

#[test]
fn identifiers_have_parts() {
    assert_eq!(parts("on_next_view"), ["on", "next", "view"]);
    assert_eq!(parts("NextView2Quorum"), ["next", "view2", "quorum"]);
    assert_eq!(parts("VIEW_MAX"), ["view", "max"]);
    assert_eq!(parts("preview"), ["preview"]);
}

#[test]
fn tests_begin_at_their_module() {
    assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {\n}\n"), "a\n");
    let apart = "#[cfg(test)]\nmod tests;\nb\n";
    assert_eq!(before_tests(apart), apart);
}
