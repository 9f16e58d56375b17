//! Who is under way: so that one may wait until everybody who was has ended, while others come and go.
//!
//! Each holder of a namespace guard is in a *flight*. [`Flights::landed`] starts a new flight and waits until the last one of
//! the old is gone. Nobody is held up by it.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A seat in a flight.
pub(super) type Seat = Arc<Flight>;

/// Its end is told by dropping the sender.
#[derive(Debug)]
pub(super) struct Flight {
    _landed: oneshot::Sender<()>,
}

/// The flight that takes passengers now.
#[derive(Debug)]
pub(super) struct Flights(Mutex<(Seat, oneshot::Receiver<()>)>);

fn begin() -> (Seat, oneshot::Receiver<()>) {
    let (landed, ending) = oneshot::channel();
    (Arc::new(Flight { _landed: landed }), ending)
}

impl Flights {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(begin())))
    }

    pub(super) fn board(&self) -> Seat {
        Arc::clone(&self.0.lock().0)
    }

    /// Returns when everybody who is under way now has ended.
    pub(super) async fn landed(&self) {
        let (seat, ending) = std::mem::replace(&mut *self.0.lock(), begin());
        drop(seat);
        let _gone = ending.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_waits_for_those_under_way_and_for_no_others() {
        let flights = Flights::new();
        flights.landed().await;
        let (first, second) = (flights.board(), flights.board());
        let waiting = Arc::clone(&flights);
        let landed = tokio::spawn(async move { waiting.landed().await });
        tokio::task::yield_now().await;
        let _later = flights.board();
        drop(first);
        tokio::task::yield_now().await;
        assert!(!landed.is_finished());
        drop(second);
        landed.await.unwrap();
    }
}
