//! Any bytes as a document → Extended JSON: always valid JSON; and where it is said to be exact, an independent reader of
//! Extended JSON gives the same bytes back.
#![no_main]

use bson::{Bson, Document};
use libfuzzer_sys::fuzz_target;
use tidelog::format::ejson::{self, Fidelity};

fuzz_target!(|data: &[u8]| {
    let mut text = Vec::new();
    let fidelity = ejson::document(&mut text, data);
    let value: serde_json::Value = serde_json::from_slice(&text).expect("valid JSON");
    if fidelity == Fidelity::Unwritable {
        assert!(value.is_null());
        return;
    }
    let mut alone = Vec::new();
    ejson::first_value(&mut alone, data);
    let _: serde_json::Value = serde_json::from_slice(&alone).expect("valid JSON");
    if fidelity == Fidelity::Exact {
        let serde_json::Value::Object(fields) = value else { panic!("a document that is no object") };
        let read = Document::try_from(fields).expect("an exact document is read");
        let bytes = Bson::Document(read).as_document().expect("a document").to_vec().expect("written again");
        assert_eq!(bytes, data, "said to be exact: {}", String::from_utf8_lossy(&text));
    }
});
