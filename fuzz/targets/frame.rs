//! A byte stream from a client, in any pieces: the same messages come out however the bytes arrive, none is larger than
//! the limit, and what a command is does not change once it is known.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidelog::wire::command::classify;
use tidelog::wire::{FrameError, Header, Limits, Message};

const LIMITS: Limits = Limits { max_message: 4096 };

/// All messages of a stream that arrives in pieces of `step` bytes, and how it ends.
fn cut(stream: &[u8], step: usize) -> (Vec<Message>, Option<FrameError>) {
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in stream.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match Message::take(&mut buffer, LIMITS) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, stream)) = data.split_first() else { return };
    let whole = cut(stream, stream.len().max(1));
    assert_eq!(whole, cut(stream, usize::from(step) + 1), "the pieces decide");
    for message in &whole.0 {
        assert!(message.bytes.len() <= 4096);
        assert_eq!(message.bytes.len(), message.header.size());
        assert_eq!(message.header.encode(), message.bytes[..16]);
        assert_eq!(Header::parse(&message.bytes, LIMITS), Ok(Some(message.header)));
        let told = classify(&message.header, &message.bytes).expect("a whole message is always told");
        for end in 16..message.bytes.len() {
            if let Some(early) = classify(&message.header, &message.bytes[..end]) {
                assert_eq!(early, told, "told otherwise after {end} bytes");
            }
        }
    }
});
