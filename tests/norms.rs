//! The size norms of the house: file, function, and that each file says what it is.
//!
//! The scanner knows strings, characters and comments, and counts a function from its signature to its closing brace. It
//! does not know macros that write functions; there are none.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The source with comments and the insides of strings and character literals blanked out; lines stay where they are.
fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match at(i) {
            '/' if at(i + 1) == '/' => (i..chars.len()).find(|&j| at(j) == '\n').unwrap_or(chars.len()),
            '/' if at(i + 1) == '*' => block_comment_end(&chars, i),
            '"' => string_end(&chars, i),
            'r' if !prev_is_word(&chars, i) && raw_hashes(&chars, i).is_some() => raw_end(&chars, i),
            '\'' if at(i + 1) == '\\' => (i + 3..chars.len()).find(|&j| at(j) == '\'').map_or(chars.len(), |j| j + 1),
            '\'' if at(i + 2) == '\'' => i + 3,
            c => {
                out.push(c);
                i += 1;
                continue;
            }
        };
        out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    out
}

fn prev_is_word(chars: &[char], i: usize) -> bool {
    // `br"…"` is a raw string too: its `b` is no part of a longer word.
    let before = |n: usize| i.checked_sub(n).and_then(|j| chars.get(j)).copied().unwrap_or(' ');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if before(1) == 'b' { word(before(2)) } else { word(before(1)) }
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
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

fn string_end(chars: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// How many `#` open the raw string at `i`; `None`: there is none.
fn raw_hashes(chars: &[char], i: usize) -> Option<usize> {
    let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn raw_end(chars: &[char], from: usize) -> usize {
    let hashes = raw_hashes(chars, from).expect("checked");
    let start = from + hashes + 2;
    let closes =
        |j: usize| chars[j] == '"' && chars[j + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (start..chars.len()).find(|&j| closes(j)).map_or(chars.len(), |j| j + 1 + hashes)
}

/// Name, first line (from 1) and number of lines of each function with a body.
fn functions(source: &str) -> Vec<(String, usize, usize)> {
    let code: Vec<char> = code_only(source).chars().collect();
    let mut out = Vec::new();
    let mut line = 1;
    for i in 0..code.len() {
        if code[i] == '\n' {
            line += 1;
        }
        let word = code[i..].starts_with(&['f', 'n', ' '])
            && (i == 0 || !(code[i - 1].is_alphanumeric() || code[i - 1] == '_'));
        if !word {
            continue;
        }
        let name: String = code[i + 3..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
        if let (false, Some(lines)) = (name.is_empty(), body_lines(&code[i..])) {
            out.push((name, line, lines));
        }
    }
    out
}

/// Lines from a signature to the brace that closes its body; `None`: it has no body.
fn body_lines(code: &[char]) -> Option<usize> {
    let (mut braces, mut brackets, mut lines) = (0_usize, 0_usize, 1);
    for c in code {
        match c {
            '\n' => lines += 1,
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && brackets == 0 {
                    return Some(lines);
                }
            }
            _ => {}
        }
    }
    None
}

fn violations(name: &str, source: &str) -> Vec<String> {
    let mut bad = Vec::new();
    let lines = source.lines().count();
    if lines > FILE_LINES {
        bad.push(format!("{name}: {lines} lines, at most {FILE_LINES}"));
    }
    let first = source.lines().find(|l| !l.trim().is_empty()).unwrap_or("");
    let says = first.strip_prefix("//!").is_some_and(|text| !text.trim().is_empty() && !text.contains("being written"));
    if !says && !first.starts_with("#![doc = include_str!(") {
        bad.push(format!("{name}: does not open with `//!` and what it is"));
    }
    for (function, line, lines) in functions(source) {
        if lines > FUNCTION_LINES {
            bad.push(format!("{name}:{line}: fn {function} has {lines} lines, at most {FUNCTION_LINES}"));
        }
    }
    bad
}

#[test]
fn files_and_functions_are_small_and_say_what_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        rust_files(&root.join(dir), &mut files);
    }
    assert!(files.len() > 20, "the tree is not where it should be");
    let bad: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let name = file.strip_prefix(root).expect("under root").display().to_string();
            violations(&name, &fs::read_to_string(file).expect("read"))
        })
        .collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn the_scanner_counts() {
    let long = format!("//! A.\nfn long() {{\n{}}}\n", "    x();\n".repeat(70));
    assert_eq!(violations("a.rs", &long), ["a.rs:2: fn long has 72 lines, at most 70"]);
    let tricky = "//! A.\nfn a() -> [u8; 2] { let s = \"}\\\"{\"; let c = '}'; let r = r#\"}\"}\"#; /* } */ [0; 2] // }\n}\nfn b() {}\ntrait T { fn c(); }\n";
    assert_eq!(functions(tricky), [("a".into(), 2, 2), ("b".into(), 4, 1)]);
    assert!(violations("a.rs", tricky).is_empty());
    assert_eq!(violations("a.rs", "fn a() {}\n").len(), 1);
    assert_eq!(violations("a.rs", &format!("//! A.\n{}", "\n".repeat(500))).len(), 1);
}
