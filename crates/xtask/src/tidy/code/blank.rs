//! Blanks out the parts of Rust source that are not code.
//!
//! Owns just enough of the lexical rules to find the ends of comments, strings and characters; it parses nothing.

/// Replaces comments and literals by blanks; every remaining character keeps its line and column.
pub fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut start = 0;
    while start < chars.len() {
        match span_end(&chars, start) {
            Some(end) => {
                let end = end.min(chars.len());
                code.extend(chars[start..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                start = end;
            }
            None => {
                code.push(chars[start]);
                start += 1;
            }
        }
    }
    code
}

/// Returns the end of the comment or literal that starts at `start`, if one does.
fn span_end(chars: &[char], start: usize) -> Option<usize> {
    match (chars[start], chars.get(start + 1)) {
        ('/', Some('/')) => Some(position(chars, start, |c| c == '\n')),
        ('/', Some('*')) => Some(block_comment_end(chars, start)),
        ('"', _) => Some(quoted_end(chars, start, '"')),
        ('\'', Some('\\')) => Some(quoted_end(chars, start, '\'')),
        ('\'', Some(_)) if chars.get(start + 2) == Some(&'\'') => Some(start + 3),
        ('r', _) if !continues_word(chars, start) => raw_string_end(chars, start),
        _ => None,
    }
}

fn position(chars: &[char], start: usize, matches: impl Fn(char) -> bool) -> usize {
    chars[start..].iter().position(|c| matches(*c)).map_or(chars.len(), |idx| start + idx)
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Returns the end of `r"..."` or `r#"..."#`; `None` for a raw identifier or an ordinary name.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let quote = position(chars, start + 1, |c| c != '#');
    let num_hashes = quote - start - 1;
    (chars.get(quote) == Some(&'"')).then_some(())?;
    let closes = |i: usize| {
        chars[i] == '"' && chars[i + 1..].iter().take(num_hashes).filter(|c| **c == '#').count() == num_hashes
    };
    let end = (quote + 1..chars.len()).find(|i| closes(*i))?;
    Some(end + 1 + num_hashes)
}

/// Returns whether the `r` at `start` belongs to a longer name; the prefixes of `br` and `cr` strings do not count.
fn continues_word(chars: &[char], start: usize) -> bool {
    let is_word = |idx: usize| chars[idx].is_alphanumeric() || chars[idx] == '_';
    match start {
        0 => false,
        1 => is_word(0) && !matches!(chars[0], 'b' | 'c'),
        _ => is_word(start - 1) && (!matches!(chars[start - 1], 'b' | 'c') || is_word(start - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let got = blank_comments_and_literals(text);
        assert_eq!(got.split_whitespace().collect::<Vec<_>>().join(" "), expected, "of {text:?}");
        assert_eq!(got.chars().count(), text.chars().count(), "columns of {text:?}");
        assert_eq!(got.lines().count(), text.lines().count(), "lines of {text:?}");
    }

    #[test]
    fn only_code_remains() {
        check("a // unsafe\nb", "a b");
        check("/// doc\n//! doc\nc", "c");
        check("a /* x /* nested */ unsafe */ b", "a b");
        check(r#"f("unsafe \" // still", x)"#, "f( , x)");
        check("f(r#\"a \" unsafe\"#, y)", "f( , y)");
        check("br\"unsafe\" c", "b c");
        check("r#type = 1", "r#type = 1");
        check("for r in \"x\".chars() {}", "for r in .chars() {}");
        check("fn f<'a>(x: &'a str) { '\"' }", "fn f<'a>(x: &'a str) { }");
        check(r"let c = '\''; d", "let c = ; d");
        check("'中' b '\\u{4e2d}'", "b");
        check("\"two\nlines\"\nx", "x");
    }

    #[test]
    fn an_open_end_is_blank_to_the_end() {
        check("a \"open", "a");
        check("a /* open", "a");
        check("a \"open \\", "a");
    }
}
