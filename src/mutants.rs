//! Deliberate breaks of the protocol, for the test that the model of the protocol finds each of them (feature `model`).
//!
//! Without the feature [`mutated`] is a constant `false`: the compiler leaves nothing of it. With it, a mutant is active on the
//! thread that activated it, and on no other, so that schedules run side by side.

/// One break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// No intent is written before the forward.
    DropIntent,
    /// Entities are not guarded while a write is under way.
    NoGuards,
    /// The namespace is only shared where a statement runs alone in it.
    SharedAlone,
    /// The client hears ok before the records are durable.
    AckBeforeDurable,
    /// A group is not synced.
    SkipSync,
    /// What was there before is taken from the index, not from the store.
    SkipBefore,
    /// As many deletes as the reply counts are taken for those that were asked for.
    TrustCount,
    /// A reply `ok: 0` is taken for proof that nothing happened.
    TrustErrors,
    /// Inserts are taken for done although the reply says that they failed.
    TrustInserts,
    /// A write whose connection broke is left alone.
    LeaveBroken,
    /// What a broken or killed write names is looked at once and not again.
    NoSecondLook,
    /// What a broken or killed write names is looked at twice and not again.
    NoThirdLook,
    /// An answer from the history of an earlier attempt is taken for a change made now.
    IgnoreRetried,
    /// The generation of the log stays although acknowledged records may be lost.
    KeepEpoch,
    /// A change under way is not noted in the index.
    ForgetStage,
    /// A statement whose entities were found goes to the store as the client wrote it.
    NoNarrowing,
    /// A statement of a transaction leaves no marks.
    SkipMarks,
    /// A commit gives its guards and marks back before it is forwarded.
    LiftEarly,
    /// The changes of a transaction are no batch.
    NotContinued,
    /// A commit leaves nothing for the next process.
    NoSeal,
    /// A commit that failed is logged.
    LogFailed,
    /// A commit that cannot be seen yet is taken for aborted.
    NotYetIsNever,
    /// A walk takes what it read for the state under the guard, whoever had the entity in between.
    ForgetWatch,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::DropIntent,
        Self::NoGuards,
        Self::SharedAlone,
        Self::AckBeforeDurable,
        Self::SkipSync,
        Self::SkipBefore,
        Self::TrustCount,
        Self::TrustErrors,
        Self::TrustInserts,
        Self::LeaveBroken,
        Self::NoSecondLook,
        Self::NoThirdLook,
        Self::IgnoreRetried,
        Self::KeepEpoch,
        Self::ForgetStage,
        Self::NoNarrowing,
        Self::SkipMarks,
        Self::LiftEarly,
        Self::NotContinued,
        Self::NoSeal,
        Self::LogFailed,
        Self::NotYetIsNever,
        Self::ForgetWatch,
    ];
}

#[cfg(feature = "model")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks the protocol on this thread; `None`: it is whole again.
#[cfg(feature = "model")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// This break is active.
#[cfg(feature = "model")]
pub fn mutated(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// This break is active: never, without the feature `model`.
#[cfg(not(feature = "model"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing of it is to be left")]
pub const fn mutated(_mutant: Mutant) -> bool {
    false
}
