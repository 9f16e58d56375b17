//! What a request is, from its opcode and the first key of its body. Nothing else of it is looked at.

use super::frame::{HEADER_LEN, Header, document_len, i32_le, opcode, u32_le};

/// Longest command name that is looked for; mongod's longest is below 60 bytes.
const MAX_NAME: usize = 128;

/// Commands that write documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteKind {
    /// `insert`
    Insert,
    /// `update`
    Update,
    /// `delete`
    Delete,
    /// `findAndModify`, `findandmodify`
    FindAndModify,
    /// `bulkWrite`
    BulkWrite,
}

impl WriteKind {
    /// The command's name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::FindAndModify => "findAndModify",
            Self::BulkWrite => "bulkWrite",
        }
    }
}

/// Commands that change collections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DdlKind {
    /// `create`
    Create,
    /// `drop`
    Drop,
    /// `dropDatabase`
    DropDatabase,
    /// `renameCollection`
    Rename,
    /// `collMod`
    CollMod,
}

/// Commands of the authentication conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthKind {
    /// `saslStart`
    SaslStart,
    /// `saslContinue`
    SaslContinue,
    /// `authenticate`
    Authenticate,
    /// `logout`
    Logout,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Goes through as it is.
    Pass,
    /// `hello`, `isMaster`, `ismaster`
    Hello,
    /// Authentication: goes through as it is, and is listened to.
    Auth(AuthKind),
    /// Writes documents.
    Write(WriteKind),
    /// Changes collections.
    Ddl(DdlKind),
    /// `aggregate`: writes if its last stage is `$out` or `$merge`.
    Aggregate,
    /// `mapReduce`: writes unless its output is inline.
    MapReduce,
    /// Writes documents by ways that are not observed (maintenance of encrypted collections): a gap.
    Hidden,
    /// `getMore`: goes through as it is, unless the sidecar holds the cursor.
    GetMore,
    /// `commitTransaction`
    Commit,
    /// `abortTransaction`
    Abort,
    /// `killSessions` and its like: ends transactions of others.
    EndTransactions,
    /// `tidelogCut`: for the sidecar itself.
    Cut,
    /// A command that would change documents past the log.
    Refused,
    /// A legacy opcode that writes (`OP_INSERT`, `OP_UPDATE`, `OP_DELETE`), or another one that 5.1 removed.
    LegacyOpcode,
    /// `OP_QUERY` with anything but what drivers need before they speak `OP_MSG`.
    LegacyQuery,
    /// `OP_COMPRESSED`, though compression was never agreed on.
    Compressed,
    /// An opcode that is not known.
    UnknownOpcode,
    /// The message ends before its command's name.
    Malformed,
}

/// Looks at the start of a message (header included). `None`: more bytes must come before the name is known.
pub fn classify(header: &Header, prefix: &[u8]) -> Option<Kind> {
    let whole = prefix.len() >= header.size();
    let prefix = prefix.get(..header.size()).unwrap_or(prefix);
    let name = match header.opcode {
        opcode::MSG => msg_name(prefix),
        opcode::QUERY => query_name(prefix),
        opcode::COMPRESSED => return Some(Kind::Compressed),
        opcode::UPDATE
        | opcode::INSERT
        | opcode::DELETE
        | opcode::GET_MORE
        | opcode::KILL_CURSORS
        | opcode::COMMAND => {
            return Some(Kind::LegacyOpcode);
        }
        _ => return Some(Kind::UnknownOpcode),
    };
    match name {
        Name::Is(name) if header.opcode == opcode::QUERY => Some(of_query(name)),
        Name::Is(name) => Some(of_name(name)),
        Name::NoCommand => Some(Kind::LegacyQuery),
        Name::Wrong => Some(Kind::Malformed),
        Name::More if whole => Some(Kind::Malformed),
        Name::More => None,
    }
}

/// Flag bits of an `OP_MSG` whose first 20 bytes are there; 0 otherwise and for other opcodes.
pub fn msg_flags(header: &Header, prefix: &[u8]) -> u32 {
    if header.opcode == opcode::MSG { prefix.get(HEADER_LEN..).and_then(u32_le).unwrap_or(0) } else { 0 }
}

