//! Reading one line: a change or a control record, with its images as bytes.

use super::batch::Place;
use super::{Kind, Wrong, expect, wrong};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson::raw::RawDocument;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// All fields that a line may have; which of them must be there depends on its kind.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) log: String,
    pub(super) lsn: u64,
    pub(super) hlc: String,
    pub(super) wall: String,
    pub(super) continued: bool,
    pub(super) control: Option<String>,
    pub(super) ns: Option<String>,
    #[serde(default, deserialize_with = "there")]
    pub(super) id: Option<Value>,
    #[serde(default, deserialize_with = "base64")]
    pub(super) id_bson: Option<Vec<u8>>,
    pub(super) key: Option<String>,
    pub(super) epoch: Option<u32>,
    pub(super) seq: Option<u64>,
    pub(super) op: Option<String>,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
    #[serde(default, deserialize_with = "base64")]
    pub(super) before_bson: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "base64")]
    pub(super) after_bson: Option<Vec<u8>>,
    pub(super) before_sha256: Option<String>,
    pub(super) after_sha256: Option<String>,
    pub(super) change_hash: Option<String>,
    #[serde(rename = "operation_time")]
    _operation_time: Option<Value>,
    #[serde(rename = "retry")]
    _retry: Option<Value>,
    pub(super) txn: Option<Place>,
    pub(super) found: Option<String>,
    #[serde(rename = "origin")]
    _origin: Option<Value>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(rename = "traceparent")]
    _traceparent: Option<String>,
    #[serde(rename = "correlation")]
    _correlation: Option<String>,
    pub(super) complete: Option<bool>,
    #[serde(rename = "options")]
    _options: Option<String>,
    pub(super) db: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) cause: Option<String>,
    pub(super) detail: Option<String>,
    #[serde(rename = "version")]
    _version: Option<String>,
    pub(super) whole: Option<bool>,
    pub(super) entities: Option<u64>,
    pub(super) differing: Option<u64>,
    pub(super) repaired: Option<u64>,
    #[serde(rename = "process")]
    _process: Option<String>,
    #[serde(rename = "term")]
    _term: Option<u64>,
    #[serde(rename = "rbid")]
    _rbid: Option<u64>,
    #[serde(rename = "unproven")]
    _unproven: Option<u64>,
    /// SHA-256 of the line (the row) itself, where somebody asked for it.
    #[serde(skip)]
    pub(super) print: Option<Sha>,
}

/// A `null` that is there is a value.
fn there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Bytes in base64.
fn base64<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| decode(&text).map_err(|e| serde::de::Error::custom(format!("base64: {e}")))).transpose()
}

/// Bytes of base64 text.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, ::base64::DecodeError> {
    STANDARD.decode(text)
}

/// A SHA-256.
pub(super) type Sha = [u8; 32];

/// A change, checked for itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) ns: String,
    pub(super) key: Vec<u8>,
    pub(super) epoch: u32,
    pub(super) seq: u64,
    pub(super) op: String,
    pub(super) before: Option<Sha>,
    pub(super) after: Option<Sha>,
}

/// Reads a line.
pub(super) fn parse(bytes: &[u8]) -> Result<Line, Wrong> {
    serde_json::from_slice(bytes).map_err(|e| Wrong { kind: Kind::LineForm, what: e.to_string() })
}

/// A field that must be there.
pub(super) fn need<T>(field: Option<T>, name: &str) -> Result<T, Wrong> {
    field.ok_or_else(|| Wrong { kind: Kind::LineForm, what: format!("no field `{name}`") })
}

