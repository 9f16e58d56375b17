//! Results of a `bulkWrite` that was worked off in several pieces and whose client reads them page by page.
//!
//! The store knows nothing of the whole, so its pages are kept here and the client's `getMore` is answered by the sidecar.
//! Promises: bounded (the oldest cursors go first, and any after ten minutes, as a server's idle cursors do); a page is
//! handed out once.

use bson::raw::{RawArrayBuf, RawDocument, RawDocumentBuf, cstr};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use super::Capture;
use super::command::filter::copy;
use super::command::number;
use crate::wire::build::Builder;
use crate::wire::msg::OpMsg;

/// Cursors kept at most.
const MOST: usize = 1_000;

/// A cursor that nobody asked for this long is gone.
const IDLE: Duration = Duration::from_mins(10);

/// Bytes of results in one page: a reply is a document, and that is at most 16 MiB.
const PAGE_BYTES: usize = 15 << 20;

#[derive(Debug)]
struct Pending {
    rest: VecDeque<RawDocumentBuf>,
    /// The clocks of the write's own reply, which drivers pass on.
    clocks: RawDocumentBuf,
    touched: Instant,
}

/// The cursors of one sidecar.
#[derive(Debug, Default)]
pub(crate) struct Cursors {
    open: Mutex<BTreeMap<i64, Pending>>,
    count: AtomicUsize,
}

impl Cursors {
    /// Takes the first page out of `results`, and keeps the rest. The page, and the cursor's id (0: that was all).
    /// `reply` is the store's last: its clocks go with each page.
    pub(crate) fn first(
        &self,
        results: Vec<RawDocumentBuf>,
        size: Option<usize>,
        reply: &RawDocument,
    ) -> (RawArrayBuf, i64) {
        let mut rest = VecDeque::from(results);
        let page = page(&mut rest, size);
        (page, self.keep(None, rest, clocks(reply)))
    }

    fn keep(&self, id: Option<i64>, rest: VecDeque<RawDocumentBuf>, clocks: RawDocumentBuf) -> i64 {
        if rest.is_empty() {
            return 0;
        }
        let mut open = self.open.lock();
        let id = id.unwrap_or_else(|| rand::random::<i64>().checked_abs().unwrap_or(1).max(1));
        open.retain(|_, pending| pending.touched.elapsed() < IDLE);
        if open.len() >= MOST
            && let Some(oldest) = open.iter().min_by_key(|(_, pending)| pending.touched).map(|(id, _)| *id)
        {
            open.remove(&oldest);
        }
        open.insert(id, Pending { rest, clocks, touched: Instant::now() });
        self.count.store(open.len(), Ordering::Release);
        id
    }

    fn next(&self, id: i64, size: Option<usize>) -> Option<(RawArrayBuf, i64, RawDocumentBuf)> {
        let pending = {
            let mut open = self.open.lock();
            let pending = open.remove(&id);
            self.count.store(open.len(), Ordering::Release);
            pending
        };
        let Pending { mut rest, clocks, .. } = pending?;
        let page = page(&mut rest, size);
        Some((page, self.keep(Some(id), rest, clocks.clone()), clocks))
    }
}

fn page(rest: &mut VecDeque<RawDocumentBuf>, size: Option<usize>) -> RawArrayBuf {
    let (mut out, mut bytes, mut left) = (RawArrayBuf::new(), 0, size.unwrap_or(usize::MAX));
    while let Some(doc) = rest.front() {
        bytes += doc.as_bytes().len();
        if left == 0 || bytes > PAGE_BYTES {
            break;
        }
        out.push(&**doc);
        left -= 1;
        rest.pop_front();
    }
    out
}

/// `$clusterTime` and `operationTime` of a reply.
fn clocks(reply: &RawDocument) -> RawDocumentBuf {
    let mut out = RawDocumentBuf::new();
    for key in [cstr!("$clusterTime"), cstr!("operationTime")] {
        if let Ok(Some(value)) = reply.get(key) {
            out.append(key, value);
        }
    }
    out
}

/// `batchSize` of a cursor's options or of a `getMore`.
pub(crate) fn batch_size(of: &RawDocument) -> Option<usize> {
    number(of.get("batchSize").ok().flatten()).and_then(|n| usize::try_from(n).ok())
}

impl Capture {
    /// A client may ask for more of a cursor of ours: cheap, ask before decoding a `getMore`.
    pub fn has_cursors(&self) -> bool {
        self.cursors.count.load(Ordering::Acquire) > 0
    }

    /// Answers a `getMore` on a cursor of ours; `None`: it is the store's.
    pub fn get_more(&self, message: &OpMsg) -> Option<Bytes> {
        let id = message.body().get_i64("getMore").ok()?;
        let size = batch_size(message.body()).filter(|size| *size > 0);
        let (batch, id, clocks) = self.cursors.next(id, size)?;
        let mut cursor = RawDocumentBuf::new();
        cursor.append(cstr!("id"), id);
        cursor.append(cstr!("nextBatch"), batch);
        cursor.append(cstr!("ns"), "admin.$cmd.bulkWrite");
        let mut body = RawDocumentBuf::new();
        body.append(cstr!("cursor"), &*cursor);
        body.append(cstr!("ok"), 1.0);
        copy(&clocks, &mut body).ok()?;
        Some(Builder::reply(0, message.request_id()).body(&body).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn pages_are_handed_out_once_and_in_order() {
        let cursors = Cursors::default();
        let results: Vec<_> = (0..5).map(|n| rawdoc! {"idx": n}).collect();
        let reply = rawdoc! {"ok": 1.0, "operationTime": bson::Timestamp { time: 1, increment: 2 }};
        let (first, id) = cursors.first(results, Some(2), &reply);
        assert_eq!(first.into_iter().count(), 2);
        assert!(id > 0);
        let (second, again, clocks) = cursors.next(id, Some(2)).unwrap();
        assert_eq!(clocks, rawdoc! {"operationTime": bson::Timestamp { time: 1, increment: 2 }});
        assert_eq!((second.into_iter().count(), again), (2, id));
        let (third, end, _) = cursors.next(id, None).unwrap();
        let third: Vec<_> =
            third.into_iter().map(|r| r.unwrap().as_document().unwrap().get_i32("idx").unwrap()).collect();
        assert_eq!((third, end), (vec![4], 0));
        assert!(cursors.next(id, None).is_none());
    }

    #[test]
    fn what_fits_needs_no_cursor() {
        let cursors = Cursors::default();
        assert_eq!(cursors.first(vec![rawdoc! {"idx": 0}], None, &rawdoc! {}).1, 0);
        assert_eq!(cursors.count.load(Ordering::Acquire), 0);
    }
}