/// What a command of this name is.
pub fn of_name(name: &[u8]) -> Kind {
    match name {
        b"insert" => Kind::Write(WriteKind::Insert),
        b"update" => Kind::Write(WriteKind::Update),
        b"delete" => Kind::Write(WriteKind::Delete),
        b"findAndModify" | b"findandmodify" => Kind::Write(WriteKind::FindAndModify),
        b"bulkWrite" => Kind::Write(WriteKind::BulkWrite),
        b"hello" | b"isMaster" | b"ismaster" => Kind::Hello,
        b"saslStart" => Kind::Auth(AuthKind::SaslStart),
        b"saslContinue" => Kind::Auth(AuthKind::SaslContinue),
        b"authenticate" => Kind::Auth(AuthKind::Authenticate),
        b"logout" => Kind::Auth(AuthKind::Logout),
        b"aggregate" => Kind::Aggregate,
        b"mapReduce" | b"mapreduce" => Kind::MapReduce,
        b"create" => Kind::Ddl(DdlKind::Create),
        b"drop" => Kind::Ddl(DdlKind::Drop),
        b"dropDatabase" => Kind::Ddl(DdlKind::DropDatabase),
        b"renameCollection" => Kind::Ddl(DdlKind::Rename),
        b"collMod" => Kind::Ddl(DdlKind::CollMod),
        b"getMore" => Kind::GetMore,
        b"commitTransaction" => Kind::Commit,
        b"abortTransaction" => Kind::Abort,
        b"killSessions" | b"killAllSessions" | b"killAllSessionsByPattern" => Kind::EndTransactions,
        b"tidelogCut" => Kind::Cut,
        b"compactStructuredEncryptionData" | b"cleanupStructuredEncryptionData" => Kind::Hidden,
        b"applyOps"
        | b"doTxn"
        | b"convertToCapped"
        | b"cloneCollectionAsCapped"
        | b"cloneCollection"
        | b"clone"
        | b"copydb"
        | b"eval"
        | b"$eval"
        | b"godinsert"
        | b"captrunc"
        | b"emptycapped"
        | b"internalRenameIfOptionsAndIndexesMatch" => Kind::Refused,
        _ => Kind::Pass,
    }
}

/// What drivers may say in `OP_QUERY`: mongod 5.1 takes no more than these either.
fn of_query(name: &[u8]) -> Kind {
    match of_name(name) {
        kind @ (Kind::Hello | Kind::Auth(_)) => kind,
        _ if matches!(name, b"buildInfo" | b"buildinfo" | b"getnonce" | b"_isSelf" | b"ping") => Kind::Pass,
        _ => Kind::LegacyQuery,
    }
}

/// The outcome of looking for a command's name.
enum Name<'a> {
    Is(&'a [u8]),
    NoCommand,
    More,
    Wrong,
}

/// The first key of the section of kind 0; sequences before it are stepped over.
fn msg_name(message: &[u8]) -> Name<'_> {
    let mut rest = message.get(HEADER_LEN + 4..).unwrap_or_default();
    loop {
        match rest.split_first() {
            None => return Name::More,
            Some((0, document)) => return first_key(document),
            Some((1, section)) => {
                let Some(size) = i32_le(section) else { return Name::More };
                let Some(size) = usize::try_from(size).ok().filter(|size| *size > 4) else { return Name::Wrong };
                rest = match section.get(size..) {
                    Some(next) => next,
                    None => return Name::More,
                };
            }
            Some(_) => return Name::Wrong,
        }
    }
}

/// The first key of the document of an `OP_QUERY` to `db.$cmd`, stepping into `$query`.
fn query_name(message: &[u8]) -> Name<'_> {
    let rest = message.get(HEADER_LEN + 4..).unwrap_or_default();
    let Some(end) = rest.iter().position(|b| *b == 0) else {
        return if rest.len() > 512 { Name::Wrong } else { Name::More };
    };
    if !rest.get(..end).unwrap_or_default().ends_with(b".$cmd") {
        return Name::NoCommand;
    }
    let document = rest.get(end + 9..).unwrap_or_default();
    match first_key(document) {
        Name::Is(key @ (b"$query" | b"query")) => first_key(document.get(4 + 1 + key.len() + 1..).unwrap_or_default()),
        other => other,
    }
}

