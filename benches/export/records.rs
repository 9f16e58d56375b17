//! Changes of documents of one size.

use super::Fallible;
use bson::{RawBson, doc};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tidelog::types::{Change, EntityKey, Epoch, Image, Namespace, Op, Origin, Seq};

/// What the rest of a document is filled with.
const NOTE: &str = "leave it at the door, please ";

/// Change `number`: every fourth is an update of a document of its own, the others are inserts.
pub(super) fn change(number: u64, bytes: usize) -> Fallible<Change> {
    let update = number % 4 == 3;
    let before = update.then(|| image(number, 1, bytes)).transpose()?;
    let id = format!("order-{number:012}");
    Ok(Change {
        before,
        after: Some(image(number, 2, bytes)?),
        operation_time: Some(1_764_000_000 << 32 | number),
        origin: Arc::new(Origin { connection: 12, client: "10.0.0.7:51234".into(), ..Origin::default() }),
        correlation: 12 << 32 | number,
        ..Change::new(
            Namespace::new("shop", "orders"),
            RawBson::String(id.clone()),
            EntityKey(id.as_bytes().into()),
            (Epoch(1), Seq(if update { 2 } else { 1 })),
            if update { Op::Update } else { Op::Insert },
        )
    })
}

/// A document of so many bytes, 400 or more, with text that compresses about as names and words do.
fn image(number: u64, version: i32, size: usize) -> Fallible<Image> {
    let words = Sha256::digest(number.to_le_bytes());
    let hex = hex::encode(words);
    let mut document = doc! {
        "_id": format!("order-{number:012}"), "version": version, "customer": hex.get(..24).unwrap_or_default(),
        "total": f64::from(version) * 19.9, "when": bson::DateTime::from_millis(1_764_000_000_000 + i64::try_from(number)?),
        "items": [{"sku": hex.get(24..36).unwrap_or_default(), "n": 1}, {"sku": hex.get(36..48).unwrap_or_default(), "n": 2}],
        "status": "paid", "address": {"city": "Lisbon", "street": "Rua da Prata", "zip": hex.get(48..55).unwrap_or_default()},
    };
    let missing = size.saturating_sub(document.to_vec()?.len() + "note".len() + 7);
    document.insert("note", NOTE.repeat(missing / NOTE.len() + 1).get(..missing).unwrap_or_default());
    let bytes = document.to_vec()?;
    debug_assert_eq!(bytes.len(), size);
    Ok(Image::new(bytes.into()))
}
