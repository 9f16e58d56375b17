//! A whole segment. Any bytes are walked without a panic. A sound one, built from the input, in which one byte is then
//! changed or whose end is cut: the walk gives exactly the records before the wound, never another one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidelog::changelog::segment::{self, HEADER_BYTES, Header};
use tidelog::changelog::{frame, record};
use tidelog::types::{Epoch, Hlc, LogId, Lsn};

const HEADER: Header = Header {
    log_id: LogId([7; 16]),
    epoch: Epoch(1),
    first: Lsn(1),
    created_ms: 0,
    previous_bytes: 0,
    previous_hlc: Hlc(0),
    previous_first: Lsn(0),
};

/// The payloads of the input that are records, framed one after the other with dense numbers; and where each frame ends.
fn sound(data: &[u8]) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut ends) = (HEADER.encode().to_vec(), Vec::new());
    let mut rest = data;
    while let Some((&len, tail)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(len)).min(tail.len());
        let (payload, tail) = tail.split_at(len);
        rest = tail;
        let Ok(mut found) = record::decode(payload) else { continue };
        found.lsn = Lsn(ends.len() as u64 + 1);
        let sized = record::size(&found.body);
        let mut encoded = Vec::new();
        record::encode(&mut encoded, &found, Lsn(0), &sized);
        frame::push(&mut bytes, encoded.len(), |out| out.extend_from_slice(&encoded));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fuzz_target!(|data: &[u8]| {
    let _ = segment::scan(data);
    let Some((&[a, b, c], rest)) = data.split_first_chunk::<3>() else { return };
    let (mut bytes, ends) = sound(rest);
    let whole = segment::scan(&bytes).expect("a sound header");
    assert_eq!((whole.records.len(), whole.bad), (ends.len(), None), "a sound segment is not read to its end");

    let place = usize::from(u16::from_le_bytes([a, b])) % bytes.len();
    if c == 0 {
        bytes.truncate(place);
    } else {
        bytes[place] ^= c;
    }
    let before = ends.iter().filter(|end| **end <= place).count();
    match segment::scan(&bytes) {
        Err(_) => assert!(place < HEADER_BYTES, "the header was sound"),
        Ok(scan) => {
            assert!(place >= HEADER_BYTES, "a wound in the header was not noticed");
            assert_eq!(scan.records.len(), before, "not exactly the records before the wound");
            let end = before.checked_sub(1).map_or(HEADER_BYTES, |last| ends[last]);
            assert_eq!(scan.end, end as u64);
            let at_an_end = c == 0 && place == end;
            assert_eq!(scan.bad.is_none(), at_an_end, "the wound is not told");
        }
    }
});