/// The first key of the (maybe incomplete) document. An empty document has none.
fn first_key(document: &[u8]) -> Name<'_> {
    let Some(element) = document.get(4..) else { return Name::More };
    let key = match element.split_first() {
        None => return Name::More,
        Some((0, _)) => return if document_len(document) == Some(5) { Name::Is(b"") } else { Name::Wrong },
        Some((_, key)) => key,
    };
    match key.iter().take(MAX_NAME).position(|b| *b == 0) {
        Some(end) => Name::Is(key.get(..end).unwrap_or_default()),
        None if key.len() >= MAX_NAME => Name::Is(key.get(..MAX_NAME).unwrap_or_default()),
        None => Name::More,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Limits};
    use super::*;
    use bson::rawdoc;

    fn kind(bytes: &[u8], upto: usize) -> Option<Kind> {
        let header = Header::parse(bytes, Limits::default()).unwrap().unwrap();
        classify(&header, bytes.get(..upto).unwrap_or(bytes))
    }

    #[test]
    fn a_name_is_known_as_soon_as_it_is_there() {
        let bytes = Builder::request(1, 0).body(&rawdoc! { "insert": "c", "$db": "d" }).finish();
        let name_end = 16 + 4 + 1 + 4 + 1 + "insert\0".len();
        assert_eq!(kind(&bytes, name_end - 1), None);
        assert_eq!(kind(&bytes, name_end), Some(Kind::Write(WriteKind::Insert)));
        assert_eq!(kind(&bytes, 16), None);
    }

    #[test]
    fn a_sequence_in_front_is_stepped_over() {
        let doc = rawdoc! { "_id": 1 };
        let bytes =
            Builder::request(1, 0).sequence("documents", [doc.as_bytes()]).body(&rawdoc! { "insert": "c" }).finish();
        assert_eq!(kind(&bytes, bytes.len()), Some(Kind::Write(WriteKind::Insert)));
        assert_eq!(kind(&bytes, 40), None);
    }

    #[test]
    fn names_and_opcodes() {
        for (name, expected) in [
            ("findandmodify", Kind::Write(WriteKind::FindAndModify)),
            ("findAndModify", Kind::Write(WriteKind::FindAndModify)),
            ("ismaster", Kind::Hello),
            ("explain", Kind::Pass),
            ("Insert", Kind::Pass),
            ("applyOps", Kind::Refused),
            ("tidelogCut", Kind::Cut),
        ] {
            assert_eq!(of_name(name.as_bytes()), expected, "{name}");
        }
        for (opcode, expected) in [(2002, Kind::LegacyOpcode), (2012, Kind::Compressed), (4242, Kind::UnknownOpcode)] {
            let header = Header { len: 16, request_id: 1, response_to: 0, opcode };
            assert_eq!(classify(&header, &header.encode()), Some(expected));
        }
        let empty = Builder::request(1, 0).body(&rawdoc! {}).finish();
        assert_eq!(kind(&empty, empty.len()), Some(Kind::Pass));
        let long = Builder::request(1, 0)
            .body(
                &[(bson::raw::CString::try_from("x".repeat(500)).unwrap(), 1)]
                    .into_iter()
                    .collect::<bson::RawDocumentBuf>(),
            )
            .finish();
        assert_eq!(kind(&long, long.len()), Some(Kind::Pass));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_answer(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..200), query in proptest::bool::ANY) {
            let len = u32::try_from(tail.len() + 16).unwrap();
            let opcode = if query { opcode::QUERY } else { opcode::MSG };
            let header = Header { len, request_id: 1, response_to: 0, opcode };
            let mut bytes = header.encode().to_vec();
            bytes.extend(tail);
            proptest::prop_assert!(classify(&header, &bytes).is_some());
        }
    }
}
