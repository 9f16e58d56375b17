//! One message of any opcode. What is parsed lies within the message; what is built from it parses to the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidelog::wire::query::{OpQuery, OpReply};
use tidelog::wire::{Header, Limits, Message, OpMsg, auth};

/// The first byte chooses the opcode; the rest is all that follows the header.
fn message(data: &[u8]) -> Option<Message> {
    let (&choice, rest) = data.split_first()?;
    let opcode = [2013, 2013, 2013, 2004, 1][usize::from(choice % 5)];
    let header = Header { len: u32::try_from(16 + rest.len()).ok()?, request_id: 7, response_to: 5, opcode };
    let bytes = Bytes::from([header.encode().as_slice(), rest].concat());
    Message::from_bytes(bytes, Limits::default()).expect("within the limits")
}

fn inside(whole: &Bytes, part: &[u8]) -> bool {
    let (whole, part) = (whole.as_ptr_range(), part.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

fn op_msg(message: Message) {
    let Ok(msg) = OpMsg::parse(message) else { return };
    assert!(inside(msg.bytes(), msg.body().as_bytes()));
    assert_eq!(msg.body_bytes(), msg.body().as_bytes());
    let (command, _) = msg.command();
    let _ = (command.len(), msg.db(), auth::claim(msg.body(), msg.db().unwrap_or("admin")).name());
    let _ = auth::step(msg.body());
    let ids: Vec<String> = msg.sequence_ids().map(str::to_owned).collect();
    for id in ids.iter().map(String::as_str).chain(["documents", "updates", "deletes", "ops", "nsInfo"]) {
        for document in msg.documents(id).unwrap_or_default() {
            assert!(inside(msg.bytes(), &document), "a document lies outside of its message");
        }
    }
    // Flags but the checksum's: a rebuilt message has none.
    let rebuilt = msg.with_body(msg.body(), msg.flags() & !1);
    let rebuilt = Message::from_bytes(rebuilt, Limits::default()).expect("a good header").expect("a whole message");
    let again = OpMsg::parse(rebuilt).expect("what was built is read");
    assert_eq!(again.body(), msg.body());
    assert_eq!(again.sequence_ids().collect::<Vec<_>>(), ids);
    assert_eq!((again.request_id(), again.response_to()), (7, 5));
    for id in &ids {
        assert_eq!(again.documents(id), msg.documents(id));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(message) = message(data) else { return };
    match message.header.opcode {
        2013 => op_msg(message),
        2004 => {
            if let Some(query) = OpQuery::parse(message) {
                let _ = (query.command().len(), query.db().len(), query.is_command());
                let bytes = query.with_body(query.body());
                let again = Message::from_bytes(bytes, Limits::default()).expect("a good header").expect("whole");
                assert_eq!(OpQuery::parse(again).expect("what was built is read").body(), query.body());
            }
        }
        _ => {
            if let Some(reply) = OpReply::parse(message) {
                let bytes = reply.with_body(reply.body());
                let again = Message::from_bytes(bytes, Limits::default()).expect("a good header").expect("whole");
                assert_eq!(OpReply::parse(again).expect("what was built is read").body(), reply.body());
            }
        }
    }
});