impl Line {
    /// Checks what a change says of itself: image hashes, id, change hash.
    pub(super) fn change(self) -> Result<Change, Wrong> {
        let op = need(self.op, "op")?;
        let (ns, key_text) = (need(self.ns, "ns")?, need(self.key, "key")?);
        let (epoch, seq) = (need(self.epoch, "epoch")?, need(self.seq, "seq")?);
        let words = format!(
            "{epoch}:{seq}:{op}:{}:{}:{key_text}:{ns}",
            self.before_sha256.as_deref().unwrap_or_default(),
            self.after_sha256.as_deref().unwrap_or_default(),
        );
        let before_image = image(self.before, self.before_bson, "before")?;
        let after_image = image(self.after, self.after_bson, "after")?;
        expect(self.found.is_some() == (op == "observed"), Kind::Op, || format!("{op}, found: {:?}", self.found))?;
        let may_lack = op == "observed" && before_image.is_none();
        let before = hash(before_image.as_deref(), self.before_sha256.as_deref(), "before_sha256", may_lack)?;
        let after = hash(after_image.as_deref(), self.after_sha256.as_deref(), "after_sha256", false)?;
        let id = id_bytes(need(self.id, "id")?, self.id_bson)?;
        for bytes in [&before_image, &after_image].into_iter().flatten() {
            let same = first_id(bytes).is_some_and(|found| found == id);
            expect(same, Kind::Id, || "`id` is not the `_id` of the image".into())?;
        }
        let told = need(self.change_hash, "change_hash")?;
        let found = hex::encode(Sha256::digest(words.as_bytes()));
        expect(found == told, Kind::ChangeHash, || format!("change_hash is {told}, the fields give {found}"))?;
        let key = hex::decode(&key_text).map_err(|e| Wrong { kind: Kind::LineForm, what: format!("key: {e}") })?;
        Ok(Change { ns, key, epoch, seq, op, before, after })
    }
}

/// The BSON bytes of an image.
fn image(text: Option<Value>, bson: Option<Vec<u8>>, field: &str) -> Result<Option<Vec<u8>>, Wrong> {
    let bad = |what: String| Wrong { kind: Kind::LineForm, what: format!("{field}: {what}") };
    if bson.is_some() {
        return Ok(bson);
    }
    let Some(text) = text else { return Ok(None) };
    let document = bson::Document::deserialize(text).map_err(|e| bad(format!("Extended JSON: {e}")))?;
    document.to_vec().map(Some).map_err(|e| bad(e.to_string()))
}

fn hash(image: Option<&[u8]>, told: Option<&str>, field: &str, may_lack: bool) -> Result<Option<Sha>, Wrong> {
    let told = told.map(|text| {
        let mut sha = [0; 32];
        let result = hex::decode_to_slice(text, &mut sha);
        result.map(|()| sha).map_err(|e| Wrong { kind: Kind::LineForm, what: format!("{field}: {e}") })
    });
    let told = told.transpose()?;
    let found: Option<Sha> = image.map(|bytes| Sha256::digest(bytes).into());
    if found == told || (may_lack && found.is_none()) {
        return Ok(told);
    }
    let show = |sha: Option<Sha>| sha.map_or_else(|| "none".to_owned(), hex::encode);
    wrong(Kind::ImageHash, format!("{field} is {}, the image gives {}", show(told), show(found)))
}

/// Type and bytes of the id, as one element named `_id`.
fn id_bytes(id: Value, bson: Option<Vec<u8>>) -> Result<Vec<u8>, Wrong> {
    let bad = |what: String| Wrong { kind: Kind::LineForm, what: format!("id: {what}") };
    let document = if let Some(bson) = bson {
        bson
    } else {
        let value: bson::Bson = Deserialize::deserialize(id).map_err(|e: serde_json::Error| bad(e.to_string()))?;
        bson::doc! { "_id": value }.to_vec().map_err(|e| bad(e.to_string()))?
    };
    first_id(&document).ok_or_else(|| bad("no value".into()))
}

/// The bytes of a document's `_id` element: type, name, value.
fn first_id(document: &[u8]) -> Option<Vec<u8>> {
    let document = RawDocument::from_bytes(document).ok()?;
    let value = document.get("_id").ok()??;
    let mut alone = bson::RawDocumentBuf::new();
    alone.append(bson::cstr!("_id"), value);
    let bytes = alone.into_bytes();
    bytes.get(4..).map(<[u8]>::to_vec)
}
