//! Where chunks end, what settings are refused, and that nothing secret is told. A real receiver: `tests/e2e/test_webhook.py`.

use super::*;
use crate::disk::OsDisk;
use crate::sink::Class;
use proptest::prelude::*;
use std::sync::Arc;

fn made(url: &str, options: &[(&str, &str)]) -> Result<Webhook, SinkError> {
    let at = Setting { name: "hook", log: LogId([1; 16]), disk: Arc::new(OsDisk) };
    let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Webhook::new(&at, &SinkConfig { url: url.into(), options, ..SinkConfig::default() })
}

/// All chunks, if the bytes come in pieces of these sizes.
fn chunks(bytes: &[u8], pieces: &[usize], chunk_bytes: usize, by_line: bool) -> Vec<Vec<u8>> {
    let (mut out, mut held, mut rest) = (Vec::new(), Vec::new(), bytes);
    for size in pieces.iter().copied().chain([bytes.len()]) {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        held.extend_from_slice(piece);
        while let Some(end) = cut(&held, chunk_bytes, by_line) {
            out.push(held.drain(..end).collect());
        }
    }
    if !held.is_empty() {
        out.push(held);
    }
    out
}

proptest! {
    /// Chunks depend on the bytes alone, never on the pieces in which they came.
    #[test]
    fn chunks_are_the_same_however_the_bytes_come(
        lines in proptest::collection::vec(0usize..40, 0..30),
        pieces in proptest::collection::vec(1usize..60, 0..30),
        chunk_bytes in 1usize..100,
        by_line: bool,
    ) {
        let bytes: Vec<u8> = lines.iter().flat_map(|length| vec![b'x'; *length].into_iter().chain([b'\n'])).collect();
        let whole = chunks(&bytes, &[], chunk_bytes, by_line);
        prop_assert_eq!(&chunks(&bytes, &pieces, chunk_bytes, by_line), &whole);
        prop_assert_eq!(whole.concat(), bytes);
        let full = whole.split_last().map_or(&[][..], |(_, full)| full);
        for chunk in full {
            prop_assert!(chunk.len() >= chunk_bytes && (by_line || chunk.len() == chunk_bytes));
            prop_assert!(!by_line || chunk.ends_with(b"\n"));
        }
    }
}

#[test]
fn settings_that_cannot_be_used() {
    for (url, options, expected) in [
        ("host/path", &[][..], "sinks.hook.url"),
        ("ftp://host/path", &[], "expected http://"),
        ("https://me:SECRET@host/path", &[], "options_file"),
        ("https://host/", &[("timeout_ms", "soon")], "whole number"),
        ("https://host/", &[("chunk_bytes", "0")], "whole number"),
        ("https://host/", &[("Idempotency-Key", "SECRET")], "itself"),
        ("https://host/", &[("tidelog-window", "SECRET")], "itself"),
        ("https://host/", &[("not a header", "SECRET")], "name of a header"),
        ("https://host/", &[("authorization", "SECRET\u{7f}")], "cannot stand"),
    ] {
        let error = made(url, options).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(expected) && !told.contains("SECRET"), "{told}");
        assert_eq!(error.class(), Class::Permanent);
    }
}

#[test]
fn nothing_secret_is_told() {
    let hook = made("https://host/path?token=SECRET", &[("authorization", "Bearer SECRET-TOKEN")]).unwrap();
    let told = hook.plain("you sent\nBearer SECRET-TOKEN");
    assert_eq!(told, "you sent Bearer …");
    assert!(!format!("{hook:?} {}", hook.shown()).contains("SECRET"));
}
